"""The accuracy of a trained network over the seeds of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import Self

from bsssl.pipeline.run import Run


@dataclass(frozen=True)
class Accuracy:
    """The figures of one network on the test set, or a difference of two networks; percent, to two digits."""

    means: Mapping[str, float]
    """means over the seeds of ``top1``, ``top5``, ``ece`` and the metrics that the config adds; where items have
    several views, also of ``clip_top1``, ``clip_top5``, ``video_top1`` and ``video_top5``"""
    per_seed: tuple[float, ...]
    """top-1 of every seed"""
    std: float | None = None
    """the standard deviation of top-1 over the seeds; None for a single seed"""

    @classmethod
    def of(cls, top1: Sequence[float], means: Mapping[str, float] | None = None) -> Self:
        """Return the accuracy with a value of top-1 per seed and the ``means``, by default that of top-1 alone."""
        rounded = {name: round(value, 2) for name, value in (means or {"top1": float(np.mean(top1))}).items()}
        std = round(float(np.std(top1, ddof=1)), 2) if len(top1) > 1 else None
        return cls(rounded, tuple(round(float(value), 2) for value in top1), std)

    @property
    def top1(self) -> float:
        """The mean of top-1 over the seeds."""
        return self.means["top1"]

    def cell(self, *, sign: str = "") -> str:
        """Return top-1 and, of several seeds, its spread, as a table shows them; ``sign="+"`` for a difference."""
        return f"{self.top1:{sign}.1f}" + ("" if self.std is None else f" ± {self.std:.1f}")

    def csv_cells(self) -> list[Any]:
        """Return top-1 and its spread, which is empty for a single seed."""
        return [self.top1, "" if self.std is None else self.std]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as the JSON files of results have them."""
        return {**self.means, **({} if self.std is None else {"std": self.std}), "per_seed": list(self.per_seed)}


def measured(runs: Sequence[Run], stage: str) -> Accuracy:
    """Return the accuracy of the trained ``stage`` of finished ``runs``, one for each seed."""
    results = [run.result(f"evaluate-{stage}") for run in runs]
    figures = [name for name, value in results[0].items() if isinstance(value, float) or name == "missing"]
    means = {name: float(np.mean([result[name] for result in results])) for name in figures}
    return Accuracy.of([result["top1"] for result in results], means)
