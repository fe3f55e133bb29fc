"""Selection: the best K samples of every class out of the score files of a whole pool, exactly.

Rows are never all read. The files' counts at fixed score edges are added up; per class, the highest edge with at least
K rows in the pool is the threshold; each file's own counts then say how long the prefix of its rows down to that edge
is. These candidates, little more than K per class, are ordered by score descending, then global sample index
ascending: a total order, so the result depends neither on how the pool is sharded nor on the order of the files.
Memory is of the order of classes x K, whatever the pool's size and however many scores are equal. A minimum score
cuts off the tail of a ranking: the best K of what reaches it are what reaches it of the best K.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from bsssl.errors import UserError, choices
from bsssl.runtime.distributed import cores
from bsssl.runtime.threads import map_ahead
from bsssl.selection.picks import Progress, Selection, silent
from bsssl.selection.rows import EDGES, Array, Float32, Int64, UInt32, UInt64, positions_of, ranges, scores_of
from bsssl.selection.scores import ScoreFile, open_scores

VARIANTS = ("balanced", "unbalanced", "random")
R = TypeVar("R")


def select_samples(
    paths: Sequence[str],
    *,
    top_k: int,
    variant: str = "balanced",
    min_score: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Selection:
    """Choose samples for the student (arXiv 1905.00546, section 3; the variants are those of its ablation).

    Args:
        paths: The score files of all shards of one pool, in any order, local or remote.
        top_k: K.
        variant: ``balanced``: per class, the K best of the samples that kept it. ``unbalanced``: the K x L best rows
            whatever their class (equal scores: by sample, then class). ``random``: per class, K of the samples that
            kept it, drawn by a hash of seed, class and global sample index; their rank is the order of the draw.
        min_score: Rows with a score below this, in float32, do not count: as if their samples had not kept the class.
        seed: For ``random`` only.
        progress: ``bsssl.runtime.console.progress`` or the like, called with items, total, unit and title.

    Returns:
        The selection. Classes with fewer than K samples have what there is: ``Selection.summary()`` lists them.

    Raises:
        UserError: Impossible arguments, or files that are damaged, incomplete or do not belong together.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown selection variant '{variant}': {choices(variant, VARIANTS)}")
    if top_k < 1:
        raise UserError(f"top_k must be at least 1, not {top_k}; set the number of samples per class")
    if not 0 <= min_score <= 1:
        raise UserError(f"min_score must be from 0 to 1, not {min_score}; it is compared with softmax scores")
    files = open_scores(paths)
    if not any(file.num_rows for file in files):
        raise UserError(f"nothing to select: no sample of the pool was scored ({files[0].path}); see the ledgers")
    choose = {"balanced": _balanced, "unbalanced": _unbalanced, "random": _random}[variant]
    reader = _Reader(files, progress or silent)
    per_class, sample, score, without = choose(reader, top_k=top_k, min_score=min_score, seed=seed)
    if not len(sample):
        raise UserError(f"nothing to select: no score of the pool reaches min_score={min_score:g}; lower it")
    return Selection(
        files=files,
        variant=variant,
        top_k=top_k,
        min_score=min_score,
        seed=seed,
        per_class=per_class,
        sample=sample,
        score=score,
        dropped=without - len(sample),
    )


Chosen = tuple[Int64, UInt32, Float32, int]
"""Picks per class (L,), their global sample indices and scores by class and rank, and how many picks there would be
without a minimum score."""


class _Reader:
    """Maps functions over the score files in threads, in order, a bounded number of results ahead."""

    def __init__(self, files: list[ScoreFile], progress: Progress) -> None:
        self.files = files
        self.num_classes = len(files[0].header.class_names)
        self._progress = progress

    def map(self, function: Callable[[ScoreFile], R], *, title: str) -> Iterator[R]:
        shown = self._progress(self.files, total=len(self.files), unit="shards", title=title)
        return map_ahead(function, shown, threads=_threads())

    def sort(self, best: "_Best") -> tuple[Int64, UInt64, Array | None]:
        """The rows of ``best``, in threads."""
        tasks = np.array_split(np.arange(best.num_groups), min(best.num_groups, 4 * _threads()))
        list(map_ahead(best.sort, tasks, threads=_threads()))
        return best.take()


