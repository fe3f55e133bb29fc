"""The choose stage: K by what comes of it, the accuracy of a student that is pre-trained with each candidate.

What classifies well need not select well (Fang et al. 2023, arXiv 2309.17425): a selection is judged by what is trained
on it. The students are tested on the labels, of which they have seen none; the test set decides nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import override

from bsssl import storage
from bsssl.config import Section
from bsssl.pipeline.stage import Context, PlanRow, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger

CHOICE, PREDICTIONS = "top_k.json", "predictions.parquet"


@STAGES.register("choose")
@dataclass(frozen=True, kw_only=True, eq=False)
class ChooseStage(Stage[Section]):
    """The choice of K. It needs, of each candidate, the selection as ``selection-NAME`` and the test of the student as
    ``figures-NAME``.

    Of equally accurate students, that which gives the true classes the higher scores decides: few labels make many
    equal. Of equal selections, for the pool has no more, the smaller K.
    """

    kind = "choose"
    outputs = {"choice": (CHOICE,)}

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        return (role.partition("-")[0],)

    @override
    def work(self, run: Context) -> dict[str, Any]:
        candidates = [self._candidate(run, name) for name in self._names]
        if len({one["pairs"] for one in candidates}) < len(candidates):
            logger.warning("candidates for K select equally many samples: the pool has no more, or it is very small")
        best = max(candidates, key=lambda one: (one["top1"], one["true_score"], -one["top_k"]))
        choice = {"top_k": best["top_k"], "candidates": candidates}
        storage.write_json(str(run.folder(self.name) / CHOICE), choice)
        logger.info("seed %d: %s: %s", run.seed, self.name, described(choice))
        return choice

    @override
    def sizes(self, run: Context) -> tuple[Mapping[str, int], str]:
        if run.pending(self.name) is not None:
            return {}, ""
        choice = run.result(self.name)
        return {"top_k": choice["top_k"]}, f"seed {run.seed}: {described(choice)}"

    @override
    def summary(self, run: Context) -> str:
        return described(run.result(self.name))

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{len(self._names)} candidates")

    @property
    def _names(self) -> list[str]:
        """The names of the candidates, in rising order of K."""
        return [role.partition("-")[2] for role in self.needs if role.startswith("figures-")]

    def _candidate(self, run: Context, name: str) -> dict[str, Any]:
        selected, figures = (run.result(self.needs[f"{role}-{name}"]) for role in ("selection", "figures"))
        share = figures["top1"] / 100
        return {
            "top_k": selected["top_k"],
            "pairs": selected["pairs"],
            "top1": figures["top1"],
            "standard_error": 100 * math.sqrt(share * (1 - share) / figures["items"]),
            "true_score": _true_score(run.input(self, f"figures-{name}") / PREDICTIONS),
            "items": figures["items"],
        }


def _true_score(predictions: Path) -> float:
    """Return the mean softmax score of the true class of every item, 0 where it is not among the best five."""
    table = pq.read_table(predictions, columns=["label", "top_classes", "top_scores"]).combine_chunks()
    classes, scores = table["top_classes"], table["top_scores"]
    is_true = pc.equal(pc.list_flatten(classes), table["label"].take(pc.list_parent_indices(classes)))
    return float(np.sum(pc.list_flatten(scores).filter(is_true).to_numpy())) / len(table)


def described(choice: Mapping[str, Any]) -> str:
    """Return the result of a choose stage in a line: K, and each candidate's top-1 with its standard error."""
    candidates = choice["candidates"]
    accuracies = (f"{one['top_k']}: {one['top1']:.1f} ± {one['standard_error']:.1f} %" for one in candidates)
    return f"K = {choice['top_k']}, by top-1 on {candidates[0]['items']} labels: {', '.join(accuracies)}"
