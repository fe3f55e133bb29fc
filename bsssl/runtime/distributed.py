"""Process groups. In a single process every function here returns at once and nothing is set up."""

import datetime
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST_WAIT = datetime.timedelta(days=2)
"""Before a process gives up on the others: the main one lists, selects and evaluates alone, which may take hours."""
_SECONDS_TO_SAVE = 60.0  # after which a process whose launcher is gone ends, whatever it is doing


def init(device: str) -> None:
    """Join the group described by torchrun's environment (``WORLD_SIZE`` and so on); nothing in a single process.

    ``device`` is ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one: each process then takes its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch

        on_gpu = device != "cpu" and torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True, name="launcher").start()


def _end_after(launcher: int) -> None:
    """End this process when the launcher that started it is gone, were it killed, as the launcher's own SIGTERM does.

    A launcher that is gone before the group is complete needs no watching: the processes meet at its port.
    """
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_SAVE)
    os._exit(128 + signal.SIGTERM)


def shutdown() -> None:
    """Leave the group that ``init`` joined."""
    if world_size() > 1:
        import torch

        torch.distributed.destroy_process_group()


def rank() -> int:
    """Return this process's number among all processes of the run."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this is the process that writes results and speaks."""
    return rank() == 0


def cores() -> int:
    """Return how many CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """Return this process's share of ``cores`` among the run's processes on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        import torch

        torch.distributed.barrier()


def from_main(answer: Callable[[], T]) -> T:
    """Return on every process what ``answer``, which the main process alone calls, returns there (picklable)."""
    if world_size() == 1:
        return answer()
    return gather(answer() if is_main() else None)[0]  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """Return every process's ``value`` (picklable), in rank order, on every process."""
    if world_size() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values
