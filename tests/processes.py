"""Processes of their own for what cannot be tested in one: killing, and several that train together.

They are forked from a server that has imported everything and computed nothing, which takes no time and is safe.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

PATIENCE = 600.0
"""seconds after which what has not come counts as never coming, on however slow a machine"""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["bsssl.cli", "bsssl.reports.recipe", "bsssl.stages", "matplotlib.figure"])


def start(
    function: Callable[..., None], *arguments: Any, folder: Path, log: str = "log.txt", **environment: str
) -> BaseProcess:
    """Begin ``function(*arguments)`` in a new process that works in ``folder`` and writes to the file ``log`` there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / log).write_text("")
    process = _CONTEXT.Process(target=_run, args=(function, arguments, str(folder), log, environment))
    process.start()
    return process


def free_port() -> str:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(function: Callable[..., None], *arguments: Any, folder: Path, processes: int = 2) -> None:
    """``function(*arguments)`` in several processes that torchrun might have started; all must succeed."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(processes)}
    started = [
        start(
            function, *arguments, folder=folder, log=f"rank-{rank}.txt", RANK=str(rank), LOCAL_RANK=str(rank), **group
        )
        for rank in range(processes)
    ]
    for process in started:
        process.join(PATIENCE)
        if process.exitcode != 0:
            for other in started:
                other.kill()
    logs = [(folder / f"rank-{rank}.txt").read_text() for rank in range(processes)]
    assert [process.exitcode for process in started] == [0] * processes, "\n".join(logs)


def wait_until(condition: Callable[[], object]) -> None:
    """Until ``condition()`` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:g} s in vain"
        time.sleep(0.02)


def _run(
    function: Callable[..., None], arguments: tuple[Any, ...], folder: str, log: str, environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    output = open(log, "w", buffering=1)  # noqa: SIM115 - as long as the process lives
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    torch.set_num_threads(1)
    # Else loaders would start their workers through a server of their own, as this process was, and slowly.
    multiprocessing.set_start_method("fork", force=True)
    function(*arguments)


def run_to_end(
    command: Sequence[object], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What came of a command, with what it printed; where one of Python's hangs, the error shows what it was at."""
    environment = {**(os.environ if env is None else env), "PYTHONFAULTHANDLER": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*map(str, command)], cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as child:
        try:
            printed, errors = child.communicate(timeout=1.5 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=20)
            os.killpg(child.pid, signal.SIGKILL)
            raise AssertionError(f"{command} has not come to an end: {child.communicate()[1][-5000:]}") from None
    return subprocess.CompletedProcess(command, child.returncode, printed, errors)