def _balanced(reader: _Reader, *, top_k: int, min_score: float, seed: int) -> Chosen:
    totals = _total_counts(reader)
    edge = _first_edge(totals, top_k)
    everyone = np.arange(reader.num_classes)

    def candidates(file: ScoreFile) -> list[tuple[Int64, UInt64]]:
        return _best_rows(file, np.minimum(file.counts()[edge, everyone], top_k).astype(np.int64))

    best = _Best(keep=top_k, expected=totals[edge, everyone].astype(np.int64))
    for blocks in reader.map(candidates, title="selecting"):
        for lengths, keys in blocks:
            best.add(lengths, keys)
    lengths, keys, _ = reader.sort(best)
    per_class, good = _at_least(min_score, lengths, keys)
    return per_class, positions_of(good), scores_of(good), len(keys)


def _unbalanced(reader: _Reader, *, top_k: int, min_score: float, seed: int) -> Chosen:
    wanted = top_k * reader.num_classes
    totals = _total_counts(reader).sum(axis=1, keepdims=True, dtype=np.int64)
    edge = int(_first_edge(totals, wanted)[0])

    def candidates(file: ScoreFile) -> list[tuple[Int64, UInt64]]:
        return _best_rows(file, np.minimum(file.counts()[edge], wanted).astype(np.int64))

    best = _Best(keep=wanted, expected=totals[edge], payload=True)
    for blocks in reader.map(candidates, title="selecting"):
        for lengths, keys in blocks:
            best.add(np.array([len(keys)]), keys, np.repeat(np.arange(reader.num_classes, dtype=np.uint32), lengths))
    _, keys, kept = reader.sort(best)
    assert kept is not None
    order = np.argsort(kept, kind="stable")
    lengths = np.bincount(kept, minlength=reader.num_classes).astype(np.int64)
    per_class, good = _at_least(min_score, lengths, keys[order])
    return per_class, positions_of(good), scores_of(good), len(keys)


def _random(reader: _Reader, *, top_k: int, min_score: float, seed: int) -> Chosen:
    def draw(file: ScoreFile) -> tuple[Int64, UInt64, Array]:
        lengths, rows = _at_least(min_score, np.diff(file.offsets()), file.rows())
        owners = np.repeat(np.arange(reader.num_classes, dtype=np.uint64), lengths)
        samples = positions_of(rows).astype(np.uint64) + np.uint64(file.base)
        return lengths, _hash(seed, owners, samples) << np.uint64(32) | samples, scores_of(rows)

    available = np.asarray(sum(reader.map(lambda file: np.diff(file.offsets()), title="counting")))
    best = _Best(keep=top_k, expected=available, payload=True)
    for lengths, keys, scores in reader.map(draw, title="selecting"):
        best.add(lengths, keys, scores.view(np.uint32))
    per_class, keys, bits = reader.sort(best)
    assert bits is not None
    return per_class, positions_of(keys), bits.view(np.float32), int(np.minimum(available, top_k).sum())


def _total_counts(reader: _Reader) -> UInt32:
    """Rows of the pool per class at or above each edge: uint32 (E, L), enough for any pool, as sample indices are."""
    totals = np.zeros((len(EDGES), reader.num_classes), np.uint32)
    for counts in reader.map(ScoreFile.counts, title="counting"):
        totals += counts
    return totals


def _first_edge(totals: Array, wanted: int) -> Int64:
    """Per class, the index of the highest edge with at least ``wanted`` rows; the last where there are fewer in all."""
    return np.minimum((totals < wanted).sum(axis=0), len(totals) - 1)


def _best_rows(file: ScoreFile, lengths: Int64) -> list[tuple[Int64, UInt64]]:
    """The first ``lengths[l]`` rows of every class l as in ``ScoreFile.best_rows``, with global sample indices."""
    return [(wanted, rows + np.uint64(file.base)) for wanted, rows in file.best_rows(lengths)]


def _at_least(min_score: float, lengths: Int64, rows: UInt64) -> tuple[Int64, UInt64]:
    """Of ``lengths[l]`` rows of every class l, those that score ``min_score`` or more."""
    if not min_score:
        return lengths, rows
    kept = scores_of(rows) >= np.float32(min_score)
    return _count(kept, lengths), rows[kept]


