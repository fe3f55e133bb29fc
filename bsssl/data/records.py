"""Records: one row per item, with everything needed to read its bytes. Every source yields tables of them."""

import functools
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.data.segments import split_segment
from bsssl.errors import UserError, choices

RECORD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # unique in its source
        ("path", pa.string()),  # file or URL; the tar, for a member of a tar
        ("offset", pa.int64()),  # first byte
        ("size", pa.int64()),  # bytes, or -1: to the end of the file
        ("label", pa.string()),  # class name or null
        ("tags", pa.list_(pa.string())),  # weak labels or null
    ]
)
TAG_SEPARATOR = ";"  # between the tags of one row in CSV files
_OPEN_FILES = 64  # descriptors kept per process; a tar is then opened once and read many times


def make_records(
    *,
    key: Sequence[str],
    path: Sequence[str],
    offset: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    label: Sequence[str | None] | None = None,
    tags: Sequence[list[str] | None] | None = None,
) -> pa.Table:
    """Return a table of records from columns of equal length; whole files without a label unless said otherwise."""
    rows = len(key)
    columns = [
        key,
        path,
        np.zeros(rows, np.int64) if offset is None else offset,
        np.full(rows, -1, np.int64) if size is None else size,
        [None] * rows if label is None else label,
        [None] * rows if tags is None else tags,
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, RECORD_SCHEMA, strict=True)]
    return pa.table(arrays, schema=RECORD_SCHEMA)


def concat_records(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows of ``tables``, in order; an empty table of records for none."""
    return pa.concat_tables(tables) if tables else RECORD_SCHEMA.empty_table()


def files_of(records: pa.Table) -> pa.ChunkedArray:
    """Return the paths of ``records`` without what may be a segment: more alike than they are, never less."""
    return pc.replace_substring_regex(records["path"], pattern=r"#t=[0-9.,]*$", replacement="")


def tag_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of tags as lists of strings: of text, what stands between ``;``."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.split_pattern(column.cast(pa.string()), TAG_SEPARATOR)
    return column.cast(pa.list_(pa.string()))


def class_names(records: pa.Table) -> list[str]:
    """Return the sorted distinct labels of ``records``; null labels do not count."""
    return sorted(pc.unique(records["label"]).drop_null().to_pylist())


def class_indices(records: pa.Table, names: Sequence[str], *, what: str) -> np.ndarray:
    """Return the class of every record as its index in ``names``: int64 (rows,).

    ``what`` names the set in the UserError for a record without a label or with one that is not in ``names``.
    """
    column = records["label"]
    if column.null_count:
        first = records.filter(pc.is_null(column)).slice(0, 1).to_pylist()[0]
        raise UserError(
            f"{what}: {column.null_count} of {len(records)} items have no label (first: {first['path']}); "
            f"put each in its class's folder or give the manifest a label column"
        )
    found = pc.index_in(column, value_set=pa.array(names, pa.string()))
    if found.null_count:
        unknown = column.filter(pc.is_null(found))[0].as_py()
        raise UserError(f"{what}: unknown class '{unknown}': {choices(unknown, names)}")
    return np.asarray(found.to_numpy(), np.int64)


def write_records(path: str, table: pa.Table) -> None:
    """Write records, complete or not at all: CSV (tags joined by ``;``) or Parquet, as the suffix of ``path`` says."""
    table = table.select(RECORD_SCHEMA.names).cast(RECORD_SCHEMA)
    if path.endswith(".parquet"):
        with storage.atomic_write(path) as file:
            pq.write_table(table, file)
    elif path.endswith(".csv"):
        position = table.schema.get_field_index("tags")
        table = table.set_column(position, "tags", pc.binary_join(table["tags"].combine_chunks(), TAG_SEPARATOR))
        with storage.atomic_write(path) as file:
            pa.csv.write_csv(table, file)
    else:
        raise UserError(f"cannot write records to {path}: the name must end in .csv or .parquet")


def read_records(path: str) -> pa.Table:
    """Return what ``write_records`` wrote, paths as they were; UserError when the file is missing or damaged."""
    try:
        with storage.open_read(path) as file:
            # Not the file itself: a thread of Arrow's may still let go of it, holding a lock of the interpreter, when a
            # worker of a loader is forked, which would then wait for that lock for ever.
            content = pa.BufferReader(file.read())
            if path.endswith(".parquet"):
                return pq.read_table(content).cast(RECORD_SCHEMA)
            text = {name: pa.string() for name in ("key", "path", "label", "tags")}
            options = pa.csv.ConvertOptions(
                column_types=text, strings_can_be_null=True, quoted_strings_can_be_null=False
            )
            table = pa.csv.read_csv(content, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable file of records ({error}); delete it and run again") from None
    position = table.schema.get_field_index("tags")
    return table.set_column(position, "tags", pc.split_pattern(table["tags"], TAG_SEPARATOR)).cast(RECORD_SCHEMA)


def read_bytes(path: str, *, offset: int = 0, size: int = -1) -> bytes:
    """``size`` bytes of a file or URL from ``offset`` (-1: all that follow); a segment in ``path`` plays no part.

    OSError when the file is missing or ends before the range does; of a URL ``storage.retries.Unreachable`` when that
    cannot be told.
    """
    path = split_segment(path)[0]
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
    if offset == 0 and size == -1:
        with open(path, "rb") as whole:
            return whole.read()
    # Tars and other containers stay open. os.pread has no file position, so forks and threads can share a descriptor.
    file = _opened(path)
    if size == -1:
        size = max(os.fstat(file.descriptor).st_size - offset, 0)
    data = os.pread(file.descriptor, size, offset)
    while len(data) < size and (more := os.pread(file.descriptor, size - len(data), offset + len(data))):
        data += more
    return data


class _OpenFile:
    """An open file that closes when the cache below lets go of it and no thread is reading from it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_opened = functools.lru_cache(maxsize=_OPEN_FILES)(_OpenFile)
