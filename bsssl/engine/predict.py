"""Prediction: a trained network over a data set, each result with its row, so that their order never matters."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bsssl.runtime.device import Compute


@dataclass(frozen=True)
class Prediction:
    """One batch of results."""

    index: np.ndarray
    """row in the data set, int64 (B,)"""
    view: np.ndarray
    """which view of the row, int64 (B,); always 0 for images"""
    probabilities: np.ndarray
    """softmax over the classes, float32 (B, classes); (0, 0) when the whole batch was unreadable"""
    hashes: list[bytes]
    """content hashes of the rows' files, when the data set makes them; else empty"""
    failures: list[Any]
    """rows that could not be read, with ``index`` and ``reason``"""


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Iterable[dict[str, Any]], *, normalize: Callable[[Tensor], Tensor], compute: Compute
) -> Iterator[Prediction]:
    """Yield the softmax scores of ``model`` (on its device) for every batch.

    Args:
        model: Maps a float batch to logits (B, classes).
        batches: Batches of ``input`` uint8 (B, C, ...), ``index`` and ``view`` int64 (B,), ``failures``, perhaps
            ``hash``.
        normalize: From uint8 on the device to float.
        compute: Device, precision and memory format.
    """
    model.eval()
    for batch in batches:
        if "input" not in batch:
            nothing = np.zeros(0, np.int64)
            yield Prediction(nothing, nothing, np.zeros((0, 0), np.float32), [], batch["failures"])
            continue
        with compute.autocast():
            logits = model(normalize(compute.place(batch["input"])))
        probabilities = logits.float().softmax(1).cpu().numpy()
        yield Prediction(
            batch["index"].numpy(), batch["view"].numpy(), probabilities, batch.get("hash", []), batch["failures"]
        )
