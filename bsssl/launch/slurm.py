"""Slurm, through submitit."""

import contextlib
import datetime
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from bsssl.config import Launcher as Settings
from bsssl.errors import UserError
from bsssl.launch.base import Job, QueueLauncher
from bsssl.pipeline.stage import Resources
from bsssl.registry import LAUNCHERS

_WARNING_SECONDS = 90  # between Slurm's signal and the time limit
_KILL_SECONDS = (
    600  # Slurm looks for preempted jobs whose grace time is over every 30 seconds, and then asks them first
)


@LAUNCHERS.register("slurm")
class SlurmLauncher(QueueLauncher):
    """A chain of Slurm jobs, one per stage and seed; a stage whose work has parts is an array."""

    def __init__(self, settings: Settings) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"cannot import submitit, which submits jobs ({error}): pip install 'bsssl[slurm]'"
            ) from None
        super().__init__(settings)

    @override
    def submit(self, jobs: Sequence[Job], *, kind: str, resources: Resources, folder: str, after: Sequence[str]) -> str:
        import submitit

        resumable = [_Resumable(job) for job in jobs]
        parameters = self._parameters(kind, resources, name=jobs[0].name, after=after)
        _check_texts(parameters, folder)
        try:
            # A job may reach its time limit, and be queued again, as often as it takes.
            executor = submitit.SlurmExecutor(folder, max_num_timeout=1_000_000)
            executor.update_parameters(**parameters)
            submitted = executor.submit_array(resumable) if len(jobs) > 1 else [executor.submit(resumable[0])]
        except (subprocess.CalledProcessError, submitit.core.utils.FailedSubmissionError, RuntimeError) as error:
            # Of submitit's text what sbatch said.
            reason = " ".join(" ".join(str(error).split("sbatch: error: ")[-2:]).split())[-300:]
            raise UserError(
                f"the job of {jobs[0].name} cannot be submitted: {reason}; check the launcher section"
            ) from None
        return str(submitted[0].job_id).split("_")[0]

    @classmethod
    @override
    def active(cls) -> Mapping[str, str]:
        # A state that waits says why.
        lines = _ask(["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r"])
        if lines is None:
            raise UserError(
                "squeue does not answer; run this where Slurm's commands work, with SLURM_CONF set if needed"
            )
        states = {}
        for line in lines:
            task_id, state, reason = line.split("|", 2)
            states[task_id] = f"{state} ({reason})" if state == "PENDING" else state
        return states

    @classmethod
    @override
    def states(cls, job_ids: Sequence[str]) -> Mapping[str, str]:
        # How jobs ended, by Slurm's accounting; nothing where there is none.
        columns = ["--allocations", "--noheader", "--parsable2", "--format=JobID,State"]
        lines = _ask(["sacct", *columns, f"--jobs={','.join(job_ids)}"]) if job_ids else None
        pairs = (line.partition("|") for line in lines or [])
        return {task_id: state for ids, _, state in pairs for task_id in _each(ids)}

    @classmethod
    @override
    def cancel(cls, job_ids: Sequence[str]) -> None:
        done = subprocess.run(["scancel", *job_ids], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"scancel: {' '.join(done.stderr.split())}")

    def _parameters(self, kind: str, resources: Resources, *, name: str, after: Sequence[str]) -> dict[str, Any]:
        """Return submitit's parameters of a job: whole nodes, or one process on a share of a node."""
        launcher = self.settings
        own = launcher.own(kind)
        whole = resources.whole_nodes
        shares = 1 if whole else max(1, launcher.gpus_per_node)
        processes = launcher.processes(kind) if whole else 1
        gpus = launcher.gpus_per_node if whole else min(1, launcher.gpus_per_node) if resources.gpu else 0
        if own.gpus_per_node is not None:
            gpus = own.gpus_per_node
        cpus = own.cpus_per_node or (launcher.cpus_per_node and max(1, launcher.cpus_per_node // shares))
        memory = own.memory_gb or (launcher.memory_gb and launcher.memory_gb / shares)
        minutes = own.minutes or launcher.minutes
        cpus_per_task = cpus and max(1, cpus // processes)
        parameters = {
            "job_name": name,
            "nodes": launcher.nodes if whole else 1,
            "ntasks_per_node": processes,
            "time": minutes,
            "gpus_per_node": gpus or None,
            "cpus_per_task": cpus_per_task,
            "mem": memory and f"{round(memory * 1024)}MB",
            "partition": own.partition or launcher.partition,
            "account": launcher.account,
            "qos": launcher.qos,
            "constraint": launcher.constraint,
            "dependency": f"afterok:{':'.join(after)}" if after else None,
            "array_parallelism": launcher.array_parallelism,
            "signal_delay_s": min(_WARNING_SECONDS, 60 * minutes // 3),
            "stderr_to_stdout": True,
            "setup": launcher.setup or None,
            # One process that fails ends the others, which would wait for it. Since Slurm 22.05 srun has to be told the
            # cores again.
            "srun_args": ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus_per_task}"] if cpus_per_task else [])],
            # A job whose input failed leaves the queue.
            "additional_parameters": {"kill-on-invalid-dep": "yes", **launcher.sbatch},
        }
        return {key: value for key, value in parameters.items() if value is not None}


def _check_texts(parameters: Mapping[str, Any], folder: str) -> None:
    """Refuse what sbatch would take for something else: its options stand in comments of a line each."""
    if "%" in folder:
        raise UserError(f"sbatch takes the % in {folder} for a pattern; choose an output_dir without one")
    options = {**parameters, **parameters["additional_parameters"]}
    if broken := [name for name, value in options.items() if isinstance(value, str) and len(value.splitlines()) > 1]:
        raise UserError(f"launcher: {broken[0]} must be one line, not {options[broken[0]]!r}")


@dataclass(frozen=True)
class _Resumable:
    """A job as submitit wants it; pickled, and unpickled each time that Slurm starts the job."""

    job: Job

    def __call__(self) -> None:
        from bsssl.launch.jobs import join_process_group

        join_process_group()
        with _outliving_preemption():
            self.job()

    def checkpoint(self) -> Any:
        """Return what to run after a time limit or a preemption: the same, which goes on from what has been saved."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@contextlib.contextmanager
def _outliving_preemption() -> Iterator[None]:
    """Work on through SIGTERM, and if it came and the job's time is over, wait in the end for the SIGKILL that follows.

    Preemption cuts a job's time to a grace time. Once Slurm has killed it, it is queued again, and finds its work done;
    one that ends by itself between the two counts as timed out, and what depends on it is dropped.
    """
    warned = False

    def warn(*_: object) -> None:
        nonlocal warned
        warned = True

    before = signal.signal(signal.SIGTERM, warn)
    try:
        yield
        if warned and _time_is_over():
            print("the work is done, but this job's time is over: waiting for Slurm to end it", flush=True)
            time.sleep(_KILL_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before)


def _time_is_over() -> bool:
    """Return whether Slurm would call this job timed out if it ended now; no where Slurm does not say."""
    lines = _ask(["scontrol", "show", "job", "--oneliner", os.environ.get("SLURM_JOB_ID", "")])
    end = re.search(r" EndTime=(\d{4}-\S+)", "\n".join(lines or []))
    soon = datetime.datetime.now() + datetime.timedelta(seconds=5)
    return end is not None and datetime.datetime.fromisoformat(end[1]) < soon


def _each(ids: str) -> Iterable[str]:
    """Yield the tasks that accounting names at once, such as ``9_[0-2,5]``, one by one."""
    job_id, bracket, tasks = ids.partition("_[")
    if not bracket:
        return [ids]
    spans = [span.split("-") for span in tasks.rstrip("]").split("%")[0].split(",")]
    return [f"{job_id}_{task}" for span in spans for task in range(int(span[0]), int(span[-1]) + 1)]


def _ask(command: list[str]) -> list[str] | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None
