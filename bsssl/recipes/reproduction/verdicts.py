"""Whether a difference between two kinds of runs is there."""

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable at this size"


@dataclass(frozen=True)
class Verdict:
    """Whether a difference is there: Student's t on the paired differences of the seeds."""

    text: str
    mean: float | None = None
    """points of top-1"""
    half: float | None = None
    """half the width of the interval around the mean; None for a single seed"""


def judge(differences: np.ndarray, *, one_item: float = 0.0) -> Verdict:
    """Return the verdict on paired differences.

    The difference holds when the two-sided 95 % interval of Student's t lies above 0, does not hold when the interval
    lies below 0, and is not decidable when the interval reaches 0, or with fewer than three seeds.

    Args:
        differences: Points of top-1, float64 (seeds,); those above 0 are in favour.
        one_item: Half the width that the interval has at least.
    """
    from scipy import stats

    count, mean = len(differences), float(np.mean(differences))
    if count < 2:
        return Verdict(OPEN, mean)
    error = float(np.std(differences, ddof=1)) / count**0.5
    half = max(one_item, float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error)
    if count < 3 or abs(mean) < half or math.isclose(abs(mean), half, abs_tol=1e-9):
        return Verdict(OPEN, mean, half)
    return Verdict(HOLDS if mean > 0 else FAILS, mean, half)
