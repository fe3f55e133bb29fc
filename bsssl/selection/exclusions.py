"""What is left out of a selection: by hand, in a file of keys and classes, and copies; and score files without it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import override

from bsssl.errors import UserError, choices
from bsssl.selection.rows import Array, Int64, UInt32, UInt64, count, edge_counts, positions_of, ranges
from bsssl.selection.scores import ScoreFile
from bsssl.storage.tables import column, read_tables, reading_table

COLUMNS = ("key", "class")
POOL = "pool"
"""the set of the pool's items in a list of copies"""
COPIES_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("position", pa.int64()),
        ("of_set", pa.string()),
        ("of_key", pa.string()),
        ("left_out", pa.bool_()),
    ]
)
"""The columns of a list of copies: an item, its shard of the pool, its place there (or in its set), what it is a copy
of, and whether selection leaves it out. Items of the pool are sorted by shard and position."""


@dataclass(frozen=True)
class Exclusions:
    """Pairs of an item and a class that must not be selected."""

    path: str
    """the file that they come from"""
    everywhere: frozenset[str]
    """keys of items that are left out of all classes"""
    pairs: frozenset[tuple[str, str]]
    """key and class"""
    classes: frozenset[str]
    """classes of which nothing is selected"""

    @property
    def keys(self) -> frozenset[str]:
        """The keys that the file names."""
        return self.everywhere | {key for key, _ in self.pairs}


def read_exclusions(path: str) -> Exclusions:
    """Return the content of an exclusion list: a table with the columns ``key`` and ``class``.

    A row without a class leaves the item out of all classes, a row without a key the class as a whole.

    Raises:
        UserError: The file is missing or damaged, has no rows, lacks a column, or a row names nothing.
    """
    rows: set[tuple[str, str]] = set()
    with reading_table(path):
        for table in read_tables(path, types=dict.fromkeys(COLUMNS, pa.string())):
            if missing := [name for name in COLUMNS if name not in table.column_names]:
                raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
            columns = [pc.fill_null(column(table, name, pa.string()), "").to_pylist() for name in COLUMNS]
            rows.update(zip(*columns, strict=True))
    if not rows:
        raise UserError(f"{path} has no rows; name what to leave out, or set no list")
    if ("", "") in rows:
        raise UserError(f"{path}: a row has neither a key nor a class; take it out")
    return Exclusions(
        path,
        everywhere=frozenset(key for key, name in rows if not name),
        pairs=frozenset((key, name) for key, name in rows if key and name),
        classes=frozenset(name for key, name in rows if not key),
    )


def without(files: Sequence[ScoreFile], excluded: Exclusions) -> tuple[list[ScoreFile], frozenset[str]]:
    """Return score files that lack what is excluded, and the keys that no scored item of the pool has.

    The sample table of every file is read; files of which nothing is excluded come back as they are.

    Raises:
        UserError: A class is unknown, or no key is known.
    """
    names = files[0].header.class_names
    number = {name: index for index, name in enumerate(names)}
    for name in sorted(excluded.classes | {name for _, name in excluded.pairs}):
        if name not in number:
            raise UserError(f"{excluded.path}: unknown class {name!r}: {choices(name, names)}")
    whole = np.isin(np.arange(len(names)), [number[name] for name in excluded.classes])
    classes_of: dict[str, list[int]] = {key: [] for key in excluded.keys}
    for key, name in excluded.pairs:
        classes_of[key].append(number[name])
    keys, known, reduced = pa.array(sorted(classes_of), pa.string()), set(), []
    for file in files:
        samples = file.samples()
        here = samples.filter(pc.is_in(samples["key"], keys)).select(["position", "key"]).to_pylist()
        known |= {one["key"] for one in here}
        items = [one["position"] for one in here if one["key"] in excluded.everywhere]
        pairs = [index << 32 | one["position"] for one in here for index in classes_of[one["key"]]]
        nothing = not here and not whole.any()
        reduced.append(
            file
            if nothing
            else _Reduced(file, partial(_is_excluded, np.array(items), np.array(pairs, np.uint64), whole))
        )
    if classes_of and not known:
        raise UserError(
            f"{excluded.path}: none of its {len(classes_of)} keys is an item of the pool (first: {keys[0].as_py()!r}); "
            "give keys as selection.parquet has them"
        )
    return reduced, frozenset(classes_of.keys() - known)


