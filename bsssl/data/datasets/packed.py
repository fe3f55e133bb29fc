"""Parquet with the items themselves inside: how it is known."""

import pyarrow as pa
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.errors import UserError

ITEM_COLUMNS = ("image", "video")
"""columns of Parquet that hold the items themselves, where they hold bytes"""


def holds_items(path: str) -> bool:
    """Return whether a file is Parquet with items in a column of the usual name."""
    if not storage.inner_path(path).lower().endswith(".parquet"):
        return False
    try:
        with storage.open_read(path) as file:
            schema = pq.read_schema(file)
    except (pa.ArrowException, OSError, UserError):
        return False
    return any(name in schema.names and is_of_items(schema.field(name).type) for name in ITEM_COLUMNS)


def is_of_items(kind: pa.DataType) -> bool:
    """Return whether a column of Parquet may hold files: bytes, or structs with bytes."""
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and is_of_items(kind.field(position).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
