"""What a run is doing: every stage and shard done, running, waiting or failed, from its files and Slurm's queue.

Nothing here imports torch: the answer takes a moment, also for runs of very many shards.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bsssl import storage
from bsssl.config.plugins import load_plugins
from bsssl.config.reading import plugins_of
from bsssl.engine.metrics import FILE as METRICS
from bsssl.errors import UserError
from bsssl.launch.base import PREDICTION, REPORT, QueueLauncher
from bsssl.pipeline.aside import ASIDE
from bsssl.pipeline.progress import LOGS, last_lines, metric_rows, written_parts
from bsssl.pipeline.record import DONE, Parts, Record, read_record, read_work
from bsssl.registry import LAUNCHERS
from bsssl.reports.tables import Table

JOBS = "jobs"
_LIST = "jobs.json"
_LOG_LINES = 5


@dataclass(frozen=True)
class JobRow:
    """A job of a submission, or an array of them."""

    job_id: str
    run: str
    """the folder of the run, relative to the output folder"""
    stage: str
    folder: str
    """the folder of the submission"""
    launcher: str = "slurm"
    """the kind of launcher whose queue has it"""
    tasks: int | None = None
    """how many tasks an array has; None for a single job"""

    @property
    def ids(self) -> list[str]:
        """The names that Slurm has for the tasks."""
        return [self.job_id] if self.tasks is None else [f"{self.job_id}_{task}" for task in range(self.tasks)]

    def log(self, task_id: str) -> Path:
        """Return the file with what the first process of one of ``ids`` printed."""
        return Path(self.folder) / f"{task_id}_0_log.out"

    def failed_log(self, task_id: str) -> Path:
        """Return the log of the process that ended with an error, or else of the first process."""
        logs = sorted(Path(self.folder).glob(f"{task_id}_*_log.out"))
        failed = (path for path in logs if any(line.startswith("error: ") for line in last_lines(path, _LOG_LINES)))
        return next(failed, self.log(task_id))


def save_jobs(folder: str, jobs: Sequence[JobRow]) -> None:
    """Remember the jobs of the submission in ``folder``."""
    rows = [{name: value for name, value in asdict(job).items() if name != "folder"} for job in jobs]
    storage.write_json(os.path.join(folder, _LIST), rows)


def read_jobs(output_dir: str) -> list[JobRow]:
    """Return the jobs of the newest submission of a run, in order; none when it was never launched on a cluster.

    Raises:
        UserError: The list of them is damaged.
    """
    lists = sorted(Path(output_dir, JOBS).glob(f"*/{_LIST}"))
    try:
        return (
            [JobRow(**row, folder=str(lists[-1].parent)) for row in storage.read_json(str(lists[-1]))] if lists else []
        )
    except TypeError:
        raise UserError(f"{lists[-1]} is no list of jobs, or of another version; delete it and launch again") from None


def active_jobs(output_dir: str) -> list[JobRow]:
    """Return those of a run's jobs that are still to be run, or are running."""
    jobs = read_jobs(output_dir)
    active = _queue(jobs).active() if jobs else {}
    return [job for job in jobs if any(task_id in active for task_id in job.ids)]


def cancel(output_dir: str) -> str:
    """End a run's jobs and return what to tell the user; UserError when there is no such run."""
    require_run(output_dir)
    jobs = active_jobs(output_dir)
    if not jobs:
        return f"{output_dir} has no unfinished jobs"
    # Those that wait for others first: none starts when what it waits for ends.
    _queue(jobs).cancel([job.job_id for job in reversed(jobs)])
    return f"{len(jobs)} jobs cancelled; the same command with --launch goes on from what is done"


def _queue(jobs: Sequence[JobRow]) -> type[QueueLauncher]:
    """Return the kind of launcher that the jobs of a submission, one at least, were given to."""
    if jobs[0].launcher not in LAUNCHERS:
        load_plugins([name for path in sorted(Path(jobs[0].folder).glob("*.yaml")) for name in plugins_of(str(path))])
    launcher: type[QueueLauncher] = LAUNCHERS.get(jobs[0].launcher)
    return launcher


def status(output_dir: str, *, shards: bool = False) -> str:
    """Return a table of the stages of a run, then the last lines of the logs of failed and running jobs.

    ``shards``: instead, every shard of the pool and tar of a copied selection. UserError when there is no such run.
    """
    require_run(output_dir)
    jobs = read_jobs(output_dir)
    states: dict[str, str] = {}
    if jobs:
        active = _queue(jobs).active()
        ended = [job.job_id for job in jobs if not all(task_id in active for task_id in job.ids)]
        states = {**_queue(jobs).states(ended), **active}
    stages = [_Stage(output_dir, folder, jobs, states) for folder in _folders(output_dir, jobs)]
    if shards:
        rows = [row for stage in stages for row in stage.shard_rows()]
        return Table(["run", "stage", "shard", "state"], rows).text()
    logs = [line for stage in stages for line in stage.log_lines()]
    return Table(["run", "stage", "state", "job", ""], [stage.row() for stage in stages], logs).text()


def job_table(jobs: Sequence[JobRow]) -> str:
    """Return the ids and logs of submitted jobs, as text."""
    rows = []
    for job in jobs:
        shown = job.job_id if job.tasks is None else f"{job.job_id}_[0-{job.tasks - 1}]"
        rows.append((job.run, job.stage, shown, str(job.log(shown))))
    return Table(["run", "stage", "job", "log"], rows).text()


