"""What was selected, and its file: a Parquet table from which the student trains without the pool at hand.

Columns, sorted by class then rank: key, path, offset, size (where the bytes are), shard (int32) and position (int64) of
the record in the pool, class (int32), score (float32), rank (int32, from 0). A sample may appear under several classes.
The schema's metadata holds ``Selection.facts()`` under ``bsssl``; a summary for people lies beside it as JSON.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.errors import UserError
from bsssl.runtime.frames import import_pandas
from bsssl.selection.exclusions import Exclusions
from bsssl.selection.rows import Array, Float32, Int64, UInt32, ranges
from bsssl.selection.scores import ScoreFile, ScoreHeader, pool_fingerprint
from bsssl.storage.arrow import read_parquet_file, refusing_damage
from bsssl.storage.columns import Column

if TYPE_CHECKING:
    import pandas

FORMAT_VERSION = 1
SELECTION_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("shard", pa.int32()),
        ("position", pa.int64()),
        ("class", pa.int32()),
        ("score", pa.float32()),
        ("rank", pa.int32()),
    ]
)
"""The columns of a selection file."""

_METADATA_KEY = b"bsssl"
_ROWS_PER_GROUP = 2**18
_REPEATING = ["path", "size", "shard", "class"]  # columns worth a dictionary; keys are nearly all distinct

Progress = Callable[..., Iterable[Any]]
"""``bsssl.runtime.console.progress`` or the like: called with items, total, unit and title."""


@dataclass(frozen=True)
class Foreign:
    """What was left out of a selection as of no class."""

    items: int
    """items of the pool"""
    candidates: Int64
    """(L,): how many of them had kept each class"""
    picks: Int64
    """(L,): how many more picks each class would have with them"""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """M picks, by class, then rank."""

    files: list[ScoreFile]
    """The score files it comes from, by shard number."""
    variant: str
    """The name of the rule that chose."""
    options: dict[str, Any]
    """Further arguments of the rule."""
    top_k: int
    min_score: float
    seed: int
    exclude: Exclusions | None = None
    """What people have left out by hand."""
    near_held: int = 0
    """Items of the pool that were left out for being near to a labeled or test item."""
    near_copies: int = 0
    """Pairs that were left out since the class has a better one that is near."""
    foreign: Foreign | None = None
    """What was left out as of no class; None where nothing was to be."""
    per_class: Int64
    """(L,): picks of each class."""
    sample: UInt32
    """(M,): index of the sample among all records of the pool."""
    score: Float32
    """(M,): the teacher's softmax score of the sample for the class."""
    dropped: int
    """How many more picks there would be without ``min_score``."""
    wanted: int | None
    """Picks of a class that is not short of samples; None where the rule knows no such number."""

    @cached_property
    def header(self) -> ScoreHeader:
        """The header of the pool's first score file."""
        return self.files[0].header

    @property
    def class_index(self) -> npt.NDArray[np.int32]:
        """(M,): the class that each sample was picked for."""
        return np.repeat(np.arange(len(self.per_class), dtype=np.int32), self.per_class)

    @property
    def rank(self) -> npt.NDArray[np.int32]:
        """(M,): 0 for the best of its class, and so on."""
        return ranges(np.zeros_like(self.per_class), self.per_class).astype(np.int32)

    @cached_property
    def shard(self) -> npt.NDArray[np.int32]:
        """(M,): number of the pool shard that holds the sample."""
        bases = np.array([file.base for file in self.files], np.uint32)
        return (np.searchsorted(bases, self.sample, side="right") - 1).astype(np.int32)

    @property
    def position(self) -> Int64:
        """(M,): record of the sample within its shard."""
        return self.sample - np.array([file.base for file in self.files], np.int64)[self.shard]

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the selection must know: where it comes from, how it was chosen, the classes."""
        return {
            "version": FORMAT_VERSION,
            "teacher": self.header.teacher,
            "pool": pool_fingerprint(self.files),
            "top_p": self.header.top_p,
            "preprocessing": self.header.preprocessing,
            "variant": self.variant,
            **({"variant_options": self.options} if self.options else {}),
            "top_k": self.top_k,
            **({"min_score": self.min_score} if self.min_score else {}),
            "seed": self.seed,
            **({} if self.exclude is None else {"exclude": self.exclude.path}),
            **({"near_held": self.near_held} if self.near_held else {}),
            **({"near_copies": self.near_copies} if self.near_copies else {}),
            **({} if self.foreign is None else {"foreign": self.foreign.items}),
            "class_names": list(self.header.class_names),
        }

    def summary(self) -> dict[str, Any]:
        """Return the facts, sizes, the classes short of K, and per class the number of picks and the lowest score.

        Where there was an open set, also per class how many foreign candidates were left out, and how many picks the
        class has lost by that.
        """
        names = self.header.class_names
        picked = self.per_class.tolist()
        lowest = [float(part.min()) if len(part) else None for part in np.split(self.score, np.cumsum(picked)[:-1])]
        facts = self.facts()
        facts.pop("class_names")
        lost: list[dict[str, int]] = [{} for _ in names]
        if self.foreign is not None:
            counted = zip(self.foreign.candidates.tolist(), self.foreign.picks.tolist(), strict=True)
            lost = [{"foreign": candidates, "lost": picks} for candidates, picks in counted]
        return {
            **facts,
            "shards": len(self.files),
            "records": sum(file.num_records for file in self.files),
            "scored": sum(file.num_samples for file in self.files),
            "pairs": len(self.sample),
            "pairs_wanted": self.top_k * len(names),
            "dropped": self.dropped,
            "samples": int(np.count_nonzero(np.diff(np.sort(self.sample)))) + 1,
            "short_classes": self.short_classes(),
            "classes": {
                name: {"picked": count, "lowest_score": score, **more}
                for name, count, score, more in zip(names, picked, lowest, lost, strict=True)
            },
        }

    def short_classes(self) -> dict[str, int]:
        """Return the classes with fewer picks than wanted, which are never padded, and how many each has."""
        counted = zip(self.header.class_names, self.per_class.tolist(), strict=True)
        return {name: count for name, count in counted if self.wanted is not None and count < self.wanted}

    def to_table(self) -> pa.Table:
        """Return the picks as their file has them: ``SELECTION_SCHEMA`` with the facts as metadata."""
        return pa.concat_tables(_tables(self, silent))

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the picks as a data frame with the columns of the file.

        Raises:
            UserError: pandas is not installed.
        """
        import_pandas()
        frame: pandas.DataFrame = self.to_table().to_pandas()
        return frame

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the selection file and its summary, see ``write_selection``."""
        write_selection(os.fspath(path), self)


def silent(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    """Return the items: progress that shows nothing."""
    return items


def summary_path(path: str) -> str:
    """Return the path of the summary beside the selection file ``path``."""
    return path.removesuffix(".parquet") + ".json"


def write_selection(path: str, selection: Selection, *, progress: Progress | None = None) -> None:
    """Write the summary, then the selection file, each complete or not at all.

    The sample tables of shards with picks are read one after the other; memory is of the order of the picks.
    ``progress`` as in ``select_samples``.

    Raises:
        UserError: A score file is damaged, or the selection cannot be written.
    """
    tables = _tables(selection, progress or silent)
    storage.write_json(summary_path(path), selection.summary())
    with (
        storage.atomic_write(path) as file,
        pq.ParquetWriter(file, _schema(selection), compression="zstd", use_dictionary=_REPEATING) as writer,
    ):
        for table in tables:
            writer.write_table(table)


def _schema(selection: Selection) -> pa.Schema:
    return SELECTION_SCHEMA.with_metadata({_METADATA_KEY: json.dumps(selection.facts()).encode()})


def _tables(selection: Selection, shown: Progress) -> Iterator[pa.Table]:
    """Return the rows of the selection file, a row group at a time; the samples are looked up at once."""
    schema = _schema(selection)
    unique, row_of_pick = np.unique(selection.sample, return_inverse=True)
    files = shown(selection.files, total=len(selection.files), unit="shards", title="finding samples")
    table_of_samples = _find_samples(files, unique)
    numbers: dict[str, Array] = {
        "shard": selection.shard,
        "position": selection.position,
        "class": selection.class_index,
        "score": selection.score,
        "rank": selection.rank,
    }
    starts = range(0, len(row_of_pick), _ROWS_PER_GROUP)

    def group(start: int) -> pa.Table:
        part = slice(start, start + _ROWS_PER_GROUP)
        table = table_of_samples.take(pa.array(row_of_pick[part]))
        for name, values in numbers.items():
            table = table.append_column(name, pa.array(values[part]))
        return table.cast(schema)

    return map(group, shown(starts, total=len(starts), unit="row groups", title="writing the selection"))


def _find_samples(files: Iterable[ScoreFile], samples: Array) -> pa.Table:
    """Return key, path, offset and size of ``samples``, global indices in ascending order."""
    tables = []
    for file in files:
        borders = np.array([file.base, file.base + file.num_records], samples.dtype)  # else all samples are cast
        start, end = np.searchsorted(samples, borders)
        if start == end:
            continue
        table = file.samples()
        rows = np.searchsorted(table["position"].to_numpy(), wanted := samples[start:end] - np.int64(file.base))
        if rows[-1] >= len(table) or np.any(table["position"].to_numpy()[rows] != wanted):
            raise UserError(f"{file.path} is damaged (rows without a sample); delete it and run `bsssl score` again")
        tables.append(table.select(["key", "path", "offset", "size"]).take(pa.array(rows)))
    # The strings of many millions of samples are more than the 2 GiB that one array of plain strings holds.
    roomy = tables[0].schema.set(0, pa.field("key", pa.large_string()))
    roomy = roomy.set(1, pa.field("path", pa.dictionary(pa.int32(), pa.large_string())))
    return pa.concat_tables([table.cast(roomy) for table in tables]).unify_dictionaries().combine_chunks()


@dataclass(frozen=True)
class Selected:
    """What a selection file holds: picks by class, then rank, and where the bytes of their samples are."""

    table: pa.Table
    """``SELECTION_SCHEMA`` with the facts as metadata"""

    key = Column[str]("key")
    shard = Column[int]("shard")
    position = Column[int]("position")
    class_index = Column[int]("class")
    score = Column[float]("score")

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What ``Selection.facts()`` returned when the file was written."""
        facts: dict[str, Any] = storage.parse_json(self.table.schema.metadata[_METADATA_KEY])
        return facts

    @property
    def num_samples(self) -> int:
        """The number of distinct samples."""
        return len(self.table.group_by(["shard", "position"]).aggregate([]))

    def filter(self, mask: Array) -> "Selected":
        """Return the picks where ``mask``, bool (M,), is true."""
        return Selected(self.table.filter(mask))

    def write(self, path: str) -> None:
        """Write the picks as a selection file, complete or not at all."""
        with storage.atomic_write(path) as file:
            pq.write_table(self.table, file, compression="zstd")


def read_selection(path: str) -> Selected:
    """Read a selection file.

    Returns:
        At least one pick.

    Raises:
        UserError: The file is missing, damaged, or not a selection.
    """
    if not storage.exists(path):
        raise UserError(f"no selection at {path}; run `bsssl select` to write it, or check the path")
    with refusing_damage(path, what="is damaged", remedy="delete it and run `bsssl select` again"):
        table = read_parquet_file(path)
    if not table.schema.equals(SELECTION_SCHEMA) or not len(table):
        raise UserError(f"{path} is not a selection file; delete it and run `bsssl select` again")
    try:
        facts = Selected(table).facts
        version, names = facts["version"], facts.get("class_names")
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a selection file; delete it and run `bsssl select` again") from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has selection format version {version}, this program reads {FORMAT_VERSION}; "
            "run `bsssl select` again"
        )
    bounds = pc.min_max(table["class"]).as_py()
    if any(table[name].null_count for name in table.column_names) or not (
        isinstance(names, list) and 0 <= bounds["min"] <= bounds["max"] < len(names)
    ):
        raise UserError(f"{path} is damaged (values out of range); delete it and run `bsssl select` again")
    return Selected(table)