def without_rows(file: ScoreFile, *, items: Array | None = None, pairs: UInt64 | None = None) -> ScoreFile:
    """Return a score file without some of its rows.

    Args:
        file: The score file, which comes back as it is where nothing is to be left out.
        items: Positions to leave out of all classes.
        pairs: Other rows to leave out: the class in the high word, the position in the low one.
    """
    items = np.zeros(0, np.uint32) if items is None else items
    pairs = np.zeros(0, np.uint64) if pairs is None else pairs
    if not len(items) and not len(pairs):
        return file
    nothing = np.zeros(len(file.header.class_names), bool)
    return _Reduced(file, partial(_is_excluded, items, pairs, nothing))


def without_copies(files: Sequence[ScoreFile], path: str) -> list[ScoreFile]:
    """Return score files that lack the items that the list of copies at ``path`` leaves out.

    Files of which nothing is left out come back as they are; of the others positions are read whenever rows are.

    Raises:
        UserError: The list is missing or damaged.
    """
    with _reading_copies(path):
        shards = np.zeros(1 + max(file.number for file in files), bool)
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(columns=["shard", "left_out"]):
                shards[batch.filter(batch["left_out"])["shard"].to_numpy()] = True

    def copies(number: int) -> Array:
        wanted = [("left_out", "==", True), ("shard", "==", number)]
        with _reading_copies(path):
            positions: Array = pq.read_table(path, columns=["position"], filters=wanted)["position"].to_numpy()
        return positions

    def is_copy(file: ScoreFile) -> Array:
        mask = np.zeros(file.num_records, bool)
        mask[copies(file.number)] = True
        return mask

    return [without_items(file, is_copy) if shards[file.number] else file for file in files]


def without_items(file: ScoreFile, is_out: Callable[[ScoreFile], Array]) -> ScoreFile:
    """Return a score file without some items of its shard.

    Args:
        file: The score file.
        is_out: Returns, whenever rows are asked for, which items to leave out of all classes, bool (num_records,).
    """
    return _Reduced(file, lambda positions, classes: is_out(file)[positions])


@contextlib.contextmanager
def _reading_copies(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, IndexError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no list of copies of this pool ({reason}); delete it and run again") from None


def _is_excluded(items: Array, pairs: UInt64, whole: Array, positions: UInt32, classes: UInt64) -> Array:
    """Return which rows are of ``items``, of ``pairs`` (the class in the high word), or of ``whole`` classes."""
    out: Array = whole[classes.astype(np.int64)] | np.isin(positions, items)
    out |= np.isin(classes << np.uint64(32) | positions, pairs)
    return out


class _Reduced(ScoreFile):
    """A score file without some of its rows, which are found anew whenever rows are asked for.

    Args:
        file: The score file.
        is_out: Says which rows to leave out, by the positions and the classes of all.
    """

    def __init__(self, file: ScoreFile, is_out: Callable[[UInt32, UInt64], Array]) -> None:
        super().__init__(file.path, file.content)
        self._whole, self._is_out = file, is_out

    @override
    def offsets(self) -> Int64:
        return self._left()[0]

    @override
    def rows(self) -> UInt64:
        return self._left()[1]

    @override
    def best_rows(self, lengths: Int64) -> Iterator[tuple[Int64, UInt64]]:
        offsets, rows = self._left()
        wanted = np.minimum(lengths, np.diff(offsets))
        yield wanted, rows[ranges(offsets[:-1], wanted)]

    @override
    def counts(self) -> UInt32:
        offsets, rows = self._left()
        return edge_counts(offsets=offsets, rows=rows)

    def _left(self) -> tuple[Int64, UInt64]:
        """Return offsets and rows of what is left."""
        offsets, rows = self._whole.offsets(), self._whole.rows()
        lengths, positions = np.diff(offsets), positions_of(rows)
        owners = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
        out = self._is_out(positions, owners)
        return np.concatenate([[0], np.cumsum(count(~out, lengths))]), rows[~out]
