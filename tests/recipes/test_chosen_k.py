"""``select.top_k: auto``: K by the accuracy on the labels of the student that each candidate trains."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from bsssl.config import load_config
from bsssl.recipes.runs import all_runs

AUTO = ("select.top_k=auto", "select.grid=[2,4,6]")


def executed(outcome: Any) -> list[str]:
    """The stages that a call ran, in order."""
    return re.findall(r"seed \d+: (\S+) \((?!.*kept in)", outcome.err)


def result(output: Path, stage: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((output / "seed-0" / stage / "done.json").read_text())["result"]
    return figures


def weights(output: Path, stage: str) -> bytes:
    return (output / "seed-0" / stage / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def begun(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipe with a fixed K has left of the stages that K plays no part in."""
    output = tmp_path_factory.mktemp("begun") / "run"
    for stage in ("data", "teacher", "evaluate-teacher", "score", "baseline", "evaluate-baseline"):
        shutil.copytree(finished_once / "seed-0" / stage, output / "seed-0" / stage)
    return output


@pytest.fixture
def call(bsssl, recipe, begun, tmp_path):
    """Runs a command with an automatic K in a folder in which the teacher has scored the pool."""
    shutil.copytree(begun, tmp_path / "run")

    def run(command, *overrides, config=recipe.config):
        return bsssl(command, "--config", config, f"output_dir={tmp_path / 'run'}", *AUTO, *overrides)

    return run


def test_the_most_accurate_candidate_is_chosen_and_not_trained_again(call, bsssl, recipe, finished_once, tmp_path):
    plan, output = call("run", "--plan"), tmp_path / "run"
    assert plan.status == 0 and re.search(r"^pretrain-k4 +at most 12 ", plan.out, re.MULTILINE)
    assert re.search(r"^choose +3 candidates ", plan.out, re.MULTILINE)
    assert re.search(r"^select +unknown ", plan.out, re.MULTILINE)

    outcome = call("run")
    assert outcome.status == 0, outcome.err
    candidates = [
        name for k in ("k2", "k4", "k6") for name in (f"select-{k}", f"pretrain-{k}", f"evaluate-pretrain-{k}.labeled")
    ]
    assert executed(outcome) == [
        "contents", "near", *candidates, "choose", "select",
        "pretrain", "evaluate-pretrain", "finetune", "evaluate-finetune",
    ]  # fmt: skip

    choice = json.loads((output / "seed-0" / "choose" / "top_k.json").read_text())
    rows = choice["candidates"]
    assert [(row["top_k"], row["pairs"], row["items"]) for row in rows] == [(2, 6, 12), (4, 12, 12), (6, 18, 12)]
    assert [row["top1"] for row in rows] == [
        result(output, f"evaluate-pretrain-k{k}.labeled")["top1"] for k in (2, 4, 6)
    ]
    best = max(rows, key=lambda row: (row["top1"], row["true_score"]))
    assert choice["top_k"] == best["top_k"] == result(output, "select")["top_k"]
    for row in rows:
        predictions = pq.read_table(
            output / "seed-0" / f"evaluate-pretrain-k{row['top_k']}.labeled" / "predictions.parquet"
        )
        scores = [
            dict(zip(item["top_classes"], item["top_scores"], strict=True))[item["label"]]
            for item in predictions.to_pylist()
        ]
        assert row["true_score"] == pytest.approx(sum(scores) / 12)
    share = best["top1"] / 100
    assert best["standard_error"] == pytest.approx(100 * math.sqrt(share * (1 - share) / 12))

    assert f"pretrain: the same training as pretrain-k{choice['top_k']}, whose result is copied" in outcome.err
    assert weights(output, "pretrain") == weights(output, f"pretrain-k{choice['top_k']}")
    # Candidates differ in K alone: this is the student of the recipe with that K.
    assert weights(output, "pretrain-k6") == weights(finished_once, "pretrain")

    line = f"seed 0: K = {choice['top_k']}, by top-1 on 12 labels: 2: {rows[0]['top1']:.1f} ± "
    for text in (outcome.out, (output / "results.md").read_text(), call("run", "--plan").out):
        assert line in text
    results = json.loads((output / "results.json").read_text())
    assert results["choices"] == [{"seed": 0, **choice}]
    assert executed(call("run")) == []
    given = bsssl("run", "--config", recipe.config, f"output_dir={output}", f"select.top_k={choice['top_k']}")
    assert executed(given) == ["select"]  # which comes out the same


