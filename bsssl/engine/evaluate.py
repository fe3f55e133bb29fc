"""Accuracy and calibration on a held-out set."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from bsssl.engine.predict import Prediction
from bsssl.errors import UserError
from bsssl.registry import METRICS

ECE_BINS = 15
_IN_TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """How a network did on a test set of N items and C classes."""

    top1: float
    """percent; missing items count as wrong, in top5 and per_class too"""
    top5: float
    """percent; of the best min(5, C) classes"""
    ece: float
    """expected calibration error, percent, of readable items: 15 equal bins of confidence (Guo et al. 2017)"""
    per_class: np.ndarray
    """top-1 per true class, percent, float64 (C,); NaN where a class has no test item"""
    confusion: np.ndarray
    """counts of the items that could be read, int64 (C, C): true class x predicted class"""
    probabilities: np.ndarray
    """mean softmax over an item's views, float32 (N, C); 0 for missing items"""
    views: int = 1
    """how many views of each item were averaged"""
    view_top1: float = math.nan
    """percent of single views; set by ``evaluate`` alone, like ``view_top5``"""
    view_top5: float = math.nan
    missing: dict[int, str] = field(default_factory=dict)
    """why items could not be read, by row"""
    further: dict[str, float] = field(default_factory=dict)
    """figures of metrics that the config adds, by name"""

    def summary(self, *, item: str = "item", view: str = "view") -> dict[str, float | int]:
        """Return the figures that fit in one line.

        Where items have several views, the accuracy of single views stands beside that of their mean, each named after
        what it is of: ``video_top1`` (the same as ``top1``) and ``clip_top1``. Of five classes or fewer there is no
        top-5, of which everything is.
        """
        figures = {"top1": self.top1, "top5": self.top5, "ece": self.ece, **self.further}
        figures["items"] = len(self.probabilities)
        figures["missing"] = len(self.missing)
        if self.views > 1:
            figures |= {f"{item}_top1": self.top1, f"{item}_top5": self.top5}
            figures |= {f"{view}_top1": self.view_top1, f"{view}_top5": self.view_top5, f"{view}s": self.views}
        few = self.probabilities.shape[1] <= _IN_TOP
        return {name: value for name, value in figures.items() if not (few and name.endswith(f"top{_IN_TOP}"))}


def evaluate(
    predictions: Iterable[Prediction],
    *,
    targets: np.ndarray,
    num_classes: int,
    views: int,
    keys: list[str],
    max_missing_rate: float = 0.0,
    metrics: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Evaluation:
    """Average each item's softmax over its views and compare with the truth.

    Args:
        predictions: The predictions for every view of every item, in any order.
        targets: The true class of each item, int64 (N,).
        num_classes: The number of classes, C.
        views: How many views each item has.
        keys: The items' names, for the error.
        max_missing_rate: The share of the items that may be unreadable; they count as wrong, since a smaller
            denominator would flatter the result.
        metrics: The options of further metrics by their names in ``METRICS``.

    Raises:
        UserError: More items than that could not be read, one lacks a view or has one twice, or the network's scores
            are not numbers.
    """
    total = np.zeros((len(targets), num_classes), np.float32)
    seen = np.zeros((len(targets), views), np.int64)
    reasons: dict[int, str] = {}
    view_ranks = []
    for prediction in predictions:
        if len(prediction.index):
            view_ranks.append(_ranks(prediction.probabilities, targets[prediction.index]))
            np.add.at(total, prediction.index, prediction.probabilities)
            np.add.at(seen, (prediction.index, prediction.view), 1)
        reasons.update((failure.index, failure.reason) for failure in prediction.failures)
    incomplete = (seen != 1).any(1)
    missing = np.flatnonzero(incomplete)
    lost = incomplete & ~np.isin(np.arange(len(targets)), list(reasons))
    if lost.any() or len(missing) > max_missing_rate * len(targets) or incomplete.all():
        examples = "; ".join(f"{keys[row]}: {reasons.get(int(row), 'no result')}" for row in missing[:5])
        raise UserError(
            f"{len(missing)} of {len(targets)} test items have no complete result ({examples}); mend them, take them "
            "out of data.test, or raise data.max_missing_rate to have them count as wrong"
        )
    broken = np.flatnonzero(~np.isfinite(total).all(1))
    if len(broken):
        raise UserError(
            f"the network's scores are not numbers for {len(broken)} of {len(targets)} test items (first: "
            f"{keys[broken[0]]}); its weights are broken, or system.precision is too low: try float32"
        )
    ranks = np.concatenate(view_ranks) if view_ranks else np.zeros(0, np.int64)
    mean = total / views
    return replace(
        measure(mean, targets, missing={int(row): reasons[int(row)] for row in missing}),
        views=views,
        view_top1=100 * float((ranks < 1).sum() / seen.size),
        view_top5=100 * float((ranks < _IN_TOP).sum() / seen.size),
        further={
            name: float(METRICS.build(name, options, probabilities=mean, targets=targets))
            for name, options in metrics.items()
        },
    )


def measure(
    probabilities: np.ndarray, targets: np.ndarray, *, missing: Mapping[int, str] = MappingProxyType({})
) -> Evaluation:
    """Return the figures for ``probabilities``, float32 (N, C), and true classes ``targets``, int64 (N,).

    Items in ``missing`` (row, reason) have no probabilities.
    """
    from sklearn.metrics import confusion_matrix  # takes seconds, and most stages do without

    num_classes = probabilities.shape[1]
    there = ~np.isin(np.arange(len(targets)), list(missing))
    rank = np.where(there, _ranks(probabilities, targets), num_classes)
    confusion = confusion_matrix(targets[there], probabilities[there].argmax(1), labels=np.arange(num_classes))
    with np.errstate(invalid="ignore"):
        per_class = 100 * confusion.diagonal() / np.bincount(targets, minlength=num_classes)
    return Evaluation(
        top1=100 * float((rank < 1).mean()),
        top5=100 * float((there & (rank < _IN_TOP)).mean()),
        ece=100 * _calibration_error(probabilities[there].max(1), rank[there] < 1),
        per_class=per_class,
        confusion=confusion,
        probabilities=probabilities,
        missing=dict(missing),
    )


def _ranks(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return how many classes are ahead of the true one; of equal scores the lower index goes first, as in argmax."""
    true_score = probabilities[np.arange(len(targets)), targets]
    ahead = (probabilities > true_score[:, None]) | (
        (probabilities == true_score[:, None]) & (np.arange(probabilities.shape[1]) < targets[:, None])
    )
    ranks: np.ndarray = ahead.sum(1)
    return ranks


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence.astype(np.float64), minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
