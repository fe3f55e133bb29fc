"""Which rows make up which batch, and the loader that fetches them."""

import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from bsssl.config.plugins import load_plugins, loaded_plugins
from bsssl.data.loading.dataset import collate
from bsssl.errors import UserError


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Endless shuffled batches without state: batch ``b`` is a function of ``b``, so a run resumes at any ``start``.

    The batches of all ranks are cut from one long sequence of draws, epoch after epoch, nothing dropped::

        draw      0 1 2 ... n-1 | n n+1 ...           row = permutation(n, seed, draw // n, ...)[draw % n]
        batch b   draws b * batch_size ... (b + 1) * batch_size - 1; rank r of R takes the r-th of R equal slices

    ``batch_size`` counts the samples of one batch over all ranks; with gradient accumulation, one batch is one
    micro-batch. ``num_batches`` is where to stop, counted from 0, not from ``start``; None goes on for ever.
    Yields lists of (row, draw).
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        num_batches: int | None = None,
        start: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        if num_rows < 1:
            raise UserError("there is nothing to train on: the training set is empty")
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"a batch of {batch_size} samples does not divide evenly over {world_size} processes")
        self._num_rows = num_rows
        self._batch_size = batch_size
        self._num_batches = num_batches
        self._start = start
        self._rank = rank
        self._world_size = world_size
        self._order = partial(permutation, num_rows, seed=seed, groups=groups, weights=weights)

    def __len__(self) -> int:
        if self._num_batches is None:
            raise TypeError("endless batches have no length")
        return max(self._num_batches - self._start, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        each = self._batch_size // self._world_size
        epoch, order = -1, np.empty(0, np.uint32)
        batch = self._start
        while self._num_batches is None or batch < self._num_batches:
            first = batch * self._batch_size + self._rank * each
            rows: list[tuple[int, int]] = []
            for draw in range(first, first + each):
                if draw // self._num_rows != epoch:
                    epoch = draw // self._num_rows
                    order = self._order(epoch=epoch)
                rows.append((int(order[draw % self._num_rows]), draw))
            yield rows
            batch += 1


def permutation(
    num_rows: int,
    *,
    seed: int,
    epoch: int,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return the order of one epoch: uint32 (num_rows,), the same on every machine.

    With ``groups``, integers (num_rows,) from 0 on, rows of a group stay together: the groups are shuffled, and the
    rows of each. With ``weights`` instead, float (num_rows,) above 0, each row comes as often as its share of the draws
    says, rounded down or up at random; so another epoch has other rows.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    if groups is not None:
        places = generator.permutation(int(groups.max()) + 1)
        return np.lexsort((generator.random(num_rows, np.float32), places[groups])).astype(np.uint32)
    order = np.arange(num_rows, dtype=np.uint32)
    generator.shuffle(order)
    if weights is not None:
        # Systematic sampling of the shuffled rows: neighbours in the list must not take turns.
        shares = np.cumsum(weights[order], dtype=np.float64)
        marks = np.floor(shares * (num_rows / shares[-1]) + generator.random()).astype(np.int64)
        marks[-1] = num_rows  # which rounding might miss by one
        order = np.repeat(order, np.diff(marks, prepend=0))
        generator.shuffle(order)
    return order


class EvalBatches(Sampler[list[int]]):
    """Every row once, in order; of the batches, rank r of R takes numbers r, r + R, ... Yields lists of rows."""

    def __init__(self, num_rows: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._num_rows = num_rows
        self._batch_size = batch_size
        self._firsts = range(rank * batch_size, num_rows, world_size * batch_size)

    def __len__(self) -> int:
        return len(self._firsts)

    def __iter__(self) -> Iterator[list[int]]:
        for first in self._firsts:
            yield list(range(first, min(first + self._batch_size, self._num_rows)))


Batches = TrainBatches | EvalBatches | Sequence[list[tuple[int, int]]]
"""lists of rows, or of (row, draw)"""


class Loader(DataLoader[Any]):
    """PyTorch's loader, whose errors are those of its processes and not the text of their tracebacks."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # only ever iterated over
        """Yield the batches."""
        try:
            yield from super().__iter__()
        except Exception as error:
            own = _own_error(error)
            if own is None:
                raise
            raise own from error


def make_loader(
    dataset: Dataset[Any],
    batches: Batches,
    *,
    workers: int,
    pin_memory: bool = False,
    prefetch: int = 4,
    context: str | None = None,
) -> DataLoader[Any]:
    """Return a loader of ``collate``d batches, in the order of ``batches``.

    Args:
        dataset: What gives the samples of an item.
        batches: The items of each batch.
        workers: Processes, which run torch on one thread and know the plugins that this one has loaded; 0: this one.
        pin_memory: Whether batches lie where a GPU can copy them from.
        prefetch: Batches that each worker keeps ready.
        context: ``fork``, ``spawn`` or ``forkserver``; by default the platform's own.
    """
    if workers == 0:
        return Loader(dataset, batch_sampler=batches, collate_fn=collate, pin_memory=pin_memory)
    return Loader(
        _Delayed(dataset),
        batch_sampler=batches,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=partial(_begin, loaded_plugins()),
        num_workers=workers,
        prefetch_factor=prefetch,
        multiprocessing_context=context,
    )


class _Delayed(Dataset[Any]):
    """A dataset for worker processes. One that is not forked unpickles it with its first batch, plugins being imported.

    What fails there is then an error of the batch, and not the end of a process that has no chance to say why.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset: Dataset[Any] | None = dataset
        self._pickled = b""

    def __getitems__(self, items: list[Any]) -> Any:
        """Return the samples of a batch, for which the loader asks."""
        if self._dataset is None:
            self._dataset, self._pickled = pickle.loads(self._pickled), b""
        together = getattr(self._dataset, "__getitems__", None)
        return together(items) if together else [self._dataset[item] for item in items]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a new process is given."""
        try:
            return {"_dataset": None, "_pickled": pickle.dumps(self._dataset)}
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                "the loader's processes cannot be given the dataset; make what cannot be pickled a class or a function "
                f"of a module, or set system.start_method=fork: {' '.join(str(error).split())}"
            ) from None


def _own_error(error: Exception) -> Exception | None:
    """Return what a process of the loader raised, which PyTorch hands on as text: ``Caught X in ...``, a traceback."""
    text = str(error)
    caught = re.match(r"Caught (\w+) in ", text)
    last = list(re.finditer(rf"^(?:[\w.<>]+\.)?{caught[1]}(?:: |$)", text, re.MULTILINE))[-1:] if caught else []
    if not caught or not last:
        return None
    cause = text[last[0].end() :].strip()
    if type(error).__name__ == caught[1]:
        return type(error)(cause)
    return RuntimeError(f"{caught[1]}: {cause}")  # its class cannot be made of a text


def _begin(plugins: Sequence[str], worker: int) -> None:
    load_plugins(plugins)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a process of the loader"
    _leave_signals_to(parent)  # first, for threads that begin later block the same signals
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    """End this process when the one that it works for is gone, were it killed, and whatever is being decoded here.

    PyTorch looks between two batches, and only whether the process is gone that forked this one, which may be a server.
    """
    parent.join()
    os._exit(0)


def _leave_signals_to(parent: BaseProcess) -> None:
    """Ignore what Slurm sends to every process of a job that is preempted or near its end, and a terminal's Ctrl-C.

    The main process answers these signals; a worker that ended of one would fail the training first. The SIGTERM of its
    parent still ends a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # not Linux, so not Slurm
        return
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # so that who sent it can be asked for
    threading.Thread(target=_end_at_signal_of, args=(parent,), daemon=True).start()


def _end_at_signal_of(parent: BaseProcess) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent.pid:
        pass
    os._exit(0)
