"""Tables that users bring (CSV, JSONL or Parquet), streamed."""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.errors import UserError
from bsssl.storage.arrow import ARROW_ERRORS, whole

BATCH_ROWS = 65_536  # rows in memory at once while a table or a source is streamed


@contextlib.contextmanager
def reading_table(path: str) -> Iterator[None]:
    """Around reading the table at ``path`` and casting its columns: what is malformed there is a UserError."""
    try:
        yield
    except ARROW_ERRORS as error:
        signs = ("invalid utf", "\0")  # the latter of UTF-16
        is_encoded_otherwise = any(sign in str(error).lower() for sign in signs)
        hint = "; save it as UTF-8" if is_encoded_otherwise or isinstance(error, UnicodeError) else ""
        raise UserError(f"{path} cannot be read as a table: {' '.join(str(error).split())}{hint}") from None


def read_tables(path: str, *, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """Yield the rows of a file whose name ends in .csv, .jsonl or .parquet, in order, ``BATCH_ROWS`` or so at a time.

    ``types`` are the types of columns that a CSV file may have. UserError for a missing file and a malformed JSONL
    line, Arrow's own errors for the rest (see ``reading_table``).
    """
    ending = storage.table_format(path)
    with storage.open_read(path) as file:
        if ending == "csv":
            # Without the types, a class called "007" would become the number 7.
            options = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
            # Not Python's file, where it can be helped: a thread of Arrow's may let go of it after the end, see
            # ``bsssl.data.records.Records.read``.
            source = file if storage.is_remote(path) else pa.OSFile(os.fsencode(path))
            batches = pa.csv.open_csv(source, convert_options=options)
        elif ending == "jsonl":
            batches = _jsonl_batches(path, file)
        else:
            batches = pq.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS)
        for batch in batches:
            yield whole(pa.Table.from_batches([batch]))


@contextlib.contextmanager
def writing_table(path: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Open a table for writing as its name says; what is yielded takes its rows, some at a time.

    The file appears complete, or not at all. A CSV file has no columns of lists.
    """
    ending = storage.table_format(path)
    with storage.atomic_write(path) as file, contextlib.ExitStack() as open_files:
        if ending == "csv":
            yield open_files.enter_context(pa.csv.CSVWriter(file, schema)).write_table
        elif ending == "parquet":
            yield open_files.enter_context(pq.ParquetWriter(file, schema)).write_table
        else:
            yield lambda table: file.writelines(f"{json.dumps(row)}\n".encode() for row in table.to_pylist())


def column(table: pa.Table, name: str, kind: pa.DataType) -> Any:
    """Return the column ``name`` as ``kind``, NaN as no text; None if there is none."""
    if name not in table.column_names:
        return None
    values = table[name]
    if pa.types.is_floating(values.type) and pa.types.is_string(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
    return values.cast(kind)


def _jsonl_batches(path: str, file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    numbered = enumerate(file, start=1)
    while chunk := list(itertools.islice(numbered, BATCH_ROWS)):
        rows = []
        for number, line in chunk:
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}: line {number} is not valid JSON ({error})") from None
                if not isinstance(row, dict):
                    raise UserError(f'{path}: line {number} is not an object such as {{"path": "cat.jpg"}}')
                rows.append(row)
        names = list(dict.fromkeys(name for row in rows for name in row))
        yield pa.record_batch({name: _json_column([row.get(name) for row in rows]) for name in names})


def _json_column(values: list[Any]) -> pa.Array:
    if any(isinstance(value, str) for value in values):  # "3" and 3 may both stand for the class "3"
        nothing = [value is None or value != value for value in values]  # what is not itself is NaN
        values = [
            None if none else value if isinstance(value, str) else json.dumps(value)
            for value, none in zip(values, nothing, strict=True)
        ]
    return pa.array(values)
