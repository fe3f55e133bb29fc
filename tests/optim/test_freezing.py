"""Frozen parts are bit for bit what they were, whatever else the training does."""

import pytest
import torch
from torch import nn

from bsssl.errors import UserError
from bsssl.models import build_model
from bsssl.optim import freeze
from tests.engine.trainings import Interrupted, make_model, run, same, weights

FROZEN = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")


def test_parts_by_name():
    model = build_model("small_resnet", num_classes=3, blocks=[1, 1])
    assert freeze(model, ["conv1", "stages.0", "fc.bias"]) == ["conv1", "stages.0"]
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    left = ("bn1.", "stages.1.", "fc.weight")
    assert training == {name for name in model.state_dict() if name.startswith(left) and "_" not in name}


def test_no_names_freeze_nothing():
    model = nn.Linear(2, 2).requires_grad_(False)
    assert freeze(model, []) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["stem"], "SmallResNet has no part 'stem': did you mean 'stages'? valid: bn1, conv1, fc, stages"),
        (["stages.7"], "SmallResNet has no part 'stages.7': did you mean 'stages.1'? valid: stages.0, stages.1"),
        (["fc.wieght"], "SmallResNet has no part 'fc.wieght': did you mean 'fc.weight'? valid: fc.bias, fc.weight"),
        (["stages.0.0.relu"], "SmallResNet has no part 'stages.0.0.relu': did you mean 'stages.0.0.bn2'? valid: "),
        ([""], "SmallResNet has no part '': valid: bn1, conv1, fc, stages"),
        (["bn1.running_mean"], "SmallResNet has no part 'bn1.running_mean': valid: bn1.bias, bn1.weight"),
        (["conv1", "bn1", "stages", "fc"], "no part of SmallResNet is left to train; leave out one of the names"),
    ],
)
def test_names_that_cannot_be(names, message):
    with pytest.raises(UserError) as caught:
        freeze(build_model("small_resnet", num_classes=3, blocks=[1, 1]), names)
    assert str(caught.value).startswith(f"freeze: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"average_decay": 0.9},
        {"accumulate": 2, "clip_norm": 0.5},
        {"make_optimizer": torch.optim.AdamW},
    ],
    ids=["plain", "average", "accumulate", "adamw"],
)
def test_frozen_parts_stay_and_the_rest_trains(tmp_path, changes):
    def train(folder, *, make_optimizer=torch.optim.SGD, **options):
        model = make_model(batch_norm=True)
        optimizer = make_optimizer(model.parameters(), weight_decay=0.1)
        trained = run(folder, model=model, freeze=("0", "1"), optimizer=optimizer, checkpoint_steps=2, **options)
        return weights(trained), weights(model)

    before = weights(make_model(batch_norm=True))
    whole = train(tmp_path / "whole", **changes)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", interrupt_before=7, **changes)
    assert same(train(tmp_path / "parts", **changes), whole)
    for after in whole:
        assert all(torch.equal(after[name], before[name]) == (name in FROZEN) for name in before)


def test_without_it_all_of_them_change(tmp_path):
    before, after = weights(make_model(batch_norm=True)), weights(run(tmp_path, batch_norm=True))
    assert not any(torch.equal(after[name], before[name]) for name in before)


def test_a_frozen_parameter_by_itself(tmp_path):
    before = weights(make_model(batch_norm=True))
    after = weights(run(tmp_path, batch_norm=True, freeze=["1.bias"], average_decay=0.9))
    assert [name for name in before if torch.equal(after[name], before[name])] == ["1.bias"]


def test_dropout_of_frozen_parts_is_off(tmp_path):
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout()), nn.Dropout(), nn.Flatten(), nn.Linear(128, 3)
    )
    modes = []
    model.register_forward_pre_hook(lambda *_: modes.append([model[0][1].training, model[1].training]))
    run(tmp_path, model=model, freeze=["0"], steps=2)
    assert modes == [[False, True]] * 2
