"""Optimisers and learning-rate schedules."""

from bsssl.optim.optimizers import build_optimizer
from bsssl.optim.schedules import build_schedule

__all__ = ["build_optimizer", "build_schedule"]
