"""Killed or interrupted at any moment and started again, a run ends with the very bits of one that was left alone."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch

from benchmarks.kills import differences, digests, has_checkpoint, recipe, stage_in
from bsssl import cli
from bsssl.engine.checkpoints import Checkpoints
from bsssl.optim import mixing
from bsssl.runtime.device import Compute
from tests.engine.trainings import CLASSES, CPU, Interrupted, lines, make_model, run, same, sgd, weights
from tests.processes import PATIENCE, start

KILLS = 4


def run_recipe(arguments: list[str], moment: float = 0.0) -> None:
    """Run it, as far as the processor time ``moment`` if that is above 0; how much a whole run took goes to a file."""
    signal.setitimer(signal.ITIMER_PROF, moment)  # its signal ends the process as SIGKILL does: nobody heeds it
    try:
        cli.main(arguments, command="run")
    finally:
        Path("seconds.txt").write_text(str(time.process_time()))


def test_killed_at_random_moments(tmp_path):
    """The command itself is killed by ``benchmarks/kills.py``; this differs in that Python need not start anew."""
    arguments = recipe(6)
    process = start(run_recipe, arguments, folder=tmp_path / "whole")
    process.join(PATIENCE)
    assert process.exitcode == 0, (tmp_path / "whole" / "log.txt").read_text()
    working = float((tmp_path / "whole" / "seconds.txt").read_text())
    expected = digests(tmp_path / "whole")
    assert len([path for path in expected if path.endswith("model.safetensors")]) == 5
    assert {"run/seed-0/select/selection.parquet", "run/seed-0/score/000000.scores", "run/results.json"} <= set(
        expected
    )

    folder, fell = tmp_path / "killed", []
    while True:
        # The first falls before the end for sure; the others for as long as there is work left.
        moment = random.uniform(0.01, 0.5) * working if len(fell) < KILLS else 0.0
        process = start(run_recipe, arguments, moment, folder=folder)
        process.join(PATIENCE)
        if process.exitcode != -signal.SIGPROF:
            break
        stage = stage_in((folder / "log.txt").read_text())
        fell.append(f"{stage}, {'with' if has_checkpoint(folder, stage) else 'without'} a checkpoint")
    assert process.exitcode == 0, (folder / "log.txt").read_text()
    assert fell and differences(digests(folder), expected) == [], fell


def train(
    folder: Path,
    *,
    accumulate: int = 1,
    momentum: float = 0.9,
    dropout: float = 0.0,
    batch_norm: bool = False,
    **options,
):
    """Everything that a training leaves: weights, optimiser, metrics but for the times."""
    model = make_model(dropout=dropout, batch_norm=batch_norm)
    optimizer = sgd(model, momentum=momentum)
    trained = run(folder, model=model, optimizer=optimizer, accumulate=accumulate, steps=13, **options)
    timed = ("time", "samples_per_second")
    metrics = [{name: value for name, value in line.items() if name not in timed} for line in lines(folder)]
    return weights(trained), weights(model), optimizer.state_dict(), metrics


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.0},
        {"average_decay": 0.9},
        {"elr": 3.0},
        {"accumulate": 2, "clip_norm": 0.1},
        {"dropout": 0.5, "mix": mixing(mixup=0.5, cutmix=0.5, num_classes=CLASSES)},
        {"compute": Compute(device=CPU.device, precision="float16", channels_last=True)},
        {"unreadable": (3, 4, 5)},
        {"schedule": lambda step: 0.5 / (step + 1)},
        {"batch_norm": True},
        {"batch_norm": True, "freeze": ("0", "1"), "average_decay": 0.9},
    ],
    ids=[
        *("momentum", "plain", "average", "early learning", "accumulate", "random", "float16", "unreadable"),
        *("schedule", "batch norm", "frozen"),
    ],
)
def test_interrupted_anywhere(tmp_path, changes):
    # Five steps are an epoch: both interruptions, and all checkpoints but one, are in the middle of one.
    whole = train(tmp_path / "whole", checkpoint_steps=3, **changes)
    for step in (7, 11):
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", checkpoint_steps=3, interrupt_before=step, **changes)
        torch.rand(step)  # whatever else drew random numbers
    assert same(train(tmp_path / "parts", checkpoint_steps=3, **changes), whole)


def test_workers_change_nothing(tmp_path):
    whole = train(tmp_path / "whole", checkpoint_steps=4)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", checkpoint_steps=4, workers=2, interrupt_before=6)
    assert same(train(tmp_path / "parts", checkpoint_steps=4, workers=2), whole)


def test_how_often_checkpoints_are_written_changes_no_weights(tmp_path):
    often, never = train(tmp_path / "often", checkpoint_steps=1), train(tmp_path / "never")
    assert same(often[:3], never[:3])


def test_unreadable_items_are_remembered(tmp_path):
    changes = {"unreadable": range(12), "max_failure_rate": 0.19, "checkpoint_steps": 1}
    with pytest.raises(Interrupted):
        run(tmp_path, interrupt_before=3, **changes)
    _, state = Checkpoints(folder=str(tmp_path), fingerprint="0a").latest()
    assert 0 < len(state["failures"]) < 12 and set(state["failures"].values()) == {"cut short"}


def test_other_settings_start_afresh(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", checkpoint_steps=2, interrupt_before=6, schedule=lambda step: 5.0)
    changed = run(tmp_path / "parts", fingerprint="0b")
    assert same(weights(changed), weights(run(tmp_path / "whole")))
    assert [line["step"] for line in lines(tmp_path / "parts")] == [12]
