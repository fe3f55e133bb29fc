"""Video networks: R(2+1)D (Tran et al. 2018) of PyTorchVideo's building blocks, and PyTorchVideo's own networks.

PyTorchVideo takes seconds to import: nothing here imports it before a video network is asked for.
"""

import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from bsssl.errors import UserError
from bsssl.models.zoo.image import Count, register_sizes, stage_strides
from bsssl.registry import MODELS

# Caffe2's epsilon, with which R(2+1)D was published; PyTorch's own is 1e-5.
_EPS = 1e-3
_RELU = partial(nn.ReLU, inplace=True)


@register_sizes({"r2plus1d_18": [2, 2, 2, 2], "r2plus1d_34": [3, 4, 6, 3]})
def _r2plus1d(blocks: list[int], *, num_classes: int, zero_init_residual: bool) -> nn.Module:
    """Return the R(2+1)D of table 1 and section 3.5 of Tran et al. 2018, for clips of any length.

    The paper's clips have 8 to 32 frames of 112x112.

    Args:
        blocks: The number of blocks of each stage.
        num_classes: The number of classes.
        zero_init_residual: Start each residual branch at zero (Goyal et al. 2017).
    """
    options: dict[str, Any] = {"num_classes": num_classes, "zero_init_residual": zero_init_residual}
    return _build_r2plus1d(width=64, blocks=blocks, strides=[1, 2, 2, 2], stem_stride=2, **options)


@MODELS.register("small_r2plus1d")
def small_r2plus1d(
    *,
    num_classes: Count,
    width: Count = 16,
    blocks: Annotated[list[Count], Field(min_length=1, max_length=4)] = [1, 1, 1, 1],  # noqa: B006 - never changed
    strides: list[Count] | None = None,
    stem_stride: Count = 2,
    zero_init_residual: bool = False,
) -> nn.Module:
    """Return a narrow R(2+1)D that a CPU can train, for clips of 4 to 16 frames of 32x32 to 112x112.

    ``width=64`` and ``blocks=[2, 2, 2, 2]`` are ``r2plus1d_18``.

    Args:
        num_classes: The number of classes.
        width: The planes of the first stage, doubled at each stage.
        blocks: The number of blocks of each stage.
        strides: The stride of each stage in time and space, by default 1 and then 2s.
        stem_stride: The stride of the stem, in space alone: the paper's 2; 1 keeps the detail of clips of 32x32.
        zero_init_residual: Start each residual branch at zero (Goyal et al. 2017).
    """
    return _build_r2plus1d(
        num_classes=num_classes,
        width=width,
        blocks=blocks,
        strides=stage_strides("small_r2plus1d", blocks, strides),
        stem_stride=stem_stride,
        zero_init_residual=zero_init_residual,
    )


