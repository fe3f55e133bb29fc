import copy
import functools
import logging
import pickle
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, R2Plus1dStem, VideoResNet
from torchvision.models.video.resnet import Conv2Plus1D as TorchvisionConv

from bsssl.errors import UserError
from bsssl.models import Profile, build_model, classifier, has_classes, load_weights, profile
from tests.models.networks import randomised
from tests.processes import run_to_end

SMALL = {"width": 4, "blocks": [1, 1]}
NARROW = {"stem_dim_outs": [16, 2]}
"""options of SlowFast"""


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


# R(2+1)D


@pytest.mark.parametrize(
    ("name", "frames", "parameters", "giga"),
    [
        ("r2plus1d_18", 8, 33_370_839, 20.75),
        ("r2plus1d_18", 32, 33_370_839, 82.99),
        ("r2plus1d_34", 8, 63_697_175, 38.09),
        ("r2plus1d_34", 32, 63_697_175, 152.36),
    ],
)
def test_the_networks_of_the_paper_measure_what_it_says(name: str, frames: int, parameters: int, giga: float) -> None:
    """Yalniz et al. 2019 have, rounded, 33M with 21 and 83 G for the one, 64M with 38 G for the other."""
    measured = profile(name, num_classes=400, input_shape=(3, frames, 112, 112))
    assert measured.parameters == parameters
    assert round(measured.multiply_adds / 1e9, 2) == giga


def test_the_small_one_is_the_large_one_made_narrow() -> None:
    wide = {"width": 64, "blocks": [2, 2, 2, 2]}
    measured = profile("small_r2plus1d", num_classes=400, input_shape=(3, 8, 112, 112), **wide)
    assert (measured.parameters, round(measured.multiply_adds / 1e9, 2)) == (33_370_839, 20.75)


def test_multiply_adds_are_fvcores(clips: Tensor) -> None:
    model = build_model("small_r2plus1d", num_classes=7, **SMALL).eval()
    counted = FlopCountAnalysis(model, clips[:1]).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_kind = counted.by_operator()
    expected = Profile(sum(p.numel() for p in model.parameters()), by_kind["conv"] + by_kind["linear"])
    assert profile("small_r2plus1d", num_classes=7, input_shape=clips.shape[1:], **SMALL) == expected


def test_each_convolution_is_factorised_by_its_own_planes_space_first() -> None:
    with torch.device("meta"):
        model = build_model("r2plus1d_18", num_classes=400)
    convolutions = [module for module in model.modules() if type(module).__name__ == "Conv2plus1d"]
    assert [conv.norm.num_features for conv in convolutions] == [
        *(45, 144, 144, 144, 144),
        *(230, 288, 288, 288),
        *(460, 576, 576, 576),
        *(921, 1152, 1152, 1152),
    ]
    assert all(conv.conv_xy_first for conv in convolutions)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}


@pytest.mark.parametrize(
    ("options", "clip", "maps"),
    [
        ({}, (4, 32, 32), (1, 2, 2)),
        ({"stem_stride": 1}, (4, 32, 32), (1, 4, 4)),
        ({"blocks": [2, 1]}, (5, 30, 20), (3, 8, 5)),
        ({"blocks": [1]}, (1, 7, 7), (1, 4, 4)),
        ({"blocks": [1, 1, 1], "strides": [2, 1, 2], "stem_stride": 3}, (16, 64, 64), (4, 6, 6)),
    ],
)
def test_the_small_network_shrinks_as_documented(
    options: dict[str, Any], clip: tuple[int, int, int], maps: tuple[int, int, int]
) -> None:
    model = build_model("small_r2plus1d", num_classes=6, **{"width": 4, **options})
    seen: list[torch.Size] = []
    model.get_submodule("blocks")[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    logits = model(torch.randn(2, 3, *clip))
    assert logits.shape == (2, 6)
    assert seen[0][2:] == maps


def test_initialised_as_torchvision_does() -> None:
    torch.manual_seed(0)
    model = build_model("small_r2plus1d", num_classes=200, width=32, blocks=[1, 1])
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            fan_out = module.out_channels * torch.tensor(module.kernel_size).prod()
            assert module.weight.std().item() == pytest.approx((2 / fan_out.item()) ** 0.5, rel=0.1)
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm3d):
            assert (module.weight == 1).all()
    head = classifier(model)[1]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.bias is not None and not head.bias.any()