def test_the_test_set_has_no_say_and_a_larger_grid_adds_its_candidates(call, draw, tmp_path):
    assert call("run").status == 0
    for shape in ("circle", "square", "triangle"):
        (tmp_path / "few" / shape).mkdir(parents=True)
        draw(shape, seed=950).save(tmp_path / "few" / shape / "1.png")
    other = f"data.test.path={tmp_path / 'few'}"
    ran = executed(call("run", other))
    assert ran[:2] == ["data", "contents"] and {*ran[2:]} == {
        "near",
        *(f"evaluate-{name}" for name in ("teacher", "pretrain", "finetune", "baseline")),
    }
    ran = executed(call("select", other, "select.grid=[2,3,4,6]"))
    assert ran == []
    outcome = call("run", other, "select.grid=[2,3,4,6]")
    assert executed(outcome)[:4] == ["select-k3", "pretrain-k3", "evaluate-pretrain-k3.labeled", "choose"]
    assert not {"pretrain-k2", "pretrain-k4", "pretrain-k6"} & {*executed(outcome)}


def test_by_default_parts_of_the_pool_are_tried_and_equal_ones_are_trained_once(call, recipe, tmp_path):
    outcome, output = call("run", "select.grid=null", "pretrain.length=3 steps"), tmp_path / "run"
    assert outcome.status == 0, outcome.err
    rows = result(output, "choose")["candidates"]
    assert [row["top_k"] for row in rows] == [1, 1, 4, 17]  # of 52 items and 3 classes
    assert "pretrain-1of16: the same training as pretrain-1of64, whose result is copied" in outcome.err
    assert "candidates for K select equally many samples" in outcome.err
    assert re.search(r"^select-1of4 +12 ", call("run", "--plan", "select.grid=null").out, re.MULTILINE)


def test_a_student_that_is_not_that_of_a_candidate_is_trained(call, tmp_path):
    """Candidates never see a label, and read the pool itself."""
    outcome, output = call("run", "pretrain.with_labels=true", "rounds=2"), tmp_path / "run"
    assert outcome.status == 0, outcome.err
    assert "whose result is copied" not in outcome.err
    top_k = result(output, "choose")["top_k"]
    assert result(output, f"pretrain-k{top_k}")["rows"] == 3 * top_k
    assert result(output, "pretrain")["rows"] == 3 * top_k + 12
    assert result(output, "select-2")["top_k"] == top_k and executed(outcome).count("choose") == 1


def test_a_label_that_cannot_be_read_is_tolerated_as_in_training(call, recipe, tmp_path):
    shutil.copytree(recipe.folder / "train", tmp_path / "train")
    (tmp_path / "train" / "circle" / "broken.jpg").write_bytes(b"no picture")
    broken = (f"data.train.path={tmp_path / 'train'}", "data.max_failure_rate=0.1", "pretrain.length=2 steps")
    assert call("run", *broken).status == 0
    assert result(tmp_path / "run", "evaluate-pretrain-k2.labeled")["missing"] == 1


def test_candidates_do_without_labels_stored_views_and_tars(recipe):
    asked = ("pretrain.with_labels=true", "pretrain.targets=soft", "pretrain.soft_views=2", "materialise={}")
    (run,) = all_runs(load_config(str(recipe.config), [*AUTO, *asked]), config_path="")
    assert run.stages["pretrain-k4"].needs == {"data": "data", "selection": "select-k4", "scores": "score"}
    assert run.stages["pretrain"].needs == {"data": "data", "selection": "materialise", "views": "views"}
    trainings = [run.stages[name].settings.training for name in ("pretrain-k4", "pretrain")]
    assert [(one.with_labels, one.soft_views) for one in trainings] == [(False, None), (True, 2)]


