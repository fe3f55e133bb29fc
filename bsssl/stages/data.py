"""The data stage: the few-label split, the classes, and the list of the pool."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from typing_extensions import override

from bsssl import data, storage
from bsssl.config import Section, Source, Tests, tests_of
from bsssl.data import labels
from bsssl.errors import UserError
from bsssl.pipeline.aside import ASIDE
from bsssl.pipeline.record import Work
from bsssl.pipeline.stage import Context, PlanRow, Stage, identifying
from bsssl.registry import STAGES
from bsssl.runtime.console import logger, progress
from bsssl.stages import doubts
from bsssl.stages.card import named_sources
from bsssl.stages.computing import CLASSES
from bsssl.stages.copied import key_of
from bsssl.stages.sources import OVERLAP_REMEDY, files_state, open_source, require_sources

POOL = "pool"
UNLABELED = "unlabeled.csv"
NO_POOL = (
    "there is no pool: set data.pool, or data.labels_per_class with rest_in_pool, or give data.train items without a "
    "label"
)
TAUGHT, CALIBRATION = "taught", "calibration"
"""the labels that teachers learn from where some are held out, and these"""
HELD = "held.hashes"
"""the contents of labeled and test items, which the pool must not hold"""


class ItemsSettings(Section):
    """Which items are labeled, and which are for testing."""

    train: Source | None = None
    classes: tuple[str, ...] | None = None
    """where no item is labeled"""
    test: Tests | None = None
    holdout: float | None = None
    seed: int | None = None
    """of the holdout; None where nothing is held out"""
    num_classes: int | None = None
    merge_lookalikes: bool | None = None
    """None where they are not merged"""
    videos: bool = False

    @property
    def tests(self) -> dict[str, Source]:
        """The test sets by the output of the stage that holds them: ``test``, or ``test-NAME`` of several."""
        return tests_of(self.test, self.train)

    @property
    def sources(self) -> list[Source]:
        """Everything that has labels."""
        return [*([] if self.train is None else [self.train]), *self.tests.values()]


class LabelsSettings(Section):
    """Which of the labels are kept."""

    labels_per_class: int | None = None
    imbalance: float = 1.0
    seed: int | None = None
    """None where nothing is drawn"""


class PoolSettings(Section):
    """What the pool is."""

    pool: list[Source] = []
    rest_in_pool: bool = True
    shard_size: int = 10_000
    pool_overlap: str = "refuse"
    fraction: float = 1.0
    seed: int | None = None
    """None where nothing is drawn"""


class CalibrationSettings(Section):
    """Which of the labels set the threshold of the open set."""

    holdout: float
    seed: int


class DataSettings(Section):
    """What decides the data, in the groups that decide different outputs."""

    items: ItemsSettings
    labels: LabelsSettings
    pool: PoolSettings | None = None
    """None where there is no pool, as in a transfer"""
    open_set: CalibrationSettings | None = None
    """None where all labels are taught"""


@dataclass(frozen=True)
class Split:
    """The records of a labeled set, in the parts that stages read."""

    labeled: data.Records
    parts: dict[str, data.Records]
    """of the open set: the labels that are ``TAUGHT``, and those that are held out for ``CALIBRATION``"""
    rest: data.Records
    """those whose labels are set aside"""
    unlabeled: data.Records
    """those that never had one"""
    tests: dict[str, data.Records]
    """by the output of the data stage that holds them"""
    classes: list[str]
    doubts: list[str]
    """what may be wrong with the labels, a line for each thing"""


@STAGES.register("data")
@dataclass(frozen=True, kw_only=True, eq=False)
class DataStage(Stage[DataSettings]):
    """The split as manifests, the class list and, for a recipe, the list of the pool's shards."""

    kind = "data"
    prepares = True
    earlier_outputs = {
        "items": (CLASSES, "test.csv"),
        "labels": ("labeled.csv", "rest.csv"),
        "pool": (f"{POOL}/pool.json", HELD),
    }

    top_p: int | None = None
    """P, which must not be above the number of classes"""

    @override
    def leaves(self) -> Mapping[str, tuple[str, ...]]:
        parts = () if self.settings.open_set is None else (TAUGHT, CALIBRATION)
        names = ("labeled", *parts, "rest", *self.settings.items.tests)
        pool = {} if self.settings.pool is None else {"pool": (f"{POOL}/pool.json",), "held": (HELD,)}
        return {"classes": (CLASSES,), **{name: (f"{name}.csv",) for name in names}, **pool}

    @override
    def work(self, run: Context) -> dict[str, Any]:
        folder, split = run.folder(self.name), self.split(run)
        for doubt in split.doubts:
            logger.warning("%s", doubt)
        for name, records in {"labeled": split.labeled, **split.parts, "rest": split.rest, **split.tests}.items():
            records.write(str(folder / f"{name}.csv"))
        storage.write_json(str(folder / CLASSES), split.classes)
        if len(split.unlabeled):
            split.unlabeled.write(str(folder / UNLABELED))
        return self._counts(split) | ({} if self.settings.pool is None else self._write_pool(folder, split))

    def _write_pool(self, folder: Path, split: Split) -> dict[str, int]:
        """Write the list of the pool, which must not hold labeled and test items."""
        settings = self.settings.pool
        assert settings is not None
        held = data.Records.concat([split.labeled, *split.tests.values()])
        if not (sources := self.pool_sources(folder, split)):
            raise UserError(NO_POOL)
        pool = data.write_pool(
            sources,
            folder=str(folder / POOL),
            shard_size=settings.shard_size,
            exclude=held if settings.pool_overlap == "exclude" else None,
            fraction=settings.fraction,
            seed=settings.seed or 0,
        )
        if settings.pool_overlap == "refuse":
            shards = progress(pool.shards, unit="shard", title="comparing the pool with the labels")
            data.check_overlap((shard.records() for shard in shards), held, remedy=OVERLAP_REMEDY)
        # Once, for all the tasks that score the pool.
        hashes = data.content_hashes(held) if settings.pool_overlap != "allow" else set()
        with storage.atomic_write(str(folder / HELD)) as file:
            file.write(b"".join(sorted(hashes)))
        return {"pool": pool.num_records, "pool_shards": len(pool.shards)}

    def split(self, run: Context) -> Split:
        """Return the split, read from the sources.

        Raises:
            UserError: A source cannot be read, or its labels cannot be used.
        """
        self.require_outside()
        items, drawn = self.settings.items, self.settings.labels
        train, said = self._read(items.train, "data.train")
        counts = train.class_counts(train.class_names() if items.classes is None else items.classes)
        train, unlabeled = self._parted(self._merged(train, counts, "data.train", said))
        classes = self._in_order(run, train.class_names()) if items.classes is None else list(items.classes)
        self._check_classes(train, classes)
        train, tests = self._tests(train, counts, said)
        for name, records in tests.items():
            records.class_indices(classes, what=key_of(name))
        said += self._doubts(train, tests, classes)
        labeled, rest = train, train[:0]
        if drawn.labels_per_class is not None:
            labeled, rest = data.split_labels(
                train,
                labels_per_class=drawn.labels_per_class,
                imbalance=drawn.imbalance,
                seed=drawn.seed or 0,
                classes=classes,
            )
        return Split(labeled, self._open_set_parts(labeled), rest, unlabeled, tests, classes, said)

    def _open_set_parts(self, labeled: data.Records) -> dict[str, data.Records]:
        """Return the labels that teachers learn from and those held out of that, where some are."""
        settings = self.settings.open_set
        if settings is None:
            return {}
        taught, held = data.split_calibration(labeled, share=settings.holdout, seed=settings.seed)
        if not len(held):
            raise UserError(
                "select.open_set holds out labels, and no class has two of them; add labels, or set select.min_score "
                "instead"
            )
        return {TAUGHT: taught, CALIBRATION: held}

    def _parted(self, train: data.Records) -> tuple[data.Records, data.Records]:
        """Return the items with a label, and those without, which join the pool; all where none has one."""
        has_label = np.asarray(pc.is_valid(train.label))
        if not has_label.any():
            return train, train[:0]
        labeled, unlabeled = train.filter(has_label), train.filter(~has_label)
        if len(unlabeled) and self.settings.pool is None:
            raise UserError(
                f"data.train: {len(unlabeled)} of {len(train)} items have no label (first: {unlabeled[0].path}), and "
                "there is no pool that they could join; leave them out"
            )
        return labeled, unlabeled

    def _tests(
        self, train: data.Records, counts: Mapping[str, int], said: list[str]
    ) -> tuple[data.Records, dict[str, data.Records]]:
        """Return the labeled items that are not held out for a test, and the test sets."""
        items, tests = self.settings.items, {}
        if items.holdout is not None:
            train, held = data.split_holdout(train, share=items.holdout, seed=items.seed or 0)
            return train, dict.fromkeys(items.tests, held)
        for name, source in items.tests.items():
            records, more = self._read(source, key_of(name))
            tests[name] = self._merged(records, counts, key_of(name), more)
            said += more
        return train, tests

    def _read(self, source: Source | None, what: str) -> tuple[data.Records, list[str]]:
        """Return the records of a source with their labels tidied, and what to say of that."""
        if source is None:
            return data.Records.concat([]), []
        records = open_source(source, videos=self.settings.items.videos).records()
        tidied = records.tidied()
        return tidied, doubts.of_spellings(records, tidied, what=what)

    def _merged(self, records: data.Records, counts: Mapping[str, int], what: str, said: list[str]) -> data.Records:
        """Return the records with lookalikes of classes, which have ``counts`` items, as one where that is wanted."""
        if not self.settings.items.merge_lookalikes:
            return records
        by = labels.commonest(counts, records.class_names())
        merged = records.with_labels(labels.replaced(records.label, by))
        said += doubts.of_spellings(records, merged, what=what)
        return merged

    def _doubts(self, train: data.Records, tests: Mapping[str, data.Records], classes: Sequence[str]) -> list[str]:
        """Return what may be wrong with the labels of a split."""
        held = [] if self.settings.items.holdout is None else [*tests.values()][:1]
        counts = data.Records.concat([train, *held]).class_counts(classes)
        tested = {key_of(name): records.class_counts(classes) for name, records in tests.items()}
        said = doubts.of_places([train, *tests.values()])
        of_train = self.settings.items.train is not None
        said += doubts.of_names(counts, classes, what="data.train" if of_train else "data.classes")
        if of_train:
            said += doubts.of_counts(counts, tested, what="data.train")
        for name, records in tests.items():
            said += doubts.of_shared_items(train, records, what=key_of(name))
        return said

    def _in_order(self, run: Context, classes: list[str]) -> list[str]:
        """Return the classes in the order that they have in earlier work in the run's folder.

        Before numbers were sorted as such, all names were sorted as text: networks, scores and selections go by that.
        """
        folder = run.folder(self.name).resolve()  # of a sweep it is a link
        before = [*folder.parent.glob(f"{ASIDE}/{self.name}/*/{CLASSES}"), *folder.glob(CLASSES)]
        latest = max(before, key=lambda path: path.stat().st_mtime_ns, default=None)
        as_text = sorted(classes)
        with contextlib.suppress(UserError):  # damaged: it is being written anew
            if latest is not None and storage.read_json(str(latest)) == as_text:
                return as_text
        return classes

    def pool_sources(self, folder: Path | None = None, split: Split | None = None) -> list[data.Source]:
        """Return everything that the pool is made of, in order.

        That is what is in ``folder`` of a ``split`` and joins it, where these are given, and the sources of the pool.
        """
        settings = self.settings.pool
        assert settings is not None
        sources: list[data.Source] = []
        if folder is not None and split is not None:
            joins = {"rest.csv": settings.rest_in_pool and len(split.rest), UNLABELED: len(split.unlabeled)}
            sources += [data.Manifest(path=str(folder / name)) for name, joining in joins.items() if joining]
        videos = self.settings.items.videos
        return [*sources, *(open_source(source, videos=videos) for source in settings.pool)]

    @override
    def sizes(self, run: Context) -> tuple[Mapping[str, int], str]:
        # From the stage's result, else by looking.
        if run.pending(self.name) is None:
            return run.result(self.name), ""
        pool, split = self.settings.pool, self.split(run)
        counts = self._counts(split)
        if pool is not None:
            listed = sum(len(records) for _, records in data.shard_records(self.pool_sources(), pool.shard_size))
            listed += len(split.unlabeled) + (counts["rest"] if pool.rest_in_pool else 0)
            if not listed:
                raise UserError(NO_POOL)
            counts["pool"] = round(listed * pool.fraction)
        return counts, "\n".join(split.doubts)

    @override
    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        shards = range(result.get("pool_shards", 0))
        return [*super().files(run, result), *(f"{POOL}/{data.shard_file(number)}" for number in shards)]

    @override
    def outside(self) -> dict[str, Any]:
        items, pool = self.settings.items, self.settings.pool
        labeled = {"data.train or data.test": files_state(items.sources)}
        return labeled | ({} if pool is None else {"data.pool": files_state(pool.pool)})

    @override
    def require_outside(self) -> None:
        items, pool = self.settings.items, self.settings.pool
        tests = {key_of(name): [source] for name, source in items.tests.items() if source is not items.train}
        labeled = {"data.train": [] if items.train is None else [items.train], **tests}
        require_sources({**labeled, "data.pool": [] if pool is None else pool.pool})

    @override
    def settings_of(self, outputs: Iterable[str]) -> Any:
        # Another pool does not change the teacher, nor other labels what tags have taught.
        wanted, settings = set(outputs), identifying(self.settings)
        groups = {
            "items": True,
            "labels": wanted & {"labeled", TAUGHT, CALIBRATION, "rest", "pool", "held"},
            "pool": wanted & {"pool", "held"},
            "open_set": wanted & {TAUGHT, CALIBRATION},
        }
        return {group: settings.get(group) for group, decided in groups.items() if decided}

    @override
    def key_of(self, setting: str) -> str:
        # Here the keys are in groups.
        setting = re.sub(r"^open_set", "select.open_set", re.sub(r"^pool\.fraction", "pool.pool_fraction", setting))
        return re.sub(r"^(items|labels|pool)\.", "data.", setting)

    @override
    def continues(self, run: Context, there: Work) -> bool:
        # A list of files that have changed since has no further use.
        return bool(there.identifying == identifying(self.settings))

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        tests = self.settings.items.tests
        known = sizes.get("labeled", 0) + sum(sizes.get(name, 0) for name in tests) + sizes.get("pool", 0)
        return PlanRow(rows=f"{known:,}" if known else "unknown")

    @override
    def summary(self, run: Context) -> str:
        items, pool, counts = self.settings.items, self.settings.pool, run.result(self.name)
        labels = "" if items.train is None else f" of {named_sources([items.train])}"
        text = f"{counts['labeled']:,} labels of {counts['classes']:,} classes{labels}"
        if pool is None:
            return text
        others = f" of {named_sources(pool.pool)}" if pool.pool else ""
        return f"{text}; a pool of {counts['pool']:,} items{others}"

    @classmethod
    @override
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        items, pool = dict(settings["items"]), settings.get("pool")
        outside = {"data.train or data.test": items.pop("files")}
        if pool is not None:
            pool = dict(pool)
            outside["data.pool"] = pool.pop("files")
        return {"items": items, "labels": settings["labels"], "pool": pool}, outside

    def _counts(self, split: Split) -> dict[str, int]:
        tests = {name: len(records) for name, records in split.tests.items()}
        parts = {name: len(records) for name, records in split.parts.items()}
        return {"classes": len(split.classes), "labeled": len(split.labeled), **parts, "rest": len(split.rest), **tests}

    def _check_classes(self, train: data.Records, classes: Sequence[str]) -> None:
        items, expected = self.settings.items, self.settings.items.num_classes
        train.class_indices(classes, what="data.train")
        if len(classes) == 1:
            raise UserError(
                f"data.train has a single class ({classes[0]}), two at least are needed; give each its own folder or "
                "label"
            )
        counts = train.class_counts(classes)
        if items.train is not None and expected is None and doubts.are_captions(counts):
            raise UserError(
                f"data.train: {doubts.of_captions(counts)}; if they are classes, set data.num_classes={len(classes)}"
            )
        if expected is not None and expected != len(classes):
            rarest = ", ".join(f"{name} ({counts[name]})" for name in sorted(classes, key=counts.__getitem__)[:3])
            raise UserError(
                f"data.train has {len(classes)} classes, but data.num_classes says {expected}; correct one of them "
                f"(the classes with the fewest items: {rarest})"
            )
        if self.top_p is not None and self.top_p > len(classes):
            raise UserError(f"score.top_p ({self.top_p}) is above the {len(classes)} classes of data.train; lower it")
