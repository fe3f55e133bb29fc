"""Orders are launched; in a queue, stages become a chain of jobs.

One submission is a folder ``output_dir/jobs/<time>``: the configs, ``jobs.json`` with the id of every job, and the
logs. Every job waits for those of the stages that its own needs or comes after, and is dropped if one of them fails.
"""

import contextlib
import datetime
import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import Self

from bsssl import storage
from bsssl.config import Experiment
from bsssl.config import Launcher as Settings
from bsssl.errors import UserError
from bsssl.launch.base import REPORT, Job, Order, QueueLauncher
from bsssl.launch.jobs import StageJob
from bsssl.launch.status import JOBS, JobRow, active_jobs, job_table, save_jobs
from bsssl.pipeline.run import Run
from bsssl.pipeline.stage import Resources, Stage, Task
from bsssl.recipes.runs import as_yaml
from bsssl.registry import LAUNCHERS


def launch(order: Order) -> str | None:
    """Have an order done as the `launcher` section of its first config says; return what to tell the user.

    None means that it is left to this very process. What a launcher refuses is a UserError.
    """
    launcher = _launcher(order.configs[0].launcher)
    if isinstance(launcher, QueueLauncher):
        return submit(launcher, order)
    launcher.start(order)
    return None


def launch_jobs(
    settings: Settings, jobs: Sequence[Job], order: Order, *, kind: str, resources: Resources, plugins: Sequence[str]
) -> str | None:
    """Have done what belongs to no run, see ``launch``.

    Args:
        settings: What to launch it with.
        jobs: What to submit to a queue: one job or, as an array, several.
        order: The command for processes on this machine, and the folder of the jobs; without runs.
        kind: The kind of stage that the jobs are like, as in ``launcher.stages``.
        resources: What each job wants.
        plugins: Modules with which the launcher is found again.
    """
    launcher = _launcher(settings)
    if not isinstance(launcher, QueueLauncher):
        launcher.start(order)
        return None
    with _Submission(launcher, order) as submission:
        submission.add_jobs(jobs, kind, resources, plugins=plugins)
    return submission.outcome()


def _launcher(settings: Settings) -> Any:
    return LAUNCHERS.build(settings.kind, settings.options, settings=settings)


def submit(launcher: QueueLauncher, order: Order) -> str:
    """Submit the stages that are wanted and not done, what several runs share once; return what to tell the user.

    Raises:
        UserError: Jobs of the same run are still in the queue, or one cannot be submitted; those submitted before it
            are then cancelled.
    """
    from bsssl.recipes.check import check  # imports torch

    for config in order.configs:
        check(config, launched=True)
    with _Submission(launcher, order) as submission:
        order.prepare()
        for config, run in order.runs:
            submission.add(config, run)
        submission.add_last()
    return submission.outcome()


class _Submission:
    """Jobs that are submitted together, all or none: those submitted are cancelled when an error ends the context."""

    def __init__(self, launcher: QueueLauncher, order: Order) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        self._launcher, self._order = launcher, order
        self._output_dir = order.output_dir
        self._folder = Path(order.output_dir).absolute() / JOBS / now.strftime("%Y%m%d-%H%M%S-%f")
        self._jobs: list[JobRow] = []
        self._ids: dict[Path, str] = {}
        self._saved: dict[str, str] = {}

    def __enter__(self) -> Self:
        running = active_jobs(self._output_dir)
        if running:
            raise UserError(
                f"{self._output_dir} has {len(running)} unfinished jobs (first: {running[0].job_id}, "
                f"{running[0].stage}); wait, or end them with: bsssl cancel {shlex.quote(self._output_dir)}"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            if self._jobs:
                with contextlib.suppress(UserError):  # the error that ends the submission is the one to tell
                    self._launcher.cancel([job.job_id for job in self._jobs])
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, config: Experiment, run: Run) -> None:
        """Submit the stages of one run that are not done, or that follow one that is not."""
        path = self._save(config)
        for stage in run.stages.values():
            folder = run.folder(stage.name).resolve()  # several runs may share it
            coming = self._coming(run, stage.needs.values())
            is_there = run.pending(stage.name) is None and not coming
            if not self._order.wanted(stage) or folder in self._ids or is_there:
                continue
            coming |= self._coming(run, run.earlier_than(stage.name))
            run.require_inputs(stage.name, besides=coming)
            job = StageJob(
                path,
                run.config_path,
                run.seed,
                stage.name,
                redo=self._order.redo,
                debug=self._order.debug,
                schema=type(config),
            )
            self._ids[folder] = self._add_stage(stage, job, run=folder.parent, after=list(coming.values()))

    def _coming(self, run: Run, names: Iterable[str]) -> dict[str, str]:
        """Return the jobs of those of the stages that have one, by stage."""
        places = {name: run.folder(name).resolve() for name in names}
        return {name: self._ids[place] for name, place in places.items() if place in self._ids}

    def _add_stage(self, stage: Stage[Any], job: StageJob, *, run: Path, after: list[str]) -> str:
        tasks = self._launcher.settings.array_tasks
        if stage.in_parts and tasks > 1:
            # The array does the work; the job after it finds all parts there and finishes the stage.
            shares = [replace(job, task=Task(number, tasks)) for number in range(tasks)]
            after = [self._submit(shares, stage.kind, stage.resources, run=run, after=after)]
        return self._submit([job], stage.kind, stage.resources, run=run, after=after)

    def add_jobs(self, jobs: Sequence[Job], kind: str, resources: Resources, *, plugins: Sequence[str]) -> None:
        """Submit jobs that belong to no run, see ``launch_jobs``."""
        storage.write_json(str(self._folder / "config.yaml"), {"plugins": [*plugins]})  # which is YAML
        self._submit(jobs, kind, resources, run=Path(self._output_dir).resolve(), after=[])

    def add_last(self) -> None:
        """Submit what comes after everything else, unless there is nothing else and what it leaves is there."""
        if self._order.last is None:
            return
        if self._jobs or not Path(self._output_dir, self._order.leaves).exists():
            job = self._order.last(self._save(self._order.runs[0][0]))
            after = [job.job_id for job in self._jobs]
            self._submit([job], REPORT, Resources(), run=Path(self._output_dir).resolve(), after=after)

    def outcome(self) -> str:
        """Return what to tell the user."""
        if not self._jobs:
            return "everything is done already"
        folder = shlex.quote(self._output_dir)
        hints = f"progress: bsssl status {folder}\nend it:   bsssl cancel {folder}"
        return f"{job_table(self._jobs)}\n\n{hints}"

    def _save(self, config: Experiment) -> str:
        """Return the file in which the jobs find ``config``."""
        text = as_yaml(config.model_copy(update={"output_dir": os.path.abspath(config.output_dir)}))
        if text not in self._saved:
            self._saved[text] = str(self._folder / f"config-{len(self._saved)}.yaml")
            storage.write_text(self._saved[text], text)
            os.chmod(self._saved[text], 0o600)  # a URL in it may hold a secret
        return self._saved[text]

    def _submit(self, jobs: Sequence[Job], kind: str, resources: Resources, *, run: Path, after: Sequence[str]) -> str:
        job_id = self._launcher.submit(jobs, kind=kind, resources=resources, folder=str(self._folder), after=after)
        row = JobRow(
            job_id=job_id,
            run=os.path.relpath(run, Path(self._output_dir).resolve()),
            stage=jobs[0].name,
            folder=str(self._folder),
            launcher=self._launcher.settings.kind,
            tasks=len(jobs) if len(jobs) > 1 else None,
        )
        self._jobs.append(row)
        save_jobs(str(self._folder), self._jobs)
        return job_id
