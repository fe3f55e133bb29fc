"""Losses, the mixing of batches, frozen parts, groups of parameters, optimisers and learning-rate schedules."""

from bsssl.optim.freezing import freeze
from bsssl.optim.groups import parameter_groups
from bsssl.optim.losses import build_loss
from bsssl.optim.mixing import mixing
from bsssl.optim.optimizers import build_optimizer
from bsssl.optim.schedules import build_schedule

__all__ = ["build_loss", "build_optimizer", "build_schedule", "freeze", "mixing", "parameter_groups"]
