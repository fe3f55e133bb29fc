"""What a run says while it works: console lines, progress bars, and metrics as JSON lines (and TensorBoard)."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from bsssl.errors import UserError
from bsssl.runtime.distributed import is_main
from bsssl.storage import unwritable, write_text

T = TypeVar("T")
logger = logging.getLogger("bsssl")


class _ThroughTqdm(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def setup(*, debug: bool = False) -> None:
    """Send the project's log lines to standard error, around any progress bar; only rank 0 speaks below warnings."""
    handler = _ThroughTqdm()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel((logging.DEBUG if debug else logging.INFO) if is_main() else logging.WARNING)


def progress(items: Iterable[T], *, total: int | None = None, unit: str, title: str, initial: int = 0) -> "tqdm[T]":
    """``items`` with a progress bar that appears once the work has taken two seconds (rank 0 only)."""
    return tqdm(
        items,
        total=total,
        initial=initial,
        unit=f" {unit}",
        desc=title,
        delay=2,
        disable=not is_main(),
        leave=False,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )


def describe(error: Exception) -> str:
    """What is printed about ``error``: one line, but one per problem of a config."""
    if isinstance(error, UserError):
        # One raised in a process of the loader comes with its traceback, the message last.
        lines = str(error).rpartition("registry.UserError: ")[2].splitlines()
        return "\n".join(f"error: {line}" for line in lines if line)
    kind = type(error).__name__
    text = " ".join(str(error).split())[:300]
    if kind == "OutOfMemoryError":
        return f"error: the GPU's memory is full ({text[:80]}); lower batch_size or raise accumulate"
    if isinstance(error, OSError):
        return f"error: {text}; check the path, its permissions and the space left"
    return f"error: {kind}: {text} (not an error we foresaw: run again with --debug and report the traceback)"


class Metrics:
    """Appends one JSON object per call to ``path``, and the same scalars to TensorBoard when that is installed.

    A resumed run goes on from ``step``: later lines of the interrupted one are dropped first.
    """

    def __init__(self, path: str, *, step: int = 0) -> None:
        kept = []
        if step and os.path.exists(path):
            with open(path) as old:
                kept = [line for line in old if line.endswith("\n") and json.loads(line)["step"] <= step]
        self._path = path
        write_text(path, "".join(kept))
        self._board = _tensorboard(os.path.dirname(path), step)

    def write(self, *, step: int, **scalars: float) -> None:
        """Record ``scalars`` at optimiser step ``step``."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **scalars}) + "\n"
        try:
            with open(self._path, "ab", buffering=0) as file:  # at once on the disk, and never left open
                file.write(line.encode())
        except OSError as error:
            raise unwritable(self._path, error) from error
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Let TensorBoard write what it has."""
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: str, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=step)
