"""Items with the very same content among very many, in bounded memory: hashes go to files by their first bits, and each
file is then sorted on its own."""

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import Self

from bsssl import storage
from bsssl.data.pool.contents import Part
from bsssl.selection.exclusions import COPIES_SCHEMA, POOL
from bsssl.selection.rows import ranges

Numbers = npt.NDArray[np.uint64]
_BUCKET_ROWS = 2**21  # that are sorted at a time
_MOST_BUCKETS = 256  # which are as many open files
_BUFFER = 2**16
_LIST_ROWS = 2**18  # of the list of copies that are in memory
_EXAMPLES = 3


class Buckets:
    """Rows of 64-bit numbers in files of a folder of their own, which is there as long as the context.

    Args:
        folder: Where; what an earlier process has left there is removed.
        expected: How many rows there will be in all, about.
        width: Numbers in a row.
    """

    def __init__(self, folder: str, *, expected: int, width: int) -> None:
        self.count = min(_MOST_BUCKETS, 1 + expected // _BUCKET_ROWS)
        self._folder, self._width, self._files = folder, width, list[IO[bytes]]()

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.makedirs(self._folder)
        with contextlib.ExitStack() as opened:
            paths = (os.path.join(self._folder, f"{number}.tmp") for number in range(self.count))
            self._files = [opened.enter_context(open(path, "w+b", _BUFFER)) for path in paths]
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, rows: Numbers, buckets: npt.NDArray[np.int64]) -> None:
        """Add rows, (N, width), each to the bucket with its number, (N,)."""
        order = np.argsort(buckets, kind="stable")
        rows, ends = rows[order], np.cumsum(np.bincount(buckets, minlength=self.count))
        for file, start, end in zip(self._files, [0, *ends[:-1]], ends, strict=True):
            file.write(rows[start:end].tobytes())

    def each(self) -> Iterator[Numbers]:
        """Yield the rows of one bucket after the other, (N, width), and forget them."""
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), np.uint64).reshape(-1, self._width)
            file.truncate(0)


