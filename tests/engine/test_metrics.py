import json

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
    assert json.loads(line)["loss"] == 0.25 and json.loads(line)["time"] > 1e9 and "steps" not in line
    assert remembering[0].seen == [0, (5, {"x/loss": 0.25}), "closed"]


def test_lines_of_later_steps_and_lines_that_were_cut_short_are_dropped(tmp_path):
    metrics = Metrics({"jsonl": {}}, folder=str(tmp_path), step=0)
    for step in (5, 10, 15):
        metrics.write(step, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7')
    Metrics({"jsonl": {}}, folder=str(tmp_path), step=10, steps=20).write(12, {"loss": 1.0})
    assert steps(tmp_path) == [5, 10, 12]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["steps"] == 20
    Metrics({"jsonl": {}}, folder=str(tmp_path), step=0)
    assert steps(tmp_path) == []


def test_a_logger_is_told_what_it_is_of(tmp_path, monkeypatch):
    told = {}

    def make(*, folder, step, steps, stage, seed, config):
        told.update(folder=folder, step=step, steps=steps, stage=stage, seed=seed, config=config)
        return Remembering(step=step)

    monkeypatch.setitem(LOGGERS._parts, "asking", make)
    given = {"folder": str(tmp_path), "step": 2, "steps": 9, "stage": "teacher", "seed": 4, "config": {"seed": 4}}
    Metrics({"asking": {}}, **given)
    assert told == given


@pytest.mark.parametrize("method", ["write", "close"])
def test_a_logger_that_fails_is_left_out_and_the_others_go_on(tmp_path, monkeypatch, remembering, caplog, method):
    def fail(*_):
        raise ConnectionError("the server\nis gone")

    broken = Remembering(step=0)
    setattr(broken, method, fail)
    monkeypatch.setitem(LOGGERS._parts, "broken", lambda: broken)
    metrics = Metrics({"broken": {}, "remembering": {}}, folder=str(tmp_path))
    for step in (1, 2):
        metrics.write(step, {"loss": 1.0})
    metrics.close()
    assert [row[0] for row in remembering[0].seen[1:-1]] == [1, 2] and remembering[0].seen[-1] == "closed"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "the logger 'broken' has failed and is left out from now on: ConnectionError: the server is gone"


def test_a_logger_that_cannot_begin_is_refused_and_the_others_end(tmp_path, monkeypatch, remembering):
    monkeypatch.setitem(LOGGERS._parts, "broken", lambda: 1 / 0)
    with pytest.raises(UserError, match=r"^the logger 'broken' cannot begin \(ZeroDivisionError: division by zero\); "):
        Metrics({"remembering": {}, "broken": {}}, folder=str(tmp_path))
    assert remembering[0].seen[-1] == "closed"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"):
        Metrics({"jsonl": {}}, folder=str(tmp_path), step=0)


def test_the_config_names_loggers_and_their_options(remembering):
    assert list(System().loggers) == ["jsonl"]
    assert System(loggers={"remembering": {"prefix": "x"}}).loggers == {"jsonl": {}, "remembering": {"prefix": "x"}}
    with pytest.raises(ValueError, match=r"unknown metric logger 'jsonll': did you mean 'jsonl'\? valid: jsonl, "):
        System(loggers={"jsonll": {}})
    with pytest.raises(UserError, match=r"'remembering' has no option 'prefx': did you mean 'prefix'\?"):
        Metrics({"remembering": {"prefx": "x"}}, folder="")
