"""What Arrow reads of files that others wrote: damage is one clear line. And texts that CSV files hold."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bsssl.errors import UserError
from bsssl.storage.formats import FORMULA
from bsssl.storage.reading import open_read

ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError)
"""what Arrow raises of damage: its own classes for some of it alone, for the rest Python's, those of texts included"""


@contextlib.contextmanager
def refusing_damage(path: str, *, what: str, remedy: str) -> Iterator[None]:
    """Turn what Arrow raises of a damaged or unexpected file into a UserError.

    Args:
        path: The file.
        what: What the message says of it, such as "is damaged".
        remedy: How to mend it.
    """
    try:
        yield
    except ARROW_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} {what} ({reason}); {remedy}") from None


def whole(table: pa.Table) -> pa.Table:
    """Return a table as it is; errors as Arrow's where a text in it is not UTF-8, or a column is there twice."""
    table.validate(full=True)
    names = table.column_names
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise pa.ArrowInvalid(f"the column '{twice}' is there twice")
    return table


def read_parquet_file(path: str) -> pa.Table:
    """Return all of a Parquet file, which is held in memory; errors as Arrow's, for ``refusing_damage``.

    Raises:
        UserError: The file is missing.
    """
    # Not the file itself: a thread of Arrow's may still let go of it, holding a lock of the interpreter, when a worker
    # of a loader is forked, which would then wait for that lock for ever.
    with open_read(path) as file:
        return whole(pq.read_table(pa.BufferReader(file.read())))


def as_no_formulas(table: pa.Table) -> pa.Table:
    """Return a table with an apostrophe before each text that a spreadsheet would run, as CSV files have it."""
    return _with_texts(table, partial(pc.replace_substring_regex, pattern=rf"\A({FORMULA})", replacement=r"'\1"))


def as_plain_texts(table: pa.Table) -> pa.Table:
    """Return a table that was read from CSV without the apostrophes that ``as_no_formulas`` adds."""
    return _with_texts(table, partial(pc.replace_substring_regex, pattern=rf"\A'({FORMULA})", replacement=r"\1"))


def _with_texts(table: pa.Table, change: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pa.Table:
    for place, column in enumerate(table.schema):
        if pa.types.is_string(column.type):
            table = table.set_column(place, column, change(table.column(place)))
    return table
