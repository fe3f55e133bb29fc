"""Losses, the mixing of batches, optimisers and learning-rate schedules."""

from bsssl.optim.losses import EarlyLearning, Loss, logit_adjustment, mixing
from bsssl.optim.optimizers import build_optimizer
from bsssl.optim.schedules import build_schedule

__all__ = ["EarlyLearning", "Loss", "build_optimizer", "build_schedule", "logit_adjustment", "mixing"]