def test_same_seed_builds_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model("small_r2plus1d", num_classes=2, **SMALL).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_zero_init_residual_makes_each_block_its_shortcut() -> None:
    model = build_model("small_r2plus1d", num_classes=4, width=4, blocks=[2], zero_init_residual=True).eval()
    maps = torch.rand(1, 4, 2, 5, 5)
    assert torch.equal(model.get_submodule("blocks.1")(maps), maps)


def test_every_parameter_is_learnt(clips: Tensor) -> None:
    model = build_model("small_r2plus1d", num_classes=2, **SMALL)
    nn.functional.cross_entropy(model(clips), torch.arange(2)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_channels_last_gives_the_same_logits(clips: Tensor) -> None:
    model = build_model("small_r2plus1d", num_classes=3, **SMALL).eval()
    expected = model(clips)
    model.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(clips.to(memory_format=torch.channels_last_3d)), expected)


def test_goes_to_another_process_and_is_copied(clips: Tensor) -> None:
    model = build_model("small_r2plus1d", num_classes=3, **SMALL).eval()
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(twin(clips), model(clips))


def test_names_of_saved_weights_stay_what_they_are() -> None:
    names = build_model("small_r2plus1d", num_classes=3, **SMALL).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def factorised(conv: str) -> set[str]:
        return {f"{conv}.conv_xy.weight", f"{conv}.conv_t.weight", *(f"{conv}.norm.{name}" for name in norm)}

    expected = factorised("blocks.0.conv") | {f"blocks.0.norm.{name}" for name in norm}
    for stage in (1, 2):
        block = f"blocks.{stage}.res_blocks.0"
        for half in "ab":
            expected |= factorised(f"{block}.branch2.conv_{half}")
            expected |= {f"{block}.branch2.norm_{half}.{name}" for name in norm}
    expected |= {"blocks.2.res_blocks.0.branch1_conv.weight"}
    expected |= {f"blocks.2.res_blocks.0.branch1_norm.{name}" for name in norm}
    assert set(names) == expected | {"blocks.3.proj.weight", "blocks.3.proj.bias"}


def test_pytorchvideo_is_imported_when_needed_and_in_silence() -> None:
    script = """
        import sys
        import bsssl.models
        assert not any(name.partition(".")[0] == "pytorchvideo" for name in sys.modules)
        bsssl.models.build_model("small_r2plus1d", num_classes=2, blocks=[1])
        import pytorchvideo.models.hub
        assert "pytorchvideo.transforms" not in sys.modules
    """
    done = run_to_end([sys.executable, "-c", textwrap.dedent(script)])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Networks of the libraries


