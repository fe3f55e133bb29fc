"""The stage of given scores: what another tool said of the pool, in the place of a teacher."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from bsssl import data, selection, storage
from bsssl.config import Section
from bsssl.engine.score import ShardScores, save_shard
from bsssl.pipeline.stage import Context, PlanRow, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger
from bsssl.stages.card import last_part, plain
from bsssl.stages.computing import class_list
from bsssl.stages.data import POOL

_NONE = "no scores were given"


class GivenSettings(Section):
    """What decides the scores, besides the file and the pool."""

    given: str
    top_p: int


@STAGES.register("given")
@dataclass(frozen=True, kw_only=True, eq=False)
class GivenStage(Stage[GivenSettings]):
    """The scores of a Parquet file as score files, one for each shard of the pool."""

    kind = "given"
    outputs = {"scores": ()}
    inputs = {"data": ("classes", "pool")}

    @override
    def work(self, run: Context) -> dict[str, Any]:
        data_folder, folder, settings = run.input(self, "data"), str(run.folder(self.name)), self.settings
        pool, classes = data.read_pool(str(data_folder / POOL)), class_list(data_folder)
        teacher = storage.digest([settings.given])
        records = [shard.records() for shard in pool.shards]
        keys = pa.concat_tables(part.table for part in records)["key"]
        rows, best, scores = selection.read_parquet(
            settings.given, keys=keys, class_names=classes, top_p=settings.top_p
        )
        for shard, part in zip(pool.shards, records, strict=True):
            mine = slice(*np.searchsorted(rows, [shard.base, shard.base + shard.num_records]))
            positions = rows[mine] - shard.base
            missing = np.setdiff1d(np.arange(shard.num_records), positions).tolist()
            scored = ShardScores(
                positions,
                best[mine].astype(np.int32),
                scores[mine],
                failures=dict.fromkeys(missing, _NONE),
                held=[],
                hashes=[],
                held_hashes=[],
            )
            header = selection.ScoreHeader(
                teacher=teacher,
                class_names=tuple(classes),
                top_p=settings.top_p,
                num_shards=len(pool.shards),
                shard=shard.name,
                number=shard.number,
                base=shard.base,
                num_records=shard.num_records,
                records=shard.digest,
            )
            save_shard(selection.score_path(folder, shard.number), scored, header=header, records=part)
        without = pool.num_records - len(rows)
        if without:
            logger.warning("%s has no scores of %d of the pool's %d items", settings.given, without, pool.num_records)
        return {"records": pool.num_records, "scored": len(rows), "shards": len(pool.shards)}

    @override
    def outside(self) -> dict[str, Any]:
        return {"given": storage.state(self.settings.given)}

    @override
    def key_of(self, setting: str) -> str:
        return f"score.{setting}"

    @override
    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        return [Path(selection.score_path("", number)).name for number in range(result["shards"])]

    @override
    def digest(self, run: Context, output: str) -> str:
        return storage.digest(selection.score_files(str(run.folder(self.name))))

    @override
    def summary(self, run: Context) -> str:
        settings = self.settings
        return f"scores of another tool, {plain(last_part(settings.given))}, P = {settings.top_p}"

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{sizes['pool']:,}" if "pool" in sizes else "unknown")
