"""What comes first on the page: whether the student gained, how sure that is, and what it was trained on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bsssl.recipes.names import evaluation
from bsssl.recipes.reproduction.verdicts import judge
from bsssl.reports.page.opening import Opened
from bsssl.reports.recipe import selecting, tested_stages, title_of
from bsssl.stages.choose import PREDICTIONS

_NORMAL = 1.96  # of a two-sided interval of 95 %
_FEWEST_SEEDS = 3  # for an interval of Student's t


@dataclass(frozen=True)
class Gain:
    """The gain of the fine-tuned student over the one trained on the labels alone, in points of top-1."""

    mean: float
    half: float | None
    """half the width of the interval of 95 % around the mean"""
    how: str
    """where the interval comes from"""

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        if self.half is None or (abs(self.mean) <= self.half):
            return "The run does not decide whether the student gained."
        return "The student gained." if self.mean > 0 else "The student lost."

    @property
    def text(self) -> str:
        """The gain with its interval."""
        interval = "" if self.half is None else f" ({self.mean - self.half:+.1f} to {self.mean + self.half:+.1f})"
        return f"{self.mean:+.1f} points{interval}"


def networks(run: Opened) -> list[dict[str, Any]]:
    """Return a row for every network: its title, mean and deviation, top-1 of every seed, and further figures.

    What is not done yet is None.
    """
    rows = []
    for role, stage in tested_stages(run.config, run.shown).items():
        results = [run.result(evaluation(stage, run.test), one) for one in run.runs]
        there = [one for one in results if one is not None]
        top1 = [one["top1"] for one in there]
        rows.append(
            {
                "role": role,
                "title": title_of(role),
                "mean": float(np.mean(top1)) if top1 else None,
                "std": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
                "seeds": [None if one is None else one["top1"] for one in results],
                **{name: _mean([one[name] for one in there if name in one]) for name in ("top5", "ece")},
            }
        )
    return rows


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def gain(run: Opened) -> Gain | None:
    """Return the gain, with the interval that the seeds allow for; None while a network is not tested."""
    names = [evaluation(name, run.test) for name in _pair(run)]
    done = [one for one in run.runs if all(run.result(name, one) is not None for name in names)]
    if len(names) < 2 or not done:
        return None
    before, after = (np.array([(run.result(name, one) or {})["top1"] for one in done]) for name in names)
    if len(done) >= _FEWEST_SEEDS:
        items = (run.result(names[0], done[0]) or {})["items"]
        verdict = judge(after - before, one_item=100 / items)
        return Gain(
            float(np.mean(after - before)),
            verdict.half,
            f"Student's t over {len(done)} seeds, which share one test set; no narrower than one test item",
        )
    per_item = [[_is_right(one.folder(name) / PREDICTIONS) for name in names] for one in done]
    differences = 100 * np.mean([after.astype(float) - before for before, after in per_item], axis=0)
    half = _NORMAL * float(np.std(differences)) / math.sqrt(len(differences))
    seeds = "one seed" if len(done) == 1 else f"{len(done)} seeds"
    return Gain(
        float(np.mean(differences)),
        max(half, 100 / len(differences)),
        f"paired over the {len(differences):,} test items of {seeds} (as McNemar's test; it says nothing of other "
        f"draws of labels: for that take {_FEWEST_SEEDS} seeds or more)",
    )


def facts(run: Opened) -> list[tuple[str, str]]:
    """Return what the networks were trained and tested on."""
    data, chosen = run.result("data") or {}, run.result(selecting(run.shown, run.config.rounds).name)
    lines = [
        ("tested on", f"{data[run.test]:,} items" if run.test in data else ""),
        ("labels", f"{data['labeled']:,} of {data['classes']:,} classes" if data.get("labeled") else ""),
        ("pool", f"{data['pool']:,} items without labels" if "pool" in data else ""),
    ]
    if chosen is not None:
        right = "" if chosen.get("precision") is None else f", {chosen['precision']:.1f} % of them right"
        lines.append(
            ("selected", f"{chosen['pairs']:,} pairs of an item and a class, {chosen['samples']:,} items in all{right}")
        )
    lines.append(("seeds", ", ".join(str(one.seed) for one in run.runs)))
    return [(name, text) for name, text in lines if text]


def warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the accuracies of ``networks`` should make one doubt."""
    means = {row["role"]: row["mean"] for row in rows if row["mean"] is not None}
    teacher, student = means.get("teacher"), means.get("supervised")
    if teacher is None or student is None or teacher > student:
        return []
    return [
        f"The teacher ({teacher:.1f} %) is no better than the student that is trained on the labels alone "
        f"({student:.1f} %): it has little to teach. A larger or pre-trained teacher would help more than a larger "
        "pool."
    ]


def _pair(run: Opened) -> list[str]:
    stages = tested_stages(run.config, run.shown)
    return [stages[role] for role in ("supervised", "finetuned") if role in stages]


def _is_right(path: Path) -> np.ndarray:
    table = pq.read_table(path, columns=["label", "predicted"])
    return np.asarray(pc.fill_null(pc.equal(table["label"], table["predicted"]), False).to_numpy(), bool)
