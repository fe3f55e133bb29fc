import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from bsssl.models import build_model, profile


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_are_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    ours = build_model(name, num_classes=11).state_dict()
    torch.manual_seed(0)
    theirs = torchvision_models.get_model(name, num_classes=11).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_resnet20_has_the_parameters_of_its_paper_and_projections() -> None:
    # Table 6 of He et al. 2016 has 0.27M; the two 1x1 projections add 16*32 + 32*64 weights and their normalisations.
    measured = profile("small_resnet", num_classes=10, input_shape=(3, 32, 32))
    assert measured.parameters == 269_722 + 16 * 32 + 32 * 64 + 2 * 32 + 2 * 64
    assert measured.multiply_adds == pytest.approx(41e6, rel=0.02)


@pytest.mark.parametrize(
    ("depth", "widen", "millions"), [(28, 2, 1.5), (28, 10, 36.5), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0)]
)
def test_wide_resnets_have_the_published_parameters(depth: int, widen: int, millions: float) -> None:
    measured = profile("wide_resnet", num_classes=10, input_shape=(3, 32, 32), depth=depth, widen=widen)
    assert round(measured.parameters / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "options", "size", "maps"),
    [
        ("small_resnet", {"blocks": [1, 1]}, 8, 4),
        ("small_resnet", {"width": 8, "blocks": [1, 2, 1]}, 32, 8),
        ("small_resnet", {"blocks": [1, 1], "strides": [2, 1]}, 9, 5),
        ("wide_resnet", {"depth": 10, "dropout": 0.3}, 32, 8),
    ],
)
def test_small_networks_shrink_as_documented(name: str, options: dict[str, object], size: int, maps: int) -> None:
    model = build_model(name, num_classes=6, **options)
    seen: list[torch.Size] = []
    stages = model.get_submodule("stages")
    stages.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 6)
    assert seen[0][2:] == (maps, maps)


def test_activations_neither_vanish_nor_explode_at_initialisation() -> None:
    torch.manual_seed(0)
    for name in ("small_resnet", "wide_resnet"):
        logits = build_model(name, num_classes=10)(torch.randn(8, 3, 32, 32))
        assert 0.05 < logits.std() < 5


def test_zero_init_residual_makes_each_block_its_shortcut() -> None:
    model = build_model("small_resnet", num_classes=4, blocks=[2], zero_init_residual=True).eval()
    maps = torch.rand(1, 16, 8, 8)
    stages = model.get_submodule("stages")
    assert torch.equal(stages(maps), maps)


@pytest.mark.parametrize(("name", "options"), [("small_resnet", {"blocks": [1, 2]}), ("wide_resnet", {"depth": 16})])
def test_every_parameter_of_the_small_networks_is_learnt(name: str, options: dict[str, object]) -> None:
    model = build_model(name, num_classes=4, **options)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
