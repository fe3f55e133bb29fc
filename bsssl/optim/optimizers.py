"""Optimisers by name."""

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, *, kind: str, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with momentum (the paper's), or AdamW whose first beta is ``momentum``, over all of ``model``'s parameters.

    Weight decay applies to every parameter, as in the reference ImageNet recipes of the paper's time.
    """
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
