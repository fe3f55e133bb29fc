"""What a network is to say of each row of a training set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bsssl import storage


@dataclass(frozen=True)
class SparseTargets:
    """One target vector of length ``num_classes`` per row, kept as its few non-zero entries.

    Row i has the classes ``classes[offsets[i]:offsets[i + 1]]`` (int32) with the same slice of ``weights`` (float32,
    each row sums to 1); ``offsets`` is int64 (rows + 1).
    """

    offsets: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Tensor:
        """Return the target of one row: float32 (num_classes,)."""
        span = slice(self.offsets[row], self.offsets[row + 1])
        target = torch.zeros(self.num_classes)
        target[torch.from_numpy(self.classes[span].astype(np.int64))] = torch.from_numpy(self.weights[span])
        return target


@dataclass(frozen=True)
class StoredViews:
    """The P best scores of teachers for each of some random views of each row, in files of ``save_views``.

    The files stay where they are and are mapped into memory, so that forked workers share what is read of them.
    """

    paths: Sequence[str]
    """each but the last has ``rows_per_file`` rows"""
    rows_per_file: int
    num_views: int
    num_rows: int
    """rows with stored views"""
    num_classes: int
    temperature: float = 1.0
    """scores are raised to 1 / temperature and renormalised"""
    labels: tuple[int, ...] = ()
    """classes of the rows after those with stored views, whose views are any"""

    def __len__(self) -> int:
        return self.num_rows + len(self.labels)

    def of_view(self, row: int, view: int) -> Tensor | None:
        """Return the target of a view: float32 (num_classes,); None if the teachers could not read it."""
        target = torch.zeros(self.num_classes)
        if row >= self.num_rows:
            target[self.labels[row - self.num_rows]] = 1
            return target
        stored = self._files[row // self.rows_per_file][row % self.rows_per_file, view]
        if not stored["score"].any():
            return None
        target[torch.from_numpy(stored["class"].astype(np.int64))] = torch.from_numpy(
            soften(stored["score"], self.temperature)
        )
        return target

    def class_counts(self) -> np.ndarray:
        """Return how many rows each class has, by the mean of a row's views: float64 (num_classes,)."""
        counts = np.bincount(np.array(self.labels, np.int64), minlength=self.num_classes).astype(np.float64)
        for stored in self._files:
            seen = stored[stored["score"].any(-1)]
            weights = soften(seen["score"], self.temperature) / self.num_views
            counts += np.bincount(seen["class"].ravel(), weights=weights.ravel(), minlength=self.num_classes)
        return counts

    @cached_property
    def _files(self) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in self.paths]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a spawned process is given, which maps the files anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_files"}


def save_views(path: str, classes: np.ndarray, scores: np.ndarray) -> None:
    """Write the scores of the views of some rows as a NumPy file with the fields ``class`` and ``score``.

    Args:
        path: The ``.npy`` file.
        classes: The P best classes, int (rows, views, P).
        scores: Their softmax scores, float (rows, views, P); all 0 where a view could not be read.
    """
    depth = (classes.shape[-1],)
    stored = np.empty(classes.shape[:-1], [("class", np.int32, depth), ("score", np.float32, depth)])
    stored["class"], stored["score"] = classes, scores
    with storage.atomic_write(path) as file:
        np.save(file, stored)


def soften(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return scores (..., P) to the power 1 / temperature, each row then divided by its sum: float32."""
    # In logarithms and relative to the best: a low temperature would otherwise turn every score into zero.
    with np.errstate(divide="ignore"):
        logs = np.log(scores.astype(np.float64)) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


Targets = np.ndarray | SparseTargets | StoredViews


def concat_targets(targets: Targets, labels: np.ndarray) -> Targets:
    """Return ``targets`` followed by ``labels``, int64 (rows,)."""
    if isinstance(targets, StoredViews):
        return replace(targets, labels=(*targets.labels, *labels.tolist()))
    if not isinstance(targets, SparseTargets):
        return np.concatenate([targets, labels])
    return SparseTargets(
        np.concatenate([targets.offsets, targets.offsets[-1] + np.arange(1, len(labels) + 1)]),
        np.concatenate([targets.classes, labels.astype(np.int32)]),
        np.concatenate([targets.weights, np.ones(len(labels), np.float32)]),
        targets.num_classes,
    )


def class_counts(targets: Targets, *, num_classes: int, weights: np.ndarray | None = None) -> np.ndarray:
    """How many rows each class has, a row of several classes counting for each by its share: float64 (num_classes,).

    ``weights``: how much each row counts, float (rows,).
    """
    if isinstance(targets, StoredViews):
        return targets.class_counts()
    each = np.ones(len(targets)) if weights is None else weights
    if isinstance(targets, SparseTargets):
        shares = targets.weights * np.repeat(each, np.diff(targets.offsets))
        return np.bincount(targets.classes, weights=shares, minlength=num_classes)
    if targets.ndim == 2:
        return np.asarray(each @ targets, dtype=np.float64)
    return np.bincount(targets, weights=each, minlength=num_classes)