@pytest.mark.parametrize(
    ("name", "options", "clip", "head"),
    [
        ("r2plus1d_18", {}, (4, 16, 16), "blocks.5.proj"),
        ("small_r2plus1d", SMALL, (4, 16, 16), "blocks.3.proj"),
        ("torchvision/r3d_18", {}, (4, 16, 16), "fc"),
        ("torchvision/s3d", {}, (16, 224, 224), "classifier.1"),
        ("torchvision/mvit_v1_b", {}, (16, 224, 224), "head.1"),
        ("torchvision/swin3d_t", {"dropout": 0.1}, (4, 32, 32), "head"),
        ("pytorchvideo/c2d_r50", {"dropout_rate": 0.1}, (4, 32, 32), "blocks.6.proj"),
        ("pytorchvideo/x3d_xs", {}, (4, 160, 160), "blocks.5.proj"),
        ("pytorchvideo/efficient_x3d_xs", {}, (4, 160, 160), "projection.model"),
        ("pytorchvideo/slowfast_r50", NARROW, (8, 32, 32), "blocks.6.proj"),
        (
            "pytorchvideo/mvit_base_16x4",
            {"spatial_size": 32, "temporal_size": 4, "depth": 4, "droppath_rate_block": 0.1}
            | {"embed_dim_mul": [[1, 2.0]], "atten_head_mul": [[1, 2.0]], "pool_q_stride_size": [[1, 1, 2, 2]]},
            (4, 32, 32),
            "head.proj",
        ),
    ],
)
def test_networks_are_measured_and_their_classifier_is_found(
    name: str, options: dict[str, Any], clip: tuple[int, int, int], head: str
) -> None:
    before = torch.get_rng_state()
    measured = profile(name, num_classes=6, input_shape=(3, *clip), **options)
    assert torch.equal(before, torch.get_rng_state())
    with torch.device("meta"):
        model = build_model(name, num_classes=6, **options)
    found, layer = classifier(model)
    assert (found, layer.weight.shape[0]) == (head, 6)
    assert measured.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert measured.multiply_adds > 1e5


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("torchvision/r3d_18", 16),
        ("pytorchvideo/x3d_xs", 160),
        ("pytorchvideo/r2plus1d_r50", 32),
        ("pytorchvideo/slowfast_r50", 32),
    ],
)
def test_they_end_in_logits(name: str, side: int) -> None:
    torch.manual_seed(0)
    logits = build_model(name, num_classes=5).eval()(torch.randn(2, 3, 4, side, side))
    assert logits.shape == (2, 5)
    assert (logits.sum(1) - 1).abs().min() > 1e-3 and (logits < 0).any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r2plus1d_35", {}, "unknown model 'r2plus1d_35': did you mean 'r2plus1d_34'"),
        ("r2plus1d_34", {"width": 2}, "has no option 'width': valid: zero_init_residual"),
        ("small_r2plus1d", {"blocks": [1, 1], "strides": [1]}, "'small_r2plus1d': strides=.1. needs one entry per st"),
        ("small_r2plus1d", {"blocks": [1] * 5}, "blocks=.*at most 4"),
        ("small_r2plus1d", {"stem_stride": 0}, "stem_stride=0: "),
        ("r3d_18", {}, "torchvision's is called 'torchvision/r3d_18'"),
        ("x3d_s", {}, "pytorchvideo's is called 'pytorchvideo/x3d_s'"),
        ("torchvision/r2plus1d_34", {}, "nearest: torchvision/r2plus1d_18; torchvision.models.list_models.*lists them"),
        ("torchvision/fcn_resnet50", {}, "unknown torchvision model 'torchvision/fcn_resnet50'"),
        ("torchvision/r3d_18", {"wdith": 2}, "cannot be made with options {'wdith': 2}: .*wdith"),
        ("torchvision/r3d_18", {"weights": "DEFAULT"}, "take weights out of its options"),
        ("pytorchvideo/slow_r5", {}, "nearest: pytorchvideo/slow_r50, .*dir.pytorchvideo.models.hub. lists them all"),
        ("pytorchvideo/slow_r50", {"wdith": 2}, "cannot be made with options {'wdith': 2}: .*wdith"),
        ("pytorchvideo/slow_r50", {"pretrained": True}, "cannot be made with options .*'pretrained'"),
        ("pytorchvideo/x3d_s", {"head_activation": "softmax"}, "cannot be made with options .*'head_activation'"),
        ("pytorchvideo/slow_r50_detection", {}, "takes boxes besides the clip; choose .*: c2d_r50, .*x3d_xs"),
        ("pytorchvideo/slowfast_r50_detection", {}, "takes boxes besides the clip; choose"),
    ],
)
def test_bad_names_and_options_are_one_clear_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_model(name, num_classes=10, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("slowfast_r50", {"slowfast_fusion_conv_stride": [0, 1, 1]}),
        ("slowfast_r50", {"slowfast_fusion_conv_stride": ["a", 1, 1]}),
        ("i3d_r50", {"stem_conv_stride": [0, 2, 2]}),
    ],
)
def test_profile_refuses_strides_that_are_none(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"pytorchvideo/{name}' cannot be made with options {{'s") as caught:
        profile(f"pytorchvideo/{name}", num_classes=10, input_shape=(3, 8, 32, 32), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("r2plus1d_18", (3, 112, 112)),
        ("resnet18", (3, 8, 112, 112)),
        ("torchvision/mvit_v2_s", (3, 16, 112, 112)),
        ("torchvision/swin3d_t", (3, 112, 112)),
        ("pytorchvideo/x3d_xs", (3, 4, 112, 112)),
        ("pytorchvideo/slowfast_r50", (3, 6, 32, 32)),
    ],
)
def test_profile_refuses_an_impossible_clip(name: str, shape: tuple[int, ...]) -> None:
    remedy = (
        "set another transforms.size or number of frames; if it is a network for images, set options.per_frame=true, "
        "which averages the scores of frames, or leave out data.clips"
        if len(shape) == 4
        else "set another transforms.size; if it is a network for videos, set data.clips"
    )
    with pytest.raises(UserError, match=f"{name}' cannot take inputs of 3x.*; {remedy}$") as caught:
        profile(name, num_classes=10, input_shape=shape)
    assert "\n" not in str(caught.value)


