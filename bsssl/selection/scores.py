"""Score files: what the teacher said about one shard of the pool, laid out so that selection reads little of it.

A score file is a safetensors container, complete or absent, of these arrays (little-endian):

- ``offsets`` int64 (L + 1,): class l has ``offsets[l + 1] - offsets[l]`` rows.
- ``rows0``, ``rows1``, ... uint64: packed rows (``bsssl.selection.rows``; the low word is the sample's position in the
  shard), grouped by class, best first. The first array has the best few of every class, the next those that follow
  (``SECTIONS``): what a large pool's selection reads of a file lies together, in few pages of the disk.
- ``counts`` uint32 (E, L): rows of each class at or above each of the fixed ``EDGES``. Left out where it would
  be larger than the rows it sums up (readers then count for themselves).
- ``samples`` uint8: an Arrow IPC stream of the columns position, key, path, offset, size, by position.

Its metadata is one text under ``bsssl`` (safetensors keeps several entries in no fixed order, and equal scores make
equal files): a line of JSON with format, version and the facts of the shard, and a line with those that all files of
one teacher share. Version 1 is read too: there ``num_shards`` and a fingerprint of the whole pool, ``pool``, were among
the latter, and nothing said which records a shard had.
"""

import glob
import hashlib
import io
import itertools
import json
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy

from bsssl import storage
from bsssl.errors import UserError, shortened
from bsssl.selection.rows import (
    EDGES,
    SECTIONS,
    Array,
    Float32,
    Int64,
    UInt32,
    UInt64,
    are_possible,
    edge_counts,
    group,
    join_sections,
    ranges,
    section_sizes,
    split_sections,
    ungroup,
)
from bsssl.storage.arrow import refusing_damage, whole

FORMAT = "bsssl scores"
FORMAT_VERSION = 2
_READ = (1, FORMAT_VERSION)
SUFFIX = ".scores"
SAMPLES_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
"""The sample table given to ``write_scores``: position in the shard's records, then the columns that find the bytes."""

_METADATA_KEY = "bsssl"
_MENDING = "delete it and run `bsssl score` again"
_ROWS = tuple(f"rows{number}" for number in range(len(SECTIONS)))
_DTYPES = {
    "offsets": ("I64", "<i8"),
    **dict.fromkeys(_ROWS, ("U64", "<u8")),
    "counts": ("U32", "<u4"),
    "samples": ("U8", "u1"),
}
_MAX_HEADER = 2**28


@dataclass(frozen=True, kw_only=True)
class ScoreHeader:
    """Where the scores of one shard come from. ``common()`` must agree in all files that are read together."""

    teacher: str
    """Fingerprint of the teacher's weights and config."""
    class_names: tuple[str, ...]
    top_p: int
    """P: classes kept per sample."""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """How the teacher saw the samples; anything JSON can hold."""
    num_shards: int
    """Shards in the whole pool when this one was scored; it may have grown since."""
    shard: str
    """Name of this shard."""
    number: int
    """Number of this shard in the pool, from 0."""
    base: int
    """Global index of this shard's first record: records in all shards before it."""
    num_records: int
    """Records in this shard, readable or not."""
    records: str = ""
    """Digest of the shard's records, hexadecimal; shards of the same records have the same scores."""

    def common(self) -> dict[str, Any]:
        """Return the facts that all score files of one teacher share."""
        return {name: value for name, value in asdict(self).items() if name not in _OF_SHARD}


_OF_SHARD = ("shard", "number", "base", "num_records", "num_shards", "records")


def score_path(folder: str, number: int) -> str:
    """Return the path of the score file of shard ``number`` in ``folder``."""
    return storage.join(folder, f"{number:06d}{SUFFIX}")


def score_files(folder: str) -> list[str]:
    """Return all score files of ``folder``, sorted; UserError when there are none."""
    # No pattern finds what is behind a link in a folder with brackets, as that of a point of a sweep may be.
    there = folder if storage.is_remote(folder) else os.path.realpath(folder)
    paths = storage.glob(storage.join(glob.escape(there), f"*{SUFFIX}"))
    if not paths:
        raise UserError(f"no score files (*{SUFFIX}) in {folder}; run `bsssl score` first, or check the path")
    return paths


