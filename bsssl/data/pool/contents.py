"""What the bytes of items are: a hash of each, or why it cannot be read; a file for each part of many items."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from bsssl import storage
from bsssl.data.decoding.pictures import DecodeError
from bsssl.data.records import Record, Records
from bsssl.data.segments import split_segment
from bsssl.data.views.checks import Check
from bsssl.errors import UserError
from bsssl.runtime.distributed import own_cores
from bsssl.runtime.threads import map_ahead

SUFFIX = ".contents"
SCHEMA = pa.schema([("hash", pa.binary(16)), ("reason", pa.string())])
"""A row for each item, in order: the hash of its bytes (null: they cannot be read), and why it cannot be used."""
HASH = "xxh3_128"
"""the hash, which takes a small part of the time of reading: in 10^18 pools of 10^10 items each, one pair would have
the same by chance; it is no protection against somebody who makes such a pair"""
_METADATA_KEY = b"bsssl"
_LOCAL_AT_A_TIME = 64  # items that a thread reads in a row: small files take less time than handing them over
_LOCAL_THREADS, _REMOTE_THREADS = 8, 32


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some items of a set, which follow each other: a shard of the pool, or a part of the labels or of a test set."""

    number: int
    """among all parts, from 0; of the pool that of the shard"""
    items: str
    """the name of the set"""
    start: int
    """the place of its first item in what ``position`` counts: in the shard, or in the set"""
    first: int
    """the number of its first item among the items of all sets, which follow each other set by set"""
    count: int
    digest: str
    """of the records"""
    records: Callable[[], Records]


def read_contents(records: Records, *, check: Check | None) -> Iterator[pa.Table]:
    """Yield the contents of items, in order, as tables of ``SCHEMA``.

    Args:
        records: The items. The bytes of each are read once.
        check: What tells whether they can be used; None leaves it at reading them.
    """
    is_remote = len(records) > 0 and storage.is_remote(records[0].path)
    rows = 1 if is_remote else _LOCAL_AT_A_TIME
    threads = _REMOTE_THREADS if is_remote else min(_LOCAL_THREADS, own_cores())
    slices = (records[start : start + rows] for start in range(0, len(records), rows))
    return map_ahead(partial(_contents, check=check), slices, threads=threads)


def _contents(records: Records, check: Check | None) -> pa.Table:
    groups = itertools.groupby(records, key=_place)  # segments of one video are read at one go
    contents = itertools.chain.from_iterable(_of_one_file(list(group), check) for _, group in groups)
    hashes, reasons = zip(*contents, strict=True)
    return pa.table([pa.array(hashes, SCHEMA.types[0]), pa.array(reasons, SCHEMA.types[1])], schema=SCHEMA)


def _place(record: Record) -> tuple[str, int, int]:
    """Return where the bytes of an item are."""
    return split_segment(record.path)[0], record.offset, record.size


def _of_one_file(records: Sequence[Record], check: Check | None) -> Iterator[tuple[bytes | None, str | None]]:
    """Yield hash and reason of items with the same bytes."""
    try:
        content = records[0].read()
    except OSError as error:
        yield from [(None, str(error))] * len(records)
        return
    digest = xxhash.xxh3_128(content)
    for record in records:
        yield _hash(digest, record.path), _reason(record, content, check)


def _reason(record: Record, content: bytes, check: Check | None) -> str | None:
    """Return why an item with this content cannot be used; None if it can."""
    if not content:
        return f"{record.path}: empty file"
    try:
        if check is not None:
            check(record, content)
    except DecodeError as error:
        return f"{record.path}@{record.offset}: {error}" if record.size >= 0 else f"{record.path}: {error}"
    return None


def _hash(content: xxhash.xxh3_128, path: str) -> bytes:
    """Return the hash of an item by that of its bytes; two segments of one file, which ``path`` names, differ."""
    digest = content.copy()
    digest.update(path[len(split_segment(path)[0]) :].encode())
    return digest.digest()


def write_contents(path: str, contents: pa.Table, *, about: Mapping[str, Any]) -> None:
    """Write the contents of a part, complete or not at all; ``about`` says of which items, and how they were read."""
    metadata = {_METADATA_KEY: json.dumps(about, sort_keys=True).encode()}
    with storage.atomic_write(path) as file:
        pq.write_table(contents.replace_schema_metadata(metadata).combine_chunks(), file, use_dictionary=["reason"])


def has_contents(path: str, *, about: Mapping[str, Any]) -> bool:
    """Return whether the file at ``path``, which may be missing or damaged, was written ``about`` the very same."""
    if not storage.exists(path):
        return False
    try:
        with storage.open_read(path) as file:
            metadata = pq.read_schema(file).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return metadata.get(_METADATA_KEY) == json.dumps(about, sort_keys=True).encode()


def _load(path: str) -> pa.Table:
    try:
        with storage.open_read(path) as file:
            return pq.read_table(pa.BufferReader(file.read())).cast(SCHEMA)  # see bsssl.data.records.Records.read
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}); delete it and run the same command again") from None


def numbered_hashes(part: Part, path: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the items of a part that can be used, and their hashes, from its file.

    Returns:
        The numbers of the items among those of all sets, (N,), and their hashes as two numbers each, (N, 2).

    Raises:
        UserError: The file is damaged.
    """
    table = _load(path)
    rows = np.flatnonzero(pc.is_null(table["reason"]))
    words = np.frombuffer(b"".join(table["hash"].take(rows).to_pylist()), "<u8").reshape(-1, 2)
    return (part.first + rows).astype(np.uint64), words


def failures(path: str) -> dict[int, str]:
    """Return why items of a part cannot be used, by row, from its file; UserError when it is damaged."""
    reasons = _load(path)["reason"].to_pylist()
    return {row: reason for row, reason in enumerate(reasons) if reason is not None}
