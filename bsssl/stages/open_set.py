"""The open-set stage: the value by which items of the pool are of a class or of none, and the threshold.

Of an item of no class the best softmax score (confidence), the log-sum-exp of the logits (energy) and the cosine of its
features to those of labels (distance) are mostly lower. Where "lower" begins, labels say that no teacher has learned
from.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from bsssl import data, selection, storage
from bsssl.config import Section
from bsssl.engine.distance import Neighbours
from bsssl.engine.score import (
    ShardScores,
    energy_path,
    features_path,
    read_energy,
    read_features,
    score_shard,
)
from bsssl.errors import UserError
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger, progress
from bsssl.selection.open_set import FACTS, values_path
from bsssl.selection.rows import Array, Float32
from bsssl.stages.computing import Execution, class_list, split_records
from bsssl.stages.data import CALIBRATION, POOL, TAUGHT
from bsssl.stages.score import ScoreSettings, Teachers, load_teachers

_BINS = 60
_LEVELS = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)


class OpenSetSettings(Section):
    """What decides the values and the threshold, besides weights, labels and scores."""

    method: str
    keep: float
    scoring: ScoreSettings
    """how the pool was scored, as the labels are seen too"""


@STAGES.register("open_set")
@dataclass(frozen=True, kw_only=True, eq=False)
class OpenSetStage(Stage[OpenSetSettings]):
    """A value for each item of the pool, and the threshold that so many of the held-out labels reach as they should."""

    kind = "open_set"
    outputs = {"open_set": (FACTS,)}
    prepares = True
    resources = Resources(gpu=True)

    execution: Execution

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        reference = (TAUGHT,) if self._by_distance else ()
        return {"data": ("classes", *reference, CALIBRATION, "pool"), "scores": ("scores",)}.get(role, ("weights",))

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, folder = self.settings, run.folder(self.name)
        held, value_of = self._held_out(run)
        threshold = self._threshold(held)
        # Around what the labels have; what lies beyond counts in the last bin on its side.
        margin = max(float(np.ptp(held)), 1e-6)
        edges = np.linspace(held.min() - margin, held.max() + margin, _BINS + 1)
        counts, foreign, scored = np.zeros(_BINS, np.int64), 0, 0
        pool = data.read_pool(str(run.input(self, "data") / POOL))
        for shard in progress(pool.shards, total=len(pool.shards), unit="shards", title="finding what is of no class"):
            scored_shard = self._read(selection.score_path(str(run.input(self, "scores")), shard.number))
            values = value_of(scored_shard)
            selection.write_values(folder, shard.number, _by_position(values, scored_shard, shard.num_records))
            counts += _histogram(values, edges)
            foreign, scored = foreign + int((values < np.float32(threshold)).sum()), scored + len(values)
        figures = {"held_out": len(held), "threshold": threshold, "scored": scored, "foreign": foreign}
        facts = {
            "method": settings.method,
            "keep": settings.keep,
            **figures,
            "quantiles": {str(level): float(np.percentile(held, level)) for level in _LEVELS},
            "histogram": {
                "edges": edges.tolist(),
                "held_out": _histogram(held, edges).tolist(),
                "pool": counts.tolist(),
            },
            "values": storage.digest([str(values_path(folder, shard.number)) for shard in pool.shards]),
        }
        storage.write_json(str(folder / FACTS), facts)
        logger.info(
            "%s: %d of %d items of the pool are of no class: their %s is below %.4g",
            *(self.name, foreign, scored, settings.method, threshold),
        )
        return {**figures, "shards": len(pool.shards)}

    @override
    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        return [FACTS, *(values_path(Path(), number).name for number in range(result["shards"]))]

    @override
    def summary(self, run: Context) -> str:
        result = run.result(self.name)
        return (
            f"{result['foreign']:,} of {result['scored']:,} items of the pool left out as of no class, by their "
            f"{self.settings.method}"
        )

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        rows = f"{sizes['pool']:,}" if "pool" in sizes else "unknown"
        held = f" + {sizes[CALIBRATION]:,}" if CALIBRATION in sizes else ""
        return PlanRow(rows=rows + held)

    @override
    def key_of(self, setting: str) -> str:
        own = setting.removeprefix("scoring.")
        return f"select.open_set.{setting}" if own == setting else f"score.{own}"

    def _threshold(self, held: Float32) -> float:
        """Return the threshold by the values of held-out labels, and say where these are too few for it."""
        threshold = threshold_of(held, keep=self.settings.keep)
        if self.settings.keep < 1 and threshold == held.min():
            logger.warning(
                "%s: %d labels are held out, so few that the threshold is the lowest value of them; more labels, a "
                "larger select.open_set.holdout or a lower select.open_set.keep make it sharper",
                *(self.name, len(held)),
            )
        return threshold

    @property
    def _by_distance(self) -> bool:
        return self.settings.method == "distance"

    def _held_out(self, run: Context) -> tuple[Float32, Callable[[ShardScores], Float32]]:
        """Return the values of the labels that are held out, seen as the pool is, and what gives any item its value.

        Raises:
            UserError: No label can be read, or the value of one is not a number.
        """
        data_folder, scoring = run.input(self, "data"), self.settings.scoring
        teachers = Teachers(
            load_teachers(run, self, scoring, class_list(data_folder)),
            settings=scoring,
            execution=self.execution,
            features=self._by_distance,
        )

        def scored(name: str) -> ShardScores:
            records = split_records(data_folder, name)
            found = score_shard(teachers.say(records), top_p=1, held_hashes=frozenset(), views=teachers.views)
            if not len(found.positions):
                reason = next(iter(found.failures.values()))
                raise UserError(f"{self.name}: none of {len(records)} labels can be read ({reason}); mend them")
            return found

        value_of = _VALUES.get(self.settings.method) or _nearness_to(scored(TAUGHT))
        values = value_of(scored(CALIBRATION))
        check_numbers(values, what=f"{self.name}: the {self.settings.method}")
        return values, value_of

    def _read(self, path: str) -> ShardScores:
        """Return what the teachers said of a shard, as far as the method needs it.

        Raises:
            UserError: The scores are damaged, or come without what the method needs.
        """
        positions, classes, scores = selection.read_sample_scores(path)
        scored = ShardScores(positions, classes, scores, failures={}, held=[], hashes=[], held_hashes=[])
        if not len(positions):  # where nothing can be read, no features are left
            return replace(scored, energy=scores[:, 0], features=scores)
        if self.settings.method == "energy":
            return replace(scored, energy=self._beside(energy_path(path), read_energy(path)))
        if self._by_distance:
            return replace(scored, features=self._beside(features_path(path), read_features(path)))
        return scored

    def _beside(self, path: str, array: Array | None) -> Array:
        """Return what was found at ``path``, beside a score file."""
        if array is None:
            raise UserError(
                f"there is no {path}, which select.open_set.method={self.settings.method} needs: the pool was scored "
                "without it; another output_dir scores it anew, or set select.open_set.method=confidence"
            )
        return array


def _confidence(scored: ShardScores) -> Float32:
    return scored.scores[:, 0]


def _energy(scored: ShardScores) -> Float32:
    assert scored.energy is not None  # networks have logits, and files were looked for
    return scored.energy


def _nearness_to(taught: ShardScores) -> Callable[[ShardScores], Float32]:
    """Return what gives items their nearness to those that were taught."""
    assert taught.features is not None
    neighbours = Neighbours(taught.features)

    def nearness(scored: ShardScores) -> Float32:
        assert scored.features is not None
        return neighbours.nearness(scored.features)

    return nearness


_VALUES: Mapping[str, Callable[[ShardScores], Float32]] = {"confidence": _confidence, "energy": _energy}


def _by_position(values: Float32, scored: ShardScores, num_records: int) -> Float32:
    """Return a value for each item of a shard, NaN where it has no score."""
    everyone = np.full(num_records, np.nan, np.float32)
    everyone[scored.positions] = values
    return everyone


def check_numbers(values: Array, *, what: str) -> None:
    """Refuse values of labels that are not finite; ``what`` is what they are called.

    Raises:
        UserError: There are some.
    """
    if broken := int((~np.isfinite(values)).sum()):
        raise UserError(
            f"{what} of {broken} of {len(values)} held-out labels is not a number; the weights of the teacher are "
            "broken, or try system.precision=float32"
        )


def threshold_of(values: Array, *, keep: float) -> float:
    """Return the highest threshold that a share ``keep`` of the values, or more, is at or above."""
    least = math.ceil(round(keep * len(values), 9))  # 0.95 of 20 are 19, whatever floats say
    return float(np.sort(values)[len(values) - max(1, least)])


def _histogram(values: Array, edges: Array) -> Array:
    counted: Array = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return counted
