"""The accuracy of a trained network over the seeds of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from typing_extensions import Self

from bsssl.pipeline.run import Run
from bsssl.recipes.names import evaluation


@dataclass(frozen=True)
class Accuracy:
    """The figures of one network on the test set, or a difference of two networks; percent, to two digits.

    Of several test sets these are the figures of the first, and ``others`` has those of the rest.
    """

    means: Mapping[str, float]
    """means over the seeds of ``top1``, ``ece``, the metrics that the config adds and, of more than five classes,
    ``top5``; where items have several views, also of ``clip_top1``, ``video_top1`` and so on"""
    per_seed: tuple[float, ...]
    """top-1 of every seed"""
    std: float | None = None
    """the standard deviation of top-1 over the seeds; None for a single seed"""
    items: int | None = None
    """how many test items it rests on; None of a difference"""
    test: str = ""
    """the name of the test set, where there are several"""
    others: Mapping[str, "Accuracy"] = field(default_factory=dict)
    """the figures on the other test sets, by name"""

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

    @property
    def each(self) -> "tuple[Accuracy, ...]":
        """The figures on every test set."""
        return self, *self.others.values()

    def cell(self, *, sign: str = "") -> str:
        """Return top-1 and, of several seeds, its spread, as a table shows them; ``sign="+"`` for a difference."""
        return " / ".join(
            f"{one.top1:{sign}.1f}" + ("" if one.std is None else f" ± {one.std:.1f}") for one in self.each
        )

    def mean_cell(self, figure: str) -> str:
        """Return the mean of another figure than top-1, as a table shows it."""
        return " / ".join(f"{one.means[figure]:.1f}" for one in self.each)

    def titled(self, title: str) -> str:
        """Return the title of a column, which names the test sets where there are several or it is a holdout."""
        names = " / ".join(one.test for one in self.each)
        return title if names in ("", "test") else f"{title} ({names})"

    def tested_on(self) -> str:
        """Return how many items there are in each test set, as in "360 test items"."""
        sizes = [f"{one.items:,}" + (f" of {one.test}" if self.others else "") for one in self.each]
        return f"{', '.join(sizes)} test items"

    def csv_header(self, title: str) -> list[str]:
        """Return the titles of ``csv_cells``."""
        names = [title, *(f"{title} {name}" for name in self.others)]
        return [f"{name} {part}" for name in names for part in ("top1", "std")]

    def csv_cells(self) -> list[Any]:
        """Return top-1 and its spread, which is empty for a single seed, on every test set."""
        return [cell for one in self.each for cell in (one.top1, "" if one.std is None else one.std)]

    def minus(self, other: "Accuracy") -> "Accuracy":
        """Return the differences to another network, seed by seed."""
        differences = Accuracy.of(np.subtract(self.per_seed, other.per_seed).tolist())
        return replace(
            differences,
            test=self.test,
            others={name: one.minus(other.others[name]) for name, one in self.others.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as the JSON files of results have them."""
        given = {"std": self.std, "items": self.items}
        known = {name: value for name, value in given.items() if value is not None}
        figures = {**self.means, **known, "per_seed": list(self.per_seed)}
        others = {name: one.to_dict() for name, one in self.others.items()}
        return figures | ({"test": self.test, "other_tests": others} if others else {})


def measured(runs: Sequence[Run], stage: str, tests: Sequence[str] = ("test",)) -> Accuracy:
    """Return the accuracy of the trained ``stage`` of finished ``runs``, one for each seed.

    ``tests`` are the test sets, as ``LabeledData.tests`` calls them.
    """
    first, *others = [replace(_measured(runs, stage, test), test=test.removeprefix("test-")) for test in tests]
    return replace(first, others={one.test: one for one in others})


def _measured(runs: Sequence[Run], stage: str, test: str) -> Accuracy:
    results = [run.result(evaluation(stage, test)) for run in runs]
    figures = [name for name, value in results[0].items() if isinstance(value, float) or name == "missing"]
    means = {name: float(np.mean([result[name] for result in results])) for name in figures}
    return replace(Accuracy.of([result["top1"] for result in results], means), items=results[0]["items"])
