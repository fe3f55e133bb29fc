"""The dataset that every stage reads: records in, samples or failures out; and how samples become a batch."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from bsssl.data.decoding.pictures import DecodeError
from bsssl.data.loading.targets import StoredViews, Targets
from bsssl.data.records import Records, read_bytes, whole_file
from bsssl.data.segments import split_segment
from bsssl.data.views.looks import look
from bsssl.data.views.views import Views
from bsssl.runtime.threads import map_ahead

HASH_BYTES = 16
Item = int | tuple[int, int]  # a row, or (row, draw)
_SEEDS = 2**63
_REMOTE_READS = 32  # at a time in each worker: nearly all of a remote read is waiting


@dataclass(frozen=True)
class Failure:
    """An item that could not be read: its row in the dataset, and why, naming the file."""

    index: int
    reason: str


class ItemDataset(Dataset[list[dict[str, Any] | Failure]]):
    """The items of some records, as the samples that ``views`` makes of each.

    An item is asked for by its row, or by (row, draw): the random numbers of its views then depend on ``seed`` and
    ``draw`` alone, so that a sample is augmented alike whatever the number of workers and wherever a run resumed. With
    ``fixed_views`` a row has so many random views and no more, epoch after epoch another of them, which ``seed``, the
    row and the number of the view decide; ``StoredViews`` as targets bring theirs.

    What comes back is a list, one sample per view: ``{"input": uint8 (3, H, W) or (3, T, H, W), "target": int or
    float32 (C,), "index": row, "view": int}``, with ``"hash"``, what ``content_hash`` says of the file (16 bytes), if
    ``hash_content``, and ``"look"``, what ``look`` says of the views (32 bytes), if ``looks``. ``targets`` is int64
    (rows,), float32 (rows, C), ``SparseTargets``, ``StoredViews``, or None for -1 everywhere. What cannot be read comes
    back as a ``Failure``; where ``views`` allows for replacements and there is a draw, the samples of another row,
    chosen by the draw, follow it.

    The records stay in Arrow: forked workers share them, spawned ones get a copy.
    """

    def __init__(
        self,
        records: Records,
        *,
        views: Views,
        targets: Targets | None = None,
        seed: int = 0,
        fixed_views: int | None = None,
        hash_content: bool = False,
        looks: bool = False,
    ) -> None:
        if targets is not None and len(targets) != len(records):
            raise ValueError(f"{len(targets)} targets for {len(records)} records")
        # One chunk per column where it fits: looking a row up takes longer the more chunks there are.
        places = records.table.select(["path", "offset", "size"]).combine_chunks()
        self._path, self._offset, self._size = places.columns
        self._remote = bool(pc.any(pc.match_substring(self._path, "://")).as_py())
        self._views = views
        self._targets = targets
        self._seed = seed
        self._stored = targets if isinstance(targets, StoredViews) else None
        self._fixed_views = fixed_views if self._stored is None else self._stored.num_views
        self._hash_content = hash_content
        self._looks = looks

    def __len__(self) -> int:
        return len(self._path)

    def __getitem__(self, item: Item) -> list[dict[str, Any] | Failure]:
        """Return the samples of a row, or of (row, draw)."""
        return self._samples(item, self._read(item))

    def __getitems__(self, items: list[Item]) -> list[list[dict[str, Any] | Failure]]:
        """Return the samples of a batch, for which the loader asks; remote files are fetched many at a time."""
        if not self._remote:
            return [self[item] for item in items]
        contents = map_ahead(self._read, items, threads=_REMOTE_READS)
        return [self._samples(item, content) for item, content in zip(items, contents, strict=True)]

    def _place(self, row: int) -> tuple[str, int, int]:
        return self._path[row].as_py(), self._offset[row].as_py(), self._size[row].as_py()

    def _read(self, item: Item) -> bytes | str | OSError:
        """Return the item's bytes, or the path of a local file that holds it alone, if the views read files."""
        path, offset, size = self._place(item[0] if isinstance(item, tuple) else item)
        reads_files = self._views.reads_files and not self._hash_content
        if reads_files and (file := whole_file(path, offset, size)):
            return file
        try:
            return read_bytes(path, offset=offset, size=size)
        except OSError as error:
            return error

    def _samples(self, item: Item, source: bytes | str | OSError) -> list[dict[str, Any] | Failure]:
        row, draw = item if isinstance(item, tuple) else (item, None)
        found = self._try(row, draw, source)
        if draw is None or not isinstance(found[-1], Failure):
            return found
        # Not from torch's generator: the first attempt's random numbers must not depend on what comes after it.
        others = np.random.Generator(np.random.Philox(key=[self._seed % _SEEDS, draw]))
        for other in others.integers(len(self), size=self._views.replacements).tolist():
            found += self._try(other, draw, self._read(other))
            if not isinstance(found[-1], Failure):
                break
        return found

    def _try(self, row: int, draw: int | None, source: bytes | str | OSError) -> list[dict[str, Any] | Failure]:
        path, offset, size = self._place(row)
        if isinstance(source, OSError):
            return [Failure(row, str(source))]
        number = 0
        if draw is not None:
            number, draw = self._random_view(row, draw)
            torch.default_generator.manual_seed((self._seed * 0x9E3779B97F4A7C15 + draw) % _SEEDS)
        # Only what the file can cause is a failure of the item; anything else is a bug and stops the run.
        try:
            inputs = self._views(source, split_segment(path)[1:])
        except DecodeError as error:
            return [Failure(row, f"{path}@{offset}: {error}" if size >= 0 else f"{path}: {error}")]
        target = self._target(row, number)
        if target is None:
            return [Failure(row, f"{path}: there are no scores of view {number}")]
        sample: dict[str, Any] = {"target": target, "index": row}
        if self._hash_content:
            sample["hash"] = content_hash(source, path)  # type: ignore[arg-type]  # _read gives bytes then
        if self._looks:
            sample["look"] = look(inputs)
        return [{"input": pixels, "view": view, **sample} for view, pixels in enumerate(inputs, start=number)]

    def _random_view(self, row: int, draw: int) -> tuple[int, int]:
        """Return the number of the random view that a row shows at ``draw``, and what decides the view."""
        if self._fixed_views is None:
            return 0, draw
        view = draw // len(self)
        if self._stored is None or row < self._stored.num_rows:
            view %= self._fixed_views
        return view, row * self._fixed_views + view

    def _target(self, row: int, view: int) -> int | Tensor | None:
        if self._targets is None:
            return -1
        if isinstance(self._targets, StoredViews):
            return self._targets.of_view(row, view)
        target = self._targets[row]
        if isinstance(target, Tensor):
            return target
        return int(target) if np.ndim(target) == 0 else torch.from_numpy(target)


