"""Looking at all data of a config before a run: what there is, what cannot be read, copies, doubtful labels."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from bsssl import data
from bsssl.config import Config, Experiment, Source
from bsssl.errors import UserError
from bsssl.recipes.runs import all_runs
from bsssl.runtime.console import progress
from bsssl.runtime.secrets import hidden
from bsssl.runtime.threads import map_ahead
from bsssl.stages import doubts
from bsssl.stages.data import DataStage
from bsssl.stages.sources import OVERLAP_REMEDY, open_source

SAMPLE = 100_000
"""items of each source that are opened where nothing else is said"""
_THREADS = 8
_EXAMPLES = 5
_BATCH = 10_000
_LABELED = ("data.train", "data.test")
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Opened:
    """An item that was opened."""

    key: str
    label: str | None
    size: int = 0
    """bytes"""
    digest: bytes = b""
    """of the content"""
    header: data.Header | None = None
    reason: str = ""
    """why it cannot be read"""


_Group = list[tuple[str, Opened]]
"""items of the same content, each with the name of its source"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a source."""

    name: str
    """the key of the config"""
    path: str
    error: str = ""
    """why nothing was seen of it"""
    items: int = 0
    labeled: int = 0
    tagged: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    """the items of each class of a labeled or a test set"""
    left_out: dict[str, int] = field(default_factory=dict)
    """files that are no items, by extension"""
    opened: int = 0
    """items that were opened: all, or a random part"""
    bytes: int = 0
    """of all that were opened"""
    bytes_spread: list[int] = field(default_factory=list)
    """the least, the quartiles and the greatest"""
    pixels_spread: list[str] = field(default_factory=list)
    """width and height, likewise by their product"""
    seconds_spread: list[float] = field(default_factory=list)
    rate_spread: list[float] = field(default_factory=list)
    """frames per second"""
    formats: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    unreadable_examples: list[tuple[str, str]] = field(default_factory=list)
    """key and reason"""


@dataclass(frozen=True)
class Copies:
    """The items of one source that have the content of another item, of the same or of an earlier source."""

    first: str
    second: str
    count: int
    examples: list[tuple[str, str]]
    """keys of the earlier item and of its copy"""


@dataclass(frozen=True)
class Inspection:
    """All that was seen of the data of a config."""

    config: str
    sample: int
    """the most items of a source that were opened"""
    decoded: bool
    """whether they were decoded, not their headers read alone"""
    sources: list[Seen]
    copies: list[Copies]
    doubts: list[str]
    """what may be wrong"""
    stops: list[str]
    """what a run would stop at"""


def inspect_data(config: Experiment, *, path: str, sample: int = SAMPLE, decode: bool = False) -> Inspection:
    """Return what is seen of all data of a config; nothing is trained or written.

    Args:
        config: The config.
        path: What to call it.
        sample: The most items of a source that are opened, at random; all are counted.
        decode: Whether to decode what is opened, not to read its header alone.
    """
    open_item = partial(_opened, config=config, decode=decode)
    seen, opened = [], {}
    for name, source in _sources(config).items():
        of_source, opened[name] = _seen(name, source, config, sample=sample, open_item=open_item)
        seen.append(of_source)
    groups = _by_content(opened)
    copies = _copies(groups, [*opened])
    stops = [f"{one.name}: {one.error}" for one in seen if one.error]
    said = [f"{one.name}: {one.opened:,} of {one.items:,} items were opened" for one in seen if one.opened < one.items]
    if not stops:
        try:
            said += _split_doubts(config, path)
        except (UserError, OSError) as error:
            stops.append(str(error))
    said += [*_contradictions(groups), *_rates(seen, config)]
    of_pool = [pair for pair in copies if pair.first.startswith(_LABELED) and pair.second.startswith("data.pool")]
    refused = of_pool if isinstance(config, Config) and config.data.pool_overlap == "refuse" else []
    stops += [*_too_many(seen, config), *_overlaps(refused)]
    said += [
        f"{pair.second}: {pair.count:,} items have the content of one in {pair.first} ({_pairs(pair.examples)})"
        for pair in copies
        if pair not in refused
    ]
    return Inspection(path, sample, decode, seen, copies, said, stops)


