"""The temperature of a classifier (Guo et al. 2017, arXiv 1706.04599): how sure its scores are."""

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

_BOUND = 100.0


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by before the softmax."""

    value: float
    before: float
    """the mean negative log-likelihood of the labels at temperature 1"""
    after: float
    """the same at this temperature"""
    at_bound: bool
    """whether the likelihood does not end at a temperature, as when all labels are the first answer, or none"""


def fit_temperature(logits: Tensor, targets: Tensor) -> Temperature:
    """Return the temperature at which the labels are most likely, of those from 1/100 to 100.

    The negative log-likelihood is convex in 1 / temperature, and so has one minimum.

    Args:
        logits: The logits, (N, C).
        targets: The class indices, int64 (N,), on the same device.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()

    def loss(log: float) -> float:
        return float(functional.cross_entropy(logits * math.exp(-log), targets))

    limit = math.log(_BOUND)
    log = float(minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6}).x)
    return Temperature(math.exp(log), loss(0.0), loss(log), at_bound=limit - abs(log) < 1e-3)
