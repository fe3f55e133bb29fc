"""Tables that users bring (CSV, JSONL or Parquet), streamed.

Only the columns that are asked for have types: what stands in another cannot be wrong. What other programs write as CSV
is read as it is: columns that are separated by semicolons, tabs or bars, UTF-16, blanks around the names of columns.
"""

import codecs
import contextlib
import csv
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bsssl.errors import UserError
from bsssl.runtime.console import logger
from bsssl.storage import formats
from bsssl.storage.arrow import ARROW_ERRORS, as_no_formulas, as_plain_texts, whole
from bsssl.storage.paths import inner_path
from bsssl.storage.reading import open_read
from bsssl.storage.remote import is_remote
from bsssl.storage.writing import atomic_write

BATCH_ROWS = 65_536  # rows in memory at once while a table or a source is streamed
TABLES = (*formats.TABLES, "tsv")
"""what the name of a table may end in"""
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}
_STATED = re.compile(r'"?sep=([,;\t|])"?\r?\n', re.IGNORECASE)
_HEAD_BYTES = 2**20  # in which the names of the columns must be


@contextlib.contextmanager
def reading_table(path: str) -> Iterator[None]:
    """Around reading the table at ``path`` and casting its columns: what is malformed there is a UserError."""
    try:
        yield
    except (*ARROW_ERRORS, csv.Error) as error:
        signs = ("invalid utf", "\0")  # the latter of UTF-16
        is_encoded_otherwise = any(sign in str(error).lower() for sign in signs)
        hint = "; save it as UTF-8" if is_encoded_otherwise or isinstance(error, UnicodeError) else ""
        raise UserError(f"{path} cannot be read as a table: {' '.join(str(error).split())}{hint}") from None


def read_tables(path: str, *, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """Yield the rows of a file whose name ends as ``TABLES`` say, in order, ``BATCH_ROWS`` or so at a time.

    ``types`` are the types of the columns that are asked for; CSV has the text of others as bytes, and Parquet may lack
    those that hold much. UserError for a missing file and a malformed JSONL line, Arrow's own errors for the rest (see
    ``reading_table``).
    """
    ending = "csv" if inner_path(path).lower().endswith(".tsv") else formats.table_format(path)
    with open_read(path) as file:
        if ending == "csv":
            batches = _csv_batches(path, file, types)
        elif ending == "jsonl":
            batches = _jsonl_batches(path, file, types)
        else:
            table = pq.ParquetFile(file)
            _refuse_doubles(path, table.schema_arrow.names, types)
            batches = table.iter_batches(batch_size=BATCH_ROWS, columns=_light_columns(table.schema_arrow, types))
        for batch in batches:
            rows = whole(pa.Table.from_batches([batch]))
            yield as_plain_texts(rows) if ending == "csv" else rows


def _csv_batches(path: str, file: IO[bytes], types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    encoding = _encoding(file)
    separator, header, first = _header(file, encoding, types)
    names = [_unquoted(name.strip()) for name in header]
    _refuse_doubles(path, names, types)
    if separator != ",":
        logger.info("%s: its columns are separated by %s", path, _SEPARATORS[separator])
    # Without the types, a class called "007" would become the number 7. Of the others the text is left as it is.
    options = pa.csv.ConvertOptions(
        column_types={column: types.get(name, pa.binary()) for column, name in zip(header, names, strict=True)},
        strings_can_be_null=True,
        null_values=[""],
    )
    # Not Python's file, where it can be helped: a thread of Arrow's may let go of it after the end, see
    # ``bsssl.data.records.Records.read``.
    reader = pa.csv.open_csv(
        file if is_remote(path) else pa.OSFile(os.fsencode(path)),
        convert_options=options,
        parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        read_options=pa.csv.ReadOptions(skip_rows=first, encoding="utf8" if encoding.startswith("utf-8") else encoding),
    )
    for batch in reader:
        yield batch if names == header else _without_blanks(batch.rename_columns(names))


def _encoding(file: IO[bytes]) -> str:
    """Return the encoding of the text in a file that is at its start, where it stays, by its first bytes."""
    start = file.read(3)
    file.seek(0)
    zeros = {start[:1]: "utf-16-be", start[1:2]: "utf-16-le"}  # of UTF-16 without a mark
    return next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), zeros.get(b"\0", "utf-8"))