def _build_r2plus1d(
    *,
    num_classes: int,
    width: int,
    blocks: Sequence[int],
    strides: Sequence[int],
    stem_stride: int,
    zero_init_residual: bool,
) -> nn.Module:
    """Return an R(2+1)D with basic blocks, from (B, 3, T, H, W) float to logits (B, num_classes).

    PyTorchVideo's ``Net`` initialises it as torchvision does: He et al. 2015 by fan-out, the classifier at 0.01.
    """
    stem = _pytorchvideo("models.stem").create_res_basic_stem(
        in_channels=3,
        out_channels=width,
        # The stem alone does not follow the rule of _conv2plus1d: 45 planes between for 64 (Tran et al. 2018).
        conv=partial(_factorised, inner_channels=max(1, 45 * width // 64)),
        conv_kernel_size=(3, 7, 7),
        conv_stride=(1, stem_stride, stem_stride),
        conv_padding=(1, 3, 3),
        pool=None,
        norm_eps=_EPS,
        activation=_RELU,
    )
    stages, planes = [], width
    for number, (count, stride) in enumerate(zip(blocks, strides, strict=True)):
        out = width * 2**number
        stages.append(
            _pytorchvideo("models.resnet").create_res_stage(
                depth=count,
                dim_in=planes,
                dim_inner=out,
                dim_out=out,
                bottleneck=partial(_BasicBlock, zero_init_residual=zero_init_residual),
                conv_a_stride=(stride, stride, stride),
                conv_b_stride=(1, 1, 1),
                norm_eps=_EPS,
                activation=_RELU,
            )
        )
        planes = out
    head = _pytorchvideo("models.head").create_res_basic_head(
        in_features=planes, out_features=num_classes, pool=nn.AdaptiveAvgPool3d, dropout_rate=0, activation=None
    )
    model: nn.Module = _pytorchvideo("models.net").Net(blocks=nn.ModuleList([stem, *stages, head]))
    return model


class _BasicBlock(nn.Module):
    """The residual branch of a basic block, both convolutions factorised; PyTorchVideo's ``ResBlock`` goes around it.

    Of what ``create_res_stage`` offers to a bottleneck it needs the planes and the first convolution's stride.
    """

    def __init__(
        self, *, dim_in: int, dim_out: int, conv_a_stride: Sequence[int], zero_init_residual: bool, **_: Any
    ) -> None:
        super().__init__()
        self.conv_a = _conv2plus1d(dim_in, dim_out, conv_a_stride)
        self.norm_a = nn.BatchNorm3d(dim_out, eps=_EPS)
        self.act_a = _RELU()
        self.conv_b = _conv2plus1d(dim_out, dim_out, (1, 1, 1))
        self.norm_b = nn.BatchNorm3d(dim_out, eps=_EPS)
        # Read when Net initialises itself.
        self.norm_b.block_final_bn = zero_init_residual  # type: ignore[assignment]

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.act_a(self.norm_a(self.conv_a(maps)))
        residual: Tensor = self.norm_b(self.conv_b(maps))
        return residual


def _conv2plus1d(planes: int, out: int, stride: Sequence[int]) -> nn.Module:
    """Return a 3x3x3 convolution in two, with planes between for the same parameters (section 3.5 of Tran et al. 2018).

    The planes between follow from each convolution's own ``planes`` and ``out``; torchvision's follow from its block's.
    """
    inner = 3 * planes * out * 9 // (9 * planes + 3 * out)
    return _factorised(planes, out, inner_channels=inner, kernel_size=(3, 3, 3), stride=stride, padding=(1, 1, 1))


def _factorised(in_channels: int, out_channels: int, **options: Any) -> nn.Module:
    """Return a convolution in space, batch normalisation, ReLU and a convolution in time."""
    conv: nn.Module = _pytorchvideo("layers.convolutions").create_conv_2plus1d(
        in_channels=in_channels,
        out_channels=out_channels,
        conv_xy_first=True,
        norm_eps=_EPS,
        activation=_RELU,
        **options,
    )
    return conv


# What builders of pytorchvideo.models.hub call the number of classes, and what makes their networks end in logits. The
# ResNets pool by windows of a fixed size unless told to adapt to the clip; the others are made for one size.
_RESNET = ("model_num_class", {"head_activation": None, "head_pool": nn.AdaptiveAvgPool3d})
_X3D = ("model_num_class", {"head_activation": None})
_EFFICIENT_X3D = ("num_classes", {"head_act": "identity"})
_MVIT = ("head_num_classes", {"head_activation": None})
_SLOWFAST = ("model_num_class", {"head_pool": nn.AdaptiveAvgPool3d})
_HUB: dict[str, tuple[str, Mapping[str, Any]]] = {
    "c2d_r50": _RESNET,
    "csn_r101": _RESNET,
    "efficient_x3d_s": _EFFICIENT_X3D,
    "efficient_x3d_xs": _EFFICIENT_X3D,
    "i3d_r50": _RESNET,
    "mvit_base_16": _MVIT,
    "mvit_base_16x4": _MVIT,
    "mvit_base_32x3": _MVIT,
    "r2plus1d_r50": _RESNET,
    "slow_r50": _RESNET,
    "slowfast_16x8_r101_50_50": _SLOWFAST,
    "slowfast_r101": _SLOWFAST,
    "slowfast_r50": _SLOWFAST,
    "x3d_l": _X3D,
    "x3d_m": _X3D,
    "x3d_s": _X3D,
    "x3d_xs": _X3D,
}
_WITH_BOXES = ("slow_r50_detection", "slowfast_r50_detection")


class SlowFast(nn.Module):
    """A network of two pathways (Feichtenhofer et al. 2019, arXiv 1812.03982), from one clip to logits.

    The fast pathway sees all frames. The slow one sees one of ``ratio``, evenly spread: that is the stride of the
    convolutions that join the two. The names of its tensors are those of PyTorchVideo's own network.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        fusion: Any = self.blocks[0].get_submodule("multipathway_fusion.conv_fast_to_slow")
        self.ratio: int = fusion.stride[0]

    def forward(self, clips: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of clips (B, 3, T, H, W)."""
        frames = clips.shape[2]
        if frames % self.ratio:
            raise ValueError(
                f"the slow pathway sees one frame of {self.ratio}, and {frames} is not a multiple of that: give "
                "another number of frames"
            )
        seen: Any = [clips[:, :, _spread(frames, frames // self.ratio)], clips]
        for block in self.blocks:
            seen = block(seen)
        logits: Tensor = seen
        return logits


def _spread(frames: int, count: int) -> list[int]:
    """Return the numbers of ``count`` of the frames, evenly spread from the first to the last, rounded down."""
    return [number * (frames - 1) // max(count - 1, 1) for number in range(count)]


def pytorchvideo_names() -> list[str]:
    """Return the builders of ``pytorchvideo.models.hub``, those that ``create_pytorchvideo`` refuses included."""
    return sorted([*_HUB, *_WITH_BOXES])


def create_pytorchvideo(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Return the network of ``pytorchvideo.models.hub`` called ``name``, freshly initialised, which ends in logits.

    Args:
        name: One of ``pytorchvideo_names()``.
        num_classes: The number of classes.
        **options: What the builder takes.

    Raises:
        UserError: The network takes more than clips.
    """
    if name in _WITH_BOXES:
        raise UserError(
            f"model 'pytorchvideo/{name}' takes boxes besides the clip; choose one that takes a clip: {', '.join(_HUB)}"
        )
    build = getattr(_pytorchvideo("models.hub"), name)
    classes, logits = _HUB[name]
    # MViT reads numbers back from tensors while it is built, which the meta device cannot give: it moves there later.
    device = torch.get_default_device()
    with torch.device("cpu" if _HUB[name] is _MVIT else device):
        model: nn.Module = build(pretrained=False, **{classes: num_classes}, **logits, **options)
        if _HUB[name] is _SLOWFAST:
            model = SlowFast(model.get_submodule("blocks").children())
    return model.to(device)


def load_pytorchvideo(name: str) -> Mapping[str, Tensor]:
    """Return the tensors of the network of ``pytorchvideo.models.hub`` called ``name``, trained on Kinetics-400.

    torch fetches them into its cache.
    """
    build = getattr(_pytorchvideo("models.hub"), name)
    state: Mapping[str, Tensor] = build(pretrained=True, progress=False, **_HUB[name][1]).state_dict()
    return state


def _pytorchvideo(module: str) -> Any:
    """Import PyTorchVideo's ``module`` without a warning for each function that it compiles with TorchScript.

    Raises:
        UserError: It is not installed, or does not work.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return importlib.import_module(f"pytorchvideo.{module}")
        except ImportError as error:
            raise UserError(
                f"cannot import PyTorchVideo, of which the network is made ({error}): pip install 'bsssl[video]'"
            ) from None
