"""Who starts the processes of a command: this machine, or Slurm, where stages become a chain of jobs through submitit.

One submission to Slurm is a folder ``output_dir/jobs/<time>``: the config, ``jobs.json`` with every job's id, and the
logs. A job names the config file and its stage, nothing else, so one that Slurm starts again, on whatever node, does
what is still missing. Every job waits for those of the stages that its own needs, and is dropped if one of them fails.
"""

import contextlib
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit
from typing_extensions import Self

from bsssl import storage
from bsssl.config import Config, Experiment, Launcher, StageResources, load_config
from bsssl.errors import UserError
from bsssl.launch.status import JOBS, REPORT, Job, active_jobs, job_table, save_jobs
from bsssl.pipeline.run import Run, Task, all_seeds, as_yaml, execute
from bsssl.recipes.check import check
from bsssl.recipes.sweep import Grid, Point, share
from bsssl.reports.grids import write_grid
from bsssl.runtime import console as log
from bsssl.stages import IN_PARTS

_WARNING_SECONDS = 90  # between Slurm's signal and the time limit
_KILL_SECONDS = (
    600  # Slurm looks for preempted jobs whose grace time is over every 30 seconds, and then asks them first
)


def run_locally(command: Sequence[str], *, processes: int) -> int:
    """Run ``command`` in so many processes of one group, which ends as a whole when one fails; the exit status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError:
        return 1  # the process has said why
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return 128 + error.sigval
    return 0


class _Resumable(ABC):
    @abstractmethod
    def __call__(self) -> None:
        """Do the work."""

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to run after a time limit or a preemption: the same, which goes on from what has been saved."""
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
    """Whether Slurm would call this job timed out if it ended now; no where Slurm does not say."""
    command = ["scontrol", "show", "job", "--oneliner", os.environ.get("SLURM_JOB_ID", "")]
    try:
        told = subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return False
    end = re.search(r" EndTime=(\d{4}-\S+)", told)
    soon = datetime.datetime.now() + datetime.timedelta(seconds=5)
    return end is not None and datetime.datetime.fromisoformat(end[1]) < soon


@dataclass(frozen=True)
class StageJob(_Resumable):
    """What a job does; pickled by submitit, and unpickled each time that Slurm starts the job."""

    config: str
    """the resolved config file"""
    config_path: str
    """the user's config and overrides, as in the commands that errors name"""
    seed: int
    stage: str
    task: Task | None = None
    debug: bool = False
    schema: type[Experiment] = Config

    def __call__(self) -> None:
        """Run the stage, this process being one of the job's."""
        environment = submitit.helpers.TorchDistributedEnvironment().export(
            set_cuda_visible_devices=False, overwrite=True
        )
        if environment.world_size == environment.local_world_size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # a host's own name need not resolve
        run = Run(load_config(self.config, [], self.schema), seed=self.seed, config_path=self.config_path)
        with _outliving_preemption():
            try:
                execute([run], wanted=lambda name: name == self.stage, task=self.task, debug=self.debug)
            except Exception as error:
                if self.debug:
                    traceback.print_exc()
                sys.exit(log.describe(error))  # the last line of the log says what is wrong


@dataclass(frozen=True)
class ReportJob(_Resumable):
    """Makes the table of results of finished runs."""

    config: str
    write: Callable[[Any, Sequence[Run[Any]]], str]
    schema: type[Experiment]

    def __call__(self) -> None:
        """Print and write the table."""
        config = load_config(self.config, [], self.schema)
        print(self.write(config, all_seeds(config, config_path=self.config)))


@dataclass(frozen=True)
class GridJob(_Resumable):
    """Writes the results of finished points."""

    grid: Grid
    points: list[Point]
    """as they were submitted, whatever becomes of the config"""

    def __call__(self) -> None:
        """Print and write them."""
        print(write_grid(self.grid, self.points))


def submit(
    config: Experiment,
    *,
    config_path: str,
    wanted: Callable[[str], bool],
    table: Callable[[Any, Sequence[Run[Any]]], str] | None,
    debug: bool = False,
) -> str:
    """Submit the stages that ``wanted`` names and that are not done, of every seed, to Slurm; what to tell the user.

    ``table``: what writes the table of results at the end. UserError when jobs of the same run are still in the queue,
    or when one cannot be submitted (those submitted before it are then cancelled).
    """
    log.setup(debug=debug)
    with _Submission(config.output_dir, config.launcher, debug=debug) as submission:
        _check(config)
        for run in all_seeds(config, config_path=config_path):
            submission.add(run, wanted)
        if table is not None:
            submission.add_last(ReportJob(submission.save(config), table, type(config)), leaves=config.leaves)
    return submission.told()


def submit_grid(grid: Grid, *, debug: bool = False) -> str:
    """Submit everything of a grid that is not done, what points share once; what to tell the user."""
    log.setup(debug=debug)
    points, output_dir = grid.points(), os.path.abspath(grid.output_dir())
    with _Submission(output_dir, points[0].config.launcher, debug=debug) as submission:
        for point in points:
            _check(point.config)
        share(points)
        for run in (run for point in points for run in point.runs):
            submission.add(run, lambda name: True)
        submission.add_last(GridJob(grid, points), leaves=grid.leaves)
    return submission.told()


def _check(config: Experiment) -> None:
    check(config, processes=config.launcher.all_processes)


