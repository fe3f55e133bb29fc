"""What was selected, in figures: of each class and of all together; what it has just missed, and what was left out."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bsssl import selection
from bsssl.errors import UserError
from bsssl.pipeline.stage import Stage
from bsssl.reports.page.near import read_pairs
from bsssl.reports.page.opening import Opened
from bsssl.reports.recipe import selecting
from bsssl.selection.open_set import without_foreign
from bsssl.selection.pool import PoolScores
from bsssl.selection.rows import EDGES
from bsssl.selection.scores import open_scores

if TYPE_CHECKING:
    from bsssl.data import Record

Array = npt.NDArray[Any]
AFTER = 4
"""samples of each class that are shown of those that came just after"""
WORST = 4
"""wrong picks of each class that are shown"""
_POINTS = 25  # of the curves of a class
_BINS = 20  # of the curves of all classes
_PAIRS = 40  # of classes that share most
_MOST = 20_000  # picks that are looked up for the page
_FEWEST = 8  # of each class
HISTOGRAM = tuple([1 - 2.0**-octave for octave in range(8, 1, -1)] + [2.0**-octave for octave in range(1, 9)] + [0.0])
"""scores, falling, between which pairs are counted; they are among ``bsssl.selection.rows.EDGES``"""


@dataclass(frozen=True)
class Picked:
    """The selection of one run. Picks are rows: by class, then rank; those that came just after follow all of them."""

    chosen: selection.Selected
    after: selection.Selected
    truth: Array | None
    """int64 (M,): the true class of every pick; None where it is not known"""
    histogram: tuple[list[int], list[int]] | None
    """pairs of an item and a class between the scores of ``HISTOGRAM``: selected, and left out"""
    scored: int | None
    """items of the pool with scores"""
    trouble: str
    """why it is not known what was left out, if it is not"""

    @cached_property
    def names(self) -> list[str]:
        """The classes."""
        names: list[str] = self.chosen.facts["class_names"]
        return names

    @cached_property
    def counts(self) -> Array:
        """Picks of each class, int64 (L,)."""
        return np.bincount(self.classes, minlength=len(self.names))

    @cached_property
    def classes(self) -> Array:
        """The class of each pick, int32 (M,)."""
        return self.chosen.class_index.to_numpy()

    @cached_property
    def scores(self) -> Array:
        """The score of each pick, float32 (M,)."""
        return self.chosen.score.to_numpy()

    @cached_property
    def starts(self) -> Array:
        """The row of the first pick of each class, int64 (L,)."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def right(self) -> Array | None:
        """Whether the class of each pick is the true one, bool (M,); None where that is not known."""
        return None if self.truth is None else self.truth == self.classes

    @cached_property
    def samples(self) -> Array:
        """The number of the sample of each pick, int32 (M,)."""
        place = self.chosen.shard.to_numpy().astype(np.int64) << 40 | self.chosen.position.to_numpy()
        return np.unique(place, return_inverse=True)[1].astype(np.int32)

    @property
    def wanted(self) -> int:
        """K."""
        return int(self.chosen.facts["top_k"])

    def record_rows(self, rows: Sequence[int]) -> "Iterator[Record]":
        """Yield the records of ``rows``."""
        from bsssl.data.records import PLACE_SCHEMA, Records  # imports torch

        wanted, picks = np.asarray(rows, np.int64), len(self.chosen)
        is_pick = wanted < picks
        places = [
            one.table.select(PLACE_SCHEMA.names).take(part).cast(PLACE_SCHEMA)
            for one, part in ((self.chosen, wanted[is_pick]), (self.after, wanted[~is_pick] - picks))
        ]
        order = np.argsort(np.argsort(~is_pick, kind="stable"))  # from picks first back to the order of the rows
        yield from Records.unlabeled(pa.concat_tables(places).take(order))


def read_picks(run: Opened) -> Picked | None:
    """Return the selection of the run that is shown, of the last round; None where it is not done.

    Raises:
        UserError: The file of the selection is missing or damaged.
    """
    stage = selecting(run.shown, run.config.rounds)
    if run.result(stage.name) is None:
        return None
    folder = run.shown.folder(stage.name)
    chosen = _with_few_paths(selection.read_selection(str(folder / stage.leaves()["selection"][0])))
    truth = _truth(run, chosen) if getattr(stage, "knows_truth", None) else None
    after, histogram, scored, trouble = selection.Selected(chosen.table[:0]), None, None, "there are no score files"
    if "scores" in stage.needs:
        try:
            paths = selection.score_files(str(run.shown.input(stage, "scores")))
            exclude = chosen.facts.get("exclude")
            excluded = selection.read_exclusions(exclude) if exclude is not None else None
            pairs = read_pairs(run)
            near = None if pairs is None else pairs.copies
            files = open_scores(paths)
            if "open_set" in stage.needs:
                files = without_foreign(files, selection.read_open_set(run.shown.input(stage, "open_set")))
            after = selection.following(
                files, chosen, most=AFTER, exclude=excluded, copies=_list_of_copies(run, stage), near=near
            )
            histogram, scored = _left_out(paths, chosen.score.to_numpy())
            trouble = ""
        except (UserError, OSError) as error:  # other files than those of the selection: the page does without
            trouble = " ".join(str(error).split())[:300]
    pa.default_memory_pool().release_unused()
    return Picked(chosen, after, truth, histogram, scored, trouble)


