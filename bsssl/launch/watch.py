"""A run while it runs, from the files in its folder alone: stages, curves, speed, time left, newest log lines."""

import math
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from bsssl.config.reading import read_yaml
from bsssl.errors import UserError
from bsssl.launch.status import JobRow, read_jobs, require_run
from bsssl.pipeline.progress import CONFIG, Progress, last_lines, modified, progress_of, stage_names
from bsssl.reports.tables import Table
from bsssl.runtime.console import printable

_EVERY = 2.0  # seconds
_QUIET = 20.0  # seconds in which nobody is at work after which a run has ended: between stages it takes fewer
_CURVES = ("loss", "accuracy")
_CHART = (36, 6)  # characters and lines of a curve
_BLOCKS, _PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*%@"  # eighths of a character, and what terminals without them show
_LOG_LINES = 5
_WIDE = 1000  # characters of a line where the output is no terminal
_MOST_TASKS = 100  # of an array, whose logs are looked at
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # a screen of its own, without a cursor

Row = tuple[str, tuple[str, ...]]
"""the state that all of a row of the table has, or nothing, and its cells"""


def watch(path: str, *, once: bool = False) -> None:
    """Show what the run in a folder is doing, again and again until it ends or Ctrl-C comes.

    Args:
        path: The output folder of a run, a sweep or a reproduction, or the folder of a seed.
        once: Show it once; so it is where the output is no terminal.

    Raises:
        UserError: There is no run, it is gone meanwhile, or its records are damaged or of a newer version.
    """
    if once or not sys.stdout.isatty():
        print(_look(path).text(shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE))
        return
    view, active = _look(path), time.monotonic()
    sys.stdout.write(_ENTER)
    try:
        while True:
            active = time.monotonic() if view.is_active else active
            if view.is_done or (view.may_end and time.monotonic() - active > _QUIET):
                break
            size = shutil.get_terminal_size()
            lines = view.text(size.columns, height=size.lines - 1).split("\n")
            sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
            sys.stdout.flush()
            time.sleep(_EVERY)
            view = _look(path)
    except KeyboardInterrupt:
        pass  # it is how one leaves; the run goes on
    finally:
        sys.stdout.write(_LEAVE)
    print(view.text(shutil.get_terminal_size().columns))


