"""How far the stages of a run have come, from the files in its folder alone, which others may be writing meanwhile."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from bsssl import storage
from bsssl.engine.metrics import FILE as METRICS
from bsssl.errors import UserError
from bsssl.pipeline.lock import is_held
from bsssl.pipeline.record import BEGUN, DONE, Parts, Record, read_record, read_work

CONFIG, STAGES, LOGS = "config.yaml", "stages.json", "logs"
_TAIL_BYTES = 8192
_PACE_OF = 10  # rows of a training, whose pace is that of the steps to come
_SAMPLE = 100  # files of parts whose times are looked at

State = Literal["done", "running", "failed", "stopped", "waiting"]


@dataclass(frozen=True)
class Progress:
    """What a stage is doing."""

    stage: str
    state: State
    """``failed`` and ``stopped`` are of work that was begun and that nobody is at"""
    seconds: float = 0.0
    """what the finished stage took"""
    share: float | None = None
    """the share of the work that is done, where it is known"""
    left: float | None = None
    """seconds of work left, at the newest pace"""
    log: Path | None = None
    """the newest file with log lines"""
    rows: Sequence[dict[str, Any]] = ()
    """the rows of a training's metrics; none of another stage"""


def stage_names(run: Path) -> list[str]:
    """Return the stages of a run: all of them, in their order, or of an earlier version those that were begun."""
    names = storage.read_json(str(run / STAGES)) if (run / STAGES).exists() else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{run / STAGES} is no list of stages; delete it, and the run writes it again")
    begun = [path.parent for file in (DONE, BEGUN) for path in run.glob(f"*/{file}")]
    by_time = sorted(begun, key=modified)
    return [*dict.fromkeys([*names, *(folder.name for folder in by_time)])]


def progress_of(run: Path, stage: str) -> Progress:
    """Return what a stage of the run in the folder ``run`` is doing.

    Raises:
        UserError: A record is damaged, or of a newer version of the program.
    """
    folder = run / stage
    log = max(_logs(run, stage), key=modified, default=None)
    rows = metric_rows(folder)
    if is_held(folder):
        share, left = _estimate(folder, rows)
        return Progress(stage, "running", share=share, left=left, log=log, rows=rows)
    record = read_record(folder)
    if record is not None:
        seconds = record.seconds if isinstance(record, Record) else record.get("seconds", 0.0)
        return Progress(stage, "done", seconds=seconds, log=log, rows=rows)
    has_failed = log is not None and any(line.startswith("error: ") for line in last_lines(log, 1))
    state: State = "failed" if has_failed else "stopped" if (folder / BEGUN).exists() else "waiting"
    return Progress(stage, state, log=log, rows=rows)


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the metrics of a training; none of a stage that is no training."""
    return [row for row in storage.read_json_lines(str(folder / METRICS)) if isinstance(row.get("step"), int)]


def written_parts(folder: Path, parts: Parts) -> dict[int, Path]:
    """Return the files of those parts of a stage's work that are done, by number."""
    numbered = ((path.name.removesuffix(parts.suffix), path) for path in folder.glob(f"*{parts.suffix}"))
    return {int(number): path for number, path in numbered if number.isdecimal()}


def modified(path: Path) -> float:
    """Return when a file was changed last; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a text file that are not blank; of a progress bar the last state."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-count:]


def _logs(run: Path, stage: str) -> list[Path]:
    """Return the files with the log lines of a stage: its own, and those of the tasks that share its work."""
    logs = run / LOGS
    return [path for path in (logs / f"{stage}.log", *logs.glob(f"{stage}-task-*.log")) if path.exists()]


def _estimate(folder: Path, rows: Sequence[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Return the share that is done of a running stage, and the seconds that are left, as far as they are known."""
    now = time.time()
    timed = [row for row in rows if isinstance(row.get("time"), int | float) and row.get("steps")]
    if timed:
        step, steps, since = (timed[-1][name] for name in ("step", "steps", "time"))
        paces = [
            (row["time"] - before["time"]) / (row["step"] - before["step"])
            for before, row in pairwise(timed[-_PACE_OF:])
            if row["step"] > before["step"]
        ]
        pace = statistics.median(paces) if paces else None  # the median, as a training may have been interrupted
        return step / steps, None if pace is None else max(0.0, pace * (steps - step) - (now - since))
    work = read_work(folder)
    if work is None or work.parts is None or not work.parts.count:
        return None, None
    written, begun = written_parts(folder, work.parts), modified(folder / BEGUN)
    sampled = [*written.values()][:: 1 + len(written) // _SAMPLE]  # there may be very many
    fresh = sum(modified(path) >= begun for path in sampled) * len(written) / max(len(sampled), 1)
    pace = (now - begun) / fresh if fresh else None
    return len(written) / work.parts.count, None if pace is None else pace * (work.parts.count - len(written))