def ledger_path(path: str) -> str:
    """Return the ledger beside the score file ``path``, of the items without a score (``storage.write_ledger``).

    Write it before the score file, whose presence means that the shard is done.
    """
    return path.removesuffix(SUFFIX) + ".ledger.jsonl"


def write_scores(path: str, *, header: ScoreHeader, samples: pa.Table, classes: Array, scores: Array) -> None:
    """Write the score file of one shard (see ``score_content``), complete or not at all.

    ``path`` is a local file or a URL (see ``score_path``).
    """
    content = score_content(header=header, samples=samples, classes=classes, scores=scores)
    with storage.atomic_write(path) as file:
        file.write(content)


def score_content(*, header: ScoreHeader, samples: pa.Table, classes: Array, scores: Array) -> bytes:
    """Return the content of the score file of one shard.

    Args:
        header: Where the scores come from.
        samples: ``SAMPLES_SCHEMA``, one row per scored sample, in any order of position.
        classes: (N, P) integers, the P distinct classes that each sample keeps.
        scores: (N, P) floats in [0, 1]: their softmax scores; stored as float32.

    Raises:
        UserError: A score is not a number in [0, 1].
        ValueError: The arguments do not fit together.
    """
    table = samples.select(SAMPLES_SCHEMA.names).cast(SAMPLES_SCHEMA)
    positions = table["position"].to_numpy()
    scores = np.ascontiguousarray(scores, dtype=np.float32)
    _check_arguments(header, positions, classes, scores)
    _check_scores(header, table, scores)
    if np.any(positions[1:] <= positions[:-1]):
        table = table.sort_by("position")
        if np.any(np.diff(table["position"].to_numpy()) == 0):
            raise ValueError(f"positions of {header.shard} must be distinct")
    offsets, rows = group(classes=classes, scores=scores, positions=positions, num_classes=len(header.class_names))
    arrays: dict[str, Array] = {"offsets": offsets, "samples": _to_ipc(table)}
    arrays |= zip(_ROWS, split_sections(offsets=offsets, rows=rows), strict=True)
    if len(header.class_names) * len(EDGES) * 4 <= rows.nbytes:
        arrays["counts"] = edge_counts(offsets=offsets, rows=rows)
    return _content(header, arrays)


def rebase_scores(path: str, *, header: ScoreHeader) -> None:
    """Give the score file at ``path`` the facts of its shard in ``header``, when the shard's place in the pool changed.

    Nothing is written where they are right but for the number of shards in the pool, which may have grown since.

    Raises:
        UserError: The file is damaged, or cannot be written.
        ValueError: The file has other scores than those that ``header`` is about (see ``has_scores``).
    """
    file = ScoreFile(path)
    if not has_scores(path, header=header, pool=str(file.common.get("pool"))):
        raise ValueError(f"{path} does not hold the scores of {header.shard}")
    is_there = (file.shard, file.number, file.base) == (header.shard, header.number, header.base)
    if not is_there or file.num_shards > header.num_shards:
        content = _content(header, {name: np.array(file.array(name)) for name in file.arrays})
        with storage.atomic_write(path) as output:
            output.write(content)


def has_scores(path: str, *, header: ScoreHeader, pool: str) -> bool:
    """Return whether the file at ``path`` has the teacher's scores of the records that ``header`` is about.

    Args:
        path: A score file, which may be missing or damaged.
        header: What would be written now; the place of the shard in the pool does not matter.
        pool: Fingerprint of the pool, which decides for files of version 1.
    """
    if not storage.exists(path):
        return False
    try:
        file = ScoreFile(path)
    except UserError:
        return False
    same = file.header.common() == header.common() and file.num_records == header.num_records
    if "pool" in file.common:
        return same and file.common["pool"] == pool and file.number == header.number
    return same and file.records == header.records


def _content(header: ScoreHeader, arrays: dict[str, Array]) -> bytes:
    own = {"format": FORMAT, "version": FORMAT_VERSION, **{name: getattr(header, name) for name in _OF_SHARD}}
    metadata = "\n".join(json.dumps(facts, sort_keys=True) for facts in (own, header.common()))
    return safetensors.numpy.save(arrays, {_METADATA_KEY: metadata})


