from functools import partial

import pytest
import torch
from torch import nn

from bsssl.engine.checkpoints import Checkpoints
from bsssl.engine.train import LOG_EVERY
from bsssl.errors import UserError
from bsssl.optim import mixing
from bsssl.runtime.device import Compute
from tests.engine.trainings import CLASSES, CPU, lines, make_model, run, same, sgd, weights


def latest_step(folder):
    found = Checkpoints(folder=str(folder), fingerprint="0a").latest()
    return None if found is None else found[0]


def test_learns(tmp_path):
    model = make_model()
    assert run(tmp_path, model=model, steps=60) is model
    first, last = lines(tmp_path)
    assert first["loss"] > last["loss"] < 0.2 and last["accuracy"] > 95


def test_metrics(tmp_path):
    run(tmp_path, steps=2 * LOG_EVERY + 3, schedule=lambda step: 0.1 + step / 1000)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [LOG_EVERY, 2 * LOG_EVERY, 2 * LOG_EVERY + 3]
    for line in found:
        assert line["lr"] == pytest.approx(0.1 + (line["step"] - 1) / 1000)
        assert line["loss"] > 0 and 0 <= line["accuracy"] <= 100
        assert line["samples_per_second"] > 0 and line["time"] > 1e9


def test_no_steps_leave_the_weights_alone(tmp_path):
    model = make_model()
    before = weights(model)
    assert same(weights(run(tmp_path, model=model, steps=0, average_decay=0.9)), before)


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulation_equals_one_big_batch(tmp_path, clip_norm):
    whole = run(tmp_path / "whole", clip_norm=clip_norm)
    for parts in (2, 4):
        split = run(tmp_path / str(parts), accumulate=parts, clip_norm=clip_norm)
        torch.testing.assert_close(weights(split), weights(whole), rtol=1e-4, atol=1e-6)
    assert lines(tmp_path / "4")[-1]["loss"] == pytest.approx(lines(tmp_path / "whole")[-1]["loss"], rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradients_are_clipped(tmp_path, precision):
    model = make_model()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    compute = Compute(device=CPU.device, precision=precision)
    run(tmp_path, model=model, steps=1, optimizer=optimizer, schedule=lambda step: 2.0, clip_norm=0.01, compute=compute)
    moved = (nn.utils.parameters_to_vector(model.parameters()) - before).norm()
    assert float(moved) == pytest.approx(2.0 * 0.01, rel=1e-3)


def test_average_of_the_weights(tmp_path):
    model, seen = make_model(), []

    def remember(step):
        seen.append(weights(model))  # before each step
        return 0.3

    averaged = run(tmp_path, model=model, steps=5, schedule=remember, average_decay=0.8)
    after = [*seen[1:], weights(model)]
    expected = after[0]
    for state in after[1:]:
        expected = {name: 0.8 * expected[name] + 0.2 * state[name] for name in state}
    assert averaged is not model
    torch.testing.assert_close(weights(averaged), expected)


def test_average_includes_the_statistics_of_batch_norm(tmp_path):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, CLASSES))
    averaged = run(tmp_path, model=model, steps=4, average_decay=0.8)
    state, last = weights(averaged), weights(model)
    assert state.keys() == last.keys() and state["0.num_batches_tracked"].dtype == torch.int64
    assert not torch.equal(state["0.running_mean"], last["0.running_mean"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_precision_and_memory_format(tmp_path, precision, channels_last):
    model, formats = make_model(), []
    model.register_forward_pre_hook(
        lambda _, inputs: formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    compute = Compute(device=CPU.device, precision=precision, channels_last=channels_last)
    run(tmp_path, model=model, compute=compute)
    plain = run(tmp_path / "plain")
    assert set(formats) == {channels_last}
    assert all(value.dtype == torch.float32 for value in weights(model).values())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    exact = precision == "float32"
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-5 if exact else 0.05)
    assert exact or not torch.equal(model[0].weight, plain[0].weight)


def test_video_networks_can_be_channels_last():
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Conv2d(4, 4, 3))
    compute = Compute(device=CPU.device, channels_last=True)
    assert compute.place_model(model) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert compute.place(torch.zeros(2, 3, 4, 5, 5)).is_contiguous(memory_format=torch.channels_last_3d)


def test_compiled(tmp_path, monkeypatch):
    # The whole path but for generating machine code, which needs a compiler and many seconds.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = run(tmp_path / "compiled", steps=4, compute=Compute(device=CPU.device, compile=True))
    plain = run(tmp_path / "plain", steps=4)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-6)