def _sources(config: Experiment) -> dict[str, Source]:
    """Return the sources of a config by their keys, the labeled items first and the pool last."""
    found = {} if config.data.train is None else {"data.train": config.data.train}
    if config.data.test is not None:
        found |= {f"data.{name.replace('-', '.', 1)}": source for name, source in config.data.tests.items()}
    if not isinstance(config, Config):  # a transfer
        return found
    found |= {f"data.pool[{number}]": source for number, source in enumerate(config.data.pool)}
    weak = [] if config.weak is None else config.weak.sources
    return found | {f"weak.sources[{number}]": source for number, source in enumerate(weak)}


def _seen(
    name: str, source: Source, config: Experiment, *, sample: int, open_item: "partial[Opened]"
) -> tuple[Seen, list[Opened]]:
    """Return what is seen of a source, and the items that were opened."""
    try:
        counts, sampled = _listed(name, source, config, sample)
    except (UserError, OSError) as error:
        return Seen(name=name, path=hidden(source.path), error=hidden(str(error))), []
    reading = map_ahead(open_item, sampled, threads=_THREADS)
    opened = [*progress(reading, total=len(sampled), unit="items", title=f"looking at {name}")]
    return Seen(name=name, path=hidden(source.path), **counts, **_figures(opened)), opened


def _listed(name: str, source: Source, config: Experiment, sample: int) -> tuple[dict[str, Any], data.Records]:
    """Return what is known of a source without opening an item, as fields of ``Seen``, and the items to open."""
    has_classes, found = name.startswith(_LABELED), open_source(source, videos=config.data.clips is not None)
    if has_classes:
        batches = iter([found.records()])  # what labels mean, the whole column says
    else:
        batches = (records for _, records in data.shard_records([found], _BATCH))
    items = labeled = tagged = 0
    classes: dict[str, int] = {}
    sampled = _Sample(sample)
    for records in batches:
        tidied = records.tidied()
        items += len(tidied)
        labeled += len(tidied) - tidied.label.null_count
        tagged += len(tidied) - tidied.tags.null_count
        if has_classes:
            classes = tidied.class_counts(tidied.class_names())
        sampled.add(tidied)
    left_out = {f".{ending}" if ending else "(none)": count for ending, count in found.left_out.items()}
    counts = {"items": items, "labeled": labeled, "tagged": tagged, "classes": classes, "left_out": left_out}
    return counts, sampled.records


def _figures(opened: Sequence[Opened]) -> dict[str, Any]:
    """Return what the opened items of a source are like, as fields of ``Seen``."""
    headers = [one.header for one in opened if one.header is not None]
    unreadable = [(one.key, one.reason) for one in opened if one.header is None]
    by_area = _spread((header.width * header.height, f"{header.width}x{header.height}") for header in headers)
    return {
        "opened": len(opened),
        "bytes": sum(one.size for one in opened),
        "bytes_spread": _spread(one.size for one in opened),
        "pixels_spread": [text for _, text in by_area],
        "seconds_spread": _spread(round(one.seconds, 2) for one in headers if one.seconds is not None),
        "rate_spread": _spread(one.rate for one in headers if one.rate is not None),
        "formats": dict(Counter(header.format for header in headers).most_common()),
        "unreadable": len(unreadable),
        "unreadable_examples": unreadable[:_EXAMPLES],
    }


class _Sample:
    """A random part of records that come in batches, in their order; memory does not grow with what comes."""

    def __init__(self, most: int) -> None:
        self.records, self._most = data.Records.concat([]), most
        self._ranks, self._generator = np.zeros(0), np.random.default_rng(0)

    def add(self, records: data.Records) -> None:
        """Take what is to be taken of some more records."""
        self.records = data.Records.concat([self.records, records])
        self._ranks = np.concatenate([self._ranks, self._generator.random(len(records))])
        if len(self._ranks) > self._most:
            rows = np.sort(np.argpartition(self._ranks, self._most)[: self._most])
            self.records, self._ranks = self.records.take(rows), self._ranks[rows]


