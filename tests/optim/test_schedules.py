import itertools
import math

import pytest

from bsssl.config import Finetune, Pretrain, Supervised
from bsssl.optim import build_schedule
from bsssl.registry import SCHEDULES

BATCH = 1536
"""64 GPUs x 24 images."""


def schedule(*, steps=1300, warmup_steps=0, **changes):
    settings = {"base_lr": 0.1, "batch_size": 256, "gamma": 0.5, "intervals": 13}
    return build_schedule(Supervised(**{**settings, **changes}), steps=steps, warmup_steps=warmup_steps)


def of_stage(settings, *, rows):
    """The schedule that a section of the config asks for, and its length in steps."""
    steps, warmup = (
        length.steps(batch_size=settings.batch_size, rows=rows) for length in (settings.length, settings.warmup)
    )
    return build_schedule(settings, steps=steps, warmup_steps=warmup), steps, warmup


def changes(rate, steps):
    """Steps at which the rate is another than at the step before."""
    return [step for step in range(1, steps) if rate(step) != rate(step - 1)]


def test_pretraining_as_in_the_paper():
    rate, steps, warmup = of_stage(Pretrain(), rows=16_000_000)
    assert steps == 651_042 and warmup == 3255
    assert rate(0) == pytest.approx(0.1)
    assert rate(warmup // 2) == pytest.approx(0.35, abs=1e-3)
    assert rate(warmup) == pytest.approx(0.6)
    for interval in range(13):
        first, last = math.ceil(interval * steps / 13), math.ceil((interval + 1) * steps / 13) - 2
        assert rate(max(first, warmup)) == rate(last) == pytest.approx(0.6 / 2**interval)
    assert rate(steps - 1) == pytest.approx(0.6 / 2**12)


def test_halvings_are_equally_spaced():
    rate = schedule(batch_size=BATCH)
    assert changes(rate, 1300) == [100 * number for number in range(1, 13)]
    assert all(rate(step) == pytest.approx(rate(step - 1) / 2) for step in changes(rate, 1300))


def test_finetuning_as_in_the_paper():
    rate, steps, warmup = of_stage(Finetune(), rows=1_281_167)
    assert warmup == 0 and steps == round(30 * 1_281_167 / BATCH)
    parts = [rate(round((part + 0.5) * steps / 4)) for part in range(4)]
    assert parts == pytest.approx([0.0015, 0.00015, 0.000015, 0.0000015])
    assert rate(0) == parts[0] and rate(steps - 1) == parts[3]


@pytest.mark.parametrize("batch", [64, 256, 1024, 8192])
def test_rates_follow_the_total_batch(batch):
    rate = schedule(batch_size=batch)
    assert rate(0) == pytest.approx(0.1 * batch / 256)
    assert rate(1299) == pytest.approx(0.1 * batch / 256 / 2**12)


@pytest.mark.parametrize("kind", ["step", "cosine", "constant"])
@pytest.mark.parametrize("batch", [16, 256, BATCH])
@pytest.mark.parametrize("warmup_from", [None, 0.0, 5.0])
def test_warmup_never_goes_down(kind, batch, warmup_from):
    rate = schedule(schedule=kind, batch_size=batch, warmup_steps=50, warmup_from=warmup_from)
    rates = [rate(step) for step in range(50)]
    rises = [after - before for before, after in itertools.pairwise(rates)]
    peak = 0.1 * batch / 256
    assert max(rates) <= peak * (1 + 1e-9) and rates[0] >= 0
    assert min(rises) > -1e-12 and max(rises) - min(rises) < 1e-9  # a straight line


def test_warmup_from():
    assert schedule(batch_size=BATCH, warmup_steps=10)(0) == pytest.approx(0.1)
    assert schedule(batch_size=BATCH, warmup_steps=10, warmup_from=0.02)(0) == pytest.approx(0.02)
    assert schedule(batch_size=64, warmup_steps=10)(0) == 0


def test_warmup_may_take_the_whole_training():
    rate = schedule(steps=10, batch_size=BATCH, warmup_steps=10)
    assert rate(0) == pytest.approx(0.1) and rate(9) == pytest.approx(0.1 + 0.9 * 0.5)


def test_cosine():
    rate = schedule(schedule="cosine", steps=1000)
    for step in (0, 1, 250, 500, 999):
        assert rate(step) == pytest.approx(0.05 * (1 + math.cos(math.pi * step / 1000)), abs=1e-9)


def test_constant():
    assert {schedule(schedule="constant")(step) for step in (0, 700, 1299)} == {0.1}


@pytest.mark.parametrize("kind", ["step", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 13, 999_999, 10_000_019])
def test_defined_up_to_the_last_step(kind, steps):
    rate = schedule(schedule=kind, steps=steps, warmup_steps=steps // 10)
    assert all(rate(step) >= 0 for step in {0, steps // 2, max(steps - 2, 0), steps - 1})
    if kind == "step" and steps >= 13:
        assert rate(steps - 1) == pytest.approx(0.1 / 2**12)


@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_a_schedule_of_a_plugin(warmup_steps, monkeypatch):
    def polynomial(*, peak: float, power: float = 1.0):
        return lambda done: peak * (1 - done) ** power

    monkeypatch.setitem(SCHEDULES._parts, "polynomial", polynomial)
    chosen = {"schedule": "polynomial", "schedule_options": {"power": 2}, "gamma": 0.1, "intervals": 4}
    rate = schedule(**chosen, batch_size=512, steps=100, warmup_steps=warmup_steps)
    assert rate(0) == pytest.approx(0.1 if warmup_steps else 0.2)
    for step in (10, 50, 99):
        assert rate(step) == pytest.approx(0.2 * (1 - step / 100) ** 2, rel=1e-3)
