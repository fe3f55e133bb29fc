"""Runs that were made when records had format 1 are read as done, and go on like any other."""

import json
import os
import re
import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).with_name("runs_of_format_1.tar.gz")
"""a recipe with every kind of stage and a transfer of its student, on some of the handwritten digits"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The folder with both runs, which is the working folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    # An archive has no nanoseconds; what a transfer starts from is known by its time.
    record = json.loads((tmp_path / "outputs/transfer/seed-0/full_ft-semi/done.json").read_text())
    ((start, _, written),) = record["settings"]["init_from"]
    os.utime(tmp_path / start, ns=(written, written))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(outcome):
    assert outcome.status == 0, outcome.err
    return re.findall(r"seed \d+: (\S+) \(", outcome.err)


def records(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.rglob("done.json"))}


@pytest.mark.parametrize(("command", "name", "count"), [("run", "recipe", 23), ("transfer", "transfer", 9)])
def test_nothing_runs_again(bsssl, made, command, name, count):
    output = made / "outputs" / {"recipe": "run"}.get(name, name)
    before = records(output)
    assert all("format" not in record for record in before.values())
    plan = bsssl(command, "--config", f"{name}.yaml", "--plan")
    assert plan.status == 0 and "to do" not in plan.out and "unless" not in plan.out
    assert records(output) == before  # a plan writes nothing
    weights = {path: path.read_bytes() for path in made.rglob("model.safetensors")}
    outcome = bsssl(command, "--config", f"{name}.yaml")
    assert ran(outcome) == [] and outcome.err.count("is done already") == count
    assert {path: path.read_bytes() for path in made.rglob("model.safetensors")} == weights
    after = records(output)
    assert {record["format"] for record in after.values()} == {2}
    assert all(record["result"] == before[stage]["result"] for stage, record in after.items())
    assert ran(bsssl(command, "--config", f"{name}.yaml")) == []


def test_a_changed_setting_is_told_apart_and_the_old_result_kept(bsssl, made):
    outcome = bsssl("select", "--config", "recipe.yaml", "select.top_k=10")
    assert ran(outcome) == ["select"] and "select (top_k: 10 -> 5)" in outcome.err
    (kept,) = (made / "outputs/run/seed-0/aside/select").iterdir()
    assert json.loads((kept / "done.json").read_text())["result"]["pairs"] == 10
    assert "taken back from" in bsssl("select", "--config", "recipe.yaml").err


def test_files_that_were_changed_since_are_noticed(bsssl, made):
    path = made / "outputs/run/seed-0/select-2/selection.parquet"
    path.write_bytes((made / "outputs/run/seed-0/select/selection.parquet").read_bytes())
    outcome = bsssl("run", "--config", "recipe.yaml")
    assert ran(outcome) == ["select-2"]
    assert "select-2 (selection.parquet is not what the stage has left)" in outcome.err
