"""The tags stage: hashtags become the classes of the weakly supervised training; and what to see of them beforehand."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from bsssl import data, storage
from bsssl.config import Config, Data, Section, Source, Tags, Weak, located
from bsssl.errors import UserError
from bsssl.pipeline.stage import Context, PlanRow, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger, progress
from bsssl.stages.card import named_sources
from bsssl.stages.computing import CLASSES, class_list, first_counts, split_records
from bsssl.stages.sources import OVERLAP_REMEDY, files_state, open_source, require_sources

TAGGED = "tagged.parquet"
_HINT = "`bsssl tags inspect` shows the tags"


class TagsSettings(Section):
    """What decides the classes that tags mean, and their samples."""

    sources: list[Source]
    tags: Tags
    videos: bool = False
    overlap: str = "refuse"
    """what to do with test items: refuse, exclude or allow them"""


@STAGES.register("tags")
@dataclass(frozen=True, kw_only=True, eq=False)
class TagsStage(Stage[TagsSettings]):
    """The samples that have a class (tagged.parquet), the classes, and every tag with its fate (tags.csv).

    The sources are streamed once, by way of a local file; see ``data.read_tags`` for what memory grows with.
    """

    kind = "tags"
    outputs = {"tagged": (TAGGED, CLASSES, "tags.csv")}
    prepares = True

    tests: tuple[str, ...] = ("test",)
    """the outputs of the data stage that hold test items"""

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        tests = self.tests if self.settings.overlap != "allow" else ()
        return tests + (("classes",) if self.settings.tags.classes == "targets" else ())

    @override
    def sizes(self, run: Context) -> tuple[Mapping[str, int], str]:
        if run.pending(self.name) is not None:  # the sources have to be there
            self.require_outside()
            for source in self.settings.sources:
                next(iter(open_source(source, videos=self.settings.videos).batches()), None)
        return {}, ""

    @override
    def require_outside(self) -> None:
        require_sources({"weak.sources": self.settings.sources})

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, folder, source = self.settings, run.folder(self.name), run.input(self, "data")
        test = None
        if settings.overlap != "allow":
            test = data.Records.concat([split_records(source, name) for name in self.tests])
        targets = class_list(source) if settings.tags.classes == "targets" else None
        listed = str(folder / "listed.tmp")  # a name that is cleared away when the stage is killed
        try:
            samples = _samples(settings, test if settings.overlap == "exclude" else None)
            found = data.read_tags(data.copy_batches(samples, listed), _rules(settings.tags, targets))
            if settings.overlap == "refuse" and test is not None:
                batches = data.read_copy(listed)
                data.check_overlap(batches, test, remedy=OVERLAP_REMEDY, what="weak.sources", holds="test")
            classes = _classes(found, settings.tags, targets)
            rows, offsets, members = found.of_classes(classes)
            batches = data.read_copy(listed)
            data.write_tagged(str(folder / TAGGED), batches, rows=rows, offsets=offsets, classes=members)
        finally:
            Path(listed).unlink(missing_ok=True)
        storage.write_json(str(folder / CLASSES), classes)
        storage.write_csv(str(folder / "tags.csv"), _fates(found, classes, settings.tags.min_samples))
        return {
            "samples": len(rows),
            "listed": len(found.counts),
            "untagged": found.untagged,
            "classes": len(classes),
            "dropped_classes": len(found.classes) - len(set(classes) & set(found.classes)),
            "tags": len(found.tags),
        }

    @override
    def outside(self) -> dict[str, Any]:
        tags = self.settings.tags
        named = [path for path in (tags.file, tags.map, tags.spelling) if isinstance(path, str)]
        return {"weak.sources": [*files_state(self.settings.sources), *map(storage.state, map(located, named))]}

    @override
    def summary(self, run: Context) -> str:
        result = run.result(self.name)
        sources = named_sources(self.settings.sources)
        return f"{result['samples']:,} samples with hashtags of {result['classes']:,} classes, of {sources}"

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{run.result(self.name)['samples']:,}" if run.pending(self.name) is None else "unknown")

    @classmethod
    @override
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return settings, {"weak.sources": settings.pop("files")}


@dataclass(frozen=True)
class TagSummary:
    """What the hashtags of ``weak.sources`` mean, before anything is made of them."""

    samples: int
    untagged: int
    unmapped: int
    """samples with tags that mean no class"""
    dropped: int
    """samples of dropped classes alone"""
    used: int
    """samples to train on"""
    tags: int
    mapped_tags: int
    classes: int
    classes_per_sample: float
    tested: int
    """samples that are test items, which ``data.pool_overlap`` refuses"""
    coverage: list[tuple[str, int, float, float]]
    """each class with its samples, their share of all, and their share of what resampling draws, in percent"""
    unmapped_tags: list[tuple[str, int]]
    """tags without a class and their samples, most frequent first"""
    plurals: list[tuple[str, int, str, int]]
    """tags that may be the plural of another, and that other, with their samples"""
    short: dict[str, int]
    """samples of the classes with too few of them"""
    are_refused: bool
    """whether classes with too few samples are refused, not dropped"""


def summarise_tags(config: Config) -> TagSummary:
    """Return what the hashtags mean, by the sources themselves; writes nothing."""
    weak, videos = config.weak, config.data.clips is not None
    if weak is None:
        raise UserError(config.left_out("weak"))
    settings = tags_settings(weak, config.data)
    targets = None
    if settings.tags.classes == "targets":
        assert config.data.train is not None  # where there are tags, there are labels
        targets = open_source(config.data.train, videos=videos).records().tidied().class_names()
    overlap, tested = settings.overlap, [0]
    test = None
    if overlap != "allow":
        test = data.Records.concat([open_source(one, videos=videos).records() for one in config.data.tests.values()])
    samples = _samples(settings, test if overlap == "exclude" else None)
    if test is not None:
        samples = _counting(samples, data.Places(test), tested)
    found = data.read_tags(samples, _rules(settings.tags, targets))
    short = _short(found, settings.tags, targets)
    classes = targets or [name for name in sorted(found.classes) if name not in short]
    rows, _, members = found.of_classes(classes)
    total, mapped = len(found.counts), int(np.count_nonzero(found.counts))
    return TagSummary(
        samples=total,
        untagged=found.untagged,
        unmapped=total - found.untagged - mapped,
        dropped=mapped - len(rows),
        used=len(rows),
        tags=len(found.tags),
        mapped_tags=int(np.count_nonzero(found.tag_classes >= 0)),
        classes=len(classes),
        classes_per_sample=len(members) / max(1, len(rows)),
        tested=sum(tested),
        coverage=_coverage(found, classes, weak.resample),
        unmapped_tags=[
            (found.tags[tag], int(found.tag_samples[tag])) for tag in _by_samples(found) if found.tag_classes[tag] < 0
        ],
        plurals=_plurals(found),
        short=short,
        are_refused=targets is not None,
    )


def tags_settings(weak: Weak, settings: Data) -> TagsSettings:
    """Return what decides the tags stage of a recipe with these sections."""
    videos, overlap = settings.clips is not None, settings.pool_overlap
    return TagsSettings(sources=weak.sources, tags=weak.tags, videos=videos, overlap=overlap)


def _rules(tags: Tags, targets: list[str] | None) -> data.TagRules:
    return data.tag_rules(
        spelling=_pairs(tags.spelling),
        mapping=None if tags.map is None else _pairs(tags.map),
        targets=targets,
        spelling_name=tags.spelling if isinstance(tags.spelling, str) else "weak.tags.spelling",
        mapping_name=tags.map if isinstance(tags.map, str) else "weak.tags.map",
    )


def _pairs(given: Mapping[str, str] | str) -> Mapping[str, str]:
    return data.read_pairs(located(given)) if isinstance(given, str) else given


def _samples(settings: TagsSettings, exclude: data.Records | None) -> Iterator[data.Records]:
    """Yield the records of all sources with their tags, without those of ``exclude``."""
    batches = _sources(settings)
    if settings.tags.file is not None:
        batches = data.tags_from_file(batches, located(settings.tags.file))
    places, left_out = None if exclude is None else data.Places(exclude), 0
    for records in progress(batches, unit="tables", title="reading tags"):
        if places is not None:
            kept = records.filter(~places.mask(records))
            left_out += len(records) - len(kept)
            records = kept
        yield records
    if left_out:
        logger.info("%d test items left out of weak.sources", left_out)


def _counting(batches: Iterable[data.Records], places: data.Places, counts: list[int]) -> Iterator[data.Records]:
    """Yield ``batches``; how many records of each lie at ``places`` is added to ``counts``."""
    for records in batches:
        counts.append(int(places.mask(records).sum()))
        yield records


def _sources(settings: TagsSettings) -> Iterator[data.Records]:
    for number, source in enumerate(settings.sources):
        tagged = settings.tags.file is not None
        for records in open_source(source, videos=settings.videos).batches():
            tagged = tagged or records.tags.null_count < len(records)
            yield records
        if not tagged:
            raise UserError(
                f"weak.sources.{number}: no sample of {source.path} has tags; give it a column of tags, or set "
                "weak.tags.file"
            )


def _short(found: data.TaggedSamples, tags: Tags, targets: list[str] | None) -> dict[str, int]:
    """Return the classes with too few samples, fewest first."""
    counts = found.samples_of(targets or found.classes)
    return {name: counts[name] for name in sorted(counts, key=counts.__getitem__) if counts[name] < tags.min_samples}


def _classes(found: data.TaggedSamples, tags: Tags, targets: list[str] | None) -> list[str]:
    """Return the classes to train, in the order of the network's outputs."""
    short = _short(found, tags, targets)
    if targets is None:
        classes = sorted(set(found.classes) - set(short))
        if short:
            logger.warning(
                "%d of %d classes have fewer than weak.tags.min_samples = %d samples and are left out: %s (all: "
                "tags.csv)", len(short), len(found.classes), tags.min_samples, first_counts(short),
            )  # fmt: skip
        if len(classes) < 2:
            raise UserError(
                f"weak: {len(classes)} classes have {tags.min_samples} samples, two at least are needed; map more tags "
                f"or lower weak.tags.min_samples ({_HINT})"
            )
        return classes
    if short:
        raise UserError(
            f"weak: {len(short)} of {len(targets)} classes have fewer than weak.tags.min_samples = {tags.min_samples} "
            f"tagged samples: {first_counts(short)}; map more tags to them or lower it, to 0 for none at all ({_HINT})"
        )
    empty = {name: 0 for name, count in found.samples_of(targets).items() if not count}
    if len(empty) == len(targets):
        raise UserError(f"weak: no tag means a class of data.train; set weak.tags.map ({_HINT})")
    if empty:
        logger.warning("%d classes have no tagged sample: %s", len(empty), first_counts(empty))
    return targets


