"""The search for near copies: perceptual hashes that differ in few bits, with Faiss."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bsssl.data import LOOK_BYTES, NO_LOOK, mirrored
from bsssl.errors import UserError
from bsssl.selection.rows import Array, Int64

MOST_BITS = 31
"""the largest distance of near copies: that at which PDQ, another hash of 256 bits, calls pictures the same"""
_PARTS, _BITS = 16, 16  # what the index looks up of a hash: whatever shares one of 16 parts of 16 bits is compared
_BLOCK = 1024  # hashes that are compared with each other before they are searched by later ones


@dataclass(frozen=True)
class Nearest:
    """Of each of N looks the nearest of those before it."""

    number: Int64
    """(N,): its number, or -1 where none is near"""
    distance: Array
    """(N,): in bits"""


class Looks:
    """Looks that can be searched, numbered as they are added. Memory is some 400 bytes for each.

    Near is what differs in at most ``distance`` bits from a look, or from that of its mirror image. All that differ in
    less than 16 bits are found, and of the others most: where 31 of 256 random bits differ, nine of ten.

    Raises:
        UserError: Faiss is not installed.
    """

    def __init__(self, *, distance: int = MOST_BITS) -> None:
        self._faiss = import_faiss()
        self._index = self._faiss.IndexBinaryIDMap(self._faiss.IndexBinaryMultiHash(8 * LOOK_BYTES, _PARTS, _BITS))
        self._distance = distance
        self._count = 0

    def add(self, looks: Array) -> None:
        """Add looks, uint8 (N, ``LOOK_BYTES``); those that are ``NO_LOOK`` are near to nothing, but have a number."""
        there = np.flatnonzero(_has_look(looks))
        self._index.add_with_ids(np.ascontiguousarray(looks[there]), self._count + there)
        self._count += len(looks)

    def nearest(self, looks: Array) -> Nearest:
        """Return the nearest of those that were added, the first of several as near."""
        return self._nearest(self._index, looks)

    def join(self, looks: Array) -> Nearest:
        """Return of each look the nearest leader before it, and add the looks.

        A leader is a look that is near to no leader before it, so that there are never many in one place, however many
        copies there are. Only leaders are found.
        """
        parts = [self._join_block(looks[start : start + _BLOCK]) for start in range(0, len(looks), _BLOCK)]
        return Nearest(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("number", "distance")))

    def _join_block(self, looks: Array) -> Nearest:
        before = self.nearest(looks)
        number, distance = before.number.copy(), before.distance.copy()
        new = np.flatnonzero((number < 0) & _has_look(looks))
        own = self._faiss.IndexBinaryFlat(8 * LOOK_BYTES)
        own.add(np.ascontiguousarray(looks[new]))
        rows, others, distances = self._pairs(own, looks[new])
        for row, other, far in zip(rows.tolist(), others.tolist(), distances.tolist(), strict=True):
            # By row, then from near to far; what stands before the row is decided.
            if other < row and number[new[row]] < 0 and number[new[other]] < 0:
                number[new[row]], distance[new[row]] = self._count + new[other], far
        leaders = looks.copy()
        leaders[number >= 0] = 0
        self.add(leaders)
        return Nearest(number, distance)

    def _nearest(self, index: Any, looks: Array) -> Nearest:
        rows, others, distances = self._pairs(index, looks)
        found, first = np.unique(rows, return_index=True)
        number, distance = np.full(len(looks), -1, np.int64), np.zeros(len(looks), np.int32)
        number[found], distance[found] = others[first], distances[first]
        return Nearest(number, distance)

    def _pairs(self, index: Any, looks: Array) -> tuple[Int64, Int64, Array]:
        """Return rows of ``looks``, what of ``index`` is near to each, and how far: by row, distance and number."""
        there = np.flatnonzero(_has_look(looks))
        asked = np.concatenate([looks[there], mirrored(looks[there])])
        ends, distances, numbers = index.range_search(asked, self._distance + 1)
        rows = np.tile(there, 2)[np.repeat(np.arange(len(asked)), np.diff(ends.astype(np.int64)))]
        order = np.lexsort((numbers, distances, rows))
        return rows[order], numbers[order], distances[order]


def _has_look(looks: Array) -> Array:
    has_look: Array = (looks != np.frombuffer(NO_LOOK, np.uint8)).any(axis=1)
    return has_look


def import_faiss() -> Any:
    """Return the module ``faiss``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UserError(
            "data.near_duplicates needs the package Faiss: pip install 'bsssl[near]', or set it to off"
        ) from None
    return faiss
