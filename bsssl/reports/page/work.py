"""The work behind the results: curves of the trainings, time and speed of every stage, and what could not be read."""

import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from bsssl import storage
from bsssl.pipeline.progress import metric_rows
from bsssl.reports.page.opening import Opened

_POINTS = 150  # that a curve has at most
_CURVES = ("loss", "accuracy", "lr")
_LEDGERS = ("unreadable.jsonl", "missing.jsonl", "*.ledger.jsonl")
LINES = 100_000
"""lines of the ledgers of a stage that are read"""
_REASONS = 100  # why items cannot be read, that are shown


def curves(run: Opened) -> list[dict[str, Any]]:
    """Return the curves of every training of the run that is shown: the stage, the steps, and figures by name."""
    trainings = []
    for name in run.shown.stages:
        rows = metric_rows(run.shown.folder(name))
        rows = rows[:: max(1, -(-len(rows) // _POINTS))]
        if rows:
            figures = {key: [row.get(key) for row in rows] for key in _CURVES if any(key in row for row in rows)}
            trainings.append({"stage": name, "step": [row["step"] for row in rows], **figures})
    return trainings


def stages(run: Opened) -> list[dict[str, Any]]:
    """Return of every stage its hours, over all seeds and of the one shown, what it went through, and its speed."""
    rows = []
    for name in run.shown.stages:
        records = [of_seed[name] for of_seed in run.records.values() if name in of_seed]
        record = run.records[run.shown.seed].get(name)
        samples = None if record is None else _samples(record.result)
        rows.append(
            {
                "stage": name,
                "state": "done" if record is not None else "not done",
                "seconds": None if record is None else record.seconds,
                "seconds_of_all": sum(one.seconds for one in records),
                "processes": None if record is None else record.processes,
                "samples": samples,
                "rate": samples / record.seconds if record is not None and record.seconds > 0 and samples else None,
            }
        )
    return rows


def failures(run: Opened) -> tuple[list[dict[str, Any]], bool]:
    """Return what could not be read, by stage and reason, most first; and whether these are all."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    is_all = True
    for name in run.shown.stages:
        folder = run.shown.folder(name)
        ledgers = [path for pattern in _LEDGERS for path in sorted(folder.glob(pattern))]
        lines = [*islice((line for path in ledgers for line in storage.read_json_lines(str(path))), LINES + 1)]
        is_all = is_all and len(lines) <= LINES
        for line in lines[:LINES]:
            key, reason = str(line.get("key")), str(line.get("reason"))
            place = (name, kind_of(reason, key))
            counts[place] += 1
            examples.setdefault(place, key)
    rows = [
        {"stage": name, "reason": reason, "count": count, "example": examples[name, reason]}
        for (name, reason), count in counts.most_common(_REASONS)
    ]
    return rows, is_all and len(counts) <= _REASONS


def kind_of(reason: str, key: str) -> str:
    """Return a reason without the file that it is about: equal reasons are one kind."""
    head, colon, rest = reason.partition(": ")
    if colon and (Path(key).name in head or "/" in head):
        reason = rest
    reason = re.sub(r"""(['"]).*?\1""", "…", reason)
    return " ".join(re.sub(r"\d+(\.\d+)?", "N", reason).split())[:200]


def _samples(result: dict[str, Any]) -> int | None:
    """Return how many samples a stage went through: of a training, of the pool, or of a test."""
    names = ("samples",) if "steps" in result else ("records", "items")
    return next((int(result[name]) for name in names if name in result), None)
