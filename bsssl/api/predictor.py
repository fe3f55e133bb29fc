"""A network over any number of items, of which only some are in memory at once."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from bsssl import data
from bsssl.api.images import is_path, pixels_of, several
from bsssl.engine.features import extract
from bsssl.engine.predict import predict
from bsssl.engine.train import Failures
from bsssl.errors import UserError
from bsssl.models import classifier
from bsssl.pipeline.stage import Task
from bsssl.runtime.device import Compute
from bsssl.stages.computing import Execution, normalize
from bsssl.stages.seen import TestView

ITEMS = 16_384
"""the most items that are listed, or said something of, at once"""
ALL = Task(0, 1)


@dataclass(frozen=True)
class Chunk:
    """Items that follow each other."""

    names: Sequence[str | None]
    """where each is; None for pictures in memory"""
    batches: Iterable[dict[str, Any]]
    """batches of the samples, see ``collate``; ``index`` is the place among ``names``"""
    compute: Compute
    """the device, whose cores leave room for those who read the items"""


@dataclass(frozen=True)
class Said:
    """What a network says of the items of a batch."""

    index: npt.NDArray[np.int64]
    """places in the chunk, (B,)"""
    probabilities: npt.NDArray[np.float32]
    """the probabilities of the classes, the mean over the views of an item, (B, C)"""
    failures: dict[int, str]
    """why other items cannot be read, by place"""


@dataclass(frozen=True)
class Predictor:
    """A network in eval mode on its device, how it sees items, and how to compute."""

    network: nn.Module
    seen: TestView
    precision: str
    execution: Execution

    def chunks(self, images: Any) -> Iterator[Chunk]:
        """Yield images in order: one, or any number of them, each a picture in memory or what ``items_at`` takes.

        Items that cannot be read end it.

        Raises:
            UserError: An image cannot be read or used, or a folder, a table or a tar cannot.
        """
        first = 0
        for are_paths, group in itertools.groupby(several(images), key=is_path):
            for chunk in self._of_paths(group) if are_paths else self._in_memory(group, first):
                yield replace(chunk, batches=_readable(chunk.batches, first))
                first += len(chunk.names)

    def of_records(self, records: data.Records, *, share: Task = ALL) -> Chunk:
        """Return a chunk of items on disk, with every batch or those of a ``share`` alone."""
        views, system = self._views, self.execution.system
        size = max(1, self.execution.batch // views.count)
        batches = data.EvalBatches(len(records), batch_size=size, rank=share.number, world_size=share.count)
        # A process that reads ahead is worth its start where there is something to read ahead.
        workers = min(system.workers, max(len(batches) - 1, 0))
        execution = replace(self.execution, system=system.model_copy(update={"workers": workers}))
        compute = execution.compute(self.precision)
        loader = execution.loader(data.ItemDataset(records, views=views), batches, compute)
        return Chunk(records.key.to_pylist(), loader, compute)

    def said(self, chunk: Chunk) -> Iterator[Said]:
        """Yield what the network says of a chunk, batch after batch.

        Raises:
            UserError: That is no number.
        """
        to_floats, views = normalize(self.seen.transforms, chunk.compute), self._views.count
        for one in predict(self.network, chunk.batches, normalize=to_floats, compute=chunk.compute):
            if not np.isfinite(one.probabilities).all():
                raise UserError(
                    f"the network's scores are not numbers; its weights are broken, or its precision "
                    f"({self.precision}) is too low"
                )
            items = len(one.index) // views
            mean = one.probabilities.reshape(items, views, -1).mean(1) if items else one.probabilities
            failures = {failure.index: failure.reason for failure in one.failures}
            yield Said(one.index[::views], mean, failures)

    def features(self, chunk: Chunk) -> npt.NDArray[np.float32]:
        """Return the inputs of the classifier for a chunk whose items can be read, float32 (items, D)."""
        rows = len(chunk.names)
        extracted, _ = extract(
            self.network,
            classifier(self.network)[1],
            chunk.batches,
            rows=rows,
            normalize=normalize(self.seen.transforms, chunk.compute),
            compute=chunk.compute,
            failures=Failures(rows=rows, max_rate=0.0),
        )
        features: npt.NDArray[np.float32] = extracted.cpu().numpy()
        return features

    @property
    def _views(self) -> data.Views:
        return self.seen.views(deadline=self.execution.deadline)

    def _of_paths(self, paths: Iterable[Any]) -> Iterator[Chunk]:
        items = data.items_at(map(os.fspath, paths), videos=self.seen.clips is not None)
        return map(self.of_records, data.rechunked(items, ITEMS))

    def _in_memory(self, images: Iterator[Any], first: int) -> Iterator[Chunk]:
        """Yield a chunk of each batch of ``images``, of which the first has the number ``first``, for messages."""
        if self.seen.clips is not None:
            raise UserError(f"image {first}: the network is for videos; give their paths")
        transform = self.seen.transforms.transform()
        execution = replace(self.execution, system=self.execution.system.model_copy(update={"workers": 0}))
        compute = execution.compute(self.precision)
        while batch := list(itertools.islice(images, self.execution.batch)):
            samples: list[list[dict[str, Any] | data.Failure]] = [
                [{"input": transform(pixels_of(image, first + row)), "target": -1, "index": row, "view": 0}]
                for row, image in enumerate(batch)
            ]
            first += len(batch)
            yield Chunk([None] * len(batch), [data.collate(samples)], compute)


def best_classes(probabilities: npt.NDArray[np.float32], top: int) -> npt.NDArray[np.int64]:
    """Return the most probable classes of each row, best first, equal ones by number: int64 (B, at most ``top``)."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :top]


def _readable(batches: Iterable[dict[str, Any]], first: int) -> Iterator[dict[str, Any]]:
    """Yield ``batches``, of items that are numbered from ``first`` on.

    Raises:
        UserError: One of the items cannot be read.
    """
    for batch in batches:
        for failure in batch["failures"]:
            raise UserError(f"image {first + failure.index} cannot be read: {failure.reason}")
        yield batch