def _check_arguments(header: ScoreHeader, positions: Array, classes: Array, scores: Array) -> None:
    expected = (len(positions), header.top_p)
    if classes.shape != expected or scores.shape != expected:
        raise ValueError(f"classes {classes.shape} and scores {scores.shape} of {header.shard} must be {expected}")
    if not 0 <= header.number < header.num_shards:
        raise ValueError(f"shard number {header.number} of {header.num_shards}")
    bytes.fromhex(header.records)
    if header.base + header.num_records >= 2**32:
        raise UserError(f"the pool has more than {2**32 - 1} records at {header.shard}; split it into several pools")
    if not len(positions):
        return
    if np.any(positions < 0) or np.any(positions >= header.num_records):
        raise ValueError(f"positions of {header.shard} must be in [0, {header.num_records})")
    if classes.min() < 0 or classes.max() >= len(header.class_names):
        raise ValueError(f"classes of {header.shard} must be in [0, {len(header.class_names)})")
    ordered = np.sort(classes, axis=1)
    if np.any(ordered[:, 1:] == ordered[:, :-1]):
        raise ValueError(f"the classes of a sample of {header.shard} must be distinct")


def _check_scores(header: ScoreHeader, samples: pa.Table, scores: Float32) -> None:
    if not scores.size or (scores.min() >= 0 and scores.max() <= 1):  # a NaN makes both comparisons false
        return
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)).all(axis=1))
    key = samples["key"][int(bad[0])].as_py()
    raise UserError(
        f"the teacher's scores of {len(bad)} samples of {header.shard} are not in [0, 1] (first: '{key}', "
        f"{scores[bad[0]].tolist()}); check the teacher's checkpoint, or score in float32"
    )


def _to_ipc(table: pa.Table) -> Array:
    # Paths repeat (a tar holds thousands of samples) and the numbers are regular: both shrink to little.
    table = table.set_column(table.schema.get_field_index("path"), "path", pc.dictionary_encode(table["path"]))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table.combine_chunks())
    return np.frombuffer(sink.getvalue(), np.uint8)


