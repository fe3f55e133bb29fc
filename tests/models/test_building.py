import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from bsssl.errors import UserError
from bsssl.models import Profile, build_model, profile
from bsssl.registry import MODELS

# Parameters, and multiply-adds in G without batch normalisation: torchvision's published figures where it has the
# network, and those of the released weights (Mahajan et al. 2018, timm) to their precision elsewhere.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnext50_32x4d": (25_028_904, 4.23),
    "resnext101_32x4d": (44_177_704, 8.0),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_32x16d": (194_026_792, 36.2),
    "resnext101_32x48d": (828_411_176, 153.3),
}
# The figures that count batch normalisation and pooling too: fvcore's totals, as timm lists them.
WITH_NORMALISATION = {
    "resnet18": 1.82,
    "resnet50": 4.11,
    "resnext50_32x4d": 4.26,
    "resnext101_32x4d": 8.01,
    "resnext101_32x8d": 16.48,
    "resnext101_32x16d": 36.27,
    "resnext101_32x48d": 153.57,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_networks_measure_what_was_published(name: str) -> None:
    parameters, giga = PUBLISHED[name]
    measured = profile(name, num_classes=1000, input_shape=(3, 224, 224))
    assert measured.parameters == parameters
    assert measured.multiply_adds / 1e9 == pytest.approx(giga, rel=5e-3 if name.startswith("resnext101") else 2e-4)
    if name in WITH_NORMALISATION:
        assert 0.99 < measured.multiply_adds / 1e9 / WITH_NORMALISATION[name] < 1


@pytest.mark.parametrize("name", ["resnet18", "small_resnet", "wide_resnet", "timm/resnet10t"])
def test_multiply_adds_are_fvcores_convolutions_and_products(name: str) -> None:
    model = build_model(name, num_classes=7).eval()
    counted = FlopCountAnalysis(model, torch.zeros(1, 3, 32, 32))
    by_kind = counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    expected = Profile(sum(p.numel() for p in model.parameters()), by_kind["conv"] + by_kind["linear"])
    assert profile(name, num_classes=7, input_shape=(3, 32, 32)) == expected


def test_attention_is_counted() -> None:
    measured = profile("timm/vit_tiny_patch16_224", num_classes=1000, input_shape=(3, 224, 224))
    assert measured.parameters == 5_717_416
    assert measured.multiply_adds / 1e9 == pytest.approx(1.26, rel=0.01)


def test_profile_refuses_an_impossible_input() -> None:
    with pytest.raises(
        UserError,
        match=r"vit_tiny_patch16_224'.*3x32x32.*; set another transforms.size, or options.img_size=32",
    ):
        profile("timm/vit_tiny_patch16_224", num_classes=10, input_shape=(3, 32, 32))


def test_profile_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    profile("resnet18", num_classes=10, input_shape=(3, 224, 224))
    assert torch.equal(before, torch.get_rng_state())


def test_same_seed_builds_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model("wide_resnet", num_classes=10).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "unknown model 'resnet19': did you mean 'resnet18'.*wide_resnet"),
        ("efficientnet_b0", {}, "timm's is called 'timm/efficientnet_b0'"),
        ("timm/resnet_50", {}, "unknown timm model 'timm/resnet_50': nearest: timm/resnet50, "),
        ("timm/resnet18", {"wdith": 2}, "'timm/resnet18' cannot be made with options {'wdith': 2}"),
        ("timm/resnet18.no_such_tag", {}, "'timm/resnet18.no_such_tag' cannot be made"),
        ("resnet18", {"width": 2}, "'resnet18' has no option 'width': valid: zero_init_residual"),
        ("small_resnet", {"widht": 2}, "'widht': did you mean 'width'. valid: blocks, strides, width, zero_init_resid"),
        ("small_resnet", {"width": 0}, "width=0: Input should be greater than or equal to 1"),
        ("small_resnet", {"width": 2**60}, "width=1152921504606846976: Input should be less than or equal to 10000"),
        ("small_resnet", {"num_classes": 2**60}, "'small_resnet' cannot be made with options {}: "),
        ("small_resnet", {"width": "wide"}, "width='wide': .*integer"),
        ("small_resnet", {"blocks": []}, "blocks"),
        ("small_resnet", {"blocks": [1, 1], "strides": [1]}, "strides=.1. needs one entry per stage"),
        ("wide_resnet", {"depth": 27}, "depth=27 is not 6n . 4; the nearest valid depth is 28"),
        ("wide_resnet", {"dropout": 1.0}, "dropout=1.0"),
        ("resnet18", {"num_classes": 0}, "num_classes=0"),
    ],
)
def test_bad_names_and_options_are_one_clear_line(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_model(name, **{"num_classes": 10, **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_factories_registered_by_others_are_built_too() -> None:
    @MODELS.register("_linear_for_test")
    def linear(*, num_classes: int, bias: bool = True) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes, bias=bias))

    measured = profile("_linear_for_test", num_classes=5, input_shape=(3, 2, 2), bias=False)
    assert measured == Profile(parameters=60, multiply_adds=60)
