"""The figures of a training while it runs, handed to every logger that the config names."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

from bsssl import storage
from bsssl.registry import LOGGERS


class MetricLogger(Protocol):
    """Where the figures of one training go."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record ``scalars``, by name, as of the end of optimiser step ``step``."""

    def close(self) -> None:
        """Write what is not written yet."""


class Metrics:
    """The loggers of one training as one.

    Args:
        loggers: The options of each logger by its name in ``LOGGERS``.
        folder: The folder of the stage.
        step: The optimiser step that the training goes on from; what an interrupted run logged of later steps is
            dropped.
    """

    def __init__(self, loggers: Mapping[str, Mapping[str, Any]], *, folder: str, step: int = 0) -> None:
        self._loggers: list[MetricLogger] = [
            LOGGERS.build(name, options, folder=folder, step=step) for name, options in loggers.items()
        ]

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record ``scalars``, by name, as of the end of optimiser step ``step``."""
        for logger in self._loggers:
            logger.write(step, scalars)

    def close(self) -> None:
        """Let every logger write what it has not written yet."""
        for logger in self._loggers:
            logger.close()


@LOGGERS.register("jsonl")
class JsonLines:
    """Appends a JSON object for each call to ``metrics.jsonl``: the step, the time, and the scalars."""

    def __init__(self, *, folder: str, step: int) -> None:
        self._path = os.path.join(folder, "metrics.jsonl")
        earlier = []
        if step and os.path.exists(self._path):
            with open(self._path) as old:
                earlier = [line for line in old if line.endswith("\n") and json.loads(line)["step"] <= step]
        storage.write_text(self._path, "".join(earlier))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append a line."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **scalars}) + "\n"
        try:
            with open(self._path, "ab", buffering=0) as file:  # at once on the disk, and never left open
                file.write(line.encode())
        except OSError as error:
            raise storage.unwritable(self._path, error) from error

    def close(self) -> None:
        """Do nothing: every line is on the disk."""


@LOGGERS.register("tensorboard")
class TensorBoard:
    """Writes TensorBoard's event files, where the package ``tensorboard`` is installed."""

    def __init__(self, *, folder: str, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(folder, purge_step=step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add each scalar to its curve."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()
