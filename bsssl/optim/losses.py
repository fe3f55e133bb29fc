"""Losses by name."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bsssl.config.training import Train
from bsssl.registry import LOSSES
from bsssl.runtime import distributed


def build_loss(settings: Train, *, num_classes: int, rows: int, class_counts: Callable[[], np.ndarray]) -> nn.Module:
    """Return the loss that ``settings`` name, a module called with logits, targets and rows of the training set.

    Args:
        settings: The section of the training.
        num_classes: The number of classes, C.
        rows: The number of rows of the training set.
        class_counts: Counts the rows of each class, float (C,), where the loss asks for it.
    """
    loss: nn.Module = LOSSES.build(
        settings.loss,
        settings.options_of("loss"),
        num_classes=num_classes,
        rows=rows,
        class_counts=class_counts,
    )
    return loss


@LOSSES.register("cross_entropy")
def cross_entropy(
    *,
    num_classes: int,
    rows: int,
    class_counts: Callable[[], np.ndarray],
    label_smoothing: float = 0.0,
    gce: float = 0.0,
    elr: float = 0.0,
    elr_beta: float = 0.7,
    logit_adjustment: float = 0.0,
) -> nn.Module:
    """Return softmax cross-entropy, with what the options add for noisy targets and for long-tailed classes.

    Args:
        num_classes: The number of classes.
        rows: The number of rows of the training set.
        class_counts: Counts the rows of each class.
        label_smoothing: The share of each target that is spread over all classes.
        gce: The q of generalised cross-entropy; 0 is plain cross-entropy.
        elr: The weight of early-learning regularisation; 0 is off.
        elr_beta: The share of a remembered prediction that stays when its row comes again.
        logit_adjustment: The tau of logit adjustment; 0 is off.
    """
    return CrossEntropy(
        label_smoothing=label_smoothing,
        q=gce,
        adjustment=adjustment(class_counts(), tau=logit_adjustment) if logit_adjustment else None,
        early_learning=(EarlyLearning(rows=rows, num_classes=num_classes, weight=elr, beta=elr_beta) if elr else None),
    )


class CrossEntropy(nn.Module):
    """Softmax cross-entropy, mean over the batch.

    Args:
        label_smoothing: The share of each target that is spread over all classes.
        q: The parameter of generalised cross-entropy, ``(1 - p ** q) / q`` instead of ``-log p`` (Zhang and Sabuncu
            2018, arXiv 1805.07836), weighted by the target where it is a vector; its limit 0 is cross-entropy.
        adjustment: What is added to the logits, (C,), see ``adjustment``.
        early_learning: A second loss, added to this one.

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

    def forward(self, logits: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            logits: (B, C), of any precision.
            target: int64 (B,), or float32 (B, C) that sums to 1.
            rows: The rows of the training set that these are of, int64 (B,).
        """
        # In float32 whatever the precision of the network: exponentials overflow early in float16.
        logits = logits.float()
        if self.adjustment is not None:
            logits = logits + self.adjustment
        loss = self._cross_entropy(logits, target)
        return loss if self.early_learning is None else loss + self.early_learning(logits, rows)

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        if not self._q:
            return functional.cross_entropy(logits, target, label_smoothing=self._label_smoothing)
        classes = logits.shape[1]
        goal = target if target.ndim == 2 else functional.one_hot(target, classes)
        goal = (1 - self._label_smoothing) * goal + self._label_smoothing / classes
        powers = (self._q * logits.log_softmax(1)).exp()
        return (goal * (1 - powers)).sum(1).mean() / self._q


class EarlyLearning(nn.Module):
    """Early-learning regularisation (Liu et al. 2020, arXiv 2007.00151): the network is held to what it thought of a
    row before it began to learn noisy targets by heart.

    It remembers a moving average of the predictions for every row of the training set, the same in all processes, and
    returns the mean of ``log(1 - <prediction, average>)`` over the batch, times ``weight``.

    Args:
        rows: The number of rows of the training set.
        num_classes: The number of classes, C.
        weight: The factor of this loss, lambda in the paper.
        beta: The share of an average that stays when its row comes again.
    """

    memory: Tensor
    """float32 (rows, C)"""

    def __init__(self, *, rows: int, num_classes: int, weight: float, beta: float) -> None:
        super().__init__()
        self._weight, self._beta = weight, beta
        self.register_buffer("memory", torch.zeros(rows, num_classes))

    def forward(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Take note of the predictions of all processes, and return the mean loss of this one's.

        Args:
            logits: float32 (B, C).
            rows: The rows of the training set that these are of, int64 (B,).
        """
        probabilities = logits.softmax(1).clamp(1e-4, 1 - 1e-4)
        normalised = functional.normalize(probabilities.detach(), p=1, dim=1)
        for seen, predictions in distributed.gather((rows.cpu(), normalised.cpu())):
            seen, predictions = seen.to(self.memory.device), predictions.to(self.memory.device)
            self.memory[seen] = self._beta * self.memory[seen] + (1 - self._beta) * predictions
        agreement = (probabilities * self.memory[rows.to(self.memory.device)]).sum(1)
        return self._weight * (1 - agreement).log().mean()


@LOSSES.register("symmetric_kl")
class SymmetricKL(nn.Module):
    """Half the sum of KL(target || prediction) and KL(prediction || target), mean over the batch: what Cui et al. 2021
    (SSLD, arXiv 2103.05959) distil with under the name of JS divergence.

    Args:
        epsilon: The least share that a class counts with in the logarithm of the target, as zero has none. The less it
            is, the more it costs to predict classes outside of the target: at 1e-7 up to 8 times their probability.
    """

    def __init__(self, *, epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-7) -> None:
        super().__init__()
        self._epsilon = epsilon

    def forward(self, logits: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            logits: (B, C), of any precision.
            target: int64 (B,), or float32 (B, C) that sums to 1.
            rows: The rows of the training set that these are of, int64 (B,).
        """
        predicted = logits.float().log_softmax(1)
        goal = target if target.ndim == 2 else functional.one_hot(target, logits.shape[1])
        differences = goal.float().clamp(min=self._epsilon).log() - predicted
        return ((goal - predicted.exp()) * differences).sum(1).mean() / 2


def adjustment(counts: np.ndarray, *, tau: float) -> Tensor:
    """Return what is added to the logits in the loss so that rare classes are not given up.

    It is ``tau`` times the logarithm of each class's share (Menon et al. 2021, arXiv 2007.07314).

    Args:
        counts: How many rows of the training set each class has, (C,); none counts as one.
        tau: The strength.

    Returns:
        float32 (C,).
    """
    counts = np.maximum(counts, 1)
    return torch.from_numpy(tau * np.log(counts / counts.sum())).float()
