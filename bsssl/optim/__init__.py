"""Optimisers and learning-rate schedules."""

from bsssl.optim.optimizer import build_optimizer
from bsssl.optim.schedule import build_schedule

__all__ = ["build_optimizer", "build_schedule"]