class ScoreFile:
    """A score file opened for reading. Only its header is read; local arrays are memory maps, remote ones byte ranges.

    Args:
        path: Where it is.
        content: What would be in the file, where it is in memory alone; ``path`` is then but a name.

    Raises:
        UserError: The file is missing, cut short, not a score file, or of another format version.
    """

    def __init__(self, path: str, content: bytes | None = None) -> None:
        self.path = path
        self.content = content
        try:
            size = self._read_container()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is damaged or not a score file; {_MENDING}") from None
        end = max(stop for _, _, stop in self._places.values())
        if size != end:
            raise UserError(f"{path} is cut short ({size} bytes instead of {end}); {_MENDING}")

    def _read_container(self) -> int:
        """Read the header; returns the size of the file."""
        with storage.open_read(self.path) if self.content is None else io.BytesIO(self.content) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER:
                raise ValueError("header too long")
            described = storage.parse_json(file.read(length))
            size = file.seek(0, os.SEEK_END)
        own, common = described.pop("__metadata__")[_METADATA_KEY].split("\n")
        shard = storage.parse_json(own)
        if shard["format"] != FORMAT:
            raise ValueError(shard["format"])
        if shard["version"] not in _READ:
            raise UserError(
                f"{self.path} has score format version {shard['version']}, this program reads "
                f"{' and '.join(map(str, _READ))}; {_MENDING}"
            )
        self._places = {name: _place(name, entry, 8 + length) for name, entry in described.items()}
        self.common, num_shards = _parse_common(common)
        """What all score files of the teacher share; ``pool`` too in version 1."""
        self.shard: str = shard["shard"]
        self.number: int = shard["number"]
        self.base: int = shard["base"]
        self.num_records: int = shard["num_records"]
        self.num_shards: int = shard["num_shards"] if num_shards is None else num_shards
        self.records: str = shard.get("records", "")
        bytes.fromhex(self.records)
        _require_whole_numbers(self.number, self.base, self.num_records, self.num_shards)
        if self.number >= self.num_shards or self.base + self.num_records >= 2**32:
            raise ValueError("places")
        num_classes = len(self.common["class_names"])
        self.num_rows = sum(self._places[name][0][0] for name in _ROWS)
        """Samples times P."""
        shapes = {"offsets": (num_classes + 1,), "counts": (len(EDGES), num_classes), "samples": None}
        for name in shapes.keys() - self._places.keys() - {"counts"}:
            raise KeyError(name)
        if any(shapes.get(name) not in (None, place[0]) for name, place in self._places.items()):
            raise ValueError("shapes")
        return size

    @property
    def header(self) -> ScoreHeader:
        """All of the header."""
        common = {name: value for name, value in self.common.items() if name != "pool"}
        return ScoreHeader(**common, **{name: getattr(self, name) for name in _OF_SHARD})

    @property
    def num_samples(self) -> int:
        """The number of samples with a score."""
        return self.num_rows // int(self.common["top_p"])

    @property
    def arrays(self) -> list[str]:
        """The names of the arrays that the file has."""
        return list(self._places)

    def offsets(self) -> Int64:
        """Return where each class begins in ``rows()``: int64 (L + 1,). UserError when they do not fit the rows."""
        offsets: Int64 = self.array("offsets")
        sizes = [self._places[name][0][0] for name in _ROWS]
        sizes = [self._places[name][0][0] for name in _ROWS]
        is_wrong = offsets[0] != 0 or offsets[-1] != self.num_rows or np.any(offsets[1:] < offsets[:-1])
        if is_wrong or [section.sum() for section in section_sizes(offsets)] != sizes:
            raise UserError(f"{self.path} is damaged (class offsets); {_MENDING}")
        return offsets

    def rows(self) -> UInt64:
        """Return all packed rows, grouped by class, best first: uint64 (samples * P,)."""
        return self._in_range(join_sections(offsets=self.offsets(), sections=[self.array(name) for name in _ROWS]))

    def best_rows(self, lengths: Int64) -> Iterator[tuple[Int64, UInt64]]:
        """Yield the first ``lengths[l]`` rows of every class l, in blocks: rows per class (L,), then these."""
        remaining = lengths
        for name, sizes in zip(_ROWS, section_sizes(self.offsets()), strict=True):
            wanted = np.minimum(remaining, sizes)
            if wanted.any():
                yield wanted, self._in_range(self.array(name)[ranges(np.cumsum(sizes) - sizes, wanted)])
            remaining = remaining - wanted
            if not remaining.any():
                return

    def _in_range(self, rows: UInt64) -> UInt64:
        """Return the rows; UserError for a score that is none, or the position of another shard's sample."""
        if len(rows) and not are_possible(rows, num_records=self.num_records):
            raise UserError(f"{self.path} is damaged (rows out of range); {_MENDING}")
        return rows

    def counts(self) -> UInt32:
        """Return the number of rows of each class at or above each of ``EDGES``: uint32 (E, L), growing along E."""
        if "counts" in self._places:
            counts: UInt32 = self.array("counts")
            return counts
        return edge_counts(offsets=self.offsets(), rows=self.rows())

    def samples(self) -> pa.Table:
        """Return the sample table by position, ``SAMPLES_SCHEMA`` with paths dictionary-encoded."""
        with refusing_damage(self.path, what="has a damaged sample table", remedy=_MENDING):
            samples = whole(pa.ipc.open_stream(pa.py_buffer(self.array("samples"))).read_all())
            return samples.select(SAMPLES_SCHEMA.names)

    def array(self, name: str) -> Any:
        """Return one of ``arrays``, not to be changed."""
        shape, start, stop = self._places[name]
        if start == stop:
            return np.empty(shape, _DTYPES[name][1])
        if self.content is not None:
            flat = np.frombuffer(self.content, _DTYPES[name][1], math.prod(shape), start)
        elif storage.is_remote(self.path):
            flat = np.frombuffer(storage.read_range(self.path, start, stop), _DTYPES[name][1])
        else:
            with open(self.path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            flat = np.frombuffer(mapped, _DTYPES[name][1], math.prod(shape), start)
        return flat.reshape(shape)


@lru_cache(maxsize=4)
def _parse_common(text: str) -> tuple[dict[str, Any], int | None]:
    """Return the facts that files share, and the number of shards if it is among them, as in version 1.

    They are parsed, checked and kept once, however many shards there are, and are not to be changed.
    """
    common = storage.parse_json(text)
    common["class_names"] = tuple(common["class_names"])
    num_shards = common.pop("num_shards", None)
    facts = {name: value for name, value in common.items() if name != "pool"}
    header = ScoreHeader(**facts, shard="", number=0, base=0, num_records=0, num_shards=0)
    _require_whole_numbers(header.top_p - 1)
    if not all(isinstance(text, str) for text in (header.teacher, *header.class_names)):
        raise ValueError("texts")
    return common, num_shards


def _require_whole_numbers(*values: Any) -> None:
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError("numbers")


def _place(name: str, entry: dict[str, Any], origin: int) -> tuple[tuple[int, ...], int, int]:
    """Return the shape of an array and the range of its bytes in the file."""
    code, dtype = _DTYPES[name]
    shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
    _require_whole_numbers(*shape, start, stop)
    if entry["dtype"] != code or math.prod(shape) * np.dtype(dtype).itemsize != stop - start:
        raise ValueError(name)
    return shape, origin + start, origin + stop


def read_header(path: str) -> ScoreHeader:
    """Return the header of a score file; UserError when it is missing, damaged, or of another version."""
    return ScoreFile(path).header


def read_sample_scores(path: str) -> tuple[Int64, Int64, Float32]:
    """Return the teacher's scores of one shard by sample, as soft targets need them.

    Returns:
        ``positions`` int64 (N,), ascending, in the shard's records; ``classes`` int64 (N, P) and ``scores`` float32
        (N, P), best first, equal scores by class.

    Raises:
        UserError: As ``ScoreFile``.
    """
    file = ScoreFile(path)
    return ungroup(offsets=file.offsets(), rows=file.rows(), top_p=file.header.top_p)


def open_scores(paths: Sequence[str | ScoreFile]) -> list[ScoreFile]:
    """Open the score files of a whole pool, given in any order, and check that they belong together.

    Returns:
        One file per shard of the pool, by shard number.

    Raises:
        UserError: A file is damaged, two disagree on where they come from or hold the same shard, or a shard has none.
    """
    if not paths:
        raise UserError("no score files were given; run `bsssl score` first")
    files = [path if isinstance(path, ScoreFile) else ScoreFile(path) for path in paths]
    stated: dict[str, ScoreFile] = {}  # the first file that states each fact
    for file in {id(file.common): file for file in files}.values():
        for name in sorted(file.common):
            if stated.setdefault(name, file).common[name] != file.common[name]:
                raise UserError(_difference(name, stated[name], file))
    files.sort(key=lambda file: file.number)
    _check_complete(files)
    return files


def _check_complete(files: list[ScoreFile]) -> None:
    """UserError unless ``files``, by shard number, are all shards of a pool, once each."""
    for before, file in itertools.pairwise(files):
        if file.number == before.number:
            raise UserError(f"{before.path} and {file.path} both hold shard {file.number}; remove one of them")
    last = max(files, key=lambda file: file.num_shards)
    numbers = {file.number for file in files}
    if missing := last.num_shards - len(numbers):
        some = itertools.islice((number for number in range(last.num_shards) if number not in numbers), 20)
        listed = ", ".join(map(str, some)) + (", ..." if missing > 20 else "")
        raise UserError(
            f"{missing} of {last.num_shards} shards have no score file beside {last.path} (numbers {listed}); "
            "run `bsssl score` to write them"
        )
    base = 0
    for file in files:
        if file.base != base:
            raise UserError(
                f"{file.path} starts at record {file.base}, but the shards before it hold {base}; {_MENDING}"
            )
        base += file.num_records


def pool_fingerprint(files: Sequence[ScoreFile]) -> str:
    """Return the fingerprint of the pool whose score files, by shard number, these are."""
    for file in files:
        if "pool" in file.common:  # version 1
            return str(file.common["pool"])
    digest = hashlib.sha256(b"".join(bytes.fromhex(file.records) for file in files))
    return digest.hexdigest()[:16]


def _difference(name: str, first: ScoreFile, other: ScoreFile) -> str:
    values = [shortened(json.dumps(file.common[name])) for file in (first, other)]
    return (
        f"score files disagree on {name}: {values[0]} in {first.path}, {values[1]} in {other.path}; "
        "delete the outdated ones and run `bsssl score` again"
    )
