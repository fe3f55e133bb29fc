"""The whole recipe on generated pictures: what it leaves, what runs again and why, and its variants."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors
import yaml
from PIL import Image

from bsssl import selection, storage
from bsssl.config import load_config
from bsssl.recipes.runs import all_runs, stages

TRAINED = ("teacher", "pretrain", "finetune", "baseline")
STAGES = ("data", "contents", "teacher", "score", "near", "select", "pretrain", "finetune", "baseline")


def executed(outcome):
    """The stages that a call ran, in order."""
    return re.findall(r"seed \d+: (\S+) \((?!.*kept in)", outcome.err)


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def record(output, stage, seed=0):
    return json.loads((output / f"seed-{seed}" / stage / "done.json").read_text())


def selected(output, stage="select"):
    return selection.read_selection(str(output / "seed-0" / stage / "selection.parquet")).table


@pytest.fixture
def again(bsssl, recipe, finished):
    """Runs a command on the copy of the finished run."""

    def call(command, *overrides, config=None):
        return bsssl(command, "--config", config or recipe.config, f"output_dir={finished}", *overrides)

    return call


# What a run leaves


def test_layout(finished_once):
    run = finished_once / "seed-0"
    assert {path.name for path in finished_once.iterdir()} == {
        *("seed-0", "results.json", "results.md", "results.png", "report.html")
    }
    expected = {*STAGES, *(f"evaluate-{name}" for name in TRAINED), "config.yaml", "stages.json", "logs"}
    assert {path.name for path in run.iterdir()} == expected
    assert not list(finished_once.rglob("*.tmp"))
    assert {path.stem for path in (run / "logs").iterdir()} == expected - {"config.yaml", "stages.json", "logs"}
    assert {path.name for path in (run / "data").iterdir()} == {
        "classes.json", "labeled.csv", "rest.csv", "test.csv", "held.hashes", "pool", "done.json",
    }  # fmt: skip
    for name in TRAINED:
        files = {path.name for path in (run / name).iterdir()}
        assert files == {
            "model.safetensors",
            "config.json",
            "README.md",
            "metrics.jsonl",
            "unreadable.jsonl",
            "done.json",
        }
        files = {path.name for path in (run / f"evaluate-{name}").iterdir()}
        assert files == {
            "metrics.json", "predictions.parquet", "per_class.csv", "confusion.csv", "missing.jsonl", "done.json",
        }  # fmt: skip


def test_every_result_says_how_it_was_made(finished_once, recipe):
    for stage in STAGES:
        made = record(finished_once, stage)
        assert made["stage"] == stage and made["processes"] == 1 and len(made["identity"]) == 16
        assert set(made["versions"]) == {"bsssl", "torch", "torchvision", "timm", "numpy", "pyarrow"}
        assert {"git", "seconds", "finished", "settings", "read", "digests", "result"} <= set(made)
    resolved = load_config(str(finished_once / "seed-0" / "config.yaml"), [])
    assert resolved == load_config(str(recipe.config), [f"output_dir={finished_once}"])


def test_weights_name_their_network_and_classes(finished_once):
    with safetensors.safe_open(finished_once / "seed-0" / "finetune" / "model.safetensors", "np") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["model"] == "small_resnet"
    assert metadata["classes"] == ["circle", "square", "triangle"]


def test_results_json(finished_once):
    results = json.loads((finished_once / "results.json").read_text())
    assert set(results) == {
        "teacher",
        "supervised",
        "pretrained",
        "finetuned",
        "gain",
        "selection",
        "contents",
        "seeds",
    }
    for name in ("teacher", "supervised", "pretrained", "finetuned"):
        assert set(results[name]) == {"top1", "ece", "items", "missing", "per_seed"}
        assert 0 <= results[name]["top1"] <= 100
        assert results[name]["per_seed"] == [results[name]["top1"]]
    assert set(results["selection"]) == {"pairs", "samples", "precision"}
    assert results["selection"]["precision"] is None  # nobody knows the pool's classes
    assert results["seeds"] == [0]
    metrics = json.loads((finished_once / "seed-0" / "evaluate-finetune" / "metrics.json").read_text())
    assert results["finetuned"]["top1"] == round(metrics["top1"], 2)


def test_predictions_are_saved_per_item(finished_once):
    folder = finished_once / "seed-0" / "evaluate-finetune"
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert sorted(table["key"]) == sorted(
        f"{name}/{n}.jpg" for name in ("circle", "square", "triangle") for n in range(5)
    )
    right = np.mean([a == b for a, b in zip(table["label"], table["predicted"], strict=True)])
    assert json.loads((folder / "metrics.json").read_text())["top1"] == pytest.approx(100 * right)
    with open(folder / "confusion.csv") as file:
        rows = list(csv.reader(file))
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 15


def test_the_pool_comes_from_folder_manifest_and_tars(finished_once):
    pool = json.loads((finished_once / "seed-0" / "data" / "pool" / "pool.json").read_text())
    assert [(shard["name"], shard["num_records"]) for shard in pool["shards"]] == [
        ("shard-000000", 12), ("shard-000001", 7), ("shard-000002", 12), ("shard-000003", 3),
        ("part-000.tar", 9), ("part-001.tar", 9),
    ]  # fmt: skip
    assert record(finished_once, "data")["result"]["pool"] == 52


def test_unreadable_items_are_listed_and_never_selected(finished_once):
    paths = selection.score_files(str(finished_once / "seed-0" / "score"))
    ledger = [entry for path in paths for entry in storage.read_ledger(selection.ledger_path(path))]
    assert [key for key, _ in ledger] == ["broken.jpg"]
    assert "broken.jpg" in ledger[0][1]
    assert record(finished_once, "score")["result"] == {
        "records": 52, "scored": 51, "unreadable": 1, "excluded": 0, "shards": 6,
    }  # fmt: skip
    assert "broken.jpg" not in selected(finished_once)["key"].to_pylist()


def test_grey_and_cmyk_pictures_are_scored(finished_once):
    _, _, scores = selection.read_sample_scores(selection.score_files(str(finished_once / "seed-0" / "score"))[0])
    assert len(scores) == 12  # of which the first is grey and the second CMYK
    loose = Path(yaml.safe_load((finished_once / "seed-0" / "config.yaml").read_text())["data"]["pool"][0]["path"])
    assert [Image.open(path).mode for path in sorted(loose.glob("0[012]*.jpg"))] == ["L", "CMYK", "RGB"]


def test_the_selection_is_the_best_k_of_each_class(finished_once):
    table = selected(finished_once).to_pydict()
    assert table["class"] == sorted(table["class"]) and set(table["class"]) == {0, 1, 2}
    for number in range(3):
        rows = [row for row, owner in enumerate(table["class"]) if owner == number]
        assert [table["rank"][row] for row in rows] == list(range(6))
        scores = [table["score"][row] for row in rows]
        assert scores == sorted(scores, reverse=True)


# Several test sets


@pytest.fixture
def two_tests(bsssl, recipe, draw, tmp_path):
    """Runs a command with two test sets: the usual one, and one of a single picture per class."""
    for shape in ("circle", "square", "triangle"):
        (tmp_path / "few" / shape).mkdir(parents=True)
        draw(shape, seed=950).save(tmp_path / "few" / shape / "1.png")
    tests = {name: {"dataset": "folder", "path": str(folder)} for name, folder in
             {"usual": recipe.folder / "test", "few": tmp_path / "few"}.items()}  # fmt: skip
    arguments = ("--config", recipe.config, f"output_dir={tmp_path / 'run'}", f"data.test={json.dumps(tests)}")
    return lambda command, *more: bsssl(command, *arguments, *more)


def test_each_of_several_test_sets_has_its_figures(two_tests, finished_once, tmp_path):
    outcome = two_tests("run")
    assert outcome.status == 0, outcome.err
    output = tmp_path / "run"
    assert {path.name for path in (output / "seed-0").glob("evaluate-*")} == {
        f"evaluate-{stage}.{test}" for stage in TRAINED for test in ("usual", "few")
    }
    results, alone = (json.loads((folder / "results.json").read_text()) for folder in (output, finished_once))
    for role in ("teacher", "supervised", "pretrained", "finetuned"):
        usual = {key: results[role][key] for key in alone[role]}
        assert usual == alone[role] and results[role]["test"] == "usual"
        assert results[role]["other_tests"]["few"]["top1"] == pytest.approx(
            100 * round(results[role]["other_tests"]["few"]["top1"] * 3 / 100) / 3, abs=0.01
        )
    assert re.search(r"top-1 % \(usual / few\)", outcome.out)
    assert re.search(r"^teacher +[\d.]+ / [\d.]+ ", outcome.out, re.MULTILINE)
    plan = two_tests("run", "--plan").out
    assert re.search(r"^evaluate-teacher.few +3 ", plan, re.MULTILINE)
    assert two_tests("evaluate", "stage=teacher").err.count("is done already") == 2


@pytest.mark.parametrize(
    ("tests", "error"),
    [
        ("{a/b: {dataset: folder, path: x}}", "test: 'a/b' names files too: use letters, digits, _, + and - alone"),
        ("{a: {dataset: folder}}", "'data.test.a.path' is missing; it must be given"),
        (
            "{dataset: folder, pth: x}",
            "unknown key 'data.test.pth': did you mean 'path'? valid: dataset, options, path",
        ),
    ],
)
def test_test_sets_that_are_none(bsssl, recipe, tests, error):
    outcome = bsssl("run", "--config", recipe.config, "--plan", "output_dir=x", f"data.test={tests}")
    assert outcome.status == 1 and error in outcome.err


# Running again


def test_running_again_does_nothing(again, finished, finished_once):
    outcome = again("run")
    assert outcome.status == 0
    assert executed(outcome) == []
    assert outcome.err.count("is done already") == 13
    assert "student, then fine-tuned on the labels" in outcome.out
    before, after = contents(finished_once / "seed-0"), contents(finished / "seed-0")
    assert before.keys() == after.keys()
    assert not [
        name for name in before if before[name] != after[name] and Path(name).name != "done.json"
    ]  # times of a copy
    assert again("run").status == 0 and contents(finished / "seed-0") == after


def test_a_setting_of_one_stage_runs_that_stage_and_what_needs_it(again):
    outcome = again("run", "finetune.base_lr=0.01")
    assert executed(outcome) == ["finetune", "evaluate-finetune"]
    assert "finetune (finetune.base_lr: 0.2 -> 0.01)" in outcome.err
    assert "evaluate-finetune (finetune was made again and came out differently)" in outcome.err


@pytest.mark.parametrize(
    ("override", "ran"),
    [
        ("select.top_k=5", "select pretrain evaluate-pretrain finetune evaluate-finetune"),
        (
            "score.top_p=3",
            "score near select pretrain",
        ),  # the same pairs give the same weights, and nothing after them runs
        ("baseline.base_lr=1", "baseline evaluate-baseline"),
        ("system.workers=0", ""),
        ("system.checkpoint_steps=3", ""),
        ("score.batch_size=5", ""),
    ],
)
def test_what_a_change_runs_again(again, override, ran):
    assert executed(again("run", override)) == ran.split()


def test_going_back_to_old_settings_gives_the_old_results(again, finished, finished_once):
    again("run", "finetune.base_lr=0.01")
    again("run")
    name = "seed-0/finetune/model.safetensors"
    assert (finished / name).read_bytes() == (finished_once / name).read_bytes()


def test_a_lost_result_is_made_again(again, finished, finished_once):
    weights, scores = finished / "seed-0/baseline/model.safetensors", finished / "seed-0/score/000002.scores"
    expected = weights.read_bytes(), scores.read_bytes()
    weights.unlink()
    scores.unlink()
    outcome = again("run")
    assert executed(outcome) == ["score", "baseline"]
    assert "baseline (model.safetensors is missing)" in outcome.err
    assert (weights.read_bytes(), scores.read_bytes()) == expected


def test_a_lost_list_of_the_pool_is_made_again(again, finished, finished_once):
    shard = finished / "seed-0" / "data" / "pool" / "shard-000002.parquet"
    expected = shard.read_bytes()
    shard.unlink()
    outcome = again("run")
    assert executed(outcome) == ["data"] and "data (pool/shard-000002.parquet is missing)" in outcome.err
    assert shard.read_bytes() == expected


def test_a_stage_that_was_killed_before_its_end_runs_again(again, finished, finished_once):
    (finished / "seed-0" / "select" / "done.json").unlink()
    (finished / "seed-0" / "select" / "selection.parquet.1-ab.tmp").write_text("half")
    assert executed(again("run")) == ["select"]
    assert contents(finished / "seed-0" / "select").keys() == contents(finished_once / "seed-0" / "select").keys()


def test_a_smaller_pool_leaves_no_outdated_scores(again, recipe, finished):
    fewer = json.dumps(recipe.values["data"]["pool"][1:])
    outcome = again("run", f"data.pool={fewer}")
    assert outcome.status == 0, outcome.err
    assert len(selection.score_files(str(finished / "seed-0" / "score"))) == 4
    assert "pool has changed" in outcome.err


def test_another_pool_does_not_change_the_teacher(again, recipe, finished):
    fewer = json.dumps(recipe.values["data"]["pool"][1:])
    ran = executed(again("run", f"data.pool={fewer}"))
    assert ran[:4] == ["data", "contents", "score", "near"] and "baseline" not in ran


def test_what_comes_out_differently_is_noticed_further_on(again, recipe, finished):
    """A pattern for tars does not say that the tars have changed; listing them again does."""
    pool = [{"dataset": "tars", "path": str(finished / "tars" / "*.tar")}]
    shutil.copytree(recipe.folder / "tars", finished / "tars")
    again("run", f"data.pool={json.dumps(pool)}")
    assert executed(again("run", f"data.pool={json.dumps(pool)}")) == []
    (finished / "tars" / "part-001.tar").unlink()
    (finished / "seed-0" / "data" / "done.json").unlink()
    outcome = again("run", f"data.pool={json.dumps(pool)}")
    assert executed(outcome)[:4] == ["data", "contents", "score", "near"] and "teacher" not in executed(outcome)
    assert "score (data was made again and came out differently)" in outcome.err
    assert len(selection.score_files(str(finished / "seed-0" / "score"))) == 1


def test_no_training_is_lost_when_its_last_word_cannot_be_written(again, finished, monkeypatch):
    write = storage.write_json

    def full(path, value):
        if path.endswith("baseline/done.json"):
            raise storage.unwritable(path, OSError(28, "No space left on device"))
        write(path, value)

    (finished / "seed-0" / "baseline" / "done.json").unlink()
    monkeypatch.setattr(storage, "write_json", full)
    assert again("train", "stage=baseline", "system.checkpoint_steps=6").status == 1
    assert len(list((finished / "seed-0" / "baseline").glob("checkpoint-*.pt"))) == 1
    monkeypatch.undo()
    assert again("train", "stage=baseline").status == 0
    assert not list((finished / "seed-0" / "baseline").glob("checkpoint-*.pt"))


def test_more_classes_per_sample_than_there_are(again):
    outcome = again("run", "data.num_classes=null", "score.top_p=3")
    assert outcome.status == 0, outcome.err
    outcome = again("run", "data.num_classes=null", "score.top_p=4")
    assert outcome.errors[0].startswith("error: score.top_p (4) is above the 3 classes of data.train; lower it")


def test_stages_one_by_one_are_the_recipe(bsssl, recipe, finished_once, tmp_path):
    def call(command, *overrides):
        outcome = bsssl(command, "--config", recipe.config, f"output_dir={tmp_path}", *overrides)
        assert outcome.status == 0, outcome.err
        return executed(outcome)

    assert call("train", "stage=teacher") == ["data", "contents", "teacher", "evaluate-teacher"]
    assert call("score") == ["score"]
    assert call("select") == ["near", "select"]
    assert call("train", "stage=pretrain") == ["pretrain", "evaluate-pretrain"]
    assert call("train", "stage=finetune") == ["finetune", "evaluate-finetune"]
    assert call("train", "stage=baseline") == ["baseline", "evaluate-baseline"]
    assert call("evaluate", "stage=finetune") == []
    assert call("run") == []
    for stage in TRAINED:
        name = f"seed-0/{stage}/model.safetensors"
        assert (tmp_path / name).read_bytes() == (finished_once / name).read_bytes(), stage
    assert (tmp_path / "results.json").read_text() == (finished_once / "results.json").read_text()


# Variants


def test_rounds_seeds_and_ceiling(bsssl, recipe, tmp_path):
    short = json.dumps({"length": "3 steps", "batch_size": 12, "base_lr": 0.5, "warmup": "0 steps"})
    outcome = bsssl(
        "run", "--config", recipe.config, f"output_dir={tmp_path}", "rounds=2", "seeds=2", "seed=4",
        f"ceiling={short}", "data.labels_per_class=2", "data.pool=[]", "select.top_k=2",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    ran = executed(outcome)
    for name in ("score-2", "select-2", "pretrain-2", "evaluate-finetune-2", "ceiling", "evaluate-ceiling"):
        assert ran.count(name) == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seeds"] == [4, 5]
    assert {"std", "per_seed"} <= set(results["ceiling"]) and len(results["finetuned"]["per_seed"]) == 2
    assert set(results["gain"]) == {"top1", "std", "per_seed"}
    assert len(results["rounds"]) == 2
    assert results["rounds"][1]["finetuned"] == results["finetuned"]
    assert 0 <= results["selection"]["precision"] <= 100  # the pool is what the split set aside
    for text in ("student, then fine-tuned on the labels, round 2", "student, all labels", " ± ", "seeds: 4, 5"):
        assert text in outcome.out
    labeled = [(tmp_path / f"seed-{seed}" / "data" / "labeled.csv").read_text() for seed in (4, 5)]
    assert labeled[0] != labeled[1]
    assert record(tmp_path, "ceiling", 4)["result"]["rows"] == 12
    assert record(tmp_path, "teacher", 4)["result"]["rows"] == 6
    first, second = (
        selection.read_header(selection.score_files(str(tmp_path / "seed-4" / name))[0])
        for name in ("score", "score-2")
    )
    assert first.teacher != second.teacher


@pytest.mark.parametrize("targets", ["multi", "soft"])
def test_one_row_per_sample_when_targets_are_vectors(again, finished, targets):
    outcome = again("run", f"pretrain.targets={targets}", "pretrain.temperature=2")
    assert outcome.status == 0, outcome.err
    assert executed(outcome)[0] == "pretrain"
    result = record(finished, "select")["result"]
    assert record(finished, "pretrain")["result"]["rows"] == result["samples"] < result["pairs"]
    if targets == "soft":
        assert set(record(finished, "pretrain")["read"]) == {"data", "selection", "scores"}


@pytest.mark.parametrize("variant", ["unbalanced", "random"])
def test_other_ways_to_select(again, finished, finished_once, variant):
    outcome = again("select", f"select.variant={variant}")
    assert executed(outcome) == ["select"]
    table = selected(finished)
    assert len(table) == 18
    assert not table.equals(selected(finished_once))
    if variant == "unbalanced":
        ranked = [selection.read_sample_scores(path) for path in selection.score_files(str(finished / "seed-0/score"))]
        best = np.sort(np.concatenate([scores.ravel() for _, _, scores in ranked]))[::-1][:18]
        assert sorted(table["score"].to_pylist(), reverse=True) == pytest.approx(best.tolist())


def test_k_that_grows_from_round_to_round(bsssl, recipe, tmp_path):
    arguments = ("--config", recipe.config, f"output_dir={tmp_path}", "rounds=3", "select.grow=true", "select.top_k=6")
    planned = bsssl("run", *arguments, "--plan").out
    assert re.findall(r"^select\S* +at most (\d+) ", planned, re.M) == ["6", "12", "18"]
    assert bsssl("run", *arguments).status == 0
    counts = [record(tmp_path, stage)["result"]["pairs"] for stage in ("select", "select-2", "select-3")]
    assert counts == [6, 12, 18]  # of three classes
    outcome = bsssl("run", *arguments[:-1], "select.top_k=7")
    assert executed(outcome)[:2] == ["select-3", "pretrain-3"]  # 7 * 1 // 3 and 7 * 2 // 3 are what they were
    assert "select-3 (top_k: 6 -> 7)" in outcome.err


def test_a_minimum_score_for_open_set_pools(again, finished, finished_once):
    scores = selected(finished_once)["score"].to_numpy()
    least = float(np.median(scores))
    outcome = again("run", f"select.min_score={least}")
    assert outcome.status == 0, outcome.err
    assert executed(outcome)[0] == "select" and "score" not in executed(outcome)
    dropped = int((scores < np.float32(least)).sum())
    assert f"{dropped} pairs fewer than without select.min_score" in outcome.err
    assert "classes have fewer than K = 6 samples" in outcome.err
    assert (
        record(finished, "select")["result"] | {"pairs": 18 - dropped, "dropped": dropped}
        == (record(finished, "select")["result"])
    )
    summary = json.loads((finished / "seed-0" / "select" / "selection.json").read_text())
    assert summary["dropped"] == dropped and summary["min_score"] == least
    outcome = again("select", "select.min_score=1")
    assert outcome.errors[0].startswith("error: nothing to select: no score of the pool reaches min_score=1; lower it")


@pytest.mark.parametrize("change", ["randaugment=9", "mixup=0.2", "gce=0.7", "elr=3"])
def test_what_one_training_has_of_its_own(again, finished, finished_once, change):
    key, value = change.split("=")
    outcome = again("run", f"pretrain.{change}")
    assert outcome.status == 0, outcome.err
    assert executed(outcome)[0] == "pretrain" and "teacher" not in executed(outcome)
    assert re.search(rf"pretrain \(pretrain\.{key}: \S+ -> {value}", outcome.err)
    name = "seed-0/pretrain/model.safetensors"
    assert (finished / name).read_bytes() != (finished_once / name).read_bytes()


def test_long_tailed_labels(bsssl, recipe, tmp_path):
    def call(*overrides):
        arguments = ("data.labels_per_class=4", "data.imbalance=4", "data.rest_in_pool=false", *overrides)
        return bsssl("train", "--config", recipe.config, f"output_dir={tmp_path}", "stage=teacher", *arguments)

    assert call().status == 0
    with open(tmp_path / "seed-0" / "data" / "labeled.csv") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert [labels.count(name) for name in ("circle", "square", "triangle")] == [4, 2, 1]
    before = (tmp_path / "seed-0" / "teacher" / "model.safetensors").read_bytes()
    assert executed(call("teacher.logit_adjustment=1")) == ["teacher", "evaluate-teacher"]
    assert (tmp_path / "seed-0" / "teacher" / "model.safetensors").read_bytes() != before


def test_labeled_items_can_be_left_out_of_the_pool(bsssl, recipe, tmp_path):
    copies = tmp_path / "copies"
    shutil.copytree(recipe.folder / "train" / "circle", copies)  # known by content alone
    pool = [
        {"dataset": "folder", "path": str(path)} for path in (recipe.folder / "train", recipe.folder / "loose", copies)
    ]
    arguments = ["--config", recipe.config, f"output_dir={tmp_path / 'run'}", f"data.pool={json.dumps(pool)}"]
    assert bsssl("train", *arguments, "data.pool_overlap=exclude", "stage=teacher").status == 0
    assert bsssl("score", *arguments, "data.pool_overlap=exclude").status == 0
    result = record(tmp_path / "run", "score")["result"]
    assert (result["records"], result["excluded"], result["scored"]) == (23, 4, 18)
    assert bsssl("train", *arguments, "data.pool_overlap=allow", "stage=teacher").status == 0
    assert bsssl("score", *arguments, "data.pool_overlap=allow").status == 0
    result = record(tmp_path / "run", "score")["result"]
    assert (result["records"], result["excluded"], result["scored"]) == (35, 0, 34)


def test_labels_in_the_pool_change_nothing(bsssl, recipe, tmp_path):
    """The same pictures with other labels give the same weights, bit for bit."""
    weights = []
    for number, label in enumerate(("circle", "square")):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = ["path,label", *(f"{path},{label}" for path in sorted((recipe.folder / "loose").glob("[01]*.jpg")))]
        (folder / "pool.csv").write_text("\n".join(lines) + "\n")
        pool = json.dumps([{"dataset": "manifest", "path": str(folder / "pool.csv")}])
        assert bsssl("run", "--config", recipe.config, f"output_dir={folder}", f"data.pool={pool}").status == 0
        weights.append((folder / "seed-0" / "finetune" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_student_can_start_from_a_file_of_other_classes(bsssl, recipe, finished, draw, tmp_path):
    for name, shapes in (("train", 3), ("test", 2)):
        for label in ("ant", "bee"):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(shapes):
                draw("circle", seed=900 + number).save(tmp_path / name / label / f"{label}{number}.png")
    outcome = bsssl(
        "train", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", "stage=baseline", "data.num_classes=2",
        f"data.train.path={tmp_path / 'train'}", f"data.test.path={tmp_path / 'test'}",
        f"baseline.init_from={finished / 'seed-0' / 'finetune' / 'model.safetensors'}", "baseline.length=0 epochs",
        "baseline.warmup=0 epochs",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    with (
        safetensors.safe_open(tmp_path / "run/seed-0/baseline/model.safetensors", "np") as new,
        safetensors.safe_open(finished / "seed-0/finetune/model.safetensors", "np") as old,
    ):
        assert np.array_equal(new.get_tensor("conv1.weight"), old.get_tensor("conv1.weight"))
        assert new.get_tensor("fc.weight").shape == (2, 4)


# The list of stages


def config_of(recipe, *overrides):
    return load_config(str(recipe.config), list(overrides))


def test_stages_come_after_what_they_need(recipe):
    for overrides in ((), ("rounds=3",), ("ceiling.length=1 steps", "pretrain.targets=soft", "ceiling.warmup=0 steps")):
        seen: set[str] = set()
        for stage in stages(config_of(recipe, *overrides), seed=0):
            assert set(stage.needs.values()) <= seen, stage.name
            assert stage.name not in seen
            seen.add(stage.name)


def test_later_rounds_score_with_the_student_before(recipe):
    needs = {stage.name: stage.needs for stage in stages(config_of(recipe, "rounds=3"), seed=0)}
    assert needs["score"] == {"data": "data", "teacher": "teacher"}
    assert needs["score-2"] == {"data": "data", "teacher": "finetune"}
    assert needs["score-3"] == {"data": "data", "teacher": "finetune-2"}
    assert needs["finetune-2"] == {"data": "data", "start": "pretrain-2"}


def test_fingerprints_tell_seeds_and_settings_apart(recipe):
    def fingerprint(name, *overrides, seed=0):
        config = config_of(recipe, *overrides, f"seed={seed}")
        return all_runs(config, config_path="x")[0].fingerprint(name)

    assert fingerprint("finetune") == fingerprint("finetune", "output_dir=elsewhere", "system.threads=2")
    assert fingerprint("finetune") != fingerprint("finetune", seed=1)
    assert fingerprint("finetune") != fingerprint("finetune", "teacher.base_lr=0.3")
    assert fingerprint("finetune") != fingerprint("finetune", "system.precision=bfloat16")
    assert fingerprint("teacher") == fingerprint("teacher", "finetune.base_lr=0.3")