def test_mixing(tmp_path):
    mix = mixing(mixup=0.5, cutmix=0.5, num_classes=CLASSES)
    mixed = run(tmp_path / "1", mix=mix, batch_size=30, steps=40)
    assert same(weights(mixed), weights(run(tmp_path / "2", mix=mix, batch_size=30, steps=40)))
    assert lines(tmp_path / "1")[-1]["loss"] > 0.3  # blends are never certain


def test_a_loss_that_is_not_finite(tmp_path):
    calls = []

    class Diverging(nn.Module):
        def forward(self, logits, target, index):
            calls.append(1)
            return logits.sum() * (float("nan") if len(calls) > 5 else 0.0)

    with pytest.raises(UserError, match="the loss is nan by step 6: training diverged; lower base_lr"):
        run(tmp_path, loss_function=Diverging(), checkpoint_steps=1)
    assert latest_step(tmp_path) == 5
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("steps", [4, 12])
def test_weights_that_are_not_finite(tmp_path, steps):
    def schedule(step):
        return float("inf") if step == 3 else 0.1

    with pytest.raises(UserError, match="the weights are not finite after step 4: training diverged"):
        run(tmp_path, steps=steps, schedule=schedule, checkpoint_steps=1)
    assert latest_step(tmp_path) == 3


def test_unreadable_items_up_to_the_tolerated_rate(tmp_path):
    run(tmp_path, unreadable=range(6), max_failure_rate=0.1)
    assert lines(tmp_path)[-1]["step"] > 0


def test_too_many_unreadable_items(tmp_path):
    with pytest.raises(UserError, match=r"7 of 60 training items .* 10\.0%: row \d+: cut short; .*max_failure_rate"):
        run(tmp_path, unreadable=range(7), max_failure_rate=0.1)


def test_a_batch_with_nothing_readable(tmp_path):
    with pytest.raises(UserError, match="not one item of a batch can be read; the first: cut short"):
        run(tmp_path, unreadable=range(40), max_failure_rate=1.0, batch_size=2)


def test_adamw(tmp_path):
    model = make_model()
    run(tmp_path, model=model, steps=60, optimizer=torch.optim.AdamW(model.parameters()), schedule=lambda step: 0.03)
    assert lines(tmp_path)[-1]["accuracy"] > 95


def test_rate_is_set_before_each_step(tmp_path):
    model = make_model()
    optimizer = sgd(model)
    before = weights(model)
    run(tmp_path, model=model, optimizer=optimizer, steps=3, schedule=lambda step: 0.0)
    assert same(weights(model), before) and optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(("batch_size", "unreadable"), [(1, ()), (2, range(0, 48, 2))])
def test_batch_normalisation_cannot_learn_from_one_sample(tmp_path, batch_size, unreadable):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, CLASSES))
    with pytest.raises(UserError, match=r"batch normalisation cannot learn from the one sample .*; raise batch_size"):
        run(tmp_path, model=model, batch_size=batch_size, unreadable=unreadable, max_failure_rate=1)


@pytest.mark.parametrize("part", [nn.MaxPool2d(64), nn.Conv2d(3, 3, 64)])
def test_a_network_that_takes_larger_inputs_while_it_learns(tmp_path, part):
    model = nn.Sequential(part, nn.Flatten(), nn.Linear(3, CLASSES))
    with pytest.raises(UserError, match=r"^inputs of 3x\d+x\d+ are too small for the network while it learns; set a"):
        run(tmp_path, model=model)


def test_a_network_that_gives_several_outputs_in_training(tmp_path):
    class WithAuxiliaries(nn.Flatten):
        def forward(self, batch):
            return (super().forward(batch),)

    model = nn.Sequential(nn.Conv2d(3, 1, 3), WithAuxiliaries())
    advice = r"gives tuple in training, not a tensor of logits; .* \(options.aux_logits=false\)"
    with pytest.raises(UserError, match=advice):
        run(tmp_path, model=model)
