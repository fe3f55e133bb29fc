"""Losses, the mixing of batches, optimisers and learning-rate schedules."""

from bsssl.optim.losses import build_loss
from bsssl.optim.mixing import mixing
from bsssl.optim.optimizers import build_optimizer
from bsssl.optim.schedules import build_schedule

__all__ = ["build_loss", "build_optimizer", "build_schedule", "mixing"]
