"""The smallest keys of many groups, in bounded memory."""

import numpy as np

from bsssl.selection.rows import Array, Int64, UInt64, count, ranges


class Best:
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
            lengths, good = self._promising(lengths, keys, payload)
            keys = keys[good]
            payload = None if payload is None else payload[good]
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
        """Return, once sorted, how many keys each group has (G,), at most ``keep``; then keys and payloads by group."""
        lengths = np.minimum(self._filled, self._keep)
        places = ranges(self._starts, lengths)
        return lengths, self._keys[places], None if self._payload is None else self._payload[places]

    def _cut_back(self, group: np.int64) -> None:
        self.sort(np.array([group]))
        self._filled[group] = self._keep  # there were more: one addition never fills the room of an emptied group
        self._limits[group] = self._keys[self._starts[group] + self._keep - 1]
        self._limited = True

    def _promising(self, lengths: Int64, keys: UInt64, payload: Array | None) -> tuple[Int64, Array]:
        """Return the new lengths, and which keys to add: within the limits, and no more than ``keep`` of a group."""
        good = keys <= np.repeat(self._limits, lengths)
        ends = np.cumsum(lengths)
        for group in np.flatnonzero(lengths > self._keep):
            block = slice(ends[group] - lengths[group], ends[group])
            order = np.lexsort((keys[block],) if payload is None else (payload[block], keys[block]))
            good[block][order[self._keep :]] = False
        return count(good, lengths), good
