"""Weights of mmaction2 and PySlowFast, whose networks are stated anew here with the names of their sources."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from bsssl.errors import UserError
from bsssl.models import build_model, has_classes, load_weights
from tests.models.networks import randomised

DEPTHS = (3, 4, 6, 3)
WIDTH = 8
CLASSES = 5


def conv(planes: int, out: int, kernel: Sequence[int], stride: Sequence[int] = (1, 1, 1)) -> nn.Conv3d:
    padding = [side // 2 for side in kernel]
    return nn.Conv3d(planes, out, tuple(kernel), tuple(stride), tuple(padding), bias=False)


# mmaction2: mmaction/models/backbones/resnet3d.py and resnet3d_slowonly.py, and configs/_base_/models


class ConvModule(nn.Module):
    def __init__(self, planes: int, out: int, kernel: Sequence[int], stride: Sequence[int] = (1, 1, 1)) -> None:
        super().__init__()
        self.conv, self.bn = conv(planes, out, kernel, stride), nn.BatchNorm3d(out)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps))


class Bottleneck3d(nn.Module):
    def __init__(self, planes: int, inner: int, stride: int, inflate: bool, downsample: bool) -> None:
        super().__init__()
        self.conv1 = ConvModule(planes, inner, (3 if inflate else 1, 1, 1))
        self.conv2 = ConvModule(inner, inner, (1, 3, 3), (1, stride, stride))
        self.conv3 = ConvModule(inner, 4 * inner, (1, 1, 1))
        self.downsample = ConvModule(planes, 4 * inner, (1, 1, 1), (1, stride, stride)) if downsample else None

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.conv3(self.conv2(self.conv1(maps).relu()).relu())
        return (residual + (maps if self.downsample is None else self.downsample(maps))).relu()


class ResNet3d(nn.Module):
    """SlowOnly, or I3D: the kernel of the stem in time, its stride and its pool's, and where blocks have one."""

    def __init__(self, kernel: int, stride: int, inflate: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.conv1 = ConvModule(3, WIDTH, (kernel, 7, 7), (stride, 2, 2))
        self.maxpool = nn.MaxPool3d((1, 3, 3), (stride, 2, 2), (0, 1, 1))
        self.pool2 = nn.MaxPool3d((2, 1, 1), (2, 1, 1)) if kernel > 1 else nn.Identity()
        planes = WIDTH
        for stage, depth in enumerate(DEPTHS):
            inner = WIDTH * 2**stage
            blocks = [
                Bottleneck3d(
                    planes if block == 0 else 4 * inner,
                    inner,
                    2 if stage and block == 0 else 1,
                    bool(inflate[stage][block]),
                    downsample=block == 0,
                )
                for block in range(depth)
            ]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            planes = 4 * inner

    def forward(self, clips: Tensor) -> Tensor:
        maps = self.pool2(self.layer1(self.maxpool(self.conv1(clips).relu())))  # type: ignore[operator]
        for stage in (2, 3, 4):
            maps = getattr(self, f"layer{stage}")(maps)
        return maps.mean((2, 3, 4))


class Recognizer3D(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.cls_head = nn.ModuleDict({"fc_cls": nn.Linear(32 * WIDTH, CLASSES)})

    def forward(self, clips: Tensor) -> Tensor:
        return self.cls_head["fc_cls"](self.backbone(clips))  # type: ignore[no-any-return]


def slow_only() -> nn.Module:
    return Recognizer3D(ResNet3d(1, 1, [[0] * 3, [0] * 4, [1] * 6, [1] * 3]))


def i3d() -> nn.Module:
    return Recognizer3D(ResNet3d(5, 2, [[1, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0, 1, 0], [0, 1, 0]]))


# PySlowFast: slowfast/models/stem_helper.py, resnet_helper.py, video_model_builder.py and head_helper.py


class Named(nn.Module):
    """Modules by their names."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class PySlowFast(nn.Module):
    """C2D, I3D or Slow, of one pathway, or SlowFast: the kernels in time of each pathway's stem and stages.

    Those of a stage take turns in its blocks; C2D and I3D have a pool behind the first stage.
    """

    def __init__(self, kernels: Sequence[Sequence[Sequence[int]]], *, pool: int = 1, ratio: int = 4) -> None:
        super().__init__()
        self.pool, self.ratio, self.pathways = pool, ratio, range(len(kernels))
        width = [WIDTH // 8**pathway * 2 for pathway in self.pathways]
        stems = {
            f"pathway{p}_stem": Named(
                conv=conv(3, width[p], (kernels[p][0][0], 7, 7), (1, 2, 2)), bn=nn.BatchNorm3d(width[p])
            )
            for p in self.pathways
        }
        self.s1 = Named(**stems)
        planes = list(width)
        self._fuse(1, planes)
        for stage, depth in enumerate(DEPTHS):
            blocks = {}
            for p in self.pathways:
                inner, before = width[p] * 2**stage, planes[p]
                for block in range(depth):
                    stride = (1, 2, 2) if stage and block == 0 else (1, 1, 1)
                    kernel = kernels[p][stage + 1][block % len(kernels[p][stage + 1])]
                    blocks[f"pathway{p}_res{block}"] = self._block(before, inner, kernel, stride, block)
                    before = 4 * inner
                planes[p] = before
            setattr(self, f"s{stage + 2}", Named(**blocks))
            if stage < 3:
                self._fuse(stage + 2, planes)
        self.head = Named(projection=nn.Linear(sum(planes), CLASSES))

    def _fuse(self, stage: int, planes: list[int]) -> None:
        if len(planes) == 2:
            fast = planes[1]
            fusion = conv(fast, 2 * fast, (7, 1, 1), (self.ratio, 1, 1))
            setattr(self, f"s{stage}_fuse", Named(conv_f2s=fusion, bn=nn.BatchNorm3d(2 * fast)))
            planes[0] += 2 * fast

    @staticmethod
    def _block(planes: int, inner: int, kernel: int, stride: Sequence[int], number: int) -> nn.Module:
        a, b, c = (
            conv(planes, inner, (kernel, 1, 1)),
            conv(inner, inner, (1, 3, 3), stride),
            conv(inner, 4 * inner, (1,) * 3),
        )
        norms = {"a_bn": nn.BatchNorm3d(inner), "b_bn": nn.BatchNorm3d(inner), "c_bn": nn.BatchNorm3d(4 * inner)}
        first = {"branch1": conv(planes, 4 * inner, (1, 1, 1), stride), "branch1_bn": nn.BatchNorm3d(4 * inner)}
        return Named(**(first if number == 0 else {}), branch2=Named(a=a, b=b, c=c, **norms))

    def forward(self, clips: Tensor) -> Tensor:
        slow = torch.linspace(0, clips.shape[2] - 1, clips.shape[2] // self.ratio).long()
        maps = [clips.index_select(2, slow), clips] if len(self.pathways) == 2 else [clips]
        for p in self.pathways:
            stem = self.s1[f"pathway{p}_stem"]
            maps[p] = nn.functional.max_pool3d(
                stem["bn"](stem["conv"](maps[p])).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1)
            )
        self._join(1, maps)
        for stage, depth in enumerate(DEPTHS):
            for p in self.pathways:
                for number in range(depth):
                    block = getattr(self, f"s{stage + 2}")[f"pathway{p}_res{number}"]
                    two = block["branch2"]
                    residual = two["b_bn"](two["b"](two["a_bn"](two["a"](maps[p])).relu())).relu()
                    residual = two["c_bn"](two["c"](residual))
                    shortcut = block["branch1_bn"](block["branch1"](maps[p])) if number == 0 else maps[p]
                    maps[p] = (shortcut + residual).relu()
            self._join(stage + 2, maps)
            if stage == 0:
                maps = [nn.functional.max_pool3d(one, (self.pool, 1, 1)) for one in maps]
        features = torch.cat([one.mean((2, 3, 4)) for one in maps], 1)
        return self.head["projection"](features)  # type: ignore[no-any-return]

    def _join(self, stage: int, maps: list[Tensor]) -> None:
        if hasattr(self, f"s{stage}_fuse"):
            fuse = getattr(self, f"s{stage}_fuse")
            maps[0] = torch.cat([maps[0], fuse["bn"](fuse["conv_f2s"](maps[1])).relu()], 1)


def slow() -> nn.Module:
    return PySlowFast([[(1,), (1,), (1,), (3,), (3,)]])


def c2d() -> nn.Module:
    return PySlowFast([[(1,)] * 5], pool=2)


def inflated() -> nn.Module:
    return PySlowFast([[(5,), (3,), (3, 1), (3, 1), (1, 3)]], pool=2)


def slowfast() -> nn.Module:
    return PySlowFast([[(1,), (1,), (1,), (3,), (3,)], [(5,), (3,), (3,), (3,), (3,)]])


def ig65m() -> nn.Module:
    """R(2+1)D as moabitcoin/ig65m-pytorch makes it, in ig65m/models.py, of 18 layers for its 34."""
    model = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [2, 2, 2, 2], R2Plus1dStem, num_classes=CLASSES)
    for name, planes in (("layer2", 128), ("layer3", 256), ("layer4", 512)):
        getattr(model, name)[0].conv2[0] = Conv2Plus1D(planes, planes, planes * 9 // 4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return model


HALVING = {"stem_conv_stride": [2, 2, 2], "stem_pool_stride": [2, 2, 2]}
NETWORKS: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "mmaction2, SlowOnly": (slow_only, "pytorchvideo/slow_r50", {"stem_dim_out": WIDTH}, "state_dict"),
    "mmaction2, I3D": (i3d, "pytorchvideo/i3d_r50", {"stem_dim_out": WIDTH, **HALVING}, "state_dict"),
    "PySlowFast, Slow": (slow, "pytorchvideo/slow_r50", {"stem_dim_out": 2 * WIDTH}, "model_state"),
    "PySlowFast, C2D": (c2d, "pytorchvideo/c2d_r50", {"stem_dim_out": 2 * WIDTH}, "model_state"),
    "PySlowFast, I3D": (inflated, "pytorchvideo/i3d_r50", {"stem_dim_out": 2 * WIDTH}, "model_state"),
    "PySlowFast, SlowFast": (slowfast, "pytorchvideo/slowfast_r50", {"stem_dim_outs": [2 * WIDTH, 2]}, "model_state"),
    "IG-65M": (ig65m, "r2plus1d_18", {}, ""),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_give_the_outputs_of_their_network(kind: str, tmp_path: Path) -> None:
    make, name, options, key = NETWORKS[kind]
    torch.manual_seed(0)
    saved, path = randomised(make()), str(tmp_path / "weights.pth")
    torch.save({"meta": {"epoch": 3}, key: saved.state_dict()} if key else saved.state_dict(), path)
    model = build_model(name, num_classes=CLASSES, **options).eval()
    assert has_classes(model, path, list("abcde")) and not has_classes(model, path, list("abc"))
    report = load_weights(model, path)
    assert report.matched == tuple(model.state_dict()) and report.missing == report.unexpected == ()
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        expected = saved(clips)
        assert expected.std() > 1e-3
        torch.testing.assert_close(model(clips), expected)
    other = build_model(name, num_classes=2, **options)
    assert len(load_weights(other, path, new_head=True).missing) == 2


def test_the_strides_of_mmaction2s_i3d_are_asked_for() -> None:
    with torch.device("meta"):
        model = build_model("pytorchvideo/i3d_r50", num_classes=CLASSES, stem_dim_out=WIDTH)
    wanted = re.escape("the options of the network to {stem_conv_stride: [2, 2, 2], stem_pool_stride: [2, 2, 2]}")
    with pytest.raises(UserError, match=f"the stem of mmaction2's network has strides of 2 in time; set {wanted}"):
        load_weights(model, i3d().state_dict())


def checkpoint(path: Path, model: nn.Module, configuration: str) -> str:
    torch.save({"epoch": 3, "model_state": model.state_dict(), "cfg": configuration}, path)
    return str(path)


def test_what_pyslowfast_notes_of_strides_and_pools_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bsssl")
    model = build_model("pytorchvideo/slowfast_r50", num_classes=CLASSES, stem_dim_outs=[2 * WIDTH, 2])
    load_weights(model, checkpoint(tmp_path / "4.pyth", slowfast(), "SLOWFAST:\n  ALPHA: 4\n  BETA_INV: 8\n"))
    assert "strides" not in caplog.text
    message = "sees one frame of 8, the network's one of 4; set .*{slowfast_fusion_conv_stride: .8, 1, 1.}"
    with pytest.raises(UserError, match=message):
        load_weights(model, checkpoint(tmp_path / "8.pyth", slowfast(), "SLOWFAST:\n  ALPHA: 8\n  BETA_INV: 8\n"))
    with torch.device("meta"):
        one = build_model("pytorchvideo/slow_r50", num_classes=CLASSES, stem_dim_out=2 * WIDTH)
    path = checkpoint(tmp_path / "no.pyth", slow(), "MODEL:\n  ARCH: c2d_nopool\n")
    with pytest.raises(UserError, match=r"lacks a pool that the network has .its ARCH ends in _nopool.; give another"):
        load_weights(one, path)
    load_weights(model, slowfast().state_dict(), origin="weights.pth")
    assert "weights.pth: strides and pools, which it does not tell, are taken for the network's" in caplog.text


@pytest.mark.parametrize(
    ("name", "saved", "message"),
    [
        (
            "r2plus1d_34",
            "backbone.conv1.conv.conv_s.weight",
            r"mmaction2's R\(2\+1\)D, which has 83 planes in its stem",
        ),
        ("pytorchvideo/slowfast_r50", "backbone.slow_path.conv1.conv.weight", "mmaction2's SlowFast, whose pathways"),
        ("pytorchvideo/slow_r50", "backbone.layer1.0.conv1.conv.weight", "is of another architecture"),
    ],
)
def test_networks_that_are_none_here_are_one_clear_line(name: str, saved: str, message: str) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=CLASSES)
    with pytest.raises(UserError, match=f"^the given state dict is of .*{message.removeprefix('is of ')}") as caught:
        load_weights(model, {saved: torch.zeros(83, 3, 1, 7, 7), "cls_head.fc_cls.weight": torch.zeros(CLASSES, 512)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("make", "name"), [(slowfast, "slow_r50"), (slow, "slowfast_r50"), (slow, "i3d_r50")])
def test_other_networks_of_the_same_library_are_refused(make: Any, name: str) -> None:
    options = {"stem_dim_outs": [2 * WIDTH, 2]} if name == "slowfast_r50" else {"stem_dim_out": 2 * WIDTH}
    with torch.device("meta"):
        model = build_model(f"pytorchvideo/{name}", num_classes=CLASSES, **options)
    with pytest.raises(UserError, match="is of another architecture"):
        load_weights(model, make().state_dict())
