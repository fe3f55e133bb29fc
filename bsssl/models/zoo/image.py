"""Image networks: the paper's ResNets and ResNeXts (torchvision's), and small ones for small images."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from bsssl.errors import UserError
from bsssl.registry import MODELS

Count = Annotated[int, Field(ge=1, le=10_000)]

# block, blocks per stage, groups, width per group
_RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int, int]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 1, 64),
    "resnext50_32x4d": (Bottleneck, [3, 4, 6, 3], 32, 4),
    "resnext101_32x4d": (Bottleneck, [3, 4, 23, 3], 32, 4),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], 32, 8),
    "resnext101_32x16d": (Bottleneck, [3, 4, 23, 3], 32, 16),
    "resnext101_32x48d": (Bottleneck, [3, 4, 23, 3], 32, 48),
}


def register_sizes(sizes: Mapping[str, Any]) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Return a decorator that registers a residual network under the names of ``sizes``, its first argument."""

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for name, size in sizes.items():
            MODELS.register(name)(_of_size(build, size))
        return build

    return register


def _of_size(build: Callable[..., nn.Module], size: Any) -> Callable[..., nn.Module]:
    def network(*, num_classes: Count, zero_init_residual: bool = False) -> nn.Module:
        return build(size, num_classes=num_classes, zero_init_residual=zero_init_residual)

    network.__doc__, network.__module__ = build.__doc__, build.__module__
    return network


@register_sizes(_RESNETS)
def _resnet(size: Any, *, num_classes: int, zero_init_residual: bool) -> nn.Module:
    """Return a network of He et al. 2016 or Xie et al. 2017, for inputs of about 224.

    Stride 2 is in the 3x3 convolution, as in torchvision's.

    Args:
        size: A value of ``_RESNETS``.
        num_classes: The number of classes.
        zero_init_residual: Start each residual branch at zero (Goyal et al. 2017).
    """
    block, layers, groups, width = size
    options = {"num_classes": num_classes, "zero_init_residual": zero_init_residual}
    model: nn.Module = ResNet(block, layers, groups=groups, width_per_group=width, **options)
    return model


@MODELS.register("small_resnet")
def small_resnet(
    *,
    num_classes: Count,
    width: Count = 16,
    blocks: Annotated[list[Count], Field(min_length=1)] = [3, 3, 3],  # noqa: B006 - never changed
    strides: list[Count] | None = None,
    zero_init_residual: bool = False,
) -> nn.Module:
    """Return a ResNet of basic blocks for inputs of 8 to 64 (section 4.2 of He et al. 2016), its stem without pooling.

    The defaults are ResNet-20 for 32x32. For the 8x8 digits ``blocks=[1, 1]`` ends on maps of 4x4. A shortcut that
    changes shape is a 1x1 convolution.

    Args:
        num_classes: The number of classes.
        width: The planes of the first stage, doubled at each stage.
        blocks: The number of blocks of each stage.
        strides: The stride of each stage, by default 1 and then 2s.
        zero_init_residual: Start each residual branch at zero (Goyal et al. 2017).
    """
    return SmallResNet(
        num_classes=num_classes,
        width=width,
        blocks=blocks,
        strides=stage_strides("small_resnet", blocks, strides),
        zero_init_residual=zero_init_residual,
    )


def stage_strides(name: str, blocks: Sequence[int], strides: Sequence[int] | None) -> Sequence[int]:
    """Return ``strides``, by default 1 and then 2s.

    Raises:
        UserError: There is not one for each stage of the model ``name``.
    """
    if strides is None:
        return [1] + [2] * (len(blocks) - 1)
    if len(strides) != len(blocks):
        raise UserError(
            f"model '{name}': strides={strides} needs one entry per stage, like blocks={blocks}; "
            "leave it out for 1 and then 2s"
        )
    return strides


class SmallResNet(nn.Module):
    """The network of ``small_resnet``, from (B, 3, H, W) float to logits (B, num_classes)."""

    def __init__(
        self, *, num_classes: int, width: int, blocks: Sequence[int], strides: Sequence[int], zero_init_residual: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, planes = [], width
        for number, (count, stride) in enumerate(zip(blocks, strides, strict=True)):
            out = width * 2**number
            stages.append(nn.Sequential(_basic_block(planes, out, stride), *_basic_blocks(count - 1, out)))
            planes = out
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(planes, num_classes)
        _kaiming(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, 3, H, W)."""
        maps = self.stages(torch.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


def _basic_block(planes: int, out: int, stride: int) -> nn.Module:
    downsample = None
    if stride != 1 or planes != out:
        downsample = nn.Sequential(nn.Conv2d(planes, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    block: nn.Module = BasicBlock(planes, out, stride, downsample)
    return block


def _basic_blocks(count: int, planes: int) -> list[nn.Module]:
    return [_basic_block(planes, planes, 1) for _ in range(count)]


@MODELS.register("wide_resnet")
def wide_resnet(
    *,
    num_classes: Count,
    depth: Count = 28,
    widen: Count = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Return WRN-``depth``-``widen`` of Zagoruyko & Komodakis 2016 for inputs of 32: pre-activation, three stages.

    The default is WRN-28-2.

    Args:
        num_classes: The number of classes.
        depth: The number of layers, 6n + 4.
        widen: The factor of the planes of every stage.
        dropout: The share of planes' values that is dropped between the two convolutions of a block.
    """
    if depth < 10 or (depth - 4) % 6:
        nearest = max(10, 6 * round((depth - 4) / 6) + 4)
        raise UserError(f"model 'wide_resnet': depth={depth} is not 6n + 4; the nearest valid depth is {nearest}")
    return WideResNet(num_classes=num_classes, blocks=(depth - 4) // 6, widen=widen, dropout=dropout)


class WideResNet(nn.Module):
    """The network of ``wide_resnet``, from (B, 3, H, W) float to logits (B, num_classes)."""

    def __init__(self, *, num_classes: int, blocks: int, widen: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        stages, planes = [], 16
        for number in range(3):
            out = 16 * widen * 2**number
            first = _PreActivationBlock(planes, out, 2 if number else 1, dropout)
            rest = [_PreActivationBlock(out, out, 1, dropout) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            planes = out
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(planes)
        self.fc = nn.Linear(planes, num_classes)
        _kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, 3, H, W)."""
        maps = torch.relu(self.bn(self.stages(self.conv1(images))))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


class _PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice; where the shape changes, the shortcut starts from the first activation."""

    def __init__(self, planes: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv1 = nn.Conv2d(planes, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(planes, out, 1, stride, bias=False) if stride != 1 or planes != out else None
        self.dropout = dropout

    def forward(self, maps: Tensor) -> Tensor:
        active = torch.relu(self.bn1(maps))
        residual = torch.relu(self.bn2(self.conv1(active)))
        residual = self.conv2(functional.dropout(residual, self.dropout, self.training))
        total: Tensor = residual + (maps if self.shortcut is None else self.shortcut(active))
        return total


def _kaiming(model: nn.Module) -> None:
    """Initialise convolutions by fan-out (He et al. 2015), as torchvision's ResNet, the classifier's biases at zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -1 / math.sqrt(module.in_features), 1 / math.sqrt(module.in_features))
            nn.init.zeros_(module.bias)
