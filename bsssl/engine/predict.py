"""Prediction: a trained network over a data set, each result with its row, so that their order never matters."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bsssl.engine.features import Tap
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
    looks: list[bytes] = field(default_factory=list)
    """perceptual hashes of the rows, when the data set makes them; else empty"""
    energy: np.ndarray | None = None
    """log-sum-exp of the logits, float32 (B,); None where there are no logits"""
    features: np.ndarray | None = None
    """features of the rows, float32 (B, D), where they are asked for"""


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    normalize: Callable[[Tensor], Tensor],
    compute: Compute,
    tap: Tap | None = None,
) -> Iterator[Prediction]:
    """Yield the softmax scores of ``model`` (on its device) for every batch.

    Args:
        model: Maps a float batch to logits (B, classes).
        batches: Batches of ``input`` uint8 (B, C, ...), ``index`` and ``view`` int64 (B,), ``failures``, perhaps
            ``hash`` and ``look``.
        normalize: From uint8 on the device to float.
        compute: Device, precision and memory format.
        tap: That of ``model``, where its features are asked for.
    """
    model.eval()
    for batch in batches:
        if "input" not in batch:
            nothing = np.zeros(0, np.int64)
            yield Prediction(nothing, nothing, np.zeros((0, 0), np.float32), [], batch["failures"])
            continue
        with compute.autocast():
            logits = model(normalize(compute.place(batch["input"])))
        logits = logits.float()
        yield Prediction(
            batch["index"].numpy(),
            batch["view"].numpy(),
            logits.softmax(1).cpu().numpy(),
            batch.get("hash", []),
            batch["failures"],
            batch.get("look", []),
            logits.logsumexp(1).cpu().numpy(),
            None if tap is None else tap.take(len(logits)).cpu().numpy(),
        )


def average(predictions: Sequence[Iterator[Prediction]]) -> Iterator[Prediction]:
    """Yield the mean of what several networks say of the same batches of the same items.

    An item that one of them could not read, having asked for other frames of it, has failed.
    """
    if len(predictions) == 1:
        yield from predictions[0]
        return
    for first, *others in zip(*predictions, strict=True):
        failures = {failure.index: failure for one in (first, *others) for failure in one.failures}
        kept = [np.isin(one.index, list(failures), invert=True) for one in (first, *others)]
        read = [(one, mask) for one, mask in zip((first, *others), kept, strict=True) if mask.any()]
        scores = [one.probabilities[mask] for one, mask in read]
        energy = [one.energy[mask] for one, mask in read if one.energy is not None]
        yield replace(
            first,
            index=first.index[kept[0]],
            view=first.view[kept[0]],
            probabilities=np.mean(scores, axis=0) if scores else first.probabilities[:0],
            hashes=[digest for digest, keep in zip(first.hashes, kept[0], strict=False) if keep],
            failures=list(failures.values()),
            looks=[look for look, keep in zip(first.looks, kept[0], strict=False) if keep],
            energy=np.mean(energy, axis=0) if energy else None,
            features=None if first.features is None else first.features[kept[0]],
        )