def _opened(record: data.Record, *, config: Experiment, decode: bool) -> Opened:
    """Return an item as it is when it is opened."""
    try:
        content = record.read()
    except OSError as error:
        return Opened(record.key, record.label, reason=error.strerror or str(error))
    seen = partial(Opened, record.key, record.label, len(content), data.content_hash(content, record.path))
    try:
        clips, most = config.data.clips, config.data.max_pixels
        if clips is None:
            return seen(data.picture_header(content, max_pixels=most, decode=decode))
        return seen(data.video_header(content, deadline=clips.deadline, max_pixels=most, decode=decode))
    except data.DecodeError as error:
        return seen(reason=str(error))


def _spread(values: Iterable[Any]) -> list[Any]:
    """Return the least of the values, their quartiles and the greatest; nothing of none."""
    in_order = sorted(values)
    return [in_order[round(share * (len(in_order) - 1))] for share in _QUANTILES] if in_order else []


def _by_content(opened: Mapping[str, Sequence[Opened]]) -> list[_Group]:
    """Return the items that have the same content as another, together, by the source that they are of."""
    places: dict[bytes, _Group] = defaultdict(list)
    for name, items in opened.items():
        for item in items:
            if item.digest:
                places[item.digest].append((name, item))
    return [group for group in places.values() if len(group) > 1]


def _copies(groups: Iterable[_Group], names: Sequence[str]) -> list[Copies]:
    """Return the copies within and between the sources of these ``names``."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for group in groups:
        firsts: dict[str, Opened] = {}
        for name, item in group:  # in the order of the sources
            for first, original in firsts.items():
                counts[first, name] += 1
                if len(examples[first, name]) < _EXAMPLES:
                    examples[first, name].append((original.key, item.key))
            firsts.setdefault(name, item)
    pairs = combinations_with_replacement(names, 2)
    return [Copies(*pair, counts[pair], examples[pair]) for pair in pairs if counts[pair]]


def _contradictions(groups: Iterable[_Group]) -> list[str]:
    """Return which contents have several labels."""
    torn = []
    for group in groups:
        labels: dict[str, str] = {}
        for name, item in group:
            if name.startswith(_LABELED) and item.label is not None:
                labels.setdefault(item.label, item.key)
        if len(labels) > 1:
            torn.append(" and ".join(f"{key} ({doubts.quoted(label)})" for label, key in sorted(labels.items())))
    return [f"{len(torn)} contents have more than one label: {doubts.some(torn)}"] if torn else []


def _rates(seen: Sequence[Seen], config: Experiment) -> list[str]:
    """Return what to say of videos of several frame rates that are seen by frames, not by the clock."""
    rates = sorted(rate for one in seen for rate in one.rate_spread)
    if config.data.clips is None or config.data.clips.fps is not None or not rates or rates[-1] < 1.2 * rates[0]:
        return []
    return [
        f"there are videos of {rates[0]:g} to {rates[-1]:g} frames per second, of which a clip of as many frames lasts "
        f"longer or shorter; data.clips.fps={rates[len(rates) // 2]:g} has all of them last alike"
    ]


def _too_many(seen: Iterable[Seen], config: Experiment) -> list[str]:
    """Return which sources have more unreadable items than a run tolerates."""
    said = []
    for one in seen:
        key = "max_missing_rate" if one.name.startswith("data.test") else "max_failure_rate"
        if one.unreadable > getattr(config.data, key) * one.opened:
            name, reason = one.unreadable_examples[0]
            said.append(
                f"{one.name}: {one.unreadable:,} of {one.opened:,} items cannot be read (such as {name}: {reason}), "
                f"more than data.{key} allows; take them out, or raise it"
            )
    return said


def _overlaps(copies: Iterable[Copies]) -> list[str]:
    """Return which sources of the pool hold labeled or test items."""
    return [
        f"{pair.second} holds {pair.count:,} items that have the content of one in {pair.first} "
        f"({_pairs(pair.examples)}); {OVERLAP_REMEDY}"
        for pair in copies
    ]


def _pairs(examples: Sequence[tuple[str, str]]) -> str:
    return "such as " + doubts.some([f"{copy} of {original}" for original, copy in examples][:1])


def _split_doubts(config: Experiment, path: str) -> list[str]:
    """Return what is doubtful about the labels of the first seed.

    Raises:
        UserError: A run would stop at them.
    """
    run = all_runs(config, config_path=path)[0]
    (stage,) = (one for one in run.stages.values() if isinstance(one, DataStage))
    return stage.split(run).doubts
