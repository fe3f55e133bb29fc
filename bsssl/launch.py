"""Who starts the processes of a command: this machine, or Slurm, where stages become a chain of jobs through submitit.

One submission to Slurm is a folder ``output_dir/jobs/<time>``: the config, ``jobs.json`` with every job's id, and the
logs. A job names the config file and its stage, nothing else, so one that Slurm starts again, on whatever node, does
what is still missing. Every job waits for those of the stages that its own needs, and is dropped if one of them fails.
"""

import datetime
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit

from bsssl import fileio, log, report
from bsssl.config import Config, Launcher, StageResources, load_config
from bsssl.recipe import Run, Task, all_seeds, as_yaml, execute
from bsssl.registry import UserError
from bsssl.stages import IN_PARTS
from bsssl.stages.check import check
from bsssl.status import JOBS, Job, active_jobs, job_table, save_jobs

REPORT = "report"
_WARNING_SECONDS = 90  # between Slurm's signal and the time limit


def run_locally(command: Sequence[str], *, processes: int) -> int:
    """Run ``command`` in so many processes of one group, which ends as a whole when one fails; the exit status."""
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
    return 0


@dataclass(frozen=True)
class StageJob:
    """What a job does; pickled by submitit, and unpickled each time that Slurm starts the job."""

    config: str
    """the submission's resolved config file"""
    config_path: str
    """the user's config and overrides, as in the commands that errors name"""
    seed: int
    stage: str
    """a stage's name, or ``report``"""
    task: Task | None = None
    debug: bool = False

    def __call__(self) -> None:
        """Run the stage, this process being one of the job's."""
        environment = submitit.helpers.TorchDistributedEnvironment().export(
            set_cuda_visible_devices=False, overwrite=True
        )
        if environment.world_size == environment.local_world_size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # a host's own name need not resolve
        try:
            self._run()
        except UserError as error:
            sys.exit(log.describe(error))  # without a traceback at the end of the log

    def _run(self) -> None:
        config = load_config(self.config, [])
        if self.stage == REPORT:
            print(report.write(all_seeds(config, config_path=self.config_path)))
            return
        execute(
            config.model_copy(update={"seed": self.seed, "seeds": 1}),
            config_path=self.config_path,
            wanted=lambda name: name == self.stage,
            task=self.task,
            debug=self.debug,
        )

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to run after a time limit or a preemption: the same, which goes on from what has been saved."""
        return submitit.helpers.DelayedSubmission(self)


def submit(config: Config, *, config_path: str, wanted: Callable[[str], bool], whole: bool, debug: bool = False) -> str:
    """Submit the stages that ``wanted`` names and that are not done, of every seed, to Slurm; what to tell the user.

    ``whole``: with the table of results at the end. UserError when jobs of the same run are still in the queue, or when
    one cannot be submitted (those submitted before it are then cancelled).
    """
    log.setup(debug=debug)
    check(config)
    running = active_jobs(config.output_dir)
    if running:
        raise UserError(
            f"{config.output_dir} has {len(running)} unfinished jobs (first: {running[0].job_id}, {running[0].stage}); "
            f"wait, or end them with: bsssl cancel {config.output_dir}"
        )
    submission = _Submission(config, config_path=config_path, debug=debug)
    try:
        for run in all_seeds(config, config_path=config_path):
            submission.add(run, wanted)
        if whole:
            submission.add_report()
    except BaseException:
        submission.withdraw()
        raise
    if not submission.jobs:
        return "everything is done already"
    folder = config.output_dir
    return f"{job_table(submission.jobs)}\n\nprogress: bsssl status {folder}\nend it:   bsssl cancel {folder}"


class _Submission:
    def __init__(self, config: Config, *, config_path: str, debug: bool) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        output_dir = os.path.abspath(config.output_dir)
        self.folder = Path(output_dir) / JOBS / now.strftime("%Y%m%d-%H%M%S-%f")
        self.jobs: list[Job] = []
        self._launcher = config.launcher
        self._first = StageJob(str(self.folder / "config.yaml"), config_path, config.seed, REPORT, debug=debug)
        fileio.write_text(self._first.config, as_yaml(config.model_copy(update={"output_dir": output_dir})))

    def add(self, run: Run, wanted: Callable[[str], bool]) -> None:
        """Submit the stages of one seed that are not done, or that follow one that is not."""
        ids: dict[str, str] = {}
        for stage in run.stages.values():
            after = [ids[need] for need in stage.needs if need in ids]
            if not wanted(stage.name) or (run.pending(stage.name) is None and not after):
                continue
            run.require_inputs(stage.name, besides=ids)
            job, tasks = replace(self._first, seed=run.seed, stage=stage.name), self._launcher.array_tasks
            if stage.kind in IN_PARTS and tasks > 1:
                # The array does the work; the job after it finds all parts there and finishes the stage.
                shares = [replace(job, task=Task(number, tasks)) for number in range(tasks)]
                after = [self._submit(*shares, kind=stage.kind, after=after)]
            ids[stage.name] = self._submit(job, kind=stage.kind, after=after)

    def add_report(self) -> None:
        """Submit the job that makes the table of results."""
        if self.jobs:
            self._submit(self._first, kind=REPORT, after=[job.job_id for job in self.jobs])

    def withdraw(self) -> None:
        """Cancel what was submitted."""
        if self.jobs:
            subprocess.run(["scancel", *(job.job_id for job in self.jobs)], capture_output=True)

    def _submit(self, *jobs: StageJob, kind: str, after: Sequence[str]) -> str:
        """One job, or several as an array; its id."""
        name = f"{jobs[0].stage}-{jobs[0].seed}"
        try:
            # A job may reach its time limit, and be queued again, as often as it takes.
            executor = submitit.SlurmExecutor(str(self.folder), max_num_timeout=1_000_000)
            executor.update_parameters(**_parameters(self._launcher, kind, name=name, after=after))
            submitted = executor.submit_array(jobs) if len(jobs) > 1 else [executor.submit(jobs[0])]
        except (subprocess.CalledProcessError, submitit.core.utils.FailedSubmissionError, RuntimeError) as error:
            # Of submitit's text what sbatch said.
            reason = " ".join(" ".join(str(error).split("sbatch: error: ")[-2:]).split())[-300:]
            raise UserError(f"job {name} cannot be submitted: {reason}; check the launcher section") from None
        self.jobs.append(
            Job(
                job_id=submitted[0].job_id.split("_")[0],
                seed=jobs[0].seed,
                stage=jobs[0].stage,
                folder=str(self.folder),
                tasks=len(jobs) if len(jobs) > 1 else None,
            )
        )
        save_jobs(str(self.folder), self.jobs)
        return self.jobs[-1].job_id


def _parameters(launcher: Launcher, kind: str, *, name: str, after: Sequence[str]) -> dict[str, Any]:
    """submitit's parameters of a job: a training has whole nodes, all else one GPU of a node or what goes with one."""
    own = launcher.stages.get(kind, StageResources())  # type: ignore[call-overload]
    training = kind == "train"
    shares = 1 if training else max(1, launcher.gpus_per_node)
    processes = launcher.processes if training else 1
    gpus = launcher.gpus_per_node if training else min(1, launcher.gpus_per_node) * (kind in ("score", "evaluate"))
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