def _count(kept: Array, lengths: Int64) -> Int64:
    """How many are ``kept``, a mask, of each of the groups with these ``lengths``."""
    running = np.concatenate([[0], np.cumsum(kept)])
    ends = np.cumsum(lengths)
    return running[ends] - running[ends - lengths]


def _hash(seed: int, owners: UInt64, samples: UInt64) -> UInt64:
    """32 well-mixed bits of (seed, class, sample), as uint64: SplitMix64 (Steele et al. 2014) over the packed pair."""
    state = owners << np.uint64(32) | samples
    with np.errstate(over="ignore"):
        state = _mix(state + _mix(np.array([seed % 2**64], np.uint64)))
    return state >> np.uint64(32)


def _mix(state: UInt64) -> UInt64:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


class _Best:
    """The ``keep`` smallest keys of each of G groups, from blocks added in any order.

    Room is reserved for what is expected, but for no more than twice what is kept: a group that fills up is sorted and
    cut back, and from then on refuses keys beyond its ``keep``-th.

    Args:
        keep: Keys kept per group.
        expected: (G,) int64: keys that will be added to each group.
        payload: Whether each key comes with a uint32, which orders equal keys.
    """

    def __init__(self, *, keep: int, expected: Int64, payload: bool = False) -> None:
        self.num_groups = len(expected)
        self._keep = keep
        self._room = np.minimum(expected, 2 * keep)
        self._starts = np.cumsum(self._room) - self._room
        self._filled = np.zeros(self.num_groups, np.int64)
        self._limits = np.full(self.num_groups, 2**64 - 1, np.uint64)
        self._limited = False
        self._keys = np.empty(int(self._room.sum()), np.uint64)
        self._payload = np.empty(len(self._keys), np.uint32) if payload else None

    def add(self, lengths: Int64, keys: UInt64, payload: Array | None = None) -> None:
        """Add ``lengths[g]`` keys to each group g: ``keys`` holds them by group."""
        if self._limited or np.any(lengths > self._keep):
            lengths, kept = self._promising(lengths, keys, payload)
            keys = keys[kept]
            payload = None if payload is None else payload[kept]
        for group in np.flatnonzero(self._filled + lengths > self._room):
            self._cut_back(group)
        places = ranges(self._starts + self._filled, lengths)
        self._keys[places] = keys
        if self._payload is not None and payload is not None:
            self._payload[places] = payload
        self._filled += lengths

    def sort(self, groups: Int64) -> None:
        """Sort each of ``groups`` in place."""
        for group in groups:
            part = slice(self._starts[group], self._starts[group] + self._filled[group])
            if self._payload is None:
                self._keys[part].sort()
            else:
                order = np.lexsort((self._payload[part], self._keys[part]))
                self._keys[part], self._payload[part] = self._keys[part][order], self._payload[part][order]

    def take(self) -> tuple[Int64, UInt64, Array | None]:
        """Once sorted: what each group has (G,), at most ``keep``; then its keys and payloads, group after group."""
        lengths = np.minimum(self._filled, self._keep)
        places = ranges(self._starts, lengths)
        return lengths, self._keys[places], None if self._payload is None else self._payload[places]

    def _cut_back(self, group: np.int64) -> None:
        self.sort(np.array([group]))
        self._filled[group] = self._keep  # there were more: one addition never fills the room of an emptied group
        self._limits[group] = self._keys[self._starts[group] + self._keep - 1]
        self._limited = True

    def _promising(self, lengths: Int64, keys: UInt64, payload: Array | None) -> tuple[Int64, Array]:
        """The new lengths, and which keys to add: those within the limits, and no more than ``keep`` of a group."""
        kept = keys <= np.repeat(self._limits, lengths)
        ends = np.cumsum(lengths)
        for group in np.flatnonzero(lengths > self._keep):
            block = slice(ends[group] - lengths[group], ends[group])
            order = np.lexsort((keys[block],) if payload is None else (payload[block], keys[block]))
            kept[block][order[self._keep :]] = False
        return _count(kept, lengths), kept


def _threads() -> int:
    return min(4, cores())
