"""Optimisers by name."""

import torch
from torch import nn

from bsssl.config.training import Train
from bsssl.optim.groups import Parameters, parameter_groups
from bsssl.registry import OPTIMIZERS


def build_optimizer(settings: Train, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser that ``settings`` name, over all parameters of ``model``, at the full rate."""
    optimizer: torch.optim.Optimizer = OPTIMIZERS.build(
        settings.optimizer,
        settings.options_of("optimizer"),
        params=parameter_groups(settings, model),
        lr=settings.full_lr,
        weight_decay=settings.weight_decay,
    )
    return optimizer


@OPTIMIZERS.register("sgd")
def sgd(
    params: Parameters, *, lr: float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> torch.optim.Optimizer:
    """Return SGD with momentum, the paper's.

    Weight decay applies to every parameter, as in the reference ImageNet recipes of the paper's time, unless its group
    has another.

    Args:
        params: The parameters, or groups of them.
        lr: The full rate.
        weight_decay: The factor of the decay, where a group has no other.
        momentum: The share of the last update that is added to the next.
        nesterov: Whether momentum has Nesterov's form.
    """
    return torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


@OPTIMIZERS.register("adamw")
def adamw(params: Parameters, *, lr: float, weight_decay: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    """Return AdamW.

    Args:
        params: The parameters, or groups of them.
        lr: The full rate.
        weight_decay: The factor of the decay, where a group has no other.
        momentum: The first beta.
    """
    return torch.optim.AdamW(params, lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay)
