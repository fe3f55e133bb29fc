"""Losses and the mixing of batches."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from bsssl.runtime import distributed


class Loss(nn.Module):
    """The loss of a training: softmax cross-entropy unless told otherwise, mean over the batch.

    Args:
        label_smoothing: share of each target that is spread over all classes.
        q: of generalised cross-entropy, ``(1 - p ** q) / q`` instead of ``-log p`` (Zhang and Sabuncu 2018, arXiv
            1805.07836), weighted by the target where it is a vector; its limit 0 is cross-entropy.
        adjustment: (C,), added to the logits, see ``logit_adjustment``.
        early_learning: added to the loss.

    What it remembers from one call to the next is in its ``state_dict``: empty but for ``early_learning``.
    """

    adjustment: Tensor | None

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        q: float = 0.0,
        adjustment: Tensor | None = None,
        early_learning: "EarlyLearning | None" = None,
    ) -> None:
        super().__init__()
        self._label_smoothing, self._q = label_smoothing, q
        self.register_buffer("adjustment", adjustment, persistent=False)
        self.early_learning = early_learning

    def forward(self, logits: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """Of logits (B, C) of any precision, targets int64 (B,) or float32 (B, C) that sum to 1, and the rows of the
        training set that they are of, int64 (B,)."""
        # In float32 whatever the precision of the network: exponentials overflow early in float16.
        logits = logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment
        loss = self._cross_entropy(logits, target)
        return loss if self.early_learning is None else loss + self.early_learning(logits, index)

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        if not self._q:
            return functional.cross_entropy(logits, target, label_smoothing=self._label_smoothing)
        classes = logits.shape[1]
        wanted = target if target.ndim == 2 else functional.one_hot(target, classes)
        wanted = (1 - self._label_smoothing) * wanted + self._label_smoothing / classes
        powers = (self._q * logits.log_softmax(1)).exp()
        return (wanted * (1 - powers)).sum(1).mean() / self._q


class EarlyLearning(nn.Module):
    """Early-learning regularisation (Liu et al. 2020, arXiv 2007.00151): the network is held to what it thought of a
    row before it began to learn noisy targets by heart.

    It remembers a moving average of the predictions for every row of the training set, the same in all processes, and
    returns the mean of ``log(1 - <prediction, average>)`` over the batch, times ``weight``.

    Args:
        rows: of the training set.
        num_classes: C.
        weight: lambda in the paper.
        beta: share that stays of an average when its row comes again.
    """

    memory: Tensor
    """float32 (rows, C)"""

    def __init__(self, *, rows: int, num_classes: int, weight: float, beta: float) -> None:
        super().__init__()
        self._weight, self._beta = weight, beta
        self.register_buffer("memory", torch.zeros(rows, num_classes))

    def forward(self, logits: Tensor, index: Tensor) -> Tensor:
        """Take note of the predictions for the rows ``index`` (B,) by all processes; the loss of these here."""
        probabilities = logits.softmax(1).clamp(1e-4, 1 - 1e-4)
        normalised = functional.normalize(probabilities.detach(), p=1, dim=1)
        for rows, predictions in distributed.gather((index.cpu(), normalised.cpu())):
            rows, predictions = rows.to(self.memory.device), predictions.to(self.memory.device)
            self.memory[rows] = self._beta * self.memory[rows] + (1 - self._beta) * predictions
        agreement = (probabilities * self.memory[index.to(self.memory.device)]).sum(1)
        return self._weight * (1 - agreement).log().mean()


def logit_adjustment(counts: np.ndarray, *, tau: float) -> Tensor:
    """What to add to the logits in the loss so that rare classes are not given up (Menon et al. 2021, arXiv
    2007.07314): ``tau`` times the logarithm of each class's share.

    ``counts``: (C,), the items of each class in the training set; none counts as one. Returns float32 (C,).
    """
    counts = np.maximum(counts, 1)
    return torch.from_numpy(tau * np.log(counts / counts.sum())).float()


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
