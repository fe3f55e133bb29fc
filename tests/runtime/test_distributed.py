import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.kills import recipe
from bsssl import cli
from bsssl.engine.checkpoints import Checkpoints
from bsssl.engine.train import train
from bsssl.runtime import distributed
from tests.engine import trainings
from tests.processes import PATIENCE, start, together


def share(folder: Path, changes: dict, interrupt_before: int | None) -> None:
    """One process's part of a training; rank 0 leaves the weights."""
    distributed.init("cpu")
    try:
        model = trainings.run(folder, interrupt_before=interrupt_before, **changes)
    except trainings.Interrupted:
        return
    state = trainings.weights(model)
    for other in distributed.gather(state):
        assert trainings.same(other, state)
    if distributed.is_main():
        save_file(state, folder / "weights.safetensors")
    distributed.shutdown()


def train_together(folder: Path, *, interrupt_before: int | None = None, **changes) -> None:
    together(share, folder, changes, interrupt_before, folder=folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "clip_norm": 0.5, "average_decay": 0.8},
        {"workers": 1, "unreadable": (3, 4)},
        {"elr": 3.0},
        {"batch_norm": True, "freeze": ("0", "1")},
    ],
    ids=["plain", "accumulated", "unreadable", "early learning", "frozen"],
)
def test_two_processes_train_like_one(tmp_path, changes):
    train_together(tmp_path / "two", **changes)
    one = trainings.run(tmp_path / "one", **changes)
    # Where an item is unreadable the two halves of a batch are not equally large, and so not equally weighted.
    exact = {"rtol": 1e-4, "atol": 1e-6} if "unreadable" not in changes else {"rtol": 0.1, "atol": 0.02}
    torch.testing.assert_close(load_file(tmp_path / "two" / "weights.safetensors"), trainings.weights(one), **exact)


def test_resume_with_two_processes(tmp_path):
    changes = {"average_decay": 0.9, "checkpoint_steps": 2, "dropout": 0.3, "elr": 3.0}
    train_together(tmp_path / "whole", **changes)
    resumed = tmp_path / "resumed"
    # What another training left is nothing to any of the processes.
    Checkpoints(folder=str(resumed), fingerprint="0b").save(100, {})
    train_together(resumed, interrupt_before=7, **changes)
    assert Checkpoints(folder=str(resumed), fingerprint="0a").latest()[0] == 6
    train_together(resumed, **changes)
    whole = load_file(tmp_path / "whole" / "weights.safetensors")
    assert trainings.same(load_file(resumed / "weights.safetensors"), whole)


def count(folder: Path) -> None:
    """Two processes see different unreadable rows; both are told of all."""
    distributed.init("cpu")
    seen = {}

    def remember(**arguments):
        seen["failures"] = arguments["failures"]
        return train(**arguments)

    trainings.train = remember
    trainings.run(folder, steps=5, unreadable=(3, 4, 5, 6))
    assert sorted(seen["failures"].reasons) == [3, 4, 5, 6]
    assert distributed.gather(distributed.rank()) == [0, 1]
    distributed.shutdown()


def test_failures_of_all_processes_are_counted(tmp_path):
    together(count, tmp_path, folder=tmp_path)


def command(name: str, arguments: list[str]) -> None:
    cli.main(arguments, command=name)


def test_scoring_and_selection_with_two_processes(tmp_path):
    """Stages up to the selection: the teacher of one process, scored by one and by two."""
    settings = [*recipe(4), "stage=teacher"]
    one = tmp_path / "one"
    for name in ("train", "score", "select"):
        process = start(command, name, settings, folder=one)
        process.join(PATIENCE)
        assert process.exitcode == 0, (one / "log.txt").read_text()
    scored = {path.name: path.read_bytes() for path in (one / "run" / "seed-0" / "score").glob("0*")}
    selected = (one / "run" / "seed-0" / "select" / "selection.parquet").read_bytes()
    assert len(scored) == 5 * 7  # per shard a score file, a ledger, content hashes, perceptual ones and energies

    for stage in ("score", "select"):
        for path in (one / "run" / "seed-0" / stage).iterdir():
            path.unlink()
    surplus = one / "run" / "seed-0" / "score" / "000099.scores"
    surplus.write_text("of a larger pool")
    for name in ("score", "select"):
        together(command, name, settings, folder=one)
    assert {path.name: path.read_bytes() for path in surplus.parent.glob("0*")} == scored
    assert (one / "run" / "seed-0" / "select" / "selection.parquet").read_bytes() == selected
    assert json.loads((surplus.parent / "done.json").read_text())["processes"] == 2


def test_a_single_process_needs_no_group():
    distributed.init("auto")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()
    assert distributed.gather("x") == ["x"]
    distributed.shutdown()
    assert not torch.distributed.is_initialized()