def _header(file: IO[bytes], encoding: str, types: Mapping[str, pa.DataType]) -> tuple[str, list[str], int]:
    """Return what separates the columns of a CSV file that is at its start, where it stays, their names, and their row.

    What separates them is the sign that makes the most of the columns in ``types``, or else the most columns, of the
    header. A first row such as ``sep=;``, which spreadsheets write, names it and stands before the header.
    """
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(file.read(_HEAD_BYTES))
    file.seek(0)
    stated = _STATED.match(text)
    lines = text[stated.end() :] if stated else text
    signs = [stated[1]] if stated else _SEPARATORS
    headers = [(sign, next(csv.reader(io.StringIO(lines, newline=""), delimiter=sign), [])) for sign in signs]
    sign, header = max(headers, key=lambda one: (sum(_unquoted(name.strip()) in types for name in one[1]), len(one[1])))
    return sign, header, int(stated is not None)


def _refuse_doubles(path: str, names: Sequence[str], types: Mapping[str, pa.DataType]) -> None:
    for name in types:
        if names.count(name) > 1:
            raise UserError(f"{path} has the column '{name}' more than once; keep one")


def _without_blanks(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the texts of a table without the blanks around them, and the quotes that such blanks hid from Arrow."""
    columns = [_trimmed(one) if pa.types.is_string(one.type) else one for one in batch.columns]
    return pa.record_batch(columns, names=batch.schema.names)


def _trimmed(texts: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), pattern=r'(?s)\A"(.*)"\z', replacement=r"\1")


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name


def _light_columns(schema: pa.Schema, types: Mapping[str, pa.DataType]) -> list[str]:
    """Return the columns of Parquet that are asked for, and those that cannot hold files."""
    heavy = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
    return [field.name for field in schema if field.name in types or not any(is_so(field.type) for is_so in heavy)]


@contextlib.contextmanager
def writing_table(path: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Open a table for writing as its name says; what is yielded takes its rows, some at a time.

    The file appears complete, or not at all. A CSV file has no columns of lists.
    """
    ending = formats.table_format(path)
    with atomic_write(path) as file, contextlib.ExitStack() as open_files:
        if ending == "csv":
            writer = open_files.enter_context(pa.csv.CSVWriter(file, schema))
            yield lambda table: writer.write_table(as_no_formulas(table))
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
    if pa.types.is_nested(values.type) and not pa.types.is_nested(kind):
        raise pa.ArrowInvalid(f"the column '{name}' holds {values.type}, not {kind}")
    return values.cast(kind)


def _jsonl_batches(path: str, file: IO[bytes], types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    encoding = _encoding(file)
    # Bytes, where they can be read so: each line then says itself whether it is text.
    lines: Iterable[bytes | str] = file if encoding == "utf-8" else io.TextIOWrapper(file, encoding)
    numbered = enumerate(lines, start=1)
    while chunk := list(itertools.islice(numbered, BATCH_ROWS)):
        rows = []
        for number, line in chunk:
            if line.strip():
                try:
                    row = formats.parse_json(line)
                except ValueError as error:  # of a text that is one line, whose place in it would be a second number
                    reason = getattr(error, "msg", error)
                    raise UserError(f"{path}: line {number} is not valid JSON ({reason})") from None
                if not isinstance(row, dict):
                    raise UserError(f'{path}: line {number} is not an object such as {{"path": "cat.jpg"}}')
                rows.append(row)
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name) for row in rows] for name in names}
        yield pa.record_batch(
            {name: _json_column(values, as_text=name not in types) for name, values in columns.items()}
        )


def _json_column(values: list[Any], *, as_text: bool) -> pa.Array:
    if as_text or any(isinstance(value, str) for value in values):  # "3" and 3 may both stand for the class "3"
        nothing = [value is None or value != value for value in values]  # what is not itself is NaN
        values = [
            None if none else value if isinstance(value, str) else json.dumps(value)
            for value, none in zip(values, nothing, strict=True)
        ]
        return pa.array(values, pa.string())
    return pa.array(values)