def _by_samples(found: data.TaggedSamples) -> list[int]:
    """Return the numbers of the tags, the most frequent first."""
    return sorted(range(len(found.tags)), key=lambda tag: (-found.tag_samples[tag], found.tags[tag]))


def _plurals(found: data.TaggedSamples) -> list[tuple[str, int, str, int]]:
    """Tags that are another and an s, as ``weak.tags.spelling`` may want to know, unless they mean the same class."""
    number = {tag: place for place, tag in enumerate(found.tags)}
    pairs = [
        (tag, number[found.tags[tag][:-1]])
        for tag in _by_samples(found)
        if found.tags[tag].endswith("s") and found.tags[tag][:-1] in number
    ]
    return [
        (found.tags[many], int(found.tag_samples[many]), found.tags[one], int(found.tag_samples[one]))
        for many, one in pairs
        if found.tag_classes[many] != found.tag_classes[one]
    ]


def _fates(found: data.TaggedSamples, classes: list[str], min_samples: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each tag: what it is, samples, class, and what became of it."""
    yield "tag", "samples", "class", "fate"
    kept = set(classes)
    for tag in _by_samples(found):
        number = found.tag_classes[tag]
        name = found.classes[number] if number >= 0 else ""
        fate = "kept" if name in kept else f"fewer than {min_samples} samples" if name else "unmapped"
        yield found.tags[tag], str(found.tag_samples[tag]), name, fate


def _coverage(found: data.TaggedSamples, classes: list[str], power: float) -> list[tuple[str, int, float, float]]:
    """Each class with its samples, its share of the samples, and its share of what resampling draws of them."""
    rows, offsets, members = found.of_classes(classes)
    if not len(rows):
        return []
    weights = np.repeat(1 / np.diff(offsets), np.diff(offsets)).astype(np.float32)
    targets = data.SparseTargets(offsets, members, weights, len(classes))
    factors = data.resampling(targets, power=power)
    drawn = data.class_counts(targets, num_classes=len(classes), weights=factors) / factors.sum()
    samples = np.bincount(members, minlength=len(classes))
    order = np.argsort(-samples, kind="stable")
    return [(classes[i], int(samples[i]), 100 * float(samples[i]) / len(rows), float(100 * drawn[i])) for i in order]
