"""The select stage: the student's training set from the scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from bsssl import selection
from bsssl.config import Section
from bsssl.pipeline.stage import Context, PlanRow, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger, progress
from bsssl.stages.computing import class_list, first_counts, split_records

SELECTION = "selection.parquet"


class SelectSettings(Section):
    """What decides a selection, besides the scores."""

    top_k: int
    """K of this round"""
    variant: str = "balanced"
    variant_options: dict[str, Any] = {}
    min_score: float = 0.0
    seed: int


@STAGES.register("select")
@dataclass(frozen=True, kw_only=True, eq=False)
class SelectStage(Stage[SelectSettings]):
    """The choice of the samples that the student is pre-trained on."""

    kind = "select"
    outputs = {"selection": (SELECTION,)}
    inputs = {"scores": ("scores",)}

    knows_truth: str | None = None
    """the data stage, where every item of the pool has a label that was set aside: its precision is then reported"""

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, path = self.settings, str(run.folder(self.name) / SELECTION)
        chosen = selection.select_samples(
            selection.score_files(str(run.input(self, "scores"))),
            top_k=settings.top_k,
            variant=settings.variant,
            options=settings.variant_options,
            min_score=settings.min_score,
            seed=settings.seed,
            progress=progress,
        )
        selection.write_selection(path, chosen, progress=progress)
        summary, short = chosen.summary(), chosen.short_classes()
        if short:
            logger.warning(
                "%d classes have fewer than K = %d samples: %s", len(short), settings.top_k, first_counts(short)
            )
        if chosen.dropped:
            logger.info("%d pairs fewer than without select.min_score = %g", chosen.dropped, settings.min_score)
        truth = None if self.knows_truth is None else run.folder(self.knows_truth)
        return {
            "pairs": summary["pairs"],
            "samples": summary["samples"],
            "short_classes": len(short),
            "dropped": chosen.dropped,
            "precision": None if truth is None else _precision(selection.read_selection(path), truth),
        }

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=selected(run, self.name, sizes))


def selected(run: Context, name: str, sizes: Mapping[str, int]) -> str:
    """Return how many pairs stage ``name`` has selected, or copied; at most how many where it has not yet."""
    pairs = run.result(name).get("pairs") if run.pending(name) is None else None
    if pairs is not None:
        return f"{pairs:,}"
    chosen = run.stage(name)
    while not isinstance(chosen, SelectStage) and "selection" in chosen.needs:
        chosen = run.stage(chosen.needs["selection"])
    if "classes" not in sizes or not isinstance(chosen, SelectStage):
        return "unknown"
    return f"at most {sizes['classes'] * chosen.settings.top_k:,}"


def _precision(chosen: selection.Selected, data_folder: Path) -> float | None:
    """Return the percentage of the pairs whose class is the true one, for reporting alone.

    None where items that never had a label were selected.
    """
    rest = split_records(data_folder, "rest")
    truth = dict(zip(rest.key.to_pylist(), rest.label.to_pylist(), strict=True))
    classes = class_list(data_folder)
    pairs = list(zip(chosen.key.to_pylist(), chosen.class_index.to_pylist(), strict=True))
    if not all(key in truth for key, _ in pairs):
        return None
    return 100 * float(np.mean([truth[key] == classes[index] for key, index in pairs]))