def test_each_seed_chooses_and_a_sweep_shares(bsssl, recipe, tmp_path):
    outcome = bsssl(
        "sweep", "--config", recipe.config, f"output_dir={tmp_path / 'sweep'}", "select.top_k=auto",
        "select.grid=[4,6],[2,6]", "seed=0,1", "pretrain.length=2 steps",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    trained = [path.name for path in (tmp_path / "sweep").glob("shared/*/*")]
    counts = {name: trained.count(name) for name in ("pretrain-k2", "pretrain-k4", "pretrain-k6", "choose", "score")}
    assert counts == {"pretrain-k2": 2, "pretrain-k4": 2, "pretrain-k6": 2, "choose": 4, "score": 2}
    [first, _] = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [choice["seed"] for choice in first["choices"]] == [0, 1]


def test_a_plan_before_there_is_data(bsssl, recipe, tmp_path):
    values = {**recipe.values, "select": {"top_k": "auto"}}
    values["data"] = {**values["data"], "pool": [{"dataset": "folder", "path": str(tmp_path / "nowhere")}]}
    (tmp_path / "auto.yaml").write_text(yaml.safe_dump(values))
    plan = bsssl("run", "--config", tmp_path / "auto.yaml", f"output_dir={tmp_path / 'run'}", "--plan")
    assert plan.status == 1 and plan.errors == [
        f"error: data.pool: no such file or folder: {tmp_path / 'nowhere'}; check the path"
    ]
    assert re.search(r"^pretrain-1of64 +unknown +12 +8 ", plan.out, re.MULTILINE)
    assert len(re.findall(r"^evaluate-pretrain-1of\d+\.labeled", plan.out, re.MULTILINE)) == 4


def test_a_choice_needs_its_candidates(call, tmp_path):
    outcome = call("select")
    assert outcome.status == 1 and outcome.errors[0].startswith(
        "error: choose needs the result of 'evaluate-pretrain-k6"
    )
    assert "run first: bsssl run --config" in outcome.errors[0]


def test_the_resolved_config_reads_back(recipe, tmp_path):
    config = load_config(str(recipe.config), [f"output_dir={tmp_path}", *AUTO])
    (run,) = all_runs(config, config_path="")
    (tmp_path / "again.yaml").write_text(run.config)
    assert load_config(str(tmp_path / "again.yaml"), []) == config


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (("select.grid=[]",), "select.grid: List should have at least 2 items"),
        (("select.grid=[4]",), "select.grid: List should have at least 2 items"),
        (("select.grid=4",), "select.grid must be a list: write select.grid='[4]'"),
        (("select.grid=[0,4]",), "select.grid.0: Input should be greater than or equal to 1"),
        (("select.grid=[4,2]",), "select: grid [4, 2] must rise; sort its values, and give each once"),
        (("select.top_k=4",), "select: grid has the values of K that top_k: auto tries; set top_k=auto, or take"),
        (("select.top_k=automatic",), "select.top_k: Input should be a valid integer"),
        (("select.grow=true", "rounds=2"), "select: grow is about a K that is given, not auto; give top_k a number"),
        (("data.pool_overlap=allow",), "auto tests students on the labels, which data.pool_overlap: allow lets into"),
        (("pretrain.init_from=teacher",), "auto tests students on the labels, which pretrain.init_from: teacher has"),
    ],
)
def test_what_cannot_be_chosen_from(bsssl, recipe, overrides, error):
    outcome = bsssl("run", "--config", recipe.config, "output_dir=x", "--plan", *AUTO, *overrides)
    assert outcome.status == 1 and len(outcome.errors) == 1 and error in outcome.errors[0], outcome.err