class _Stage:
    """One stage of one run, with the jobs that do it: perhaps an array, then a last one."""

    def __init__(self, output_dir: str, folder: Path, jobs: Sequence[JobRow], states: dict[str, str]) -> None:
        self.folder = folder
        self.run, self.name = os.path.relpath(folder.parent, output_dir), folder.name
        place = os.path.relpath(folder.resolve().parent, Path(output_dir).resolve())  # of a sweep's stage another
        self.jobs = [job for job in jobs if job.stage == self.name and job.run in (self.run, place)]
        self._states = {task_id: states.get(task_id, "") for job in self.jobs for task_id in job.ids}
        self._files = set(os.listdir(folder)) if folder.is_dir() else set()
        self._record = read_record(folder)
        work = self._record if isinstance(self._record, Record) else read_work(folder)
        self._parts = (work and work.parts) or Parts(0, "", "")
        self.state = self._state()

    def _state(self) -> str:
        kinds = {_kind(state) for state in self._states.values()}
        for kind in ("running", "failed", "waiting"):
            if kind in kinds and not (kind == "failed" and DONE in self._files):
                return kind
        if DONE in self._files:
            return "done"
        if self.name in (REPORT, PREDICTION) and kinds == {"ended"}:
            return "done"  # they leave no record
        return "cancelled" if "cancelled" in kinds else "failed" if "ended" in kinds else "not done"

    def row(self) -> tuple[str, ...]:
        return self.run, self.name, self.state, " ".join(job.job_id for job in self.jobs), "; ".join(self._details())

    def _details(self) -> Iterable[str]:
        if self.state == "done":
            done = self._record
            if isinstance(done, Record):
                yield f"finished {done.finished}, took {done.seconds:,.0f} s"
            elif done is not None:  # of format 1
                yield f"finished {done.get('finished', '')}, took {done.get('seconds', 0):,.0f} s"
        if self._parts.count:
            yield f"{len(written_parts(self.folder, self._parts)):,} of {self._parts.count:,} {self._parts.unit}"
        if self.state != "done" and len(self._states) > 1:
            counts = Counter(_kind(state) or "ended" for state in self._states.values())
            yield "tasks: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        if self.state in ("waiting", "failed", "cancelled"):
            yield ", ".join(sorted({state for state in self._states.values() if _kind(state) == self.state}))
        if self.state in ("running", "not done") and METRICS in self._files:
            rows = [row for row in metric_rows(self.folder) if "loss" in row]
            yield from (f"step {row['step']:,}, loss {row['loss']:.3f}" for row in rows[-1:])

    def shard_rows(self) -> Iterable[tuple[str, ...]]:
        written = written_parts(self.folder, self._parts) if self._parts.count else {}
        array = next((job for job in self.jobs if job.tasks is not None), None)
        for part in range(self._parts.count):
            task = array.ids[part % len(array.ids)] if array else next(iter(self._states), "")
            state = "done" if part in written else _kind(self._states.get(task, "")) or "not done"
            yield self.run, self.name, str(part), state if state != "ended" else "failed"

    def log_lines(self) -> Iterable[str]:
        """Yield the last lines of the logs of failed jobs, and the last line of running ones."""
        shown = 0
        for job in self.jobs:
            for task_id in job.ids:
                kind = _kind(self._states[task_id])
                if kind != self.state or kind not in ("failed", "running") or shown == 3:
                    continue
                shown += 1
                log = job.failed_log(task_id) if kind == "failed" else job.log(task_id)
                yield f"\n{self.run}: {self.name}, {kind}: {log}"
                yield from ("    " + line for line in last_lines(log, _LOG_LINES if kind == "failed" else 1))


def _kind(state: str) -> str:
    """Return running, waiting, failed, cancelled, ended (well or unknown how), or nothing for a forgotten job."""
    word = state.split(" ")[0].rstrip("+")
    if word in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED"):
        return "running"
    if word in ("PENDING", "REQUEUED", "PREEMPTED"):
        return "waiting"
    if word in ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"):
        return "failed"
    return "cancelled" if word == "CANCELLED" else "ended" if word == "COMPLETED" else ""


def _folders(output_dir: str, jobs: Sequence[JobRow]) -> list[Path]:
    """Return the folders of all stages begun or submitted: by when they were done, then in the order of submission."""
    runs = sorted([*Path(output_dir).glob("seed-*"), *Path(output_dir).glob("*/seed-*")])
    # What several runs share is shown once, under the first of them.
    shown: dict[Path, Path] = {}
    for path in (path for run in runs for path in run.iterdir() if path.is_dir() and path.name not in (ASIDE, LOGS)):
        shown.setdefault(path.resolve(), path)
    begun = [*shown.values()]
    submitted = [Path(output_dir, job.run, job.stage) for job in jobs]
    submitted = [shown.get(path.resolve(), path) for path in submitted]
    finished = {path: (path / DONE).stat().st_mtime for path in begun if (path / DONE).exists()}
    rest = [path for path in dict.fromkeys([*submitted, *begun]) if path not in finished]
    return sorted([*sorted(finished, key=finished.__getitem__), *rest], key=lambda path: path.parent)


def require_run(output_dir: str) -> None:
    """Refuse a folder that is not that of a run, or of several.

    Raises:
        UserError: It is not.
    """
    if not any(any(Path(output_dir).glob(place)) for place in ("seed-*", "*/seed-*", JOBS)):
        raise UserError(f"no run in {output_dir}; give the output_dir of one")
