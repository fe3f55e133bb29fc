"""Labeled and test items must not be in the pool: told by where they lie, and by their content."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow.compute as pc

from bsssl.data.frames import split_frames
from bsssl.data.loading.dataset import content_hash
from bsssl.data.records import Record, Records
from bsssl.data.segments import split_segment
from bsssl.errors import UserError
from bsssl.runtime.console import progress
from bsssl.runtime.threads import map_ahead

_READERS = 8


class Places:
    """The set of places of some records: file and offset, and of a video the seconds from start to end."""

    def __init__(self, records: Records) -> None:
        self._files = pc.unique(records.files())
        segments: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for place, seconds in _places(records):
            segments.setdefault(place, []).append(seconds)
        self._places = {place: _Segments(seconds) for place, seconds in segments.items()}

    def mask(self, records: Records) -> np.ndarray:
        """Which of ``records`` lie at one of the places, or overlap it in time: bool (rows,)."""
        mask: np.ndarray = pc.is_in(records.files(), value_set=self._files).to_numpy(zero_copy_only=False).copy()
        rows = np.flatnonzero(mask)  # few, unless the pool is a split of the very tars that the labels are in
        if len(rows):
            mask[rows] = [
                place in self._places and self._places[place].overlap(*seconds)
                for place, seconds in _places(records.take(rows))
            ]
        return mask


class _Segments:
    """Some segments of one video, of which there may be very many."""

    def __init__(self, segments: list[tuple[float, float]]) -> None:
        self._starts, ends = zip(*sorted(segments), strict=True)
        self._last_ends = [*itertools.accumulate(ends, max)]

    def overlap(self, start: float, end: float) -> bool:
        """Return whether one of them has a time in common with that from ``start`` to ``end``."""
        begun = bisect_left(self._starts, end)
        return begun > 0 and self._last_ends[begun - 1] > start


def _places(records: Records) -> Iterator[tuple[tuple[str, int], tuple[float, float]]]:
    for path, offset in zip(records.path.to_pylist(), records.offset.to_pylist(), strict=True):
        part, start, end = split_segment(path)
        yield (split_frames(part)[0], offset), (start or 0.0, math.inf if end is None else end)


def find_overlap(shards: Iterable[Records], held: Records) -> Records:
    """Return the records in ``shards`` (taken one at a time) that lie where one of ``held`` does."""
    places = Places(held)
    return Records.concat(records.filter(places.mask(records)) for records in shards)


def check_overlap(
    shards: Iterable[Records], held: Records, *, remedy: str, what: str = "the pool", holds: str = "labeled or test"
) -> None:
    """UserError, ending in ``remedy``, when a record in ``shards`` lies where one of the ``held`` records does.

    ``what`` and ``holds`` are what it calls the two.
    """
    overlap = find_overlap(shards, held)
    if len(overlap):
        keys = ", ".join(overlap[:3].key.to_pylist())
        raise UserError(f"{what} contains {len(overlap)} {holds} items (such as {keys}); {remedy}")


def content_hashes(records: Records) -> set[bytes]:
    """Return the digests (see ``content_hash``) of the files of ``records``; those that cannot be read have none."""
    hashes = map_ahead(_hash, records, threads=_READERS)
    counted = progress(hashes, total=len(records), unit="files", title="hashing labeled and test items")
    return {digest for digest in counted if digest is not None}


def _hash(record: Record) -> bytes | None:
    try:
        return content_hash(record.read(), record.path)
    except OSError:
        return None
