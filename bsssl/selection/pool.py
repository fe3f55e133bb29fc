"""The scores of a whole pool as a rule of selection sees them, and what a rule answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bsssl.runtime.distributed import cores
from bsssl.runtime.threads import map_ahead
from bsssl.selection.best import Best
from bsssl.selection.picks import Progress
from bsssl.selection.rows import EDGES, Array, Float32, Int64, UInt32, UInt64, count, positions_of, scores_of
from bsssl.selection.scores import ScoreFile

R = TypeVar("R")


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard: each says that a sample kept a class, with a score. By class, then best first."""

    classes: UInt64
    """(n,): index of the class"""
    samples: UInt64
    """(n,): index of the sample among all records of the pool"""
    scores: Float32
    """(n,): the teacher's softmax score"""


@dataclass(frozen=True)
class Picks:
    """What a rule selects, by class, then rank."""

    per_class: Int64
    """(L,): picks of each class"""
    samples: UInt32
    """(M,): index of each sample among all records of the pool"""
    scores: Float32
    """(M,): score of each sample for its class"""
    without_minimum: int
    """how many picks there would be without a minimum score"""
    wanted: int | None
    """K, of which each class has at most so many; None: the rule knows no such number"""


class PoolScores:
    """The score files of a pool, read a few at a time in threads.

    Args:
        files: All of them, by shard number.
        min_score: Rows with a lower score do not count.
        progress: Called with items, total, unit and title.
    """

    def __init__(self, files: list[ScoreFile], *, min_score: float, progress: Progress) -> None:
        self.files = files
        self.class_names = files[0].header.class_names
        self.num_classes = len(self.class_names)
        self.min_score = min_score
        self._progress = progress

    def first(self, order: Callable[[ShardRows], UInt32], *, top_k: int) -> Picks:
        """Return of every class the ``top_k`` rows that come first; memory is of the order of classes x ``top_k``.

        Args:
            order: Numbers (uint32) for the rows of a shard; the smallest come first, equal ones by sample. They must
                not depend on which rows are in the same shard.
            top_k: K.
        """

        def ordered(file: ScoreFile) -> tuple[Int64, UInt64, UInt32]:
            lengths, packed = self.at_least(np.diff(file.offsets()), file.rows())
            classes = np.repeat(np.arange(self.num_classes, dtype=np.uint64), lengths)
            samples = positions_of(packed).astype(np.uint64) + np.uint64(file.base)
            rows = ShardRows(classes, samples, scores_of(packed))
            return lengths, order(rows).astype(np.uint64) << np.uint64(32) | samples, rows.scores.view(np.uint32)

        available = np.asarray(sum(self.map(lambda file: np.diff(file.offsets()), title="counting")))
        best = Best(keep=top_k, expected=available, payload=True)
        for lengths, keys, bits in self.map(ordered, title="selecting"):
            best.add(lengths, keys, bits)
        per_class, keys, payload = self.sort(best)
        scores = np.asarray(payload, np.uint32).view(np.float32)
        return Picks(per_class, positions_of(keys), scores, int(np.minimum(available, top_k).sum()), top_k)

    def map(self, function: Callable[[ScoreFile], R], *, title: str) -> Iterator[R]:
        """Yield what ``function`` makes of each file, in order."""
        shown = self._progress(self.files, total=len(self.files), unit="shards", title=title)
        return map_ahead(function, shown, threads=_threads())

    def sort(self, best: Best) -> tuple[Int64, UInt64, Array | None]:
        """Return the rows of ``best`` (see ``Best.take``), sorted in threads."""
        tasks = np.array_split(np.arange(best.num_groups), min(best.num_groups, 4 * _threads()))
        list(map_ahead(best.sort, tasks, threads=_threads()))
        return best.take()

    def total_counts(self) -> UInt32:
        """Return the pool's rows per class at or above each of ``EDGES``: uint32 (E, L), as sample indices are."""
        totals = np.zeros((len(EDGES), self.num_classes), np.uint32)
        for counts in self.map(lambda file: file.counts(), title="counting"):
            totals += counts
        return totals

    def at_least(self, lengths: Int64, rows: UInt64) -> tuple[Int64, UInt64]:
        """Return of ``lengths[l]`` packed rows of every class l those that reach the minimum score."""
        if not self.min_score:
            return lengths, rows
        good = scores_of(rows) >= np.float32(self.min_score)
        return count(good, lengths), rows[good]


def _threads() -> int:
    return min(4, cores())
