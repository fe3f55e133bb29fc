"""JSON, JSON lines and CSV, each written complete or not at all; and ledgers, which are JSON lines.

A spreadsheet runs a text of a CSV file that begins as a formula does. Such a text has an apostrophe before it wherever
CSV is written, which is taken off wherever it is read; see ``bsssl.storage.arrow`` for columns of Arrow.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bsssl.errors import UserError
from bsssl.runtime.secrets import hidden
from bsssl.storage.paths import inner_path
from bsssl.storage.reading import open_read
from bsssl.storage.writing import atomic_write, write_text

TABLES = ("csv", "jsonl", "parquet")
"""what the name of a table ends in"""


FORMULA = r"'*[-=+@\t\r\n]"
"""how a formula begins, or a text that is no formula for the apostrophe before it; for Python and for Arrow"""


def table_format(path: str) -> str:
    """Return the format of a table, one of ``TABLES``, by its name.

    Raises:
        UserError: The name ends in something else.
    """
    ending = inner_path(path).rsplit(".", 1)[-1].lower()
    if ending not in TABLES:
        raise UserError(f"{path}: the name of a table must end in .csv, .jsonl or .parquet")
    return ending


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as indented JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON, or its values lie too deep in each other to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values lie too deep in each other") from None


def read_json(path: str) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: The file is missing or damaged.
    """
    with open_read(path) as file:
        try:
            return parse_json(file.read())
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def as_json(value: Any) -> Any:
    """Return ``value`` as it comes back from a JSON file (tuples become lists)."""
    return json.loads(json.dumps(value))


def write_json_lines(path: str, values: Iterable[Any]) -> None:
    """Write one JSON value per line."""
    with atomic_write(path) as file:
        for value in values:
            file.write(f"{json.dumps(value)}\n".encode())


def read_json_lines(path: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a local file of JSON lines that may still be written, or be missing.

    What is no object, such as a line that was cut off, is left out.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, errors="replace") as file:
        for line in file:
            try:
                value = parse_json(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def write_ledger(path: str, entries: Iterable[tuple[str, str]]) -> None:
    """Write the keys of items that could not be used, each with the reason."""
    write_json_lines(path, ({"key": key, "reason": hidden(reason)} for key, reason in entries))


def read_ledger(path: str) -> list[tuple[str, str]]:
    """Return the (key, reason) pairs of a ledger.

    Raises:
        UserError: The file is missing or not a ledger.
    """
    with open_read(path) as file:
        try:
            entries = [parse_json(line) for line in file]
            return [(entry["key"], entry["reason"]) for entry in entries]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not a ledger; delete it and what lies beside it, and run again") from None


def write_csv(path: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, their texts as no formulas."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(_as_no_formula, row) for row in rows])
    write_text(path, text.getvalue())


def _as_no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and re.match(FORMULA, cell) else cell