def chart(values: Sequence[float], *, width: int, height: int, blocks: str = _BLOCKS) -> list[str]:
    """Return a curve as so many lines of block characters, each column the mean of an equal part of the values."""
    edges = [column * len(values) // width for column in range(width + 1)]
    parts = [values[start : max(stop, start + 1)] for start, stop in pairwise(edges)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    full = len(blocks) - 1
    tops = [1 + round((mean - low) / ((high - low) or 1.0) * (full * height - 1)) for mean in means]
    return ["".join(blocks[min(max(top - full * row, 0), full)] for top in tops) for row in reversed(range(height))]


class _View:
    """What can be seen of a run at a moment: one row for each stage, or for each run of a sweep."""

    def __init__(self, title: str, runs: dict[str, list[Progress]], *, by_stage: bool, launched: bool) -> None:
        self._title, self._runs, self._by_stage = title, runs, by_stage
        states = Counter(stage.state for stages in runs.values() for stage in stages)
        self.is_active = states["running"] > 0
        self.is_done = states.total() > 0 and states.total() == states["done"]
        self.may_end = not launched or states["failed"] > 0  # else jobs may wait for a long time

    def text(self, width: int, *, height: int | None = None) -> str:
        """Return the picture, no wider than ``width``, and with the rows that tell least left out above ``height``."""
        details = [*self._curves(width), *self._log_lines()]
        room = None if height is None else max(height - len(details) - 2, 4)
        rows = self._stage_rows() if self._by_stage else self._run_rows()
        header = ("stage", *self._runs) if self._by_stage else ("run", "stages", "state", "now")
        rows, notes = _folded(rows, room)
        lines = [self._title, *Table(header, [cells for _, cells in rows], notes).text().split("\n"), *details]
        return "\n".join(_encodable(line[:width]).rstrip() for line in lines[:height])

    def _stage_rows(self) -> list[Row]:
        names = dict.fromkeys(stage.stage for stages in self._runs.values() for stage in stages)
        by_run = [{stage.stage: stage for stage in stages} for stages in self._runs.values()]
        rows: list[Row] = []
        for name in names:
            there = [stages.get(name, Progress(name, "waiting")) for stages in by_run]
            states = {stage.state for stage in there}
            rows.append((states.pop() if len(states) == 1 else "", (name, *map(_cell, there))))
        return rows

    def _run_rows(self) -> list[Row]:
        rows: list[Row] = []
        for name, stages in self._runs.items():
            done = sum(stage.state == "done" for stage in stages)
            shown = [stage for stage in stages if stage.state not in ("done", "waiting")]
            state = "done" if done == len(stages) else shown[0].state if shown else "waiting"
            now = "; ".join(f"{stage.stage}: {_cell(stage)}" for stage in shown)
            rows.append((state, (name, f"{done} of {len(stages)}", state, now)))
        return rows

    def _curves(self, width: int) -> Iterator[str]:
        """Yield the curves of two trainings at most: those that run, or else the one that ran last."""
        trainings = [(run, stage) for run, stages in self._runs.items() for stage in stages if stage.rows]
        running = [one for one in trainings if one[1].state == "running"]
        for run, stage in running[:2] or sorted(trainings, key=lambda one: one[1].rows[-1].get("time", 0))[-1:]:
            yield ""
            yield f"{run}: {stage.stage}, {_newest(stage)}"
            yield from _charts(stage.rows, width)

    def _log_lines(self) -> Iterator[str]:
        """Yield the ends of the logs of three failed stages at most, and of the newest log of another."""
        stages = [stage for stages in self._runs.values() for stage in stages if stage.log is not None]
        failed = [stage.log for stage in stages if stage.state == "failed"][:3]
        others = [stage.log for stage in stages if stage.state != "failed"]
        newest = sorted((path for path in others if path is not None), key=modified)[-1:]
        for path in dict.fromkeys([*failed, *newest]):
            if path is not None:
                yield ""
                yield f"{path}:"
                yield from (f"    {printable(line)}" for line in last_lines(path, _LOG_LINES))


def _look(path: str) -> _View:
    """Return what can be seen of the run in a folder by now."""
    try:
        folder = Path(path)
        if folder.absolute().name.startswith("seed-") and folder.is_dir() and stage_names(folder):
            output_dir, runs, by_stage = folder.absolute().parent, {folder.absolute().name: folder}, True
        else:
            require_run(path)
            output_dir, seeds = folder, _seeds(folder)
            points = sorted(folder.glob("*/seed-*"))
            by_stage = bool(seeds) or not points
            runs = {os.path.relpath(run, folder): run for run in (seeds if by_stage else points)}
        jobs = read_jobs(str(output_dir))
        names = {name: stage_names(run) for name, run in runs.items()}
        longest = max(names.values(), key=len, default=[]) if by_stage else []  # of a seed that is still to come
        seen = {
            name: [_with_jobs(progress_of(run, stage), run, jobs) for stage in names[name] or longest]
            for name, run in runs.items()
        }
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is gone; give the output_dir of a run that is there") from None
    title = f"{path}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
    return _View(title, seen, by_stage=by_stage, launched=bool(jobs))


def _with_jobs(stage: Progress, run: Path, jobs: Sequence[JobRow]) -> Progress:
    """Return a stage that is not done with what the logs of its jobs tell: a job may fail before its work begins."""
    if stage.state not in ("waiting", "stopped"):
        return stage
    place = run.joinpath(stage.stage).resolve().parent
    own = [job for job in jobs if job.stage == stage.stage and _place(job) in (place, run.resolve())]
    logs = [job.failed_log(task_id) for job in own for task_id in job.ids[:_MOST_TASKS]]
    failed = next((log for log in logs if any(line.startswith("error: ") for line in last_lines(log, 1))), None)
    return stage if failed is None else replace(stage, state="failed", log=failed)


def _place(job: JobRow) -> Path:
    """Return the folder of the run of a job: the folder of its submission is below that of all."""
    return Path(job.folder).parents[1].joinpath(job.run).resolve()


def _cell(stage: Progress) -> str:
    """Return what a stage is doing, in a few words."""
    if stage.state == "done":
        return f"done, {_span(stage.seconds)}"
    parts: list[str] = [stage.state]
    if stage.share is not None:
        parts.append(f"{100 * stage.share:.0f} %")
    if stage.left is not None:
        parts.append(f"{_span(stage.left)} left")
    return ", ".join(parts)


def _newest(stage: Progress) -> str:
    """Return the newest figures of a training."""
    row = stage.rows[-1]
    of = f" of {row['steps']:,}" if isinstance(row.get("steps"), int) else ""
    figures = {"loss": "loss {:.3f}", "accuracy": "accuracy {:.1f} %", "samples_per_second": "{:,.0f} samples/s"}
    shown = [text.format(row[name]) for name, text in figures.items() if _is_figure(row.get(name))]
    left = [f"{_span(stage.left)} left"] if stage.left is not None else []
    return ", ".join([f"step {row['step']:,}{of}", *shown, *left])


def _charts(rows: Sequence[dict[str, Any]], width: int) -> Iterator[str]:
    """Yield the curves of a training side by side, with the names and the extremes before them."""
    across, height = _CHART
    blocks = _BLOCKS if _encodable(_BLOCKS) == _BLOCKS else _PLAIN
    drawn: list[list[str]] = []
    for name in _CURVES:
        values = [row[name] for row in rows if _is_figure(row.get(name))]
        if len(values) > 1:
            lines = chart(values, width=max(8, min(across, width // 2 - 14)), height=height, blocks=blocks)
            marks = [f"{max(values):.3g}", name, *[""] * (height - 3), f"{min(values):.3g}"]
            side = max(map(len, marks))
            drawn.append([f"{mark:>{side}} {line}" for mark, line in zip(marks, lines, strict=True)])
    yield from ("  " + "   ".join(parts) for parts in zip(*drawn, strict=True))


def _folded(rows: list[Row], room: int | None) -> tuple[list[Row], list[str]]:
    """Return the rows that there is room for, and how many are left out: first those done, then those waiting."""
    notes = []
    for state in ("done", "waiting"):
        if room is not None and len(rows) > room:
            others = [row for row in rows if row[0] != state]
            notes += [f"{len(rows) - len(others)} {state}"] if len(others) < len(rows) else []
            rows = others
    return rows, [f"... and {', '.join(notes)}"] if notes else []


def _span(seconds: float) -> str:
    """Return a time as people say it."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if size > 60 else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _seeds(output_dir: Path) -> list[Path]:
    """Return the folders of the seeds that are there, and of those that are still to come by the newest config."""
    there = [path for path in output_dir.glob("seed-*") if path.name.removeprefix("seed-").isdecimal()]
    configs = sorted((path for run in there if (path := run / CONFIG).exists()), key=modified)
    values = read_yaml(str(configs[-1])) if configs else {}
    first, count = values.get("seed", 0), values.get("seeds", 0)
    if isinstance(first, int) and isinstance(count, int):
        there += [output_dir / f"seed-{seed}" for seed in range(first, first + count)]
    return sorted(set(there), key=lambda path: int(path.name.removeprefix("seed-")))


def _encodable(text: str) -> str:
    """Return ``text`` with question marks for what the output cannot show."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
