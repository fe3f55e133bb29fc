"""Losses and the mixing of batches."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2


def cross_entropy(label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Softmax cross-entropy, mean over the batch; targets are class indices (B,) or vectors (B, C) that sum to 1."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        # In float32 whatever the precision of the network: exponentials overflow early in float16.
        return functional.cross_entropy(logits.float(), target, label_smoothing=label_smoothing)

    return loss


def mixing(
    *, mixup: float, cutmix: float, num_classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """torchvision's MixUp, CutMix, one of both at random, or None when both are 0.

    Args:
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off.
        num_classes: length of the target vectors that mixing makes.
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