# Two pathways


@pytest.mark.parametrize(
    ("name", "frames", "millions", "giga"),
    [
        ("slowfast_r50", 32, 34.57, 65.71),
        ("slowfast_r101", 32, 62.83, 125.91),
        ("slowfast_16x8_r101_50_50", 64, 53.77, 213.02),
    ],
)
def test_slowfast_measures_what_pytorchvideo_says(name: str, frames: int, millions: float, giga: float) -> None:
    """PyTorchVideo's model zoo has the same millions, and 65.71, 127.20 and 215.61 G, which count more than we do."""
    measured = profile(f"pytorchvideo/{name}", num_classes=400, input_shape=(3, frames, 256, 256))
    assert round(measured.parameters / 1e6, 2) == millions
    assert round(measured.multiply_adds / 1e9, 2) == giga


@pytest.mark.parametrize(("frames", "ratio"), [(32, 4), (4, 4), (16, 8)])
def test_one_clip_is_packed_as_pytorchvideo_does(frames: int, ratio: int) -> None:
    """Its ``PackPathway``, of the tutorial, takes ``linspace(0, T - 1, T // alpha)`` for the slow pathway."""
    options = {**NARROW, "slowfast_fusion_conv_stride": [ratio, 1, 1]}
    ours = randomised(build_model("pytorchvideo/slowfast_r50", num_classes=5, **options))
    from pytorchvideo.models.hub import slowfast_r50  # which warns unless it has been imported

    theirs = slowfast_r50(model_num_class=5, head_pool=nn.AdaptiveAvgPool3d, **options)
    theirs.load_state_dict(ours.state_dict())
    clips = torch.randn(2, 3, frames, 32, 32)
    slow = clips.index_select(2, torch.linspace(0, frames - 1, frames // ratio).long())
    expected = theirs.eval()([slow, clips])
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(clips), expected)
    twins = (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours))
    assert all(torch.equal(twin(clips), ours(clips)) for twin in twins)


def test_frames_that_do_not_divide_are_one_clear_line() -> None:
    with pytest.raises(
        UserError, match=r"one frame of 4, and 6 is not a multiple of that: give another number .*; set another"
    ):
        profile("pytorchvideo/slowfast_r50", num_classes=2, input_shape=(3, 6, 64, 64))


# Weights of others


