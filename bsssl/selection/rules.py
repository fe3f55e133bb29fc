"""The rules that come with the project: those of arXiv 1905.00546, section 3 and its ablation.

The first two never read all rows. The files' counts at fixed score edges are added up; per class, the highest edge with
at least K rows in the pool is the threshold; each file's own counts then say how long the prefix of its rows down to
that edge is. These candidates, little more than K per class, are ordered by score descending, then global sample index
ascending: a total order, so the result depends neither on how the pool is sharded nor on the order of the files. A
minimum score cuts off the tail of a ranking: the best K of what reaches it are what reaches it of the best K.
"""

import numpy as np

from bsssl.registry import SELECTION_RULES
from bsssl.selection.best import Best
from bsssl.selection.pool import Picks, PoolScores, ShardRows
from bsssl.selection.rows import Array, Int64, UInt32, UInt64, positions_of, scores_of
from bsssl.selection.scores import ScoreFile


@SELECTION_RULES.register("balanced")
def balanced(*, pool: PoolScores, top_k: int, seed: int) -> Picks:
    """Select, per class, the K best of the samples that kept it."""
    totals = pool.total_counts()
    edge = _first_edge(totals, top_k)
    everyone = np.arange(pool.num_classes)

    def candidates(file: ScoreFile) -> list[tuple[Int64, UInt64]]:
        return _best_rows(file, np.minimum(file.counts()[edge, everyone].astype(np.int64), top_k))

    best = Best(keep=top_k, expected=totals[edge, everyone].astype(np.int64))
    for blocks in pool.map(candidates, title="selecting"):
        for lengths, keys in blocks:
            best.add(lengths, keys)
    lengths, keys, _ = pool.sort(best)
    return _picks(pool, lengths, keys, wanted=top_k)


@SELECTION_RULES.register("unbalanced")
def unbalanced(*, pool: PoolScores, top_k: int, seed: int) -> Picks:
    """Select the K x L best rows whatever their class; equal scores by sample, then class."""
    wanted = top_k * pool.num_classes
    totals = pool.total_counts().sum(axis=1, keepdims=True, dtype=np.int64)
    edge = int(_first_edge(totals, wanted)[0])

    def candidates(file: ScoreFile) -> list[tuple[Int64, UInt64]]:
        return _best_rows(file, np.minimum(file.counts()[edge].astype(np.int64), wanted))

    best = Best(keep=wanted, expected=totals[edge], payload=True)
    for blocks in pool.map(candidates, title="selecting"):
        for lengths, keys in blocks:
            best.add(np.array([len(keys)]), keys, np.repeat(np.arange(pool.num_classes, dtype=np.uint32), lengths))
    _, keys, classes = pool.sort(best)
    assert classes is not None
    lengths = np.bincount(classes, minlength=pool.num_classes).astype(np.int64)
    return _picks(pool, lengths, keys[np.argsort(classes, kind="stable")], wanted=None)


@SELECTION_RULES.register("random")
def random(*, pool: PoolScores, top_k: int, seed: int) -> Picks:
    """Select, per class, K of the samples that kept it, drawn by a hash of seed, class and global sample index.

    The rank of a pick is the order of the draw.
    """

    def draw(rows: ShardRows) -> UInt32:
        return _hash(seed, rows.classes, rows.samples)

    return pool.first(draw, top_k=top_k)


def _picks(pool: PoolScores, lengths: Int64, rows: UInt64, *, wanted: int | None) -> Picks:
    """Return those of ``lengths[l]`` packed rows of every class l, best first, that reach the minimum score."""
    per_class, good = pool.at_least(lengths, rows)
    return Picks(per_class, positions_of(good), scores_of(good), len(rows), wanted)


def _first_edge(totals: Array, wanted: int) -> Int64:
    """Return per class the index of the highest edge with at least ``wanted`` rows; the last if there are fewer."""
    return np.asarray(np.minimum((totals < wanted).sum(axis=0), len(totals) - 1), np.int64)


def _best_rows(file: ScoreFile, lengths: Int64) -> list[tuple[Int64, UInt64]]:
    """Return the first ``lengths[l]`` rows of every class l as ``ScoreFile.best_rows``, with global sample indices."""
    return [(wanted, rows + np.uint64(file.base)) for wanted, rows in file.best_rows(lengths)]


def _hash(seed: int, classes: UInt64, samples: UInt64) -> UInt32:
    """Return 32 well-mixed bits of (seed, class, sample): SplitMix64 (Steele et al. 2014) over the packed pair."""
    state = classes << np.uint64(32) | samples
    with np.errstate(over="ignore"):
        state = _mix(state + _mix(np.array([seed % 2**64], np.uint64)))
    return (state >> np.uint64(32)).astype(np.uint32)


def _mix(state: UInt64) -> UInt64:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)
