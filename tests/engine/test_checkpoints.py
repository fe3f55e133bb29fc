import pickle

import pytest
import torch

from bsssl.engine.checkpoints import KEPT, Checkpoints
from bsssl.errors import UserError


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(folder=str(tmp_path), fingerprint="0a")


def state(number):
    return {
        "model": {"weight": torch.full((2, 3), float(number))},
        "failures": {number: "empty"},
        "list": [1, 2.5, None],
    }


def test_newest_comes_back(checkpoints):
    assert checkpoints.latest() is None
    for step in (5, 10, 1_000_000_000):
        checkpoints.save(step, state(step))
        found = checkpoints.latest()
        assert found is not None and found[0] == step
        assert torch.equal(found[1]["model"]["weight"], state(step)["model"]["weight"])
        assert found[1]["failures"] == {step: "empty"} and found[1]["list"] == [1, 2.5, None]


def test_few_are_kept(checkpoints, tmp_path):
    for step in range(6):
        checkpoints.save(step, state(step))
    assert len(list(tmp_path.iterdir())) == KEPT
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == [] and checkpoints.latest() is None


def test_another_training_is_neither_resumed_nor_removed(checkpoints, tmp_path):
    other = Checkpoints(folder=str(tmp_path), fingerprint="0b")
    other.save(900, state(900))
    assert checkpoints.latest() is None
    for step in range(4):
        checkpoints.save(step, state(step))
    assert checkpoints.latest()[0] == 3 and other.latest()[0] == 900
    assert [path.name for path in checkpoints.others()] == ["checkpoint-0b-000000900.pt"]
    assert len(other.others()) == KEPT
    checkpoints.clear()
    assert other.latest()[0] == 900 and other.others() == []


def test_killed_writers_leave_nothing_that_counts(checkpoints, tmp_path):
    checkpoints.save(3, state(3))
    whole = next(tmp_path.iterdir())
    (tmp_path / whole.name.replace("3.pt", "4.pt.123-abc.tmp")).write_bytes(whole.read_bytes()[:100])
    assert checkpoints.latest()[0] == 3


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: b"", lambda content: b"x" * 500])
def test_a_damaged_one_is_told_and_the_one_before_it_counts(checkpoints, tmp_path, damage, caplog):
    checkpoints.save(3, state(3))
    checkpoints.save(4, state(4))
    older, newest = sorted(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    assert checkpoints.latest()[0] == 3
    assert f"{newest} is damaged; going on from the one before it" in caplog.text
    older.write_bytes(damage(older.read_bytes()))
    assert checkpoints.latest() is None


class Code:
    """Would run when unpickled."""

    def __reduce__(self):
        return (print, ("code ran",))


def test_code_is_never_run(checkpoints, tmp_path, capsys):
    checkpoints.save(3, state(3))
    path = next(tmp_path.iterdir())
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write({"step": 3, "state": Code()}, path)
        assert checkpoints.latest() is None
    assert capsys.readouterr().out == ""


def test_full_disk(checkpoints, tmp_path, monkeypatch):
    checkpoints.save(3, state(3))

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        checkpoints.save(4, state(4))
    assert checkpoints.latest()[0] == 3 and len(list(tmp_path.iterdir())) == 1
