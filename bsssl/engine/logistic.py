"""Multinomial logistic regression, on whatever device the features are."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_ROWS = 65_536  # of features in double precision at once
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Logistic:
    """A linear classifier of D features into C classes."""

    weight: Tensor
    """float64 (C, D)"""
    bias: Tensor
    """float64 (C,)"""
    loss: float
    """what was minimised, per sample: the mean cross-entropy and |weight|^2 / (2 c N)"""
    converged: bool

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits, float64 (N, C), of features (N, D)."""
        return features.double() @ self.weight.T + self.bias

    def unstandardised(self, mean: Tensor, std: Tensor) -> "Logistic":
        """Return the classifier that does with features what this one does with (features - mean) / std."""
        weight = self.weight / std
        return replace(self, weight=weight, bias=self.bias - weight @ mean.double())


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the features (N, D), float32 (D,) each; 1 for one that never varies."""
    std, mean = torch.std_mean(features.double(), dim=0, correction=0)
    constant = std <= 1e-6 * mean.abs().clamp(min=1e-6)
    return mean.float(), torch.where(constant, 1.0, std).float()


def fit(
    features: Tensor,
    targets: Tensor,
    *,
    num_classes: int,
    c: float,
    max_iterations: int,
    start: Logistic | None = None,
) -> Logistic:
    """Minimise c * (sum of the cross-entropies) + |weight|^2 / 2, the bias being free.

    This is scikit-learn's objective and, since it is convex, its optimum. SciPy's L-BFGS chooses the steps in double
    precision; losses and gradients are computed where the features are.

    Args:
        features: The features, float32 (N, D).
        targets: The class indices, int64 (N,), on the same device.
        num_classes: The number of classes, C.
        c: The inverse strength of the regularisation.
        max_iterations: The most iterations of L-BFGS.
        start: Where to begin, zero by default; the optimum does not depend on it.
    """
    from scipy.optimize import minimize

    rows, dimensions = features.shape
    shape, penalty = (num_classes, dimensions + 1), 1 / (c * rows)  # the bias is the last column

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(values).reshape(shape).to(features.device)
        weight, bias = parameters[:, :-1], parameters[:, -1]
        loss = penalty / 2 * weight.square().sum()
        gradient = torch.cat([penalty * weight, torch.zeros_like(bias)[:, None]], 1)
        for first in range(0, rows, _ROWS):
            part, goal = features[first : first + _ROWS].double(), targets[first : first + _ROWS]
            scores = functional.log_softmax(part @ weight.T + bias, 1)
            loss += functional.nll_loss(scores, goal, reduction="sum") / rows
            error = (scores.exp() - functional.one_hot(goal, num_classes)) / rows
            gradient[:, :-1] += error.T @ part
            gradient[:, -1] += error.sum(0)
        return float(loss), gradient.flatten().cpu().numpy()

    beginning = np.zeros(shape) if start is None else torch.cat([start.weight, start.bias[:, None]], 1).cpu().numpy()
    options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "gtol": _TOLERANCE, "ftol": 1e-14, "maxls": 50}
    optimum = minimize(loss_and_gradient, beginning.ravel(), jac=True, method="L-BFGS-B", options=options)
    parameters = torch.from_numpy(optimum.x).reshape(shape).to(features.device)
    return Logistic(parameters[:, :-1].clone(), parameters[:, -1].clone(), float(optimum.fun), bool(optimum.success))
