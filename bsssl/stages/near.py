"""The near stage: which items of the pool are near copies of labeled and test items, and of each other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from typing_extensions import override

from bsssl import data, selection, storage
from bsssl.config import Model, Section
from bsssl.engine.features import extract
from bsssl.engine.near import Features, Looks, Nearest, Search, sampled
from bsssl.engine.score import read_features, read_looks
from bsssl.engine.train import Failures
from bsssl.models import classifier
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage, identifying
from bsssl.registry import STAGES
from bsssl.runtime.console import logger, progress
from bsssl.runtime.device import Compute
from bsssl.selection.rows import Array, Int64
from bsssl.selection.scores import ScoreFile
from bsssl.stages.computing import Execution, class_list, normalize, split_records, trained_model
from bsssl.stages.data import POOL
from bsssl.stages.seen import TestView

NEAR = "near.parquet"
_KEYS = {"method": "data.near_duplicates", "cosine": "data.near_cosine"}
_PLACE = ["key", "path", "offset", "size"]
MOST_IN_POOL = 20_000_000
"""items of a pool that are compared with each other; of 330 bytes each, where memory holds them all"""


class NearSettings(Section):
    """What decides which items are near copies, besides what lies beside the score files."""

    seen: TestView
    """how the teacher sees the pool, which looks and features are of"""
    held: bool = True
    """whether near copies of labeled and test items are looked for"""
    method: Literal["off", "hash", "features"] = "hash"
    """what is compared, if anything is"""
    cosine: float = 0.95
    """from which features are near"""
    model: Model | None = None
    """the network whose features are compared"""
    precision: str = "float32"
    """in which it computes them"""


@dataclass
class _Links:
    """Items of the pool, by their numbers in it, and what each is near to, by the number that the search gave it."""

    columns: tuple[list[Int64], list[Int64], list[Array]] = field(default_factory=lambda: ([], [], []))
    """items, numbers and distances"""
    searched: int = 0
    """how many items were compared"""

    def add(self, items: Int64, nearest: Nearest) -> None:
        """Add those of ``items``, all of which were compared, that are near to something."""
        self.searched += len(items)
        rows = np.flatnonzero(nearest.number >= 0)
        for column, values in zip(self.columns, (items, nearest.number, nearest.distance), strict=True):
            column.append(values[rows])


@STAGES.register("near")
@dataclass(frozen=True, kw_only=True, eq=False)
class NearStage(Stage[NearSettings]):
    """The near copies in the pool, by the looks or the features that were left when it was scored."""

    kind = "near"
    outputs = {"near": (NEAR,)}
    prepares = True
    joined_later = True

    execution: Execution
    tests: tuple[str, ...] = ()
    """the outputs of the data stage that hold test items"""

    @property
    @override
    def resources(self) -> Resources:
        return Resources(gpu=self.settings.method == "features")

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        if role == "data":
            classes = ("classes",) if self.settings.method == "features" else ()
            return ("pool", *classes, *self._held_sets())
        return ("scores",) if role == "scores" else ("weights",)

    @override
    def work(self, run: Context) -> dict[str, Any]:
        folder = run.input(self, "data")
        pool = data.read_pool(str(folder / POOL))
        held = {name: split_records(folder, name) for name in self._held_sets()}
        to_pool, to_held, numbers, without = self._links(run, pool, held)
        near = pa.concat_tables(
            [
                _table(pool, to_pool, lambda found: _pool_places(pool, numbers[found])),
                _table(pool, to_held, lambda found: _held_places(held, found)),
            ]
        )
        with storage.atomic_write(str(run.folder(self.name) / NEAR)) as output:
            pq.write_table(near, output, compression="zstd")
        counts = _counts(
            selection.NearCopies(near), searched=to_held.searched, without=without, method=self.settings.method
        )
        return {**counts, "method": self.settings.method}

    def _links(
        self, run: Context, pool: data.Pool, held: Mapping[str, data.Records]
    ) -> tuple[_Links, _Links, Int64, int]:
        """Return the links within the pool and to what is held, the numbers of the items that were searched within the
        pool, and how many could not be searched at all."""
        to_pool, to_held, numbers, without = _Links(), _Links(), [np.zeros(0, np.int64)], 0
        if self.settings.method == "off":
            return to_pool, to_held, numbers[0], 0
        paths = [selection.score_path(str(run.input(self, "scores")), shard.number) for shard in pool.shards]
        in_pool = pool.num_records <= MOST_IN_POOL
        known, leaders = self._of_held(run, held), self._of_pool(paths if in_pool else [], count=pool.num_records)
        shards = zip(pool.shards, paths, strict=True)
        for shard, path in progress(shards, total=len(paths), unit="shards", title="searching near copies"):
            compared, items = self._left_by_scoring(path), shard.base + ScoreFile(path).samples()["position"].to_numpy()
            if compared is None:
                without += len(items)
                continue
            to_held.add(items, known.nearest(compared))
            if in_pool:
                numbers.append(items)
                to_pool.add(items, leaders.join(compared))
        if to_held.searched and not in_pool:
            logger.warning(
                "near copies: of %d items of the pool those near to labeled and test items are looked for, not those "
                "near to each other, as of %d at most; data.pool_fraction takes a part of them",
                *(pool.num_records, MOST_IN_POOL),
            )
        return to_pool, to_held, np.concatenate(numbers), without

    @override
    def summary(self, run: Context) -> str:
        counts = run.result(self.name)
        if not counts["searched"]:
            return ""
        return (
            f"{counts['held']:,} items of the pool near to labeled or test items, and {counts['groups']:,} groups of "
            f"{counts['grouped']:,} that are near to each other"
        )

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{sizes['pool']:,}" if "pool" in sizes else "unknown")

    @override
    def settings_of(self, outputs: Iterable[str]) -> Any:
        # Of the others the data and the score stage's settings say the same.
        return {key: value for key, value in identifying(self.settings).items() if key in _KEYS}

    @override
    def key_of(self, setting: str) -> str:
        name, *rest = setting.split(":", 1)
        return ":".join([_KEYS.get(name, name), *rest])

    def _held_sets(self) -> tuple[str, ...]:
        return ("labeled", *self.tests) if self.settings.held and self.settings.method != "off" else ()

    def _left_by_scoring(self, path: str) -> Array | None:
        """Return what is compared of each sample of a score file; None where nothing was left."""
        return read_features(path) if self.settings.method == "features" else read_looks(path)

    def _of_pool(self, paths: Sequence[str], *, count: int) -> Search:
        """Return a search for the ``count`` items of the pool, which finds none as yet."""
        if self.settings.method != "features":
            return Looks()
        step = max(1, count // sampled(count) if sampled(count) else count)
        sample, there = [np.zeros((0, 1), np.float16)], 0
        for features in filter(_is_there, map(read_features, paths)):
            sample.append(features[::step])
            there += len(features)
        return Features(np.concatenate(sample[1:] or sample), count=there, cosine=self.settings.cosine)

    def _of_held(self, run: Context, held: Mapping[str, data.Records]) -> Search:
        """Return a search that finds labeled and test items, numbered one set after the other."""
        title = f"seed {run.seed}: {self.name}"
        if self.settings.method != "features":
            known: Search = Looks()
            for name, records in held.items():
                known.add(self._looks_of(records, title=f"{title}, {name}"))
            return known
        features = self._features_of(run, data.Records.concat([*held.values()]), title=title)
        known = Features(features, count=len(features), cosine=self.settings.cosine)
        known.add(features)
        return known

    def _features_of(self, run: Context, records: data.Records, *, title: str) -> Array:
        """Return the features of items, float32 (rows, D), 0 of what cannot be read; without rows if nothing can."""
        settings, execution = self.settings, self.execution
        assert settings.model is not None  # the recipe sees to it
        if not len(records):
            return np.zeros((0, 1), np.float32)
        classes, compute = class_list(run.input(self, "data")), execution.compute(settings.precision)
        network = compute.place_model(trained_model(run.input(self, "teacher"), settings.model, classes))
        views = settings.seen.views(deadline=execution.deadline)
        extracted, rows = extract(
            network,
            classifier(network)[1],
            execution.eval_loader(data.ItemDataset(records, views=views), views, compute, title=title),
            rows=len(records),
            normalize=normalize(settings.seen.transforms, compute),
            compute=compute,
            failures=Failures(rows=len(records), max_rate=1.0),
        )
        features = np.zeros((len(records) if len(rows) else 0, extracted.shape[1]), np.float32)
        features[rows.numpy()] = extracted.cpu().numpy()
        return features

    def _looks_of(self, records: data.Records, *, title: str) -> Array:
        """Return the looks of labeled or test items, uint8 (rows, 32); of what cannot be read there is none."""
        looks = np.tile(np.frombuffer(data.NO_LOOK, np.uint8), (len(records), 1))
        views, compute = self.settings.seen.views(deadline=self.execution.deadline), Compute(torch.device("cpu"))
        dataset = data.ItemDataset(records, views=views, looks=True)
        for batch in self.execution.eval_loader(dataset, views, compute, title=title):
            for row, look in zip(batch.get("index", []), batch.get("look", []), strict=True):
                looks[int(row)] = np.frombuffer(look, np.uint8)
        return looks


def _is_there(features: Array | None) -> TypeGuard[Array]:
    return features is not None


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


def _counts(near: selection.NearCopies, *, searched: int, without: int, method: str) -> dict[str, Any]:
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
            "near copies: %d of %d items of the pool were scored without data.near_duplicates=%s, and are not "
            "searched; another output_dir scores them again",
            *(without, without + searched, method),
        )
    if len(items) or counts["held"]:
        logger.info(
            "near copies: %d items of the pool are near to labeled or test items, %d in %d groups to each other",
            *(counts["held"], counts["grouped"], counts["groups"]),
        )
    return counts