def _list_of_copies(run: Opened, stage: Stage[Any]) -> str | None:
    """Return the list of copies that the selecting ``stage`` has read; None in a run from before there were such."""
    name = stage.needs.get("contents", "")
    if run.result(name) is None:
        return None
    contents = run.shown.stage(name)
    return str(run.shown.folder(name) / contents.leaves()["copies"][0])


def _with_few_paths(chosen: selection.Selected) -> selection.Selected:
    """Return a selection that holds every path once: most memory of a large one are paths of tars, again and again."""
    place = chosen.table.schema.get_field_index("path")
    table = chosen.table.set_column(place, "path", chosen.table["path"].dictionary_encode())
    return selection.Selected(table)


def rows_to_show(picked: Picked) -> Iterator[int]:
    """Yield the rows whose pictures matter, of all classes in turn: those that matter most come first.

    Of each class these are the picks at ranks 1, K/4, K/2 and K, the first that came after, the worst wrong ones, then
    picks ever closer to each other.
    """
    most = max(_FEWEST, _MOST // len(picked.names))
    after = _by_class(picked.after.class_index.to_numpy(), len(picked.names), len(picked.chosen))
    queues = []
    for index, (start, count) in enumerate(zip(picked.starts.tolist(), picked.counts.tolist(), strict=True)):
        marks = [start + rank for rank in landmarks(count)]
        worst = [] if picked.right is None else [start + rank for rank in _worst(picked.right[start : start + count])]
        between = (start + rank for rank in _spread(count))
        order = itertools.chain(marks, after[index][:1], worst, after[index][1:], between)
        queues.append([*itertools.islice(_distinct(order), most)])
    for level in range(max(map(len, queues), default=0)):
        yield from (queue[level] for queue in queues if level < len(queue))


def landmarks(count: int) -> list[int]:
    """Return the ranks, from 0 on, of the first, the first quarter, the half and the last of ``count`` picks."""
    return [*dict.fromkeys(max(0, part - 1) for part in (1, count // 4, count // 2, count))] if count else []


def per_class(picked: Picked) -> dict[str, list[Any]]:
    """Return figures of each class: picks, lowest and median score, precision, shared picks, and the curves."""
    shared = np.bincount(picked.samples)[picked.samples] > 1
    figures: dict[str, list[Any]] = {
        name: [] for name in ("picks", "lowest", "median", "precision", "shared", "scores", "precisions")
    }
    for start, count in zip(picked.starts.tolist(), picked.counts.tolist(), strict=True):
        part = slice(start, start + count)
        scores = picked.scores[part]
        ranks = curve_ranks(count)
        right = None if picked.right is None else picked.right[part]
        precise = None if right is None or not count else 100 * np.cumsum(right) / np.arange(1, count + 1)
        figures["picks"].append(count)
        figures["lowest"].append(_rounded(scores[-1:].min()) if count else None)
        figures["median"].append(_rounded(np.median(scores)) if count else None)
        figures["precision"].append(None if precise is None else round(float(precise[-1]), 1))
        figures["shared"].append(int(shared[part].sum()))
        figures["scores"].append([_rounded(scores[rank]) for rank in ranks])
        figures["precisions"].append(None if precise is None else [round(float(precise[rank]), 1) for rank in ranks])
    return figures


def curve_ranks(count: int) -> list[int]:
    """Return the ranks, from 0 on, at which the curves of a class with ``count`` picks have points."""
    return np.unique(np.linspace(0, count - 1, min(_POINTS, count)).round().astype(int)).tolist() if count else []


def by_rank(picked: Picked) -> dict[str, Any]:
    """Return the scores, and the precision, of all classes by the share of a class's picks that rank as high."""
    counts = picked.counts[picked.classes]
    ranks = np.arange(len(picked.classes)) - picked.starts[picked.classes]
    bins = ranks * _BINS // np.maximum(counts, 1)
    order = np.argsort(bins, kind="stable")
    parts = np.split(picked.scores[order], np.searchsorted(bins[order], np.arange(1, _BINS)))
    levels = {"median": 50, "lowest tenth": 10, "highest tenth": 90}
    curves = {
        name: [_rounded(np.percentile(part, level)) if len(part) else None for part in parts]
        for name, level in levels.items()
    }
    right = None if picked.right is None else np.split(picked.right[order], np.cumsum([*map(len, parts)])[:-1])
    precision = None if right is None else [round(100 * float(part.mean()), 2) if len(part) else None for part in right]
    return {"share": [round(100 * (one + 0.5) / _BINS, 1) for one in range(_BINS)], **curves, "precision": precision}


def sharing(picked: Picked) -> dict[str, Any]:
    """Return how many samples have one class, two and so on, and the pairs of classes that share most, with rows."""
    order = np.argsort(picked.samples, kind="stable")
    samples, classes = picked.samples[order], picked.classes[order]
    counts = np.bincount(np.bincount(picked.samples))[1:]
    codes, rows = [], []
    for distance in range(1, len(counts)):
        same = np.flatnonzero(samples[distance:] == samples[:-distance])
        low, high = np.sort([classes[same], classes[same + distance]], axis=0)
        codes.append(low.astype(np.int64) * len(picked.names) + high)
        rows.append(order[same])
    every, where = np.concatenate([*codes, np.zeros(0, np.int64)]), np.concatenate([*rows, np.zeros(0, np.int64)])
    pairs, sizes = np.unique(every, return_counts=True)
    most = np.argsort(-sizes, kind="stable")[:_PAIRS]
    return {
        "samples": counts.tolist(),
        "pairs": [
            {
                "classes": [int(part) for part in divmod(int(pairs[one]), len(picked.names))],
                "count": int(sizes[one]),
                "rows": where[np.flatnonzero(every == pairs[one])[:3]].tolist(),
            }
            for one in most
        ],
        "all": len(pairs),
    }


def _left_out(paths: list[str], chosen: Array) -> tuple[tuple[list[int], list[int]], int]:
    """Return the histograms of what was selected and of what was left out, and the number of samples with scores."""
    files = open_scores(paths)
    edges = np.searchsorted(-EDGES, -np.array(HISTOGRAM, np.float32))
    totals = PoolScores(files, min_score=0.0, progress=lambda items, **_: items).total_counts()
    every = np.diff(totals.sum(axis=1, dtype=np.int64)[edges], prepend=0)
    ends = [int(np.count_nonzero(chosen >= np.float32(edge))) for edge in HISTOGRAM]
    mine = np.diff(ends, prepend=0)
    return (mine.tolist(), np.maximum(every - mine, 0).tolist()), sum(file.num_samples for file in files)


def _truth(run: Opened, chosen: selection.Selected) -> Array | None:
    """Return the true class of every pick, -1 for one that is not among the classes; None where one has no label."""
    from bsssl.stages.computing import split_records  # imports torch

    folder = run.shown.folder("data")
    if not (folder / "rest.csv").exists():
        return None
    rest = split_records(folder, "rest")
    rows = pc.index_in(chosen.key, pc.unique(rest.key))
    if rows.null_count or len(pc.unique(rest.key)) < len(rest):
        return None
    labels = pc.index_in(rest.label.take(rows), pa.array(chosen.facts["class_names"], pa.string()))
    return np.asarray(pc.fill_null(labels, -1).to_numpy(), np.int64)


def _worst(right: Array) -> list[int]:
    """Return the ranks of the wrong picks with the highest scores."""
    ranks: list[int] = np.flatnonzero(~right)[:WORST].tolist()
    return ranks


def _by_class(classes: Array, num_classes: int, first: int) -> list[list[int]]:
    """Return the rows of each class, from ``first`` on; ``classes`` are in order."""
    ends = np.searchsorted(classes, np.arange(num_classes + 1))
    return [[*range(first + start, first + end)] for start, end in itertools.pairwise(ends.tolist())]


def _spread(count: int) -> Iterator[int]:
    """Yield ranks ever closer to each other: the middle, the middles of the halves, and so on, up to all of them."""
    parts = 2
    while parts < 2 * count:
        yield from (count * part // parts for part in range(1, parts, 2))
        parts *= 2
    yield from range(count)


def _distinct(rows: Iterable[int]) -> Iterator[int]:
    """Yield rows as they come, each once."""
    seen: set[int] = set()
    for row in rows:
        if row not in seen:
            seen.add(row)
            yield row


def _rounded(score: Any) -> float:
    return round(float(score), 4)
