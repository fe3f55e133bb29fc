"""Rows: what selection sorts. A row says that a sample kept a class, with a score; it packs into one integer.

A packed row is a uint64 whose high word is ``bits(1.0) - bits(score)`` and whose low word is the sample's position.
The bits of a non-negative float32 grow with its value, so packed rows of one class, sorted ascending, are ordered by
score descending, then position ascending: exactly, ties included. A plain integer sort (which NumPy vectorises) stands
in for an argsort over several columns, and turning positions into global sample indices is one addition.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

_ONE = np.uint32(0x3F800000)  # the bits of 1.0
_SCORE_BITS = 30  # enough for 0 .. _ONE
_SCORE_MASK = np.uint64(2**_SCORE_BITS - 1)
_LOW_WORD = np.uint64(2**32 - 1)


def _make_edges() -> Float32:
    # Two steps per octave on either side of a half: evenly spaced logits, roughly, and values that float32 holds
    # exactly, so that every machine counts at the very same edges.
    tail = sorted(step * 2.0**-octave for octave in range(2, 22) for step in (1.0, 1.5))
    return np.array([1.0, *(1 - value for value in tail), 0.5, *reversed(tail), 0.0], np.float32)


EDGES = _make_edges()
"""Scores, descending from 1 to 0, at which every score file counts its rows; part of the format version."""

SECTIONS = (64, 8, 1)
"""Score files hold the best 1/64 of the rows of every class, then what is left of the best 1/8, then the rest."""


def pack_scores(scores: Array) -> UInt32:
    """Return the high words of rows with these float32 ``scores`` in [0, 1] (any shape): smaller is better."""
    return _ONE - (scores + np.float32(0)).view(np.uint32)  # adding zero turns -0.0 into 0.0


def scores_of(rows: UInt64) -> Float32:
    """Return the float32 scores of packed rows."""
    return (_ONE - (rows >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def positions_of(rows: UInt64) -> UInt32:
    """Return the low words of packed rows: positions, or global sample indices once a shard's base has been added."""
    return (rows & _LOW_WORD).astype(np.uint32)


def are_possible(rows: UInt64, *, num_records: int) -> bool:
    """Return whether packed rows, one at least, have scores in [0, 1] and positions below ``num_records``."""
    return bool(rows.max() >> np.uint64(32) <= _ONE and positions_of(rows).max() < num_records)


def group(*, classes: Array, scores: Array, positions: Array, num_classes: int) -> tuple[Int64, UInt64]:
    """Turn samples with their classes into classes with their rows, best first.

    Args:
        classes: (N, P) integers in [0, num_classes), the classes that each sample keeps.
        scores: (N, P) float32 in [0, 1], the score of each of them.
        positions: (N,) distinct integers in [0, 2**32).
        num_classes: L.

    Returns:
        ``offsets`` int64 (L + 1,) and packed ``rows`` uint64 (N * P,): those of class l are
        ``rows[offsets[l]:offsets[l + 1]]``, by score descending, then position ascending.
    """
    major, inverted, minor = _sort(classes, pack_scores(scores), positions[:, None])
    offsets = np.searchsorted(major, np.arange(num_classes + 1, dtype=np.uint64)).astype(np.int64)
    inverted <<= np.uint64(32)
    inverted |= minor
    return offsets, inverted


def ungroup(*, offsets: Int64, rows: UInt64, top_p: int) -> tuple[Int64, Int64, Float32]:
    """Undo ``group``: positions (N,) ascending, classes (N, P) and scores (N, P), best first, equal scores by class."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    positions, inverted, classes = _sort(positions_of(rows), (rows >> np.uint64(32)).astype(np.uint32), owners)
    scores = (_ONE - inverted.astype(np.uint32)).view(np.float32)
    return (
        positions[::top_p].astype(np.int64),
        classes.astype(np.int64).reshape(-1, top_p),
        scores.reshape(-1, top_p),
    )


def _sort(major: Array, inverted: Array, minor: Array) -> tuple[UInt64, UInt64, UInt64]:
    """Triples sorted by major, inverted, minor: shapes broadcast to that of ``major``; three flat uint64 arrays."""
    minor_bits = int(minor.max()).bit_length() if minor.size else 0
    major_bits = int(major.max()).bit_length() if major.size else 0
    if major_bits + _SCORE_BITS + minor_bits > 64:
        columns = [np.broadcast_to(part, major.shape).ravel().astype(np.uint64) for part in (minor, inverted, major)]
        order = np.lexsort(columns)
        return columns[2][order], columns[1][order], columns[0][order]
    keys = major.astype(np.uint64)
    keys <<= np.uint64(_SCORE_BITS)
    keys |= inverted
    keys <<= np.uint64(minor_bits)
    keys |= minor.astype(np.uint64)
    keys = keys.ravel()
    keys.sort()
    lowest = keys & np.uint64(2**minor_bits - 1)
    keys >>= np.uint64(minor_bits)
    return keys >> np.uint64(_SCORE_BITS), keys & _SCORE_MASK, lowest


def edge_counts(*, offsets: Int64, rows: UInt64) -> UInt32:
    """How many rows of each class score at least each of ``EDGES``: uint32 (E, L), growing along E."""
    owners = np.arange(len(offsets) - 1, dtype=np.uint64) << np.uint64(_SCORE_BITS)
    keys = rows >> np.uint64(32)
    keys |= np.repeat(owners, np.diff(offsets))
    wanted = owners[:, None] | pack_scores(EDGES)
    ends = np.searchsorted(keys, wanted.ravel(), side="right").reshape(wanted.shape)
    return np.ascontiguousarray((ends - offsets[:-1, None]).T, dtype=np.uint32)


def section_sizes(offsets: Int64) -> Iterator[Int64]:
    """For each of ``SECTIONS``, how many rows of each class it holds: int64 (L,)."""
    lengths = np.diff(offsets)
    before = np.zeros_like(lengths)
    for share in SECTIONS:
        bound = (lengths + (share - 1)) // share
        yield bound - before
        before = bound


def split_sections(*, offsets: Int64, rows: UInt64) -> list[UInt64]:
    """Rows grouped by class, as one array per section, each grouped by class."""
    starts = offsets[:-1].copy()
    sections = []
    for sizes in section_sizes(offsets):
        sections.append(rows[ranges(starts, sizes)])
        starts += sizes
    return sections


def join_sections(*, offsets: Int64, sections: list[UInt64]) -> UInt64:
    """Undo ``split_sections``."""
    rows = np.empty(int(offsets[-1]), np.uint64)
    starts = offsets[:-1].copy()
    for section, sizes in zip(sections, section_sizes(offsets), strict=True):
        rows[ranges(starts, sizes)] = section
        starts += sizes
    return rows


def count(marked: Array, lengths: Int64) -> Int64:
    """Return how many entries of the mask ``marked`` are set in each of the groups with these ``lengths``: (G,)."""
    running = np.concatenate([[0], np.cumsum(marked)])
    ends = np.cumsum(lengths)
    return np.asarray(running[ends] - running[ends - lengths], np.int64)


def ranges(starts: Int64, lengths: Int64) -> Int64:
    """``starts[i], starts[i] + 1, ...`` (``lengths[i]`` of them) for every i, one after the other, as int64."""
    ends = np.cumsum(lengths, dtype=np.int64)
    index = np.repeat(starts - (ends - lengths), lengths)
    index += np.arange(len(index))
    return index
