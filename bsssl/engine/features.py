"""Features: what a network computes of an item just before its classifier."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bsssl.engine.train import Failures
from bsssl.runtime.device import Compute


class Tap:
    """The features of what a network sees, from now on.

    Where the classifier sees a map, several tokens or several pictures of an item, their mean counts. A network is
    compiled after it got its tap.
    """

    def __init__(self, layer: nn.Module) -> None:
        """``layer`` is the classifier: a linear layer or a 1x1(x1) convolution."""
        self._layer = layer
        self._inputs: list[Tensor] = []
        self._hook = layer.register_forward_pre_hook(self._hear)

    def take(self, items: int) -> Tensor:
        """Return the features of the batch of ``items`` that the network saw last, float32 (items, D)."""
        return _pooled(self._inputs.pop().float(), self._layer, items)

    def remove(self) -> None:
        """Leave the network as it was."""
        self._hook.remove()

    def _hear(self, layer: nn.Module, arguments: tuple[Tensor]) -> None:
        self._inputs.append(arguments[0])


@torch.inference_mode()
def extract(
    model: nn.Module,
    layer: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    rows: int,
    normalize: Callable[[Tensor], Tensor],
    compute: Compute,
    failures: Failures,
) -> tuple[Tensor, Tensor]:
    """Return the inputs of ``layer``, the classifier of ``model``, for every item that can be read.

    Of several views of an item the mean counts.

    Args:
        model: The network, on its device.
        layer: A linear layer or a 1x1(x1) convolution of ``model``.
        batches: Batches of ``input`` uint8 (B, C, ...), ``index`` int64 (B,), and ``failures``.
        rows: The number of rows of the data set.
        normalize: From uint8 on the device to float.
        compute: Device, precision and memory format.
        failures: The tolerance for unreadable items.

    Returns:
        The features, float32 (M, D) on the device, and the items' rows in order, int64 (M,) on the CPU.
    """
    model.eval()
    sums: Tensor | None = None
    views = torch.zeros(rows, dtype=torch.int64, device=compute.device)
    tap = Tap(layer)
    try:
        for batch in batches:
            failures.add(batch["failures"])
            if "input" not in batch:
                continue
            with compute.autocast():
                model(normalize(compute.place(batch["input"])))
            index = batch["index"].to(compute.device)
            features = tap.take(len(index))
            if sums is None:
                sums = torch.zeros(rows, features.shape[1], device=compute.device)
            sums.index_add_(0, index, features)
            views.index_add_(0, index, torch.ones_like(index))
    finally:
        tap.remove()
    there = torch.nonzero(views).flatten()
    if sums is None:
        return torch.zeros(0, 0, device=compute.device), there.cpu()
    return sums[there] / views[there, None], there.cpu()


def _pooled(inputs: Tensor, layer: nn.Module, items: int) -> Tensor:
    """Return the mean over pictures and positions, (items, D).

    The pictures of an item follow each other; positions of a linear layer lie before D, those of a convolution behind.
    """
    if not isinstance(layer, nn.Linear):
        inputs = inputs.flatten(2).mean(2)
    return inputs.reshape(items, -1, inputs.shape[-1]).mean(1)