def find_copies(
    hashes: Iterable[tuple[Numbers, Numbers]], *, total: int, firsts: Sequence[int], folder: str
) -> Iterator[Numbers]:
    """Find the items with the same hash, in memory that does not grow with their number.

    Args:
        hashes: Numbers of items, (N,), and their hashes, (N, 2), in blocks, each item once.
        total: All numbers are below.
        firsts: The number of the first item of each set of items; numbers follow each other set by set.
        folder: A folder for what does not fit into memory, as long as the work takes.

    Yields:
        Pairs of numbers, (M, 2), sorted: an item, and the first item of a set that has the same content, for every such
        set up to the item's own. Of its own set the first item is a copy of none.

    Raises:
        UserError: The disk is full.
    """
    buckets = Buckets(os.path.join(folder, "hashes"), expected=total, width=3)
    pairs = Buckets(os.path.join(folder, "pairs"), expected=total, width=2)
    try:
        with pairs:
            with buckets:
                for numbers, words in hashes:
                    places = (words[:, 0] >> np.uint64(40)) * np.uint64(buckets.count) >> np.uint64(24)
                    buckets.add(np.column_stack([words, numbers]), places.astype(np.int64))
                for rows in buckets.each():
                    found = _pairs(rows, np.asarray(firsts, np.uint64))
                    pairs.add(found, (found[:, 0] * np.uint64(pairs.count) // np.uint64(total)).astype(np.int64))
            for found in pairs.each():
                yield found[np.lexsort((found[:, 1], found[:, 0]))]
    except OSError as error:
        raise storage.unwritable(folder, error) from error


@dataclass
class Copies:
    """What there is of copies."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """items of the first set that are copies of one of the second"""
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """some of them, with what they are copies of"""
    left_out: int = 0
    """items of the pool that selection leaves out"""
    in_others: int = 0
    """items of the pool that other sets hold too"""


def write_copies(
    path: str, pairs: Iterable[Numbers], *, parts: Sequence[Part], leaves_out: Callable[[str], bool]
) -> Copies:
    """Write the list of copies (``COPIES_SCHEMA``) as Parquet, complete or not at all; memory does not grow with it.

    Args:
        path: The file.
        pairs: What ``find_copies`` yields.
        parts: All items, by ``first``.
        leaves_out: Whether an item of the pool is left out that is a copy of one of the set with this name.

    Returns:
        The figures of what was written.
    """
    copies, left_out, in_others = Copies(), _Distinct(), _Distinct()
    with storage.atomic_write(path) as file, pq.ParquetWriter(file, COPIES_SCHEMA, compression="zstd") as writer:
        for found in (rows[start : start + _LIST_ROWS] for rows in pairs for start in range(0, len(rows), _LIST_ROWS)):
            items, originals = _Items(found[:, 0], parts), _Items(found[:, 1], parts)
            in_pool = items.are_in(POOL.__eq__)
            is_out = in_pool & originals.are_in(leaves_out)
            columns = [items.sets, items.keys, items.shards, items.positions, originals.sets, originals.keys, is_out]
            table = pa.table(columns, names=COPIES_SCHEMA.names).cast(COPIES_SCHEMA)
            writer.write_table(table)
            for count in table.group_by(["set", "of_set"]).aggregate([([], "count_all")]).to_pylist():
                pair = (count["set"], count["of_set"])
                copies.counts[pair] += count["count_all"]
                if pair not in copies.examples:
                    some = table.filter((pc.field("set") == pair[0]) & (pc.field("of_set") == pair[1]))[:_EXAMPLES]
                    copies.examples[pair] = [f"{row['key']} of {row['of_key']}" for row in some.to_pylist()]
            left_out.add(found[is_out, 0])
            in_others.add(found[in_pool & originals.are_in(POOL.__ne__), 0])
    copies.left_out, copies.in_others = left_out.count, in_others.count
    return copies


class _Distinct:
    """How many numbers there are that were added, in ascending order, once or more."""

    def __init__(self) -> None:
        self.count, self._last = 0, -1

    def add(self, numbers: Numbers) -> None:
        if len(numbers):
            self.count += len(np.unique(numbers)) - int(numbers[0] == self._last)
            self._last = int(numbers[-1])


class _Items:
    """Some items by their numbers, as columns of the list of copies."""

    def __init__(self, numbers: Numbers, parts: Sequence[Part]) -> None:
        self._parts = parts
        firsts = np.array([part.first for part in parts], np.int64)
        self._numbers = numbers.astype(np.int64)
        self._part = np.searchsorted(firsts, self._numbers, side="right") - 1
        self._places = self._numbers - firsts[self._part]

    def are_in(self, chosen: Callable[[str], bool]) -> npt.NDArray[np.bool_]:
        """Return which items are in a set whose name is ``chosen``."""
        return np.array([chosen(part.items) for part in self._parts], bool)[self._part]

    @property
    def sets(self) -> pa.Array:
        """The sets that the items are in."""
        return pa.array([part.items for part in self._parts]).take(pa.array(self._part))

    @property
    def shards(self) -> pa.Array:
        """The shards of the pool that the items are in; null for the others."""
        numbers = np.array([part.number for part in self._parts], np.int32)[self._part]
        return pa.array(numbers, mask=~self.are_in(POOL.__eq__))

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """The places of the items in the shard, or in the set."""
        return self._places + np.array([part.start for part in self._parts], np.int64)[self._part]

    @property
    def keys(self) -> pa.ChunkedArray:
        """The keys of the items; of each part with some of them the records are read once."""
        _, rows, inverse = np.unique(self._numbers, return_index=True, return_inverse=True)
        chunks = [
            self._parts[self._part[group[0]]].records().key.take(self._places[group]).combine_chunks()
            for group in np.split(rows, np.flatnonzero(np.diff(self._part[rows])) + 1)
        ]
        return pa.chunked_array(chunks, pa.string()).take(pa.array(inverse))


def _pairs(rows: Numbers, firsts: Numbers) -> Numbers:
    """Return the pairs (see ``find_copies``) of some rows of a hash's two words and a number, which has all copies."""
    rows = rows[np.argsort(rows[:, 0])]
    begins = _begins(rows[:, :1])
    rows = rows[~(begins & np.append(begins[1:], True)[: len(rows)])]  # the first word of few others is the same
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    numbers = rows[:, 2]
    sets = np.searchsorted(firsts, numbers, side="right").astype(np.uint64)
    # The same content is a group; what of it is of the same set, a run.
    of_group = _begins(rows[:, :2])
    of_run = of_group | _begins(sets[:, None])
    run = np.cumsum(of_run) - 1
    first_run = run[of_group][np.cumsum(of_group) - 1]
    counts = run - first_run + ~of_run  # the earlier runs of the group; its own run, unless the item is the first of it
    originals = numbers[of_run][ranges(first_run, counts)]
    return np.column_stack([np.repeat(numbers, counts), originals])


def _begins(rows: Numbers) -> npt.NDArray[np.bool_]:
    """Return which rows are others than the ones before them."""
    return np.append(True, (rows[1:] != rows[:-1]).any(1))[: len(rows)]
