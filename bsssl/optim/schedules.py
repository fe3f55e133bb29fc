"""Learning-rate schedules, composed of fvcore's parameter schedulers."""

from collections.abc import Callable

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
    StepParamScheduler,
)

REFERENCE_BATCH = 256
"""Learning rates are given per so many samples (Goyal et al. 2017, and the paper's settings)."""


def build_schedule(
    *,
    kind: str,
    base_lr: float,
    batch_size: int,
    gamma: float,
    intervals: int,
    steps: int,
    warmup_steps: int,
    warmup_from: float | None,
) -> Callable[[int], float]:
    """The learning rate as a function of the optimiser step (0 .. steps - 1).

    Args:
        kind: ``step`` (``intervals`` equal parts of the whole length, each ``gamma`` times the one before), ``cosine``
            (to zero) or ``constant``.
        base_lr: rate per 256 samples; the full rate is ``base_lr * batch_size / 256``.
        batch_size: samples per optimiser step over all processes.
        gamma: factor of a drop.
        intervals: number of parts.
        steps: length of the training, optimiser steps.
        warmup_steps: length of the linear warm-up that replaces the schedule's beginning, optimiser steps.
        warmup_from: rate at step 0 of the warm-up; ``base_lr`` when None (the paper: 0.1 to 0.6). Where the full rate
            is below it, as with batches under 256, warm-up starts at 0 instead: it never goes down.
    """
    peak = base_lr * batch_size / REFERENCE_BATCH
    main: ParamScheduler
    if kind == "step":
        main = StepParamScheduler(num_updates=steps, values=[peak * gamma**i for i in range(intervals)])
    elif kind == "cosine":
        main = CosineParamScheduler(start_value=peak, end_value=0.0)
    else:
        main = ConstantParamScheduler(peak)
    if warmup_steps:
        start = base_lr if warmup_from is None else warmup_from
        share = warmup_steps / steps
        main = CompositeParamScheduler(
            [LinearParamScheduler(start_value=start if start <= peak else 0.0, end_value=peak), main],
            lengths=[share, 1 - share],
            interval_scaling=["rescaled", "fixed"],
        )
    # fvcore's step scheduler looks 1e-6 ahead and would run off its end in trainings of over a million steps.
    return lambda step: float(main(min(step / steps, 1 - 2 * ParamScheduler.WHERE_EPSILON)))
