"""Records: what is known of each item, with everything needed to read its bytes. Every source yields them."""

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.data.frames import read_frames, split_frames
from bsssl.data.labels import ordered, tidied
from bsssl.data.segments import split_segment
from bsssl.errors import UserError, choices
from bsssl.storage.arrow import as_no_formulas, as_plain_texts, read_parquet_file, refusing_damage, whole
from bsssl.storage.columns import Column, Values

PLACE_SCHEMA = pa.schema([("key", pa.string()), ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
LARGE_SCHEMA = pa.schema(
    [("key", pa.large_string()), ("path", pa.large_string()), ("offset", pa.int64()), ("size", pa.int64())]
)
"""``PLACE_SCHEMA`` for many millions of rows: one array of plain strings holds 2 GiB at most."""
RECORD_SCHEMA = pa.schema([*PLACE_SCHEMA, ("label", pa.string()), ("tags", pa.list_(pa.string()))])
TAG_SEPARATOR = ";"  # between the tags of one row in CSV files
_AS_WRITTEN = pa.csv.ConvertOptions(
    column_types={name: pa.string() for name in ("key", "path", "label", "tags")},
    strings_can_be_null=True,
    quoted_strings_can_be_null=False,
)
_PARTS = r"(#fps=[^#]*)?(#t=[0-9.,]*)?$"
_OPEN_FILES = 64  # descriptors kept per process; a tar is then opened once and read many times


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one item."""

    key: str  # unique in its source
    path: str  # file or URL, with the segment of a video; the tar, for a member of a tar
    offset: int  # first byte
    size: int  # bytes, or -1: to the end of the file
    label: str | None  # class name
    tags: list[str] | None  # weak labels

    def read(self) -> bytes:
        """Return the item's bytes; errors as of ``read_bytes``."""
        return read_bytes(self.path, offset=self.offset, size=self.size)


@dataclass(frozen=True, slots=True)
class Records:
    """The records of some items, in order, in the columns of an Arrow table; a row of it is a ``Record``."""

    table: pa.Table
    """``RECORD_SCHEMA``; what ``unlabeled`` returns has large strings, and columns of nulls alone"""

    key = Column[str]("key")
    path = Column[str]("path")
    offset = Column[int]("offset")
    size = Column[int]("size")
    label = Column[str | None]("label")
    tags = Column[list[str] | None]("tags")

    @classmethod
    def from_columns(
        cls,
        *,
        key: Sequence[str] | Values[str],
        path: Sequence[str] | Values[str],
        offset: Sequence[int] | Values[int] | None = None,
        size: Sequence[int] | Values[int] | None = None,
        label: Sequence[str | None] | Values[str | None] | None = None,
        tags: Sequence[list[str] | None] | Values[list[str] | None] | None = None,
    ) -> "Records":
        """Return records from columns of equal length, Python's or Arrow's: whole files, unlabeled, by default."""
        rows = len(key)
        columns = {
            "path": path,  # first: of a name that is not UTF-8 it says where the file is
            "key": key,
            "offset": np.zeros(rows, np.int64) if offset is None else offset,
            "size": np.full(rows, -1, np.int64) if size is None else size,
            "label": pa.nulls(rows) if label is None else label,
            "tags": pa.nulls(rows) if tags is None else tags,
        }
        arrays = {name: _array(column, RECORD_SCHEMA.field(name).type) for name, column in columns.items()}
        return cls(pa.table(arrays, schema=RECORD_SCHEMA))

    @classmethod
    def unlabeled(cls, table: pa.Table) -> "Records":
        """Return records without labels and tags from the columns key, path, offset and size of ``table``."""
        nothing = pa.nulls(len(table))  # takes no memory, however many rows there are
        return cls(table.select(PLACE_SCHEMA.names).append_column("label", nothing).append_column("tags", nothing))

    @classmethod
    def concat(cls, parts: Iterable["Records"]) -> "Records":
        """Return the records of all ``parts``, in order."""
        tables = [part.table for part in parts]
        # Permissive: what `unlabeled` returns has larger types.
        return cls(pa.concat_tables(tables, promote_options="permissive") if tables else RECORD_SCHEMA.empty_table())

    @classmethod
    def read(cls, path: str) -> "Records":
        """Return what ``write`` wrote, paths as they were; UserError when the file is missing or damaged."""
        with refusing_damage(path, what="is not a readable file of records", remedy="delete it and run again"):
            if path.endswith(".parquet"):
                table = read_parquet_file(path)
            else:
                with storage.open_read(path) as file:
                    content = pa.BufferReader(file.read())
                table = _with_tag_lists(as_plain_texts(pa.csv.read_csv(content, convert_options=_AS_WRITTEN)))
            return cls(_complete(whole(table).cast(RECORD_SCHEMA)))

    def write(self, path: str) -> None:
        """Write a file, complete or not at all: as CSV (tags joined by ``;``) or Parquet, by its suffix."""
        # In one chunk, however the source came in batches: equal records make equal files.
        table = self.table.cast(RECORD_SCHEMA).combine_chunks()
        if path.endswith(".parquet"):
            with storage.atomic_write(path) as file:
                pq.write_table(table, file)
        elif path.endswith(".csv"):
            position = table.schema.get_field_index("tags")
            table = table.set_column(position, "tags", pc.binary_join(table["tags"].combine_chunks(), TAG_SEPARATOR))
            with storage.atomic_write(path) as file:
                pa.csv.write_csv(as_no_formulas(table), file)
        else:
            raise UserError(f"cannot write records to {path}: the name must end in .csv or .parquet")

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Record]:
        for batch in self.table.to_batches():
            yield from map(Record, *(column.to_pylist() for column in batch.columns))

    @overload
    def __getitem__(self, rows: int) -> Record: ...
    @overload
    def __getitem__(self, rows: slice) -> "Records": ...
    def __getitem__(self, rows: int | slice) -> "Record | Records":
        if isinstance(rows, slice):
            return Records(self.table[rows])
        row = range(len(self))[rows]
        return next(iter(self[row : row + 1]))

    def take(self, rows: npt.ArrayLike) -> "Records":
        """Return the records at ``rows``, in that order."""
        return Records(self.table.take(np.asarray(rows, np.int64)))

    def filter(self, mask: npt.ArrayLike) -> "Records":
        """Return the records where ``mask``, bool (rows,), is true."""
        return Records(self.table.filter(np.asarray(mask, bool)))

    def with_labels(self, labels: Sequence[str | None] | Values[str | None]) -> "Records":
        """Return the same records with other labels."""
        return self._with("label", labels)

    def tidied(self) -> "Records":
        """Return the same records with labels as they are compared, see ``bsssl.data.labels.meanings``."""
        return self.with_labels(tidied(self.label))

    def with_tags(self, tags: Sequence[list[str] | None] | Values[list[str] | None]) -> "Records":
        """Return the same records with other tags."""
        return self._with("tags", tags)

    def with_keys(self, keys: Sequence[str] | Values[str]) -> "Records":
        """Return the same records with other keys."""
        return self._with("key", keys)

    def _with(self, name: str, values: Any) -> "Records":
        field, place = RECORD_SCHEMA.field(name), RECORD_SCHEMA.get_field_index(name)
        return Records(self.table.set_column(place, field, _array(values, field.type)))

    def files(self) -> Values[str]:
        """Return the paths without what may be a segment, or say which frames: more alike than they are, never less."""
        files: Values[str] = pc.replace_substring_regex(self.path, pattern=_PARTS, replacement="")
        return files

    def file_numbers(self) -> npt.NDArray[np.int32]:
        """Return a number of the file of each record: int32 (rows,)."""
        files = self.files()
        return np.asarray(pc.index_in(files, value_set=pc.unique(files)).to_numpy(), np.int32)

    def class_names(self) -> list[str]:
        """Return the distinct labels in the order of classes; null labels do not count."""
        return ordered(pc.unique(self.label).drop_null().to_pylist())

    def class_counts(self, names: Sequence[str]) -> dict[str, int]:
        """Return how many records each of the ``names`` has as label."""
        counts = Counter(self.label.to_pylist())
        return {name: counts[name] for name in names}

    def class_indices(self, names: Sequence[str], *, what: str) -> npt.NDArray[np.int64]:
        """Return the class of every record as its index in ``names``: int64 (rows,).

        ``what`` names the set in the UserError for a record without a label or with one that is not in ``names``.
        """
        if self.label.null_count:
            first = self.filter(pc.is_null(self.label))[0]
            raise UserError(
                f"{what}: {self.label.null_count} of {len(self)} items have no label (first: {first.path}); "
                f"put each in its class's folder or give the manifest a label column"
            )
        found = pc.index_in(self.label, value_set=pa.array(names, pa.string()))
        if found.null_count:
            unknown = self.filter(pc.is_null(found))[0].label
            raise UserError(f"{what}: unknown class '{unknown}': {choices(str(unknown), names)}")
        return np.asarray(found.to_numpy(), np.int64)

    def write_ledger(self, path: str, reasons: Mapping[int, str]) -> None:
        """Write why items could not be used, by row, as a ledger: see ``storage.write_ledger``."""
        rows = sorted(reasons)
        keys = self.key.take(np.array(rows, np.int64)).to_pylist()
        storage.write_ledger(path, zip(keys, (reasons[row] for row in rows), strict=True))


def _with_tag_lists(table: pa.Table) -> pa.Table:
    position = table.schema.get_field_index("tags")
    return table.set_column(position, "tags", pc.split_pattern(table["tags"], TAG_SEPARATOR))


def _complete(table: pa.Table) -> pa.Table:
    """Return a table of records; Arrow's error where one has no key or no place."""
    for name in PLACE_SCHEMA.names:
        if table[name].null_count:
            raise pa.ArrowInvalid(f"{table[name].null_count} rows have no {name}")
    return table


def _array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Return the values of a sequence, or of an array of Arrow's, as ``kind``.

    Raises:
        UserError: A text, such as the name of a file, is not UTF-8.
    """
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError as error:
        raise UserError(f"the name {error.object} is not UTF-8; rename the file or folder") from None


def rechunked(batches: Iterable[Records], rows: int) -> Iterator[Records]:
    """Yield the same records in batches of ``rows`` each, but for the last."""
    waiting = Records.concat([])
    for batch in batches:
        waiting = Records.concat([waiting, batch])
        while len(waiting) >= rows:
            yield waiting[:rows]
            waiting = waiting[rows:]
    if len(waiting):
        yield waiting


def tag_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of tags as lists of strings: of text, what stands between ``;``."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.split_pattern(column.cast(pa.string()), TAG_SEPARATOR)
    return column.cast(pa.list_(pa.string()))


def whole_file(path: str, offset: int, size: int) -> str | None:
    """Return the file of this machine that holds an item, or all that it is a segment of, alone; None if none does."""
    return None if offset or size >= 0 or storage.is_remote(path) else split_segment(path)[0]


def read_bytes(path: str, *, offset: int = 0, size: int = -1) -> bytes:
    """``size`` bytes of a file or URL from ``offset`` (-1: all that follow); a segment in ``path`` plays no part.

    Of a folder of frames, and of such in a tar, they become what ``read_frames`` says. OSError when the file is missing
    or ends before the range does; of a URL ``storage.retries.Unreachable`` when that cannot be told.
    """
    file, frames = split_frames(split_segment(path)[0])
    if frames is not None:
        members = None if size == -1 else read_bytes(file, offset=offset, size=size)
        return read_frames(path, file, frames, members)
    path = file
    if offset == 0 and size == -1:
        return storage.read_whole(path)
    if storage.is_remote(path):
        data = storage.read_range(path, offset, None if size == -1 else offset + size)
    else:
        data = _read_local(path, offset, size)
    if size >= 0 and len(data) < size:
        raise OSError(f"{path} is cut short: {len(data)} of {size} bytes at offset {offset}")
    if size >= 0 and len(data) > size:
        raise OSError(f"{path}: the server does not serve ranges of bytes; copy the file to where they can be read")
    return data


def _read_local(path: str, offset: int, size: int) -> bytes:
    # Tars and other containers stay open. os.pread has no file position, so forks and threads can share a descriptor.
    facts = os.stat(path)
    file = _opened(path, (facts.st_dev, facts.st_ino))
    left = max(facts.st_size - offset, 0)
    size = left if size == -1 else min(size, left)  # not what a damaged list says, for which room would be made
    data = os.pread(file.descriptor, size, offset)
    while len(data) < size and (more := os.pread(file.descriptor, size - len(data), offset + len(data))):
        data += more
    return data


class _OpenFile:
    """An open file that closes when the cache below lets go of it and no thread is reading from it.

    Args:
        path: The file.
        number: Its device and inode, by which the cache tells it from a file that has taken its place.
    """

    def __init__(self, path: str, number: tuple[int, int]) -> None:
        self.descriptor = storage.open_file(path)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_opened = functools.lru_cache(maxsize=_OPEN_FILES)(_OpenFile)
