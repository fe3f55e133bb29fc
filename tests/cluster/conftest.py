"""A real Slurm cluster of two nodes: `make test-cluster` starts one by ``cluster.sh``; without it these are skipped."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bsssl.launch.status import JobRow, read_jobs
from tests.conftest import Recipe

CLUSTER = Path(os.environ.get("BSSSL_CLUSTER", "/tmp/bsssl-cluster"))
NODES = ("bsssl1", "bsssl2")
PATIENCE = 300.0
"""seconds after which what is waited for is taken not to come; no test passes by how long anything takes"""
SLURM = ("--launch", "launcher.kind=slurm", "launcher.cpus_per_node=1", "launcher.memory_gb=1.5", "launcher.minutes=30")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("SLURM_CONF", "").startswith(str(CLUSTER)):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no test cluster: needs root and apt; run `make test-cluster`"))


def ask(*command: str) -> str:
    """What one of Slurm's commands prints; on a busy machine its daemon does not always answer at once."""
    end = time.monotonic() + PATIENCE
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode != 0:
        assert time.monotonic() < end, f"{' '.join(command)}: {done.stderr}"
        time.sleep(2)
    return done.stdout.strip()


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Until ``condition()`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s; queue:\n{ask('squeue')}"
        time.sleep(0.2)


@dataclass
class Cluster:
    """Launching on the cluster, and disturbing it."""

    bsssl: Callable[..., object]
    recipe: Recipe

    def launch(self, command: str, output: Path, *arguments: str, status: int = 0, config: Path | None = None) -> str:
        """Submit, with the recipe or another ``config``; what was printed."""
        workers = "set.system.workers=1" if command == "reproduce" else "system.workers=1"
        given = ("--config", config or self.recipe.config, f"output_dir={output}", workers)
        outcome = self.bsssl(command, *given, *SLURM, *arguments)
        assert outcome.status == status, outcome.err
        return outcome.out if status == 0 else outcome.err

    def status(self, output: Path, *options: str) -> str:
        return self.bsssl("status", output, *options).out

    def job(self, output: Path, stage: str) -> JobRow:
        """The last job of a stage."""
        return [job for job in read_jobs(str(output)) if job.stage == stage][-1]

    def wait(self, output: Path, *, seconds: float = 3 * PATIENCE) -> None:
        """Until no job of the run is in the queue; what waits after a requeue is started at once."""
        wait_until(lambda: not self._queued(output), seconds=seconds)

    def wait_for_restart(self, output: Path, stage: str) -> None:
        """Until Slurm has queued the job of a stage again and it runs once more."""
        job = self.job(output, stage)
        wait_until(lambda: self.restarts(job) >= 1 and (job.job_id, "RUNNING") in self._queued(output))

    def _queued(self, output: Path) -> list[tuple[str, str]]:
        """Id and state of the run's tasks in the queue; those that wait because they were queued again need not."""
        ids = {job.job_id for job in read_jobs(str(output))}
        lines = ask("squeue", "-h", "-r", "-o", "%i|%F|%T|%r").splitlines()
        mine = [row for row in (line.split("|") for line in lines) if row[1] in ids]
        for task_id, _, state, reason in mine:
            if state == "PENDING" and reason == "BeginTime":
                subprocess.run(["scontrol", "update", f"jobid={task_id}", "StartTime=now"], capture_output=True)
        return [(task_id, state) for task_id, _, state, _ in mine]

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Meanwhile jobs can be submitted, and none starts."""
        ask("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            yield
        finally:
            ask("scontrol", "update", "PartitionName=main", "State=UP")

    def ends(self, output: Path) -> dict[str, str]:
        """How each job ended, by stage. The accounting may hear of it later than the queue."""

        def states() -> dict[str, str]:
            lines = ask("sacct", "-X", "-n", "-P", "-o", "JobName,State", "-j", self._ids(output)).splitlines()
            return {name: state.split(" ")[0] for name, state in (line.split("|") for line in lines)}

        wait_until(lambda: "RUNNING" not in states().values())
        return states()

    def restarts(self, job: JobRow) -> int:
        """How often Slurm has queued a job again."""
        return int(re.search(r"Restarts=(\d+)", ask("scontrol", "show", "job", job.job_id))[1])

    def _ids(self, output: Path) -> str:
        return ",".join(job.job_id for job in read_jobs(str(output)))


@pytest.fixture
def cluster(bsssl: Callable[..., object], recipe: Recipe) -> Iterator[Cluster]:
    """The cluster with an empty queue and both nodes up, before and after."""
    _clear()
    yield Cluster(bsssl, recipe)
    _clear()


def _clear() -> None:
    subprocess.run(["scancel", "--user=root"], check=True)
    for node in NODES:
        pid = (CLUSTER / f"slurmd-{node}.pid").read_text().strip()
        if not Path(f"/proc/{pid}").exists():
            subprocess.run(["slurmd", "-N", node], check=True)
    # A node that was lost for a while is told that it is back: its daemon does so itself, but only by and by.
    idle = lambda: ask("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle", "idle"]  # noqa: E731
    wait_until(lambda: not ask("squeue", "-h") and idle())