def content_hash(data: bytes, path: str = "") -> bytes:
    """Return the 16 bytes by which the same content is known again under another name.

    Two segments of one file, which ``path`` names, are not the same.
    """
    digest = hashlib.blake2b(data, digest_size=HASH_BYTES)
    digest.update(path[len(split_segment(path)[0]) :].encode())
    return digest.digest()


def collate(items: list[list[dict[str, Any] | Failure]]) -> dict[str, Any]:
    """Return a batch: ``{"input": uint8 (B, ...), "target": int64 (B,) or float32 (B, C), "index", "view": int64 (B,),
    "failures": list[Failure]}``, and ``"hash"`` and ``"look": list[bytes]`` if the samples have one.

    B counts the samples alone, those of one item next to each other; ``input`` lies in memory with its channels last.
    When every item failed there is nothing but ``"failures"`` in the batch.
    """
    found = [sample for samples in items for sample in samples]
    failures = [item for item in found if isinstance(item, Failure)]
    samples = [item for item in found if not isinstance(item, Failure)]
    batch: dict[str, Any] = {"failures": failures}
    if not samples:
        return batch
    batch["input"] = _stack([sample["input"] for sample in samples])
    targets = [sample["target"] for sample in samples]
    batch["target"] = torch.stack(targets) if isinstance(targets[0], Tensor) else torch.tensor(targets)
    for name in ("index", "view"):
        batch[name] = torch.tensor([sample[name] for sample in samples])
    for name in {"hash", "look"}.intersection(samples[0]):
        batch[name] = [sample[name] for sample in samples]
    return batch


def _stack(inputs: list[Tensor]) -> Tensor:
    """(C, ...) each to (B, C, ...), channels last in memory.

    Decoding and resizing leave pictures so, and copying them as they lie takes half the time of turning them.
    """
    turned = default_collate([item.movedim(0, -1) for item in inputs])  # straight to shared memory in a worker
    stacked: Tensor = turned.movedim(-1, 1)
    return stacked
