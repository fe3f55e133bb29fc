"""What the options of a training do to the weights that its stage leaves."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bsssl.registry import MODELS


@pytest.fixture
def trained(bsssl, recipe, tmp_path):
    """Trains the teacher or another stage with some overrides, and returns the weights."""

    def call(name, *overrides, stage="teacher"):
        output = tmp_path / name
        arguments = ("--config", recipe.config, f"output_dir={output}", f"stage={stage}", *overrides)
        outcome = bsssl("train", *arguments)
        assert outcome.status == 0, outcome.err
        return load_file(output / "seed-0" / stage / "model.safetensors")

    return call


@pytest.fixture
def refused(bsssl, recipe, tmp_path):
    """The one line about a teacher that cannot be trained; nothing was begun."""

    def call(*overrides):
        output = tmp_path / "refused"
        outcome = bsssl("train", "--config", recipe.config, f"output_dir={output}", "stage=teacher", *overrides)
        assert outcome.status == 1 and len(outcome.errors) == 1, outcome.err
        assert not output.exists()
        return outcome.errors[0].removeprefix("error: ")

    return call


# Decay of norms, and a rate for each layer


def test_norms_and_biases_without_decay(trained):
    """With a rate so low that the gradients do next to nothing, the decay is what is left."""
    common = ("teacher.base_lr=1e-3", "teacher.weight_decay=1e3", "teacher.momentum=0")
    start = trained("start", "teacher.length=0 epochs")
    with_norms, without = trained("with", *common), trained("without", *common, "teacher.decay_norms=false")
    assert start["bn1.weight"].eq(1).all()
    assert with_norms["bn1.weight"].max() < 0.95
    torch.testing.assert_close(without["bn1.weight"], start["bn1.weight"], rtol=0, atol=0.01)
    for name in ("conv1.weight", "fc.weight"):
        assert without[name].norm() < 0.95 * start[name].norm()


def test_a_rate_for_each_layer(trained):
    def moved(after, name):
        return float((after[name] - start[name]).norm())

    start = trained("start", "teacher.length=0 epochs")
    plain, scaled = trained("plain"), trained("scaled", "teacher.layer_decay=0.01")
    assert moved(scaled, "conv1.weight") < 0.02 * moved(plain, "conv1.weight")
    assert moved(scaled, "stages.0.0.conv1.weight") < 0.2 * moved(plain, "stages.0.0.conv1.weight")
    assert moved(scaled, "fc.weight") > 0.2 * moved(plain, "fc.weight")


def test_a_rate_for_each_layer_of_a_network_without_layers(refused, monkeypatch):
    def flat(*, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(768, num_classes))

    monkeypatch.setitem(MODELS._parts, "flat", flat)
    line = refused("models.teacher={name: flat}", "teacher.layer_decay=0.7")
    assert line == (
        "teacher.layer_decay: Sequential has no layers that can be told apart; leave it out, or give the network a "
        "method group_matcher, as timm's have"
    )


# Parts that do not train


def test_frozen_parts_stay_as_they_are(trained, tmp_path):
    parts = ("conv1.", "bn1.", "stages.")
    start = trained("start")
    path = tmp_path / "start" / "seed-0" / "teacher"
    common = (f"teacher.init_from={path}/model.safetensors", "teacher.freeze=[conv1, bn1, stages]")
    for name, changes in {"plain": [], "average": ["teacher.average_decay=0.9"]}.items():
        after = trained(name, *common, *changes)
        changed = {name for name in start if not torch.equal(after[name], start[name])}
        assert changed == {name for name in start if not name.startswith(parts)} == {"fc.weight", "fc.bias"}


def test_a_part_can_be_frozen_where_each_layer_has_its_rate(trained):
    start = trained("start", "teacher.length=0 epochs")
    after = trained("after", "teacher.freeze=[conv1]", "teacher.layer_decay=0.5", "teacher.decay_norms=false")
    changed = {name for name in start if not torch.equal(after[name], start[name])}
    assert changed == start.keys() - {"conv1.weight"}


# Losses


@pytest.mark.parametrize("targets", ["per_pair", "soft"])
def test_symmetric_kl(bsssl, recipe, finished, targets):
    """For classes, and for a teacher's scores of its best two classes of three: zero for the third."""
    options = ("pretrain.loss=symmetric_kl", f"pretrain.targets={targets}", "pretrain.length=60 steps")
    outcome = bsssl("train", "--config", recipe.config, f"output_dir={finished}", "stage=pretrain", *options, "--redo")
    assert outcome.status == 0, outcome.err
    folder = finished / "seed-0" / "pretrain"
    assert json.loads((folder / "done.json").read_text())["settings"]["training"]["loss"] == "symmetric_kl"
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] > losses[-1] > 0
