"""The temperature of a classifier (Guo et al. 2017, arXiv 1706.04599): how sure its scores are."""

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

_LIMIT = math.log(1000.0)


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by before the softmax."""

    value: float
    before: float
    """the mean negative log-likelihood of the labels at temperature 1"""
    after: float
    """the same at this temperature"""


def fit_temperature(logits: Tensor, targets: Tensor) -> Temperature | None:
    """Return the temperature at which the labels are most likely.

    The negative log-likelihood is convex in 1 / temperature. It has no minimum, and None is returned, where every label
    is the first choice (the colder, the likelier), and where labels have no greater logits than classes have on average
    (the hotter, the likelier).

    Args:
        logits: The logits, (N, C).
        targets: The class indices, int64 (N,), on the same device.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()
    of_labels = logits.gather(1, targets[:, None])[:, 0]
    if bool((of_labels >= logits.amax(1)).all()) or float((of_labels - logits.mean(1)).mean()) <= 0:
        return None

    def loss(log: float) -> float:
        return float(functional.cross_entropy(logits * math.exp(-log), targets))

    log = float(minimize_scalar(loss, bounds=(-_LIMIT, _LIMIT), method="bounded", options={"xatol": 1e-6}).x)
    return Temperature(math.exp(log), loss(0.0), loss(log))
