"""The unlabeled pool: an ordered list of shards on disk, written once, from which any task can take any shard."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from bsssl import storage
from bsssl.data.datasets.sources import Source, Tars
from bsssl.data.pool.overlap import Places
from bsssl.data.records import Records, rechunked
from bsssl.errors import UserError
from bsssl.runtime.console import logger, progress

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A part of the pool: one tar, or ``shard_size`` items of a folder or manifest (fewer at its end)."""

    name: str
    """the tar's file name, or ``shard-000123``"""
    number: int
    """place in the pool, from 0"""
    base: int
    """records in all shards before this one: record i of this shard is number base + i of the pool"""
    num_records: int
    path: str
    """the Parquet file that lists the records"""
    digest: str = ""
    """SHA-256 of the records, hexadecimal; empty in lists of an earlier format"""

    def records(self) -> Records:
        """Return the shard's records, in order."""
        return Records.read(self.path)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool that ``write_pool`` wrote. Pools of the same records in the same shards have the same fingerprint."""

    fingerprint: str
    shards: list[Shard]

    @property
    def num_records(self) -> int:
        """Items in the pool, readable or not."""
        return self.shards[-1].base + self.shards[-1].num_records


def write_pool(
    sources: Sequence[Source],
    *,
    folder: str,
    shard_size: int = 10_000,
    exclude: Records | None = None,
    fraction: float = 1.0,
    seed: int = 0,
) -> Pool:
    """List the items of ``sources`` in shards below ``folder``; memory does not grow with the pool.

    Every shard is a Parquet file of records, ``shard-000000.parquet`` and so on; ``pool.json`` is written last and says
    that the pool is complete. Each tar is one shard, of which the headers are read here, so that every record's number
    in the pool is known before any is scored. Items of ``exclude`` (same path and offset) are left out; of the others a
    random ``fraction`` stays, by ``seed`` and key: a larger one holds all items of a smaller.

    UserError when a source is missing or nothing is left.
    """
    excluded = None if exclude is None else Places(exclude)
    shards: list[Shard] = []
    digest = hashlib.sha256()
    base = left_out = 0
    for name, records in progress(shard_records(sources, shard_size), unit="shards", title="listing the pool"):
        if excluded is not None:
            kept = records.filter(~excluded.mask(records))
            left_out += len(records) - len(kept)
            records = kept
        if fraction < 1:
            records = records.filter(_chosen(records, fraction, seed))
        number = len(shards)
        path = storage.join(folder, shard_file(number))
        records.write(path)
        own = records_digest(records)
        digest.update(own)
        name = name or f"shard-{number:06d}"
        shards.append(Shard(name=name, number=number, base=base, num_records=len(records), path=path, digest=own.hex()))
        base += len(records)
    if left_out:
        logger.info("%d labeled or test items left out of the pool", left_out)
    if not base:
        raise UserError(
            "the pool is empty: its sources hold nothing that ends as their options.extensions say, or nothing but "
            "labeled and test items; check data.pool"
        )
    pool = Pool(fingerprint=digest.hexdigest()[:16], shards=shards)
    rows = [asdict(shard) | {"path": shard.path.rsplit("/", 1)[-1]} for shard in shards]
    storage.write_json(
        storage.join(folder, "pool.json"), {"version": FORMAT_VERSION, "fingerprint": pool.fingerprint, "shards": rows}
    )
    return pool


def shard_file(number: int) -> str:
    """Return the name of the file that lists the records of shard ``number``."""
    return f"shard-{number:06d}.parquet"


def read_pool(folder: str) -> Pool:
    """Return the pool that ``write_pool`` wrote in ``folder``, which may have been moved; UserError without one."""
    path = storage.join(folder, "pool.json")
    stored = storage.read_json(path)
    if stored.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {stored.get('version')}, not {FORMAT_VERSION}; delete it, run again"
        )
    shards = [Shard(**{**row, "path": storage.join(folder, row["path"])}) for row in stored["shards"]]
    return Pool(fingerprint=stored["fingerprint"], shards=shards)


def shard_records(sources: Sequence[Source], shard_size: int) -> Iterator[tuple[str | None, Records]]:
    """Yield the name (None: by number) and the records of every shard that a pool of these sources has, in order."""
    for source in sources:
        if isinstance(source, Tars):
            yield from source.shards()
        else:
            for records in rechunked(source.batches(), shard_size):
                yield None, records


def _chosen(records: Records, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Whether each item is of a random ``fraction`` of all there are: bool (rows,)."""
    limit, salt = int(fraction * 2**64), seed.to_bytes(16, "little")
    digests = (hashlib.blake2b(key.encode(), digest_size=8, salt=salt).digest() for key in records.key.to_pylist())
    return np.array([int.from_bytes(digest, "little") < limit for digest in digests], bool)


def records_digest(records: Records) -> bytes:
    """Return the SHA-256 of what says which items ``records`` are, and where their bytes lie."""
    digest = hashlib.sha256()
    for text in (records.key, records.path):
        digest.update("\0".join(text.to_pylist()).encode() + b"\0\0")
    for numbers in (records.offset, records.size):
        digest.update(numbers.to_numpy().astype(np.int64).tobytes())
    return digest.digest()
