"""``select.open_set``: what is of no class is left out of the selection, by a threshold that held-out labels set."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import yaml

import bsssl as package
from bsssl.data import Records
from bsssl.engine.score import read_energy
from bsssl.errors import UserError
from bsssl.selection import read_sample_scores, read_selection
from bsssl.selection.open_set import values_path
from tests.reports.browser import Page, find_browser
from tests.reports.conftest import content

ON = "select.open_set={holdout: 0.5}"


def executed(outcome):
    """The stages that a call ran, in order; what was taken back from an earlier run did not run."""
    begun = re.findall(r"seed \d+: (\S+) \((?!.*kept in)", outcome.err)
    back = re.findall(r"seed \d+: (\S+): taken back from", outcome.err)
    return [name for name in begun if name not in back]


def result(output, stage):
    return json.loads((output / "seed-0" / stage / "done.json").read_text())["result"]


def facts(output, stage="open_set"):
    return json.loads((output / "seed-0" / stage / "open_set.json").read_text())


def keys(output, name):
    return set(Records.read(str(output / "seed-0/data" / f"{name}.csv")).key.to_pylist())


def picked(output):
    return read_selection(str(output / "seed-0/select/selection.parquet"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A config of six digits, the other four among the pool."""
    folder = tmp_path_factory.mktemp("digits")

    def source(split, classes):
        return {"dataset": "digits", "path": str(folder / "data"), "options": {"split": split, "classes": classes}}

    short = {"length": "3000 samples", "batch_size": 50, "base_lr": 0.4, "warmup": "300 samples"}
    values = {
        "output_dir": str(folder / "unused"),
        "data": {
            "train": source("train", [*range(6)]),
            "test": source("test", [*range(6)]),
            "pool": [source("train", [6, 7, 8, 9])],
            "labels_per_class": 20,
            "transforms": {"size": 8, "train_crop": "none", "flip": False},
        },
        "models": {name: {"name": "small_resnet", "options": {"width": 8}} for name in ("teacher", "student")},
        "teacher": short,
        "score": {"top_p": 1},
        "select": {"top_k": 110},
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    config = folder / "digits.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


def selected_digits(bsssl, config, output, *overrides):
    for command in (["train", "stage=teacher"], ["score"], ["select"]):
        outcome = bsssl(command[0], "--config", config, *command[1:], f"output_dir={output}", *overrides)
        assert outcome.status == 0, outcome.err
    return outcome


def intruders(output):
    """The share of picks that are of no class."""
    known = keys(output, "rest")
    return np.mean([key not in known for key in picked(output).key.to_pylist()])


def test_fewer_digits_of_no_class_are_selected(bsssl, digits, tmp_path):
    selected_digits(bsssl, digits, tmp_path / "off")
    before = intruders(tmp_path / "off")
    assert before > 0.1
    outcome = selected_digits(
        bsssl, digits, tmp_path / "on", "select.open_set={method: distance, keep: 0.9, holdout: 0.5}"
    )
    by_method = {"distance": intruders(tmp_path / "on")}
    for method in ("confidence", "energy"):
        change = f"select.open_set={{method: {method}, keep: 0.9, holdout: 0.5}}"
        outcome = bsssl("select", "--config", digits, f"output_dir={tmp_path / 'on'}", change)
        assert outcome.status == 0 and executed(outcome) == ["open_set", "select"]
        by_method[method] = intruders(tmp_path / "on")
    assert all(share < 0.9 * before for share in by_method.values()), (before, by_method)
    assert "items left out as of no class" in outcome.err
    summary = json.loads((tmp_path / "on/seed-0/select/selection.json").read_text())
    assert summary["foreign"] == facts(tmp_path / "on")["foreign"] > 0
    assert sum(one["foreign"] for one in summary["classes"].values()) == summary["foreign"]  # as each has one class
    assert all(one["lost"] >= 0 for one in summary["classes"].values())
    assert bsssl("report", tmp_path / "on").status == 0
    page, known = content(tmp_path / "on/report.html"), facts(tmp_path / "on")
    assert f"{known['foreign']} of {known['scored']:,} items of the pool are left out as of no class" in page.text
    curves = page.data["open_set"]
    assert curves["threshold"] == known["threshold"] and sum(curves["pool"]) == pytest.approx(100, abs=1)
    assert summary["pairs"] + sum(one["lost"] for one in summary["classes"].values()) <= 6 * 110


@pytest.mark.parametrize(
    ("method", "keep"), [("confidence", 0.95), ("energy", 0.9), ("distance", 1.0), ("energy", 0.5)]
)
def test_the_threshold_lets_its_share_of_the_held_out_labels_through(bsssl, recipe, tmp_path, method, keep):
    output = tmp_path / "run"
    change = f"select.open_set={{method: {method}, keep: {keep}, holdout: 0.5}}"
    for command in (["train", "stage=teacher"], ["score"], ["select"]):
        assert bsssl(command[0], "--config", recipe.config, *command[1:], f"output_dir={output}", change).status == 0
    known, held = facts(output), keys(output, "calibration")
    assert known["held_out"] == len(held) == 6
    # What is at or above the threshold is selected, and nothing else.
    folder = output / "seed-0/open_set"
    values = {number: np.load(values_path(folder, number)) for number in range(len([*folder.glob("*.npy")]))}
    foreign = sum(int((one < known["threshold"]).sum()) for one in values.values())
    assert foreign == known["foreign"] and sum(known["histogram"]["pool"]) == known["scored"] == 51
    chosen = picked(output)
    places = zip(chosen.shard.to_pylist(), chosen.position.to_pylist(), strict=True)
    assert all(values[shard][position] >= known["threshold"] for shard, position in places)
    if method == "distance":
        return
    # The labels by the program's own scoring, as if they were a pool.
    network = package.load(output / "seed-0/teacher")
    (path,) = package.score(
        network, output / "seed-0/data/calibration.csv", to=tmp_path / "scores", dataset="manifest", top_p=3
    )
    confidence = read_sample_scores(str(path))[2][:, 0]
    own = confidence if method == "confidence" else read_energy(str(path))
    reached = int((own >= np.float32(known["threshold"]) - 1e-5).sum())
    assert reached == math.ceil(keep * 6)
    assert known["quantiles"]["0"] == pytest.approx(own.min(), abs=1e-4)


def test_held_out_labels_teach_the_student_and_not_the_teacher(bsssl, recipe, tmp_path):
    output = tmp_path / "run"
    plan = bsssl("run", "--config", recipe.config, f"output_dir={output}", ON, "rounds=2", "--plan")
    assert plan.status == 0
    assert re.search(r"^teacher +6 ", plan.out, re.MULTILINE) and re.search(r"^baseline +12 ", plan.out, re.MULTILINE)
    assert re.search(r"^open_set +52 \+ 6 ", plan.out, re.MULTILINE)
    outcome = bsssl(
        "run", "--config", recipe.config, f"output_dir={output}", ON, "rounds=2", "pretrain.with_labels=true"
    )
    assert outcome.status == 0, outcome.err
    taught, held = keys(output, "taught"), keys(output, "calibration")
    assert not taught & held and taught | held == keys(output, "labeled") and len(held) == 6
    rows = {name: result(output, name)["rows"] for name in ("teacher", "baseline", "finetune", "finetune-2")}
    assert rows == {"teacher": 6, "baseline": 12, "finetune": 6, "finetune-2": 12}
    labels = {name: result(output, name)["rows"] - result(output, of)["pairs"] for name, of in
              (("pretrain", "select"), ("pretrain-2", "select-2"))}  # fmt: skip
    assert labels == {"pretrain": 6, "pretrain-2": 12}
    assert facts(output, "open_set-2")["held_out"] == 6
    foreign = facts(output, "open_set-2")["foreign"]
    assert f"; {foreign} items of the pool left out as of no class" in outcome.out
    assert json.loads((output / "results.json").read_text())["selection"]["foreign"] == foreign


def test_only_what_a_change_decides_runs_again(bsssl, recipe, finished):
    def run(*overrides):
        outcome = bsssl("run", "--config", recipe.config, f"output_dir={finished}", *overrides)
        assert outcome.status == 0, outcome.err
        return executed(outcome)

    on = run(ON)
    assert on[:1] == ["data"] and {"teacher", "score", "open_set", "select"} <= set(on)
    assert not {"contents", "baseline", "evaluate-baseline"} & set(on)
    assert run(ON) == []
    lower = run("select.open_set={holdout: 0.5, keep: 0.5}")
    assert lower[:2] == ["open_set", "select"] and not {"data", "teacher", "score"} & set(lower)
    assert "teacher" in run("select.open_set={holdout: 0.25}")
    assert run() == []  # as it was before it was on


def test_scores_without_energy_are_refused(bsssl, recipe, tmp_path):
    for command in (["train", "stage=teacher"], ["score"]):
        assert bsssl(command[0], "--config", recipe.config, *command[1:], f"output_dir={tmp_path}", ON).status == 0
    lost = sorted((tmp_path / "seed-0/score").glob("*.energy"))
    assert lost
    lost[1].unlink()
    outcome = bsssl("select", "--config", recipe.config, f"output_dir={tmp_path}", ON)
    assert outcome.status == 1 and len(outcome.errors) == 1
    assert str(lost[1]) in outcome.errors[0] and "another output_dir" in outcome.errors[0]
    lost[1].write_bytes(lost[0].read_bytes()[:-4])
    outcome = bsssl("select", "--config", recipe.config, f"output_dir={tmp_path}", ON)
    assert outcome.status == 1 and "does not hold the energy of each of" in outcome.errors[0]
    confident = "select.open_set={holdout: 0.5, method: confidence}"
    assert bsssl("select", "--config", recipe.config, f"output_dir={tmp_path}", confident).status == 0


def test_several_teachers_and_a_chosen_k(bsssl, recipe, tmp_path):
    teacher = recipe.values["models"]["teacher"]
    change = {
        "models": {"teacher": [teacher, teacher]},
        "select": {"top_k": "auto", "grid": [2, 4], "open_set": {"holdout": 0.5, "method": "distance", "keep": 0.5}},
    }
    config = recipe.write(tmp_path / "two.yaml", {**change, "output_dir": str(tmp_path / "run")})
    outcome = bsssl("run", "--config", config)
    assert outcome.status == 0, outcome.err
    foreign = facts(tmp_path / "run")["foreign"]
    assert foreign > 0
    for name in ("select", "select-k2", "select-k4"):
        assert result(tmp_path / "run", name)["foreign"] == foreign


@pytest.mark.parametrize("method", ["confidence", "energy", "distance"])
def test_a_shard_of_which_nothing_can_be_read(bsssl, recipe, tmp_path, method):
    change = (f"output_dir={tmp_path}", f"select.open_set={{holdout: 0.5, method: {method}}}", "data.shard_size=1")
    for command in (["train", "stage=teacher"], ["score"], ["select"]):
        outcome = bsssl(command[0], "--config", recipe.config, *command[1:], *change)
        assert outcome.status == 0, outcome.err
    assert facts(tmp_path)["scored"] == 51


def test_the_page_of_a_selection_from_before_the_open_set(bsssl, recipe, finished):
    before = (finished / "seed-0/select/done.json").read_bytes()
    assert bsssl("run", "--config", recipe.config, f"output_dir={finished}", ON).status == 0
    (finished / "seed-0/select/done.json").write_bytes(before)  # as where a run has ended before it selects
    outcome = bsssl("report", finished)
    assert outcome.status == 0, outcome.err
    assert content(finished / "report.html").data["open_set"] is None


def test_what_the_scoring_is_set_by_is_told_by_its_own_keys(bsssl, recipe, finished):
    assert bsssl("run", "--config", recipe.config, f"output_dir={finished}", ON).status == 0
    plan = bsssl("run", "--config", recipe.config, f"output_dir={finished}", ON, "score.top_p=1", "--plan")
    (line,) = [line for line in plan.out.splitlines() if line.startswith("open_set ")]
    assert "score.top_p: " in line and "scoring" not in line


@pytest.mark.parametrize("mode", ["probe", "finetune"])
def test_pretrained_teachers(bsssl, recipe, finished_once, tmp_path, mode):
    shutil.copytree(finished_once / "seed-0/teacher", tmp_path / "network")
    start = f"teacher.init_from={tmp_path / 'network/model.safetensors'}"
    arguments = ("--config", recipe.config, f"output_dir={tmp_path / 'run'}", ON, start, f"teacher.mode={mode}")
    for command in (["train", "stage=teacher"], ["score"], ["select"]):
        outcome = bsssl(command[0], *arguments, *command[1:])
        assert outcome.status == 0, outcome.err
    assert result(tmp_path / "run", "teacher")["rows"] == 6


def test_what_there_must_be(bsssl, recipe, tmp_path):
    def refused(**values):
        config = recipe.write(tmp_path / "refused.yaml", {"output_dir": str(tmp_path / "run"), **values})
        outcome = bsssl("run", "--config", config, "select.open_set={}", "--plan")
        assert outcome.status == 1, outcome.out
        return " ".join(outcome.errors)

    classes = {"train": None, "classes": ["circle", "square", "triangle"]}
    said = refused(data=classes, teacher={"length": "0 epochs", "warmup": "0 epochs"})
    assert "select.open_set sets its threshold on labels" in said and "select.min_score" in said
    said = refused(models={"teacher": None}, score={"given": "scores.parquet"})
    assert "select.open_set compares the pool with labels that a teacher sees too" in said
    said = refused(data={"labels_per_class": 1})
    assert "no class has two of them" in said
    for change in ("{keep: 0}", "{holdout: 1}", "{method: other}"):
        assert bsssl("run", "--config", recipe.config, f"select.open_set={change}", "--plan").status == 1


@pytest.mark.parametrize("classifiers", [0, 1])
def test_a_teacher_without_features_is_refused_before_anything_is_trained(
    bsssl, recipe, tmp_path, monkeypatch, classifiers
):
    """The student, which is looked at last, needs none."""
    seen = []

    def classifier(model):
        if len(seen) == classifiers:
            raise UserError("it has no classifier")
        seen.append(model)

    monkeypatch.setattr("bsssl.recipes.check.classifier", classifier)
    arguments = ("train", "--config", recipe.config, "stage=teacher", f"output_dir={tmp_path / 'run'}")
    outcome = bsssl(*arguments, "select.open_set={holdout: 0.5, method: distance}")
    if classifiers:
        assert outcome.status == 0, outcome.err
    else:
        assert outcome.status == 1 and "models.teacher: it has no classifier" in outcome.err
        assert bsssl(*arguments, ON).status == 0


@pytest.mark.skipif(find_browser() is None, reason="there is no browser")
def test_a_browser_draws_the_values_and_the_threshold(bsssl, recipe, tmp_path):
    for command in (["train", "stage=teacher"], ["score"], ["select"]):
        assert bsssl(command[0], "--config", recipe.config, *command[1:], f"output_dir={tmp_path}", ON).status == 0
    assert bsssl("report", tmp_path).status == 0
    with Page() as page:
        page.open(tmp_path / "report.html", until="document.querySelector('[data-chart=open-set] svg')")
        assert page.troubles() == []
        curves = "[...document.querySelectorAll('[data-chart=open-set] polyline')]"
        *_, line = page.run(f"{curves}.map((one) => one.getAttribute('points').split(' ').length)")
        assert line == 2 and page.run(f"{curves}.length") == 3
