"""The near stage: which items of the pool are near copies of labeled and test items, and of each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from typing_extensions import override

from bsssl import data, selection, storage
from bsssl.config import Section
from bsssl.engine.near import Looks, Nearest
from bsssl.engine.score import read_looks
from bsssl.pipeline.stage import Context, PlanRow, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger, progress
from bsssl.runtime.device import Compute
from bsssl.selection.rows import Array, Int64
from bsssl.selection.scores import ScoreFile
from bsssl.stages.computing import Execution, split_records
from bsssl.stages.data import POOL
from bsssl.stages.seen import TestView

NEAR = "near.parquet"
_PLACE = ["key", "path", "offset", "size"]


class NearSettings(Section):
    """What decides which items are near copies, besides the looks beside the score files."""

    seen: TestView
    """how the teacher sees the pool, which the looks are of"""
    held: bool = True
    """whether near copies of labeled and test items are looked for"""


@dataclass
class _Links:
    """Items of the pool, by their numbers in it, and what each is near to, by the number that the search gave it."""

    columns: tuple[list[Int64], list[Int64], list[Array]] = field(default_factory=lambda: ([], [], []))
    """items, numbers and distances"""

    def add(self, items: Int64, nearest: Nearest) -> None:
        """Add those of ``items`` that are near to something."""
        rows = np.flatnonzero(nearest.number >= 0)
        for column, values in zip(self.columns, (items, nearest.number, nearest.distance), strict=True):
            column.append(values[rows])


@STAGES.register("near")
@dataclass(frozen=True, kw_only=True, eq=False)
class NearStage(Stage[NearSettings]):
    """The near copies in the pool, by the looks that were left when it was scored."""

    kind = "near"
    outputs = {"near": (NEAR,)}
    prepares = True

    execution: Execution
    tests: tuple[str, ...] = ()
    """the outputs of the data stage that hold test items"""

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        return ("scores",) if role == "scores" else ("pool", *self._held_sets())

    @override
    def work(self, run: Context) -> dict[str, Any]:
        folder = run.input(self, "data")
        pool = data.read_pool(str(folder / POOL))
        held = {name: split_records(folder, name) for name in self._held_sets()}
        held_looks, leaders = Looks(), Looks()
        for name, records in held.items():
            held_looks.add(self._looks_of(records, title=f"seed {run.seed}: {self.name}, {name}"))
        to_pool, to_held, searched, without = _Links(), _Links(), [np.zeros(0, np.int64)], 0
        for shard in progress(pool.shards, total=len(pool.shards), unit="shards", title="searching near copies"):
            path = selection.score_path(str(run.input(self, "scores")), shard.number)
            looks, items = read_looks(path), shard.base + ScoreFile(path).samples()["position"].to_numpy()
            if looks is None:
                without += len(items)
                continue
            searched.append(items)
            to_pool.add(items, leaders.join(looks))
            to_held.add(items, held_looks.nearest(looks))
        numbers = np.concatenate(searched)
        near = pa.concat_tables(
            [
                _table(pool, to_pool, lambda found: _pool_places(pool, numbers[found])),
                _table(pool, to_held, lambda found: _held_places(held, found)),
            ]
        )
        with storage.atomic_write(str(run.folder(self.name) / NEAR)) as output:
            pq.write_table(near, output, compression="zstd")
        return _counts(selection.NearCopies(near), searched=len(numbers), without=without)

    @override
    def summary(self, run: Context) -> str:
        counts = run.result(self.name)
        return (
            f"{counts['held']:,} items of the pool near to labeled or test items, and {counts['groups']:,} groups of "
            f"{counts['grouped']:,} that are near to each other"
        )

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{sizes['pool']:,}" if "pool" in sizes else "unknown")

    def _held_sets(self) -> tuple[str, ...]:
        return ("labeled", *self.tests) if self.settings.held else ()

    def _looks_of(self, records: data.Records, *, title: str) -> Array:
        """Return the looks of labeled or test items, uint8 (rows, 32); of what cannot be read there is none."""
        looks = np.tile(np.frombuffer(data.NO_LOOK, np.uint8), (len(records), 1))
        views, compute = self.settings.seen.views(deadline=self.execution.deadline), Compute(torch.device("cpu"))
        dataset = data.ItemDataset(records, views=views, looks=True)
        for batch in self.execution.eval_loader(dataset, views, compute, title=title):
            for row, look in zip(batch.get("index", []), batch.get("look", []), strict=True):
                looks[int(row)] = np.frombuffer(look, np.uint8)
        return looks


def _table(pool: data.Pool, links: _Links, places: Callable[[Int64], pa.Table]) -> pa.Table:
    """Return ``links`` as rows of ``NEAR_SCHEMA``; ``places`` says where the near ones are."""
    item, near, distance = (np.concatenate(part) if part else np.zeros(0, np.int64) for part in links.columns)
    own, other = _pool_places(pool, item), places(near)
    columns = {name: own[name] for name in [*_PLACE, "shard", "position"]}
    columns |= {name if name == "set" else f"near_{name}": other[name] for name in other.column_names}
    columns["distance"] = pa.array(distance)
    return pa.table({name: columns[name] for name in selection.NEAR_SCHEMA.names}).cast(selection.NEAR_SCHEMA)


def _pool_places(pool: data.Pool, numbers: Int64) -> pa.Table:
    """Return where the items of the pool with these ``numbers`` are; their shards are read one after the other."""
    wanted, rows = np.unique(numbers, return_inverse=True)
    tables = []
    for shard in pool.shards:
        start, end = np.searchsorted(wanted, [shard.base, shard.base + shard.num_records])
        if start < end:
            positions = wanted[start:end] - shard.base
            tables.append(_places(shard.records(), positions, selection.POOL_SET, shard.number))
    return pa.concat_tables(tables).take(pa.array(rows)) if tables else _places(data.Records.concat([]), wanted, "", 0)


def _held_places(held: Mapping[str, data.Records], numbers: Int64) -> pa.Table:
    """Return where the labeled and test items are that were given these ``numbers``, one set after the other."""
    tables = [_places(records, np.arange(len(records)), name, -1) for name, records in held.items()]
    return pa.concat_tables(tables or [_places(data.Records.concat([]), numbers, "", -1)]).take(pa.array(numbers))


def _places(records: data.Records, rows: Int64, name: str, shard: int) -> pa.Table:
    table = records.take(rows).table.select(_PLACE)
    table = table.append_column("position", pa.array(rows)).append_column("shard", pa.array(np.full(len(rows), shard)))
    return table.append_column("set", pa.array([name] * len(rows), pa.string()))


def _counts(near: selection.NearCopies, *, searched: int, without: int) -> dict[str, Any]:
    """Return the figures of the stage, and say them."""
    items, leaders = near.groups
    counts = {
        "searched": searched,
        "without": without,
        "held": len(near.held),
        "grouped": len(items),
        "groups": len(np.unique(leaders)),
    }
    if without:
        logger.warning(
            "near copies: %d of %d items of the pool were scored before data.near_duplicates was on, and are not "
            "searched; another output_dir scores them again",
            *(without, without + searched),
        )
    if len(items) or counts["held"]:
        logger.info(
            "near copies: %d items of the pool are near to labeled or test items, %d in %d groups to each other",
            *(counts["held"], counts["grouped"], counts["groups"]),
        )
    return counts
