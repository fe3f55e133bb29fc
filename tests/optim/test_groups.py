"""Norms and biases without decay, and a rate for each layer: in the groups, and in what a training makes of them."""

import pytest
import torch
from torch import nn

from bsssl.config import Supervised
from bsssl.errors import UserError
from bsssl.models import build_model
from bsssl.optim import build_optimizer, parameter_groups
from tests.engine.trainings import Interrupted, make_model, run, same, weights


def settings(**changes):
    return Supervised(**{"base_lr": 0.1, "batch_size": 256, "weight_decay": 0.5, **changes})


def on_meta(name, **options):
    with torch.device("meta"):
        return build_model(name, num_classes=4, **options)


def by_name(model, key, **changes):
    """What the groups say under ``key`` of every parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(settings(**changes), model).param_groups
    found = {names[id(parameter)]: group[key] for group in groups for parameter in group["params"]}
    assert found.keys() == set(names.values()) and len(found) == sum(len(group["params"]) for group in groups)
    return found


def layers(model, decay=0.5):
    """The parts of the network by the scales of their rates, from the first layer to the last."""
    parts: dict[float, list[str]] = {}
    for name, scale in by_name(model, "lr_scale", layer_decay=decay).items():
        part = name.rpartition(".")[0]
        if part not in parts.setdefault(scale, []):
            parts[scale].append(part)
    assert sorted(parts) == [decay**power for power in reversed(range(len(parts)))]
    return [parts[scale] for scale in sorted(parts)]


# The groups


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_norms_and_biases_do_not_decay(layer_decay):
    model = build_model("small_resnet", num_classes=4, width=4, blocks=[1, 1])
    found = by_name(model, "weight_decay", decay_norms=False, layer_decay=layer_decay)
    for name, parameter in model.named_parameters():
        assert found[name] == (0.5 if parameter.ndim > 1 else 0.0), name
    assert found["fc.weight"] == 0.5 and found["fc.bias"] == found["bn1.weight"] == 0.0


def test_all_decay_alike_with_a_rate_for_each_layer():
    assert set(by_name(make_model(), "weight_decay", layer_decay=0.7).values()) == {0.5}


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_what_networks_of_timm_exempt_does_not_decay(layer_decay):
    model = on_meta("timm/vit_tiny_patch16_224")
    found = by_name(model, "weight_decay", decay_norms=False, layer_decay=layer_decay)
    assert [found[name] for name in ("pos_embed", "cls_token", "norm.weight", "head.weight")] == [0, 0, 0, 0.5]
    assert by_name(model, "weight_decay", layer_decay=0.7)["pos_embed"] == 0.5


def test_layers_of_our_networks_are_their_blocks_with_the_norms_after_them():
    assert layers(on_meta("small_resnet", blocks=[2, 1])) == [
        ["conv1", "bn1"],
        [f"stages.0.0.{part}" for part in ("conv1", "bn1", "conv2", "bn2")],
        [f"stages.0.1.{part}" for part in ("conv1", "bn1", "conv2", "bn2")],
        [f"stages.1.0.{part}" for part in ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1")],
        ["fc"],
    ]
    first, *blocks, last = layers(on_meta("wide_resnet", depth=10))
    assert first == ["conv1"] and last == ["fc"] and len(blocks) == 3
    assert blocks[-1][-1] == "bn"


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("resnet18", 10, "conv1", "fc"),
        ("timm/resnet18", 10, "conv1", "fc"),
        ("timm/vit_tiny_patch16_224", 14, "patch_embed.proj", "head"),
        ("r2plus1d_18", 6, "blocks.0.conv.conv_t", "blocks.5.proj"),
        ("torchvision/r2plus1d_18", 10, "stem.0", "fc"),
        ("torchvision/s3d", 13, "features.0.0.0", "classifier.1"),
        ("torchvision/mvit_v1_b", 19, "conv_proj", "head.1"),
        ("pytorchvideo/x3d_s", 6, "blocks.0.conv.conv_t", "blocks.5.proj"),
        ("pytorchvideo/slowfast_r50", 6, "blocks.0.multipathway_blocks.0.conv", "blocks.6.proj"),
        ("pytorchvideo/mvit_base_16x4", 19, "patch_embed.patch_model", "head.proj"),
    ],
)
def test_layers_of_other_networks(name, count, first, last):
    found = layers(on_meta(name))
    assert len(found) == count
    assert first in found[0] and last in found[-1]


def test_a_network_may_say_itself_what_its_layers_are():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.ModuleDict({"front": nn.Linear(2, 2), "back": nn.Linear(2, 2)})

        def group_matcher(self, coarse=False):
            return {"front": r"^all\.front", "back": r"^all\.back"}

    assert layers(Halves()) == [["all.front"], ["all.back"]]


def test_parameters_of_no_module_are_of_the_first_layer():
    model = nn.Module()
    model.token = nn.Parameter(torch.zeros(1, 3))
    model.norm, model.one, model.two = nn.LayerNorm(2), nn.Linear(2, 2), nn.Linear(2, 2)
    assert layers(model) == [["", "norm", "one"], ["two"]]


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.Flatten(), nn.Linear(2, 2))])
def test_a_network_without_layers_is_refused(model):
    with pytest.raises(UserError, match=r"^layer_decay: \w+ has no layers .*; leave it out, or give .* group_matcher"):
        parameter_groups(settings(layer_decay=0.7), model)


def test_an_optimizer_takes_groups_whatever_it_is():
    for name in ("sgd", "adamw"):
        found = by_name(make_model(), "lr", optimizer=name, decay_norms=False, layer_decay=0.7)
        assert set(found.values()) == {0.1}  # until the training sets it


# What a training makes of them


class Nothing(nn.Module):
    """A loss without gradients."""

    def forward(self, logits, target, rows):
        return 0 * logits.sum()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_gradients_weights_shrink_and_norms_and_biases_stay(tmp_path, optimizer):
    model = make_model()
    before = weights(model)
    chosen = build_optimizer(settings(optimizer=optimizer, decay_norms=False), model)
    after = weights(run(tmp_path, model=model, optimizer=chosen, loss_function=Nothing(), steps=5))
    for name in ("0.bias", "1.weight", "1.bias", "6.bias"):
        assert torch.equal(after[name], before[name]), name
    for name in ("0.weight", "6.weight"):
        assert after[name].norm() < 0.8 * before[name].norm(), name


def test_without_the_option_norms_and_biases_shrink_too(tmp_path):
    model = make_model()
    before = weights(model)
    run(tmp_path, model=model, optimizer=build_optimizer(settings(), model), loss_function=Nothing(), steps=5)
    assert all(value.norm() < 0.8 * before[name].norm() for name, value in weights(model).items() if before[name].any())


def test_earlier_layers_move_less(tmp_path):
    def moved(**changes):
        model = make_model()
        before = weights(model)
        optimizer = build_optimizer(settings(weight_decay=0.0, momentum=0.0, **changes), model)
        after = weights(run(tmp_path / str(changes), model=model, optimizer=optimizer, steps=1))
        return {name: after[name] - before[name] for name in before}

    plain, scaled = moved(), moved(layer_decay=0.25)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        torch.testing.assert_close(scaled[name], 0.25 * plain[name])
    for name in ("6.weight", "6.bias"):
        assert torch.equal(scaled[name], plain[name])


def trained(folder, *, optimizer, layer_decay=None, decay_norms=True, **options):
    model = make_model()
    chosen = {"optimizer": optimizer, "layer_decay": layer_decay, "decay_norms": decay_norms, "weight_decay": 0.01}
    return weights(run(folder, model=model, optimizer=build_optimizer(settings(**chosen), model), **options))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_scale_of_one_changes_no_bit(tmp_path, optimizer):
    plain = trained(tmp_path / "plain", optimizer=optimizer)
    assert same(trained(tmp_path / "scaled", optimizer=optimizer, layer_decay=1.0), plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_interrupted(tmp_path, optimizer):
    changes = {"optimizer": optimizer, "layer_decay": 0.5, "decay_norms": False, "checkpoint_steps": 2}
    whole = trained(tmp_path / "whole", **changes)
    with pytest.raises(Interrupted):
        trained(tmp_path / "parts", interrupt_before=7, **changes)
    assert same(trained(tmp_path / "parts", **changes), whole)
    assert not same(trained(tmp_path / "plain", optimizer=optimizer), whole)
