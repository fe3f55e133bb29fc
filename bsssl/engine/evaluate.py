"""Accuracy and calibration on a held-out set."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix

from bsssl.engine.predict import Prediction
from bsssl.registry import UserError

ECE_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """How a network did on a test set of N items and C classes."""

    top1: float
    """percent"""
    top5: float
    """percent; of the best min(5, C) classes"""
    ece: float
    """expected calibration error, percent: 15 equal bins of confidence (Guo et al. 2017)"""
    per_class: np.ndarray
    """top-1 per true class, percent, float64 (C,); NaN where a class has no test item"""
    confusion: np.ndarray
    """counts, int64 (C, C): true class x predicted class"""
    probabilities: np.ndarray
    """mean softmax over an item's views, float32 (N, C)"""

    def summary(self) -> dict[str, float | int]:
        """The figures that fit in one line."""
        return {"top1": self.top1, "top5": self.top5, "ece": self.ece, "items": len(self.probabilities)}


def evaluate(
    predictions: Iterable[Prediction], *, targets: np.ndarray, num_classes: int, views: int, keys: list[str]
) -> Evaluation:
    """Average each item's softmax over its views and compare with the truth.

    Args:
        predictions: of every view of every item, in any order.
        targets: true class of each item, int64 (N,).
        num_classes: C.
        views: how many views each item has.
        keys: the items' names, for the error.

    Raises UserError when an item could not be read, lacks a view or has one twice (a smaller denominator would flatter
    the result), or when the network's scores are not numbers.
    """
    total = np.zeros((len(targets), num_classes), np.float32)
    seen = np.zeros((len(targets), views), np.int64)
    reasons: dict[int, str] = {}
    for prediction in predictions:
        if len(prediction.index):
            np.add.at(total, prediction.index, prediction.probabilities)
            np.add.at(seen, (prediction.index, prediction.view), 1)
        reasons.update((failure.index, failure.reason) for failure in prediction.failures)
    missing = np.flatnonzero((seen != 1).any(1))
    if len(missing):
        some = "; ".join(f"{keys[row]}: {reasons.get(int(row), 'no result')}" for row in missing[:5])
        raise UserError(
            f"{len(missing)} of {len(targets)} test items have no complete result ({some}); mend them or take them out "
            "of data.test"
        )
    broken = np.flatnonzero(~np.isfinite(total).all(1))
    if len(broken):
        raise UserError(
            f"the network's scores are not numbers for {len(broken)} of {len(targets)} test items (first: "
            f"{keys[broken[0]]}); its weights are broken, or system.precision is too low: try float32"
        )
    return measure(total / views, targets)


def measure(probabilities: np.ndarray, targets: np.ndarray) -> Evaluation:
    """The figures for ``probabilities`` float32 (N, C) and true classes ``targets`` int64 (N,)."""
    num_classes = probabilities.shape[1]
    true_score = probabilities[np.arange(len(targets)), targets]
    # The rank of the true class; where scores tie, the lower class index goes first, as argmax has it.
    ahead = (probabilities > true_score[:, None]) | (
        (probabilities == true_score[:, None]) & (np.arange(num_classes) < targets[:, None])
    )
    rank = ahead.sum(1)
    confusion = confusion_matrix(targets, probabilities.argmax(1), labels=np.arange(num_classes))
    with np.errstate(invalid="ignore"):
        per_class = 100 * confusion.diagonal() / confusion.sum(1)
    return Evaluation(
        top1=100 * float((rank < 1).mean()),
        top5=100 * float((rank < 5).mean()),
        ece=100 * _calibration_error(probabilities.max(1), rank < 1),
        per_class=per_class,
        confusion=confusion,
        probabilities=probabilities,
    )


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence.astype(np.float64), minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
