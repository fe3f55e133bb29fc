"""The mixing of batches."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2


def mixing(
    *, mixup: float, cutmix: float, num_classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return torchvision's MixUp or CutMix of (inputs, target), one of both at random, or None when both are off.

    Args:
        mixup: The alpha of mixup; 0 is off.
        cutmix: The alpha of CutMix; 0 is off.
        num_classes: The length of the target vectors that mixing makes.
    """
    kinds = []
    if mixup:
        kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix:
        kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    if not kinds:
        return None

    def mix(inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        chosen = kinds[int(torch.randint(len(kinds), (1,)))]
        # Both want (B, C, H, W): the frames of a clip, all mixed alike, are so many more channels.
        mixed, mixed_target = chosen(inputs.flatten(1, -3), target)
        return mixed.reshape(inputs.shape), mixed_target

    return mix
