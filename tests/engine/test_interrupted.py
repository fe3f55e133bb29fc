"""Ctrl-C and SIGTERM in the middle of a training, which holds still meanwhile: nothing depends on speed."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from bsssl.engine.checkpoints import Checkpoints
from bsssl.runtime import distributed
from tests.engine import trainings
from tests.engine.trainings import same, weights
from tests.processes import free_port, start

CHANGES: dict[str, Any] = {"average_decay": 0.9, "dropout": 0.3, "elr": 3.0, "checkpoint_minutes": 1e6}
STEP = 4


def train(folder: Path, gate: Path, changes: dict[str, Any], works_on: bool) -> None:
    """Train in a session of its own, as a terminal does it, and say how it ended."""
    os.setsid()
    distributed.init("cpu")
    if works_on:
        signal.signal(signal.SIGTERM, lambda number, frame: print("works on", flush=True))
    # As submitit does it, which has the job queued again first.
    signal.signal(signal.SIGUSR2, lambda number, frame: sys.exit(f"queued again: {os.listdir(folder)}"))
    try:
        trainings.run(folder, gate=(STEP, gate), **changes)
    except BaseException as error:
        print(f"{error}\nended by {type(error).__name__}", flush=True)
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 3)


def begin(folder: Path, *, works_on: bool = False, rank: int = 0, group: dict[str, str] | None = None, **changes: Any):
    """Start a training that waits at the gate in the middle of its steps."""
    gate = folder / f"gate-{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(gate)
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), **(group or {})}
    log = f"rank-{rank}.txt"
    process = start(train, folder, gate, {**CHANGES, **changes}, works_on, folder=folder, log=log, **environment)
    return process, gate


def reached(process: BaseProcess, gate: Path) -> int:
    """Wait until the training is at the gate; the pipe that opens it when it is closed."""
    while True:
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO and process.is_alive(), (gate.parent / "rank-0.txt").read_text()
        time.sleep(0.01)


def interrupt(folder: Path, number: int, *, everyone: bool = False, **changes: Any) -> tuple[int | None, str]:
    """Send a signal while the training is at the gate; its exit status, and what it printed."""
    process, gate = begin(folder, **changes)
    pipe = reached(process, gate)
    assert process.pid is not None
    (os.killpg if everyone else os.kill)(process.pid, number)
    os.close(pipe)
    process.join(600)
    return process.exitcode, (folder / "rank-0.txt").read_text()


def checkpoint(folder: Path) -> int | None:
    latest = Checkpoints(folder=str(folder), fingerprint="0a").latest()
    return None if latest is None else latest[0]


@pytest.mark.parametrize(
    ("number", "status", "error"), [(signal.SIGINT, 3, "KeyboardInterrupt"), (signal.SIGTERM, 143, "SystemExit")]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_checkpoint_is_saved_first(tmp_path, number, status, error, workers):
    # More batches to a step than workers have ready: they must live on, to make the rest.
    exitcode, log = interrupt(tmp_path / "parts", number, everyone=True, workers=workers, accumulate=12)
    assert (exitcode, log.splitlines()[-1]) == (status, f"ended by {error}"), log
    assert "Traceback" not in log and checkpoint(tmp_path / "parts") == STEP + 1
    resumed = trainings.run(tmp_path / "parts", **CHANGES, accumulate=12)
    assert same(weights(resumed), weights(trainings.run(tmp_path / "whole", **CHANGES, accumulate=12)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_checkpoint_is_saved_before_a_job_near_its_time_limit_is_queued_again(tmp_path, workers):
    exitcode, log = interrupt(tmp_path / "parts", signal.SIGUSR2, everyone=True, workers=workers, accumulate=12)
    assert exitcode == 3 and log.splitlines()[-1] == "ended by SystemExit", log
    assert log.count("queued again: ") == 1 and f"checkpoint-0a-{STEP + 1:09d}.pt" in log
    resumed = trainings.run(tmp_path / "parts", **CHANGES, accumulate=12)
    assert same(weights(resumed), weights(trainings.run(tmp_path / "whole", **CHANGES, accumulate=12)))


def test_in_the_last_step(tmp_path):
    exitcode, log = interrupt(tmp_path / "parts", signal.SIGINT, steps=STEP + 1)
    assert exitcode == 3 and "ended by KeyboardInterrupt" in log and checkpoint(tmp_path / "parts") == STEP + 1
    resumed = trainings.run(tmp_path / "parts", **CHANGES, steps=STEP + 1)
    assert same(weights(resumed), weights(trainings.run(tmp_path / "whole", **CHANGES, steps=STEP + 1)))


def test_sigterm_that_the_caller_handles_saves_and_goes_on(tmp_path):
    exitcode, log = interrupt(tmp_path, signal.SIGTERM, works_on=True)
    assert (exitcode, log) == (0, "works on\n")
    assert checkpoint(tmp_path) == STEP + 1 and trainings.lines(tmp_path)[-1]["step"] == 12


def test_the_second_ctrl_c_ends_at_once(tmp_path):
    process, gate = begin(tmp_path)
    pipe = reached(process, gate)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    wait(process, lambda: "Ctrl-C again ends at once" in (tmp_path / "rank-0.txt").read_text())
    os.kill(process.pid, signal.SIGINT)
    process.join(600)
    os.close(pipe)
    assert process.exitcode == 3 and checkpoint(tmp_path) is None


def wait(process: BaseProcess, condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.is_alive()
        time.sleep(0.01)


def test_only_the_main_one_of_two_processes_saves_and_both_end(tmp_path):
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    started = [begin(tmp_path / "parts", rank=rank, group=group) for rank in range(2)]
    pipes = [reached(*one) for one in started]
    # The other process is far ahead when the main one leaves: it has asked for the next step's gradients.
    for process, _ in started[::-1]:
        os.kill(process.pid, signal.SIGINT)
    for pipe in pipes[::-1]:
        os.close(pipe)
    for rank, (process, _) in enumerate(started):
        process.join(600)
        log = (tmp_path / "parts" / f"rank-{rank}.txt").read_text()
        assert process.exitcode == 3 and log.splitlines()[-1] == "ended by KeyboardInterrupt", log
        assert log.count("saving a checkpoint") == (rank == 0)
    assert checkpoint(tmp_path / "parts") == STEP + 1
