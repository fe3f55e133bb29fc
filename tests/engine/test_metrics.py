import json
import sys
from types import SimpleNamespace

import pytest

from bsssl.config import System
from bsssl.engine.metrics import Metrics
from bsssl.errors import UserError
from bsssl.registry import LOGGERS


class Remembering:
    """A logger as a plugin might have one."""

    def __init__(self, *, step, prefix="train"):
        self.prefix, self.seen = prefix, [step]

    def write(self, step, scalars):
        self.seen.append((step, {f"{self.prefix}/{name}": value for name, value in scalars.items()}))

    def close(self):
        self.seen.append("closed")


@pytest.fixture
def remembering(monkeypatch):
    """The loggers that were made, of the name ``remembering``."""
    made = []

    def make(*, step: int, prefix: str = "train"):
        made.append(Remembering(step=step, prefix=prefix))
        return made[-1]

    monkeypatch.setitem(LOGGERS._parts, "remembering", make)
    return made


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_logger_gets_the_scalars(tmp_path, remembering):
    metrics = Metrics({"jsonl": {}, "remembering": {"prefix": "x"}}, folder=str(tmp_path), step=0)
    metrics.write(5, {"loss": 0.25})
    metrics.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == 0.25 and json.loads(line)["time"] > 1e9
    assert remembering[0].seen == [0, (5, {"x/loss": 0.25}), "closed"]


def test_lines_of_later_steps_and_lines_that_were_cut_short_are_dropped(tmp_path):
    metrics = Metrics({"jsonl": {}}, folder=str(tmp_path), step=0)
    for step in (5, 10, 15):
        metrics.write(step, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7')
    Metrics({"jsonl": {}}, folder=str(tmp_path), step=10).write(12, {"loss": 1.0})
    assert steps(tmp_path) == [5, 10, 12]
    Metrics({"jsonl": {}}, folder=str(tmp_path), step=0)
    assert steps(tmp_path) == []


def test_tensorboard_gets_them_where_it_is_installed(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, *, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, *arguments):
            calls.append(arguments)

        def close(self):
            calls.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    metrics = Metrics({"tensorboard": {}}, folder=str(tmp_path), step=3)
    metrics.write(4, {"loss": 0.5})
    metrics.close()
    assert calls == [(str(tmp_path), 3), ("loss", 0.5, 4), "closed"]


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it is an ImportError
    metrics = Metrics({"tensorboard": {}}, folder=str(tmp_path), step=0)
    metrics.write(4, {"loss": 0.5})
    metrics.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"):
        Metrics({"jsonl": {}}, folder=str(tmp_path), step=0)


def test_the_config_names_loggers_and_their_options(remembering):
    assert list(System().loggers) == ["jsonl", "tensorboard"]
    assert System(loggers={"remembering": {"prefix": "x"}}).loggers == {"remembering": {"prefix": "x"}}
    with pytest.raises(ValueError, match=r"unknown metric logger 'jsonll': did you mean 'jsonl'\? valid: jsonl, "):
        System(loggers={"jsonll": {}})
    with pytest.raises(UserError, match=r"'remembering' has no option 'prefx': did you mean 'prefix'\?"):
        Metrics({"remembering": {"prefx": "x"}}, folder="")