class _Submission:
    """Jobs that are submitted together, all or none: those submitted are cancelled when an error ends the context."""

    def __init__(self, output_dir: str, launcher: Launcher, *, debug: bool) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        self._output_dir = output_dir
        self._folder = Path(output_dir).absolute() / JOBS / now.strftime("%Y%m%d-%H%M%S-%f")
        self._launcher = launcher
        self._debug = debug
        self._jobs: list[Job] = []
        self._ids: dict[Path, str] = {}
        self._saved: dict[str, str] = {}

    def __enter__(self) -> Self:
        running = active_jobs(self._output_dir)
        if running:
            raise UserError(
                f"{self._output_dir} has {len(running)} unfinished jobs (first: {running[0].job_id}, "
                f"{running[0].stage}); wait, or end them with: bsssl cancel {self._output_dir}"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            if self._jobs:
                subprocess.run(["scancel", *(job.job_id for job in self._jobs)], capture_output=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, run: Run, wanted: Callable[[str], bool]) -> None:
        """Submit the stages of one run that are not done, or that follow one that is not."""
        config = self.save(run.config)
        for stage in run.stages.values():
            folder = run.folder(stage.name).resolve()  # several runs may share it
            places = {need: run.folder(need).resolve() for need in stage.needs}
            coming = {need: self._ids[place] for need, place in places.items() if place in self._ids}
            if not wanted(stage.name) or folder in self._ids or (run.pending(stage.name) is None and not coming):
                continue
            run.require_inputs(stage.name, besides=coming)
            job = StageJob(config, run.config_path, run.seed, stage.name, debug=self._debug, schema=type(run.config))
            after, tasks = list(coming.values()), self._launcher.array_tasks
            if stage.kind in IN_PARTS and tasks > 1:
                # The array does the work; the job after it finds all parts there and finishes the stage.
                shares = [replace(job, task=Task(number, tasks)) for number in range(tasks)]
                after = [self._submit(shares, kind=stage.kind, run=folder.parent, after=after)]
            self._ids[folder] = self._submit([job], kind=stage.kind, run=folder.parent, after=after)

    def add_last(self, job: ReportJob | GridJob, *, leaves: str) -> None:
        """Submit what comes after everything else, unless there is nothing else and what it ``leaves`` is there."""
        if self._jobs or not Path(self._output_dir, leaves).exists():
            after = [job.job_id for job in self._jobs]
            self._submit([job], kind=REPORT, run=Path(self._output_dir).resolve(), after=after)

    def save(self, config: Experiment) -> str:
        """The file in which the jobs find ``config``."""
        text = as_yaml(config.model_copy(update={"output_dir": os.path.abspath(config.output_dir)}))
        if text not in self._saved:
            self._saved[text] = str(self._folder / f"config-{len(self._saved)}.yaml")
            storage.write_text(self._saved[text], text)
        return self._saved[text]

    def told(self) -> str:
        """What to tell the user."""
        if not self._jobs:
            return "everything is done already"
        hints = f"progress: bsssl status {self._output_dir}\nend it:   bsssl cancel {self._output_dir}"
        return f"{job_table(self._jobs)}\n\n{hints}"

    def _submit(self, jobs: Sequence[_Resumable], *, kind: str, run: Path, after: Sequence[str]) -> str:
        """One job, or several as an array; its id."""
        stage = getattr(jobs[0], "stage", REPORT)
        try:
            # A job may reach its time limit, and be queued again, as often as it takes.
            executor = submitit.SlurmExecutor(str(self._folder), max_num_timeout=1_000_000)
            executor.update_parameters(**_parameters(self._launcher, kind, name=stage, after=after))
            submitted: Sequence[submitit.Job[None]] = (
                executor.submit_array(jobs) if len(jobs) > 1 else [executor.submit(jobs[0])]
            )
        except (subprocess.CalledProcessError, submitit.core.utils.FailedSubmissionError, RuntimeError) as error:
            # Of submitit's text what sbatch said.
            reason = " ".join(" ".join(str(error).split("sbatch: error: ")[-2:]).split())[-300:]
            raise UserError(f"the job of {stage} cannot be submitted: {reason}; check the launcher section") from None
        self._jobs.append(
            Job(
                job_id=submitted[0].job_id.split("_")[0],
                run=os.path.relpath(run, Path(self._output_dir).resolve()),
                stage=stage,
                folder=str(self._folder),
                tasks=len(jobs) if len(jobs) > 1 else None,
            )
        )
        save_jobs(str(self._folder), self._jobs)
        return self._jobs[-1].job_id


def _parameters(launcher: Launcher, kind: str, *, name: str, after: Sequence[str]) -> dict[str, Any]:
    """submitit's parameters of a job: a training has whole nodes, all else one GPU of a node or what goes with one."""
    own = launcher.stages.get(kind, StageResources())  # type: ignore[call-overload]
    training = kind == "train"
    shares = 1 if training else max(1, launcher.gpus_per_node)
    processes = launcher.processes if training else 1
    gpus = launcher.gpus_per_node
    if not training:
        gpus = min(1, gpus) if kind in ("score", "probe", "evaluate") else 0
    if own.gpus_per_node is not None:
        gpus = own.gpus_per_node
    cpus = own.cpus_per_node or (launcher.cpus_per_node and max(1, launcher.cpus_per_node // shares))
    memory = own.memory_gb or (launcher.memory_gb and launcher.memory_gb / shares)
    minutes = own.minutes or launcher.minutes
    cpus_per_task = cpus and max(1, cpus // processes)
    found = {
        "job_name": name,
        "nodes": launcher.nodes if training else 1,
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
    return {key: value for key, value in found.items() if value is not None}
