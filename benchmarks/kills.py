"""A recipe killed with SIGKILL at random moments, run again and again until it ends: is the result the same?

    python benchmarks/kills.py --kills 30

Runs a small recipe on the digits once without interruption; then in fresh folders with a kill after a random time, the
same command again after each, until it ends by itself; fresh folders until there were enough kills. Every file that a
stage leaves (split, weights, scores, selection, predictions, the figures) must have the same bytes as in the
uninterrupted run. Checkpoints are written every other step, so that kills fall between them, in the middle of epochs.

The last line is one JSON object; exits with 1 unless every result is identical. Takes some ten minutes.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = (
    *("*/data/*.csv", "*/data/classes.json", "*/data/pool/*", "*/*/model.safetensors", "*/*/unreadable.jsonl"),
    *("*/score/*.scores", "*/score/*.ledger.jsonl", "*/select/selection*", "*/*/predictions.parquet"),
    *("*/*/metrics.json", "*/*/confusion.csv", "results.json"),
)
"""What must be identical, as patterns within a recipe's folder."""
START_UP = "start-up"


def recipe(steps: int) -> list[str]:
    """Arguments of `bsssl run` for a recipe whose trainings take ``steps`` steps, with folders relative to its own."""
    trainings = ("teacher", "baseline", "ceiling", "pretrain", "finetune")
    return [
        *("--config", str(REPOSITORY / "projects" / "image" / "quickstart.yaml"), "output_dir=run"),
        *(f"data.{part}.path=../digits" for part in ("train", "test")),
        *("data.shard_size=200", "models.teacher.options={width: 8, blocks: [1, 1]}"),
        "models.student.options={width: 4, blocks: [1, 1]}",
        *(f"{stage}.length={steps} steps" for stage in trainings),
        *(f"{stage}.warmup=2 steps" for stage in trainings),
        *("teacher.average_decay=0.9", "pretrain.accumulate=2", "pretrain.mixup=0.2", "finetune.optimizer=adamw"),
        *("finetune.clip_norm=1.0", "pretrain.targets=soft", "score.top_p=3"),
        *("system.checkpoint_steps=2", "system.workers=1", "system.threads=1"),
    ]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every result below ``folder``, by its path there."""
    found = sorted({path for pattern in RESULTS for path in (folder / "run").glob(pattern)})
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The results that differ, or that only one side has."""
    return sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))


def stage_in(log: str) -> str:
    """The stage that a run was in when it had written ``log``."""
    begun = re.findall(r"seed \d+: (\S+) \(", log)
    return begun[-1] if begun else START_UP


def has_checkpoint(folder: Path, stage: str) -> bool:
    """Whether ``stage`` of the run in ``folder`` left a checkpoint to resume from."""
    return any((folder / "run").glob(f"seed-*/{stage}/checkpoint-*.pt"))


class Command:
    """`bsssl run` as a user starts it, in a process of its own that writes to ``log.txt`` in ``folder``."""

    def __init__(self, folder: Path, arguments: list[str], **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log.txt"
        with open(self._log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(REPOSITORY / "tools" / "run_recipe.py"), *arguments],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )

    def log(self) -> str:
        return self._log.read_text()

    def ended(self, seconds: float) -> bool:
        """Wait for the end, so many seconds at most; SystemExit with the log when the run failed."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code:
            sys.exit(f"the run failed with exit code {code}:\n{self.log()}")
        return True

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def uninterrupted(folder: Path, steps: int) -> float:
    """Run once; seconds from the first line of its log to its end."""
    command = Command(folder, recipe(steps))
    while not command.log() and not command.ended(0.05):
        pass
    started = time.monotonic()
    command.process.wait()
    command.ended(0)
    return time.monotonic() - started


def kill_until_done(folder: Path, steps: int, working: float) -> Iterator[tuple[str, bool]]:
    """Run and kill until a run ends by itself: for each kill, the stage it fell in, and whether a checkpoint was there.

    One kill in ten falls into the start-up; the others into the work, up to half of it after the first stage began,
    sooner more often than later, so that the early stages, which a run passes once, have their share.
    """
    while True:
        command = Command(folder, recipe(steps))
        if random.random() < 0.1:
            done = command.ended(random.uniform(0, 3))
        else:
            while stage_in(command.log()) == START_UP and not command.ended(0.02):
                pass
            done = command.ended(working / 2 * random.random() ** 3)
        if done:
            return
        command.kill()
        stage = stage_in(command.log())
        yield stage, has_checkpoint(folder, stage)


def run(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    working = uninterrupted(root / "reference", args.steps)
    expected = digests(root / "reference")
    print(f"uninterrupted: {working:.1f} s after the start-up, {len(expected)} results", flush=True)
    stages: Counter[str] = Counter()
    kills = with_checkpoint = rounds = 0
    different: list[str] = []
    while kills < args.kills:
        folder = root / f"killed-{rounds}"
        for stage, resumable in kill_until_done(folder, args.steps, working):
            kills += 1
            stages[stage] += 1
            with_checkpoint += resumable
            print(f"kill {kills:3d} in {stage}{' (a checkpoint was there)' if resumable else ''}", flush=True)
        rounds += 1
        wrong = differences(digests(folder), expected)
        different += [f"killed-{rounds - 1}/{path}" for path in wrong]
        print(f"run {rounds} ended: {'DIFFERENT: ' + ', '.join(wrong) if wrong else 'identical'}", flush=True)
    return {
        "kills": kills,
        "runs": rounds,
        "stages": dict(stages.most_common()),
        "with_checkpoint": with_checkpoint,
        "results": len(expected),
        "different": different,
        "identical": not different,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="at least so many")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps of each training")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        found = run(args, Path(folder))
    print(json.dumps(found))
    sys.exit(0 if found["identical"] else 1)


if __name__ == "__main__":
    main()
