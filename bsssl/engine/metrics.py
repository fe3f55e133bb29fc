"""The figures of a training while it runs and of a test, handed to every logger that the config names."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from bsssl import storage
from bsssl.errors import UserError
from bsssl.registry import LOGGERS
from bsssl.runtime.console import logger as console

FILE = "metrics.jsonl"
"""what the logger jsonl writes, in the folder of the stage"""


class MetricLogger(Protocol):
    """Where the figures of one training or test go."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record ``scalars``, by name, as of the end of optimiser step ``step``."""

    def close(self) -> None:
        """Write what is not written yet."""


class Metrics:
    """The loggers of one training or test as one.

    A logger that cannot begin is refused; one that fails later, such as that of a server which is down by then, is left
    out from then on, with a warning.

    Args:
        loggers: The options of each logger by its name in ``LOGGERS``.
        folder: The folder of the stage.
        step: The optimiser step that the training goes on from; what an interrupted run logged of later steps is
            dropped.
        steps: The length of the training; 0 where it has none.
        stage: The name of the stage.
        seed: The seed of the run.
        config: The resolved config, values by their keys with dots.

    Raises:
        UserError: A logger cannot begin.
    """

    def __init__(
        self,
        loggers: Mapping[str, Mapping[str, Any]],
        *,
        folder: str,
        step: int = 0,
        steps: int = 0,
        stage: str = "",
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        given = {"folder": folder, "step": step, "steps": steps, "stage": stage, "seed": seed, "config": config or {}}
        self._loggers: dict[str, MetricLogger] = {}
        for name, options in loggers.items():
            try:
                self._loggers[name] = LOGGERS.build(name, options, **given)
            except UserError:
                self.close()
                raise
            except Exception as error:
                self.close()
                raise UserError(
                    f"the logger '{name}' cannot begin ({_one_line(error)}); mend that, or take it out of "
                    "system.loggers"
                ) from error

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record ``scalars``, by name, as of the end of optimiser step ``step``."""
        for name in [*self._loggers]:
            self._guarded(name, lambda logger: logger.write(step, scalars))

    def close(self) -> None:
        """Let every logger write what it has not written yet."""
        for name in [*self._loggers]:
            self._guarded(name, lambda logger: logger.close())

    def _guarded(self, name: str, act: Callable[[MetricLogger], None]) -> None:
        """Do something with a logger; one that fails is left out from then on."""
        try:
            act(self._loggers[name])
        except UserError:
            raise
        except Exception as error:  # whatever it is, the training does not depend on it
            console.warning("the logger '%s' has failed and is left out from now on: %s", name, _one_line(error))
            del self._loggers[name]


def check_loggers(names: Iterable[str]) -> None:
    """Refuse loggers that cannot be used here.

    Raises:
        UserError: A package is missing; the message names the extra with it.
    """
    for name in names:
        check = getattr(LOGGERS.get(name), "check", None)
        if check is not None:
            check()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@LOGGERS.register("jsonl")
class JsonLines:
    """Appends a JSON object for each call to ``metrics.jsonl``: the step, the length, the time, and the scalars."""

    def __init__(self, *, folder: str, step: int, steps: int) -> None:
        self._path, self._steps = os.path.join(folder, FILE), {"steps": steps} if steps else {}
        earlier = []
        if step and os.path.exists(self._path):
            with open(self._path) as old:
                earlier = [line for line in old if line.endswith("\n") and json.loads(line)["step"] <= step]
        storage.write_text(self._path, "".join(earlier))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append a line."""
        line = json.dumps({"step": step, **self._steps, "time": round(time.time(), 3), **scalars}) + "\n"
        try:
            with open(self._path, "ab", buffering=0) as file:  # at once on the disk, and never left open
                file.write(line.encode())
        except OSError as error:
            raise storage.unwritable(self._path, error) from error

    def close(self) -> None:
        """Do nothing: every line is on the disk."""