class _VmzConv(TorchvisionConv):
    """VMZ's: the planes between follow from the convolution, whatever torchvision's block says."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        own = 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, own, stride, padding)


def vmz(*, layers: list[int], num_classes: int = 5) -> nn.Module:
    """R(2+1)D as VMZ builds it, from torchvision's parts and with their names."""
    model: nn.Module = VideoResNet(BasicBlock, [_VmzConv] * 4, layers, R2Plus1dStem, num_classes=num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return model


@functools.cache
def saved_by_vmz() -> nn.Module:
    return randomised(vmz(layers=[2, 2, 2, 2]))


def test_vmz_weights_give_the_outputs_of_vmz(clips: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bsssl")
    saved, path = saved_by_vmz(), str(tmp_path / "vmz.pth")
    state = {f"module.{name}": value for name, value in saved.state_dict().items() if "num_batches" not in name}
    torch.save({"epoch": 3, "model": state}, path)
    model = build_model("r2plus1d_18", num_classes=5).eval()
    assert has_classes(model, path, list("abcde")) and not has_classes(model, path, list("abc"))
    report = load_weights(model, path)
    assert saved(clips).std() > 1e-3
    torch.testing.assert_close(model(clips), saved(clips))
    assert report.unexpected == ()
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert set(report.matched) | set(report.missing) == set(model.state_dict())
    assert re.search(rf"vmz\.pth: {len(report.matched)} of {len(report.matched)} tensors matched$", caplog.text, re.M)


def test_every_name_of_the_deep_network_finds_its_place() -> None:
    with torch.device("meta"):
        saved, model = vmz(layers=[3, 4, 6, 3]), build_model("r2plus1d_34", num_classes=5)
    report = load_weights(model, saved.state_dict())
    assert report.matched == tuple(model.state_dict())
    assert len(report.matched) == len(saved.state_dict())


def test_a_new_head_for_other_classes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bsssl")
    with torch.device("meta"):
        saved, model = vmz(layers=[2, 2, 2, 2], num_classes=359), build_model("r2plus1d_18", num_classes=5)
    with pytest.raises(UserError, match=r"has 359 classes and the network 5; .*new_head"):
        load_weights(model, saved.state_dict())
    report = load_weights(model, saved.state_dict(), new_head=True)
    assert report.missing == report.unexpected == ("blocks.5.proj.weight", "blocks.5.proj.bias")
    count = len(model.state_dict())
    assert f"{count - 2} of {count} tensors matched; the classifier 'blocks.5.proj' starts afresh" in caplog.text


def test_torchvisions_network_is_another(clips: Tensor) -> None:
    saved = randomised(torchvision.models.video.r2plus1d_18(num_classes=5))
    model = build_model("torchvision/r2plus1d_18", num_classes=5).eval()
    assert load_weights(model, saved.state_dict()).missing == ()
    assert torch.equal(model(clips), saved(clips))

    with torch.device("meta"):
        ours = build_model("r2plus1d_18", num_classes=5)
    difference = "'.*' is 128x230x3x1x1 there and 128x288x3x1x1 here; configure model 'torchvision/r2plus1d_18'"
    with pytest.raises(UserError, match=f"is of another architecture: .* first difference: {difference}"):
        load_weights(ours, saved.state_dict())
    with pytest.raises(UserError, match=r"of another architecture: .* is 288x128x1x3x3 there and 230x128x1x3x3 here"):
        load_weights(model, saved_by_vmz().state_dict())


def test_pytorchvideos_checkpoints_fill_its_networks(tmp_path: Path) -> None:
    saved, model = (randomised(build_model("pytorchvideo/x3d_xs", num_classes=5)) for _ in range(2))
    torch.save({"model_state": saved.state_dict()}, tmp_path / "X3D_XS.pyth")
    assert load_weights(model, str(tmp_path / "X3D_XS.pyth")).missing == ()
    clips = torch.randn(1, 3, 4, 160, 160)
    assert torch.equal(model(clips), saved(clips))
