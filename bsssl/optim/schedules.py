"""Learning-rate schedules by name, composed of fvcore's parameter schedulers."""

from collections.abc import Callable

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
    StepParamScheduler,
)

from bsssl.config.training import Train
from bsssl.registry import SCHEDULES

Curve = Callable[[float], float]
"""The rate by the share of the training that is done, in [0, 1)."""


def build_schedule(settings: Train, *, steps: int, warmup_steps: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the optimiser step, 0 to ``steps`` - 1.

    A linear warm-up replaces the beginning of the schedule that ``settings`` name. Where the full rate is below the one
    that warm-up should start at, as with batches under 256, warm-up starts at 0 instead: it never goes down.

    Args:
        settings: The section of the training.
        steps: The length of the training, optimiser steps.
        warmup_steps: The length of the warm-up, optimiser steps.
    """
    peak = settings.full_lr
    curve: Curve = SCHEDULES.build(settings.schedule, settings.options_of("schedule"), peak=peak, steps=steps)
    if warmup_steps:
        start = settings.base_lr if settings.warmup_from is None else settings.warmup_from
        share = warmup_steps / steps
        curve = CompositeParamScheduler(
            [LinearParamScheduler(start_value=start if start <= peak else 0.0, end_value=peak), curve],
            lengths=[share, 1 - share],
            interval_scaling=["rescaled", "fixed"],
        )
    # fvcore's step scheduler looks 1e-6 ahead and would run off its end in trainings of over a million steps.
    return lambda step: float(curve(min(step / steps, 1 - 2 * ParamScheduler.WHERE_EPSILON)))


@SCHEDULES.register("step")
def step(*, peak: float, steps: int, gamma: float = 0.1, intervals: int = 4) -> Curve:
    """Return a rate that drops between equal parts of the training, warm-up included.

    Args:
        peak: The full rate.
        steps: The length of the training, optimiser steps.
        gamma: The factor of each drop.
        intervals: The number of parts, one more than there are drops.
    """
    curve: Curve = StepParamScheduler(num_updates=steps, values=[peak * gamma**i for i in range(intervals)])
    return curve


@SCHEDULES.register("cosine")
def cosine(*, peak: float) -> Curve:
    """Return a rate that falls from ``peak`` to zero along half a cosine."""
    curve: Curve = CosineParamScheduler(start_value=peak, end_value=0.0)
    return curve


@SCHEDULES.register("constant")
def constant(*, peak: float) -> Curve:
    """Return a rate that stays at ``peak``."""
    curve: Curve = ConstantParamScheduler(peak)
    return curve
