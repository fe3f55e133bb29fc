"""The search for near copies, with Faiss: perceptual hashes that differ in few bits, features with a high cosine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from bsssl.data import LOOK_BYTES, NO_LOOK, mirrored
from bsssl.errors import UserError
from bsssl.selection.rows import Array, Int64

MOST_BITS = 31
"""the largest distance of near copies: that at which PDQ, another hash of 256 bits, calls pictures the same"""
_PARTS, _BITS = 16, 16  # what the index looks up of a hash: whatever shares one of 16 parts of 16 bits is compared
_BLOCK = 1024  # items that are compared with each other before they are searched by later ones
_WIDTH = 256  # of features as they are compared: a cosine of 0.95 is then wrong by 0.005, one of 0.99 by 0.001
_IN_LIST, _LISTS = 256, (64, 16_384)  # features are in lists of so many, of which so many are at least and at most
_SAMPLED, _PROBED = 40, 16  # features for each list that it is made from; lists that are searched


@dataclass(frozen=True)
class Nearest:
    """Of each of N items the nearest of those before it."""

    number: Int64
    """(N,): its number, or -1 where none is near"""
    distance: Array
    """(N,): how far it is, as the search measures it"""


class Search(ABC):
    """Items that can be searched, numbered as they are added."""

    def __init__(self, index: Any, *, limit: float) -> None:
        """``limit``: the distance in ``index`` below which items are near."""
        self._index = index
        self._limit = limit
        self._count = 0

    def add(self, items: Array) -> None:
        """Add items. Those that cannot be compared are near to nothing, but have a number."""
        rows, codes = self._codes(items)
        self._add(rows, codes, of=len(items))

    def nearest(self, items: Array) -> Nearest:
        """Return the nearest of those that were added, the first of several as near."""
        if not self._count:
            return Nearest(np.full(len(items), -1, np.int64), np.zeros(len(items), np.float32))
        rows, codes = self._codes(items)
        return self._spread(rows, *self._nearest(codes), of=len(items))

    def join(self, items: Array) -> Nearest:
        """Return of each item the nearest leader before it, and add the items.

        A leader is an item that is near to no leader before it, so that there are never many in one place, however many
        copies there are. Only leaders are found.
        """
        parts = [self._join_block(items[start : start + _BLOCK]) for start in range(0, max(1, len(items)), _BLOCK)]
        return Nearest(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("number", "distance")))

    def _join_block(self, items: Array) -> Nearest:
        rows, codes = self._codes(items)
        number, distance = self._nearest(codes)
        new = np.flatnonzero(number < 0)
        own = self._flat(codes[new])
        for row, other, far in zip(*(column.tolist() for column in self._pairs(own, codes[new])), strict=True):
            # By row, then from near to far; what stands before the row is decided.
            if other < row and number[new[row]] < 0 and number[new[other]] < 0:
                number[new[row]], distance[new[row]] = self._count + rows[new[other]], far
        leads = number < 0
        self._add(rows[leads], codes[leads], of=len(items))
        return self._spread(rows, number, distance, of=len(items))

    def _add(self, rows: Int64, codes: Array, *, of: int) -> None:
        if len(rows):
            self._index.add_with_ids(codes, self._count + rows)
        self._count += of

    def _nearest(self, codes: Array) -> tuple[Int64, Array]:
        rows, others, distances = self._pairs(self._index, codes)
        found, first = np.unique(rows, return_index=True)
        number, distance = np.full(len(codes), -1, np.int64), np.zeros(len(codes), np.float32)
        number[found], distance[found] = others[first], distances[first]
        return number, distance

    def _pairs(self, index: Any, codes: Array) -> tuple[Int64, Int64, Array]:
        """Return rows of ``codes``, what of ``index`` is near to each, and how far: by row, distance and number."""
        if not len(codes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        asked = self._asked(codes)
        ends, distances, numbers = index.range_search(asked, self._limit)
        rows = np.repeat(np.arange(len(asked)) % len(codes), np.diff(ends.astype(np.int64)))
        order = np.lexsort((numbers, distances, rows))
        return rows[order], numbers[order], distances[order]

    def _spread(self, rows: Int64, number: Int64, distance: Array, *, of: int) -> Nearest:
        all_numbers, all_distances = np.full(of, -1, np.int64), np.zeros(of, np.float32)
        all_numbers[rows], all_distances[rows] = number, self._measured(distance)
        return Nearest(all_numbers, all_distances)

    @abstractmethod
    def _codes(self, items: Array) -> tuple[Int64, Array]:
        """Return the rows of items that can be compared, and these as the index has them."""

    @abstractmethod
    def _flat(self, codes: Array) -> Any:
        """Return an index of these codes alone, which compares all of them."""

    def _asked(self, codes: Array) -> Array:
        """Return what is searched for codes: one or several times as many, one round of them after the other."""
        return codes

    def _measured(self, distance: Array) -> Array:
        """Return distances in the index as those that are told."""
        return distance


class Looks(Search):
    """Looks that can be searched, uint8 (N, ``LOOK_BYTES``). Memory is some 400 bytes for each.

    Near is what differs in at most ``distance`` bits from a look, or from that of its mirror image. All that differ in
    less than 16 bits are found, and of the others most: where 31 of 256 random bits differ, nine of ten. ``NO_LOOK``
    is near to nothing.

    Raises:
        UserError: Faiss is not installed.
    """

    def __init__(self, *, distance: int = MOST_BITS) -> None:
        self._faiss = import_faiss()
        index = self._faiss.IndexBinaryIDMap(self._faiss.IndexBinaryMultiHash(8 * LOOK_BYTES, _PARTS, _BITS))
        super().__init__(index, limit=distance + 1)

    @override
    def _codes(self, items: Array) -> tuple[Int64, Array]:
        rows = np.flatnonzero((items != np.frombuffer(NO_LOOK, np.uint8)).any(axis=1))
        return rows, np.ascontiguousarray(items[rows])

    @override
    def _flat(self, codes: Array) -> Any:
        index = self._faiss.IndexBinaryFlat(8 * LOOK_BYTES)
        index.add(codes)
        return index

    @override
    def _asked(self, codes: Array) -> Array:
        return np.concatenate([codes, mirrored(codes)])


class Features(Search):
    """Features that can be searched, (N, D). Memory is at most some 600 bytes for each.

    Near is what has a cosine of at least ``cosine``; the distance is what lacks to a cosine of 1. More than 256 numbers
    of each are projected at random onto so many. Of many features those alone are compared that are in lists nearby,
    which misses some.

    Args:
        sample: Features from all over those that will be added, at least ``sampled(count)``, or all of them.
        count: How many will be added.
        cosine: From which features are near.

    Raises:
        UserError: Faiss is not installed.
    """

    def __init__(self, sample: Array, *, count: int, cosine: float) -> None:
        self._faiss = import_faiss()
        width = max(1, sample.shape[1])
        self._projection = self._faiss.RandomRotationMatrix(width, min(width, _WIDTH))
        self._projection.init(0)
        lists = min(_lists(count), len(sample))
        flat = self._faiss.IndexFlatL2(self._projection.d_out)
        index = self._faiss.IndexIDMap(flat)
        if lists:
            halves = self._faiss.ScalarQuantizer.QT_fp16
            self._kept = flat, index = flat, self._faiss.IndexIVFScalarQuantizer(flat, flat.d, lists, halves)
            index.by_residual, index.nprobe, index.cp.min_points_per_centroid = False, _PROBED, 1
            index.train(self._codes(sample)[1])
        # Of two vectors of length 1 the index measures the squared distance, which is 2 - 2 x cosine.
        super().__init__(index, limit=2 * (1 - cosine) + 1e-5)

    @override
    def _codes(self, items: Array) -> tuple[Int64, Array]:
        vectors = items.astype(np.float32)
        length = np.linalg.norm(vectors, axis=1)
        rows = np.flatnonzero(np.isfinite(length) & (length > 0))
        if not len(rows):
            return rows, np.zeros((0, self._projection.d_out), np.float32)
        codes: Array = self._projection.apply(np.ascontiguousarray(vectors[rows] / length[rows, None]))
        self._faiss.normalize_L2(codes)
        return rows, codes

    @override
    def _flat(self, codes: Array) -> Any:
        index = self._faiss.IndexFlatL2(self._projection.d_out)
        index.add(codes)
        return index

    @override
    def _measured(self, distance: Array) -> Array:
        return np.clip(distance / 2, 0, None)


def sampled(count: int) -> int:
    """Return how many of ``count`` features the search wants to see before it begins."""
    return _SAMPLED * _lists(count)


def _lists(count: int) -> int:
    """Return the number of lists for so many features; 0 for few, all of which are compared."""
    fewest, most = _LISTS
    return 0 if count < fewest * _IN_LIST else min(count // _IN_LIST, most)


def import_faiss() -> Any:
    """Return the module ``faiss``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UserError(
            "data.near_duplicates needs the package Faiss: pip install faiss-cpu, or set it to off"
        ) from None
    return faiss
