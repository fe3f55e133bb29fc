"""A teacher that knows the classes by their names, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from bsssl import selection
from bsssl.data import SparseTargets, selected_training_set

TEACHER = {"mode": "zeroshot", "zeroshot": {"templates": ["a photo of a {}."]}}


@pytest.fixture
def zero_shot(recipe: Any, clip: Path, tmp_path: Path) -> Path:
    """The recipe with the tiny CLIP as its teacher."""
    return write(recipe.values, clip, tmp_path / "config.yaml", recipe.values["data"])


@pytest.fixture
def unlabeled(recipe: Any, clip: Path, tmp_path: Path) -> Path:
    """The same without one label but those of the test set."""
    data = {key: value for key, value in recipe.values["data"].items() if key not in ("train", "num_classes")}
    return write(recipe.values, clip, tmp_path / "config.yaml", {**data, "classes": ["triangle", "square", "circle"]})


def write(values: dict[str, Any], clip: Path, path: Path, data: dict[str, Any]) -> Path:
    models = {**values["models"], "teacher": {"name": f"open_clip/local-dir:{clip}"}}
    path.write_text(yaml.safe_dump({**values, "models": models, "teacher": TEACHER, "data": data}))
    return path


def result(stage: Path) -> dict[str, Any]:
    return json.loads((stage / "done.json").read_text())["result"]  # type: ignore[no-any-return]


def test_the_whole_recipe(bsssl, zero_shot, tmp_path):
    done = bsssl("run", "--config", zero_shot, f"output_dir={tmp_path / 'run'}", "pretrain.targets=live")
    assert done.status == 0, done.err
    seed = tmp_path / "run" / "seed-0"
    assert "teacher: the 12 labels fit no temperature, and the network's own is kept" in done.err
    assert result(seed / "evaluate-teacher")["top1"] > 80
    config = json.loads((seed / "teacher" / "config.json").read_text())
    assert config["library_name"] == "open_clip" and config["label_names"] == ["circle", "square", "triangle"]


def test_labels_set_the_temperature_alone(bsssl, recipe, zero_shot, tmp_path):
    """A wrong label in each class makes the teacher less sure of everything, and changes none of its answers."""
    shutil.copytree(recipe.folder / "train", tmp_path / "train")
    for name, other in (("circle", "square"), ("square", "triangle"), ("triangle", "circle")):
        (tmp_path / "train" / name / "0.jpg").rename(tmp_path / "train" / other / "wrong.jpg")
    common = ("train", "stage=teacher", "--config", zero_shot)
    confidences, predictions = [], []
    for run, overrides in (("right", []), ("wrong", [f"data.train.path={tmp_path / 'train'}"])):
        done = bsssl(*common, f"output_dir={tmp_path / run}", *overrides)
        assert done.status == 0, done.err
        tested = pq.read_table(tmp_path / run / "seed-0" / "evaluate-teacher" / "predictions.parquet").to_pydict()
        confidences.append(sum(tested["confidence"]))
        predictions.append(tested["predicted"])
    figures = result(tmp_path / "wrong" / "seed-0" / "teacher")
    assert figures["temperature"] != 1 and figures["nll_after"] < figures["nll_before"]
    assert confidences[1] < confidences[0] and predictions[0] == predictions[1]


def test_names_stand_in_the_prompts(bsssl, zero_shot, tmp_path):
    """The classes are called by the names of others, and so taken for them."""
    names = "teacher.zeroshot.names={circle: square, square: circle}"
    common = ("train", "stage=teacher", "--config", zero_shot, f"output_dir={tmp_path / 'run'}")
    assert bsssl(*common, names).status == 0
    assert result(tmp_path / "run" / "seed-0" / "evaluate-teacher")["top1"] < 50
    refused = bsssl(*common, "teacher.zeroshot.names={cirle: disc}")
    assert "teacher.zeroshot.names: there is no class 'cirle': did you mean 'circle'?" in refused.err
    refused = bsssl(*common, "teacher.zeroshot.names={circle: square}")
    assert "names: prompts call classes 'circle' and 'square' both 'square'; give one of them another" in refused.err
    refused = bsssl(*common, "teacher.zeroshot.names={circle: ' '}")
    assert "teacher.zeroshot.names: prompts have no name for class 'circle'; give it one" in refused.err


@pytest.mark.parametrize("mode", ["probe", "finetune"])
def test_the_tower_is_a_network_like_any_other(bsssl, zero_shot, tmp_path, mode):
    short = ("teacher.length=30 steps", "teacher.warmup=0 steps", "teacher.batch_size=12")
    common = ("train", "stage=teacher", "--config", zero_shot, f"output_dir={tmp_path / 'run'}")
    done = bsssl(*common, f"teacher.mode={mode}", *short)
    assert done.status == 0, done.err
    assert result(tmp_path / "run" / "seed-0" / "evaluate-teacher")["top1"] > 60


def test_a_pool_without_one_label(bsssl, unlabeled, tmp_path):
    done = bsssl("run", "--config", unlabeled, f"output_dir={tmp_path / 'run'}", "rounds=2")
    assert done.status == 0, done.err
    seed = tmp_path / "run" / "seed-0"
    stages = {path.name for path in seed.iterdir() if path.is_dir()}
    assert {"teacher", "score-2", "select-2", "evaluate-pretrain-2"} <= stages
    assert not any(stage.startswith(("finetune", "baseline")) for stage in stages)
    assert result(seed / "teacher") == {
        "scale": pytest.approx(14.3, abs=5),
        "temperature": 1,
        "rows": 0,
        "unreadable": 0,
    }
    chosen = selection.read_selection(str(seed / "select" / "selection.parquet"))
    classes = [("triangle", "square", "circle")[number] for number in chosen.class_index.to_pylist()]
    loose = [(key, name) for key, name in zip(chosen.key.to_pylist(), classes, strict=True) if key[2] == "-"]
    assert loose and all(name in key for key, name in loose)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results.keys() == {"teacher", "pretrained", "selection", "contents", "seeds", "rounds"}
    assert "gain" not in (tmp_path / "run" / "results.md").read_text()


def test_a_pool_without_one_label_and_nothing_to_test_on(bsssl, unlabeled, tmp_path):
    common = ("--config", unlabeled, f"output_dir={tmp_path / 'run'}", "data.test=null")
    for command in (["train", "stage=teacher"], ["score"], ["select"], ["run"]):
        done = bsssl(*command, *common)
        assert done.status == 0, done.err
    assert "no network is tested: there is no data.test" in done.out
    assert "No network is tested: there is no test set" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "seed-0" / "pretrain" / "model.safetensors").exists()
    assert "error: there is no test set; set data.test" in bsssl("evaluate", *common).err
    assert "there is none; set data.test" in bsssl("sweep", *common, "select.top_k=2,4").err


def test_stored_views_of_a_pool_without_one_label(bsssl, unlabeled, tmp_path):
    views = ("pretrain.targets=soft", "pretrain.soft_views=2", "score.top_p=1")
    common = ("--config", unlabeled, f"output_dir={tmp_path / 'run'}", *views)
    for command in (["train", "stage=teacher"], ["score"], ["select"], ["train", "stage=pretrain"]):
        done = bsssl(*command, *common)
        assert done.status == 0, done.err
    seed = tmp_path / "run" / "seed-0"
    stored = np.load(seed / "views" / "000000.npy")["class"][:, :, 0]
    records, classes = selected_training_set(str(seed / "select" / "selection.parquet"), mode="multi")
    assert isinstance(classes, SparseTargets) and len(classes.classes) == len(records)
    assert stored.tolist() == [[number, number] for number in classes.classes]  # the crops are the whole pictures
    assert bsssl("run", *common, "rounds=2").status == 0
    assert json.loads((seed / "views-2" / "done.json").read_text())["read"].keys() == {"data", "selection", "teacher"}
    plan = bsssl("run", *common, "--plan", "teacher.zeroshot.templates=['{}']").out
    assert "to do (teacher.zeroshot.templates: " in plan


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "stage=finetune"], "finetune needs labels, and there is no data.train"),
        (["evaluate", "stage=baseline"], "baseline needs labels, and there is no data.train"),
        (["train", "stage=teacher", "models.teacher=null", "score.given=a.parquet"], "there is no teacher: score."),
    ],
)
def test_stages_that_are_not_there(bsssl, unlabeled, tmp_path, command, message):
    outcome = bsssl(*command, "--config", unlabeled, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1 and len(outcome.errors) == 1
    assert message in outcome.errors[0]


def test_other_teachers_without_labels(bsssl, unlabeled, tmp_path):
    """What a zero-shot teacher left is a teacher as it is; its scores, taken out, are in the place of one."""
    first = tmp_path / "first" / "seed-0"
    for command in (["train", "stage=teacher"], ["score"], ["select"]):
        assert bsssl(*command, "--config", unlabeled, f"output_dir={tmp_path / 'first'}").status == 0
    assert bsssl("scores", first / "score", "--to", tmp_path / "scores.parquet").status == 0
    as_it_is = (f"models.teacher.name=local-dir:{first / 'teacher'}", "teacher.mode=null", "teacher.length=0 epochs")
    given = ("models.teacher=null", f"score.given={tmp_path / 'scores.parquet'}")
    for run, overrides in (("as_it_is", as_it_is), ("given", given)):
        common = ("--config", unlabeled, f"output_dir={tmp_path / run}", *overrides)
        for command in (
            [*(["train", "stage=teacher"] if run == "as_it_is" else [])],
            ["contents"],
            ["score"],
            ["select"],
        ):
            assert not command or bsssl(*command, *common).status == 0
        ours, theirs = (
            pq.read_table(folder / "select" / "selection.parquet") for folder in (first, tmp_path / run / "seed-0")
        )
        assert ours.to_pylist() == theirs.to_pylist()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["teacher.zeroshot.templates=[a photo]"],
            "templates: 'a photo' has no {}, which stands for the class; add it",
        ),
        (["models.teacher.name=small_resnet"], "teacher (small_resnet) knows no class by its name; set models.teacher"),
        (["models.teacher.name=open_clip/ViT-B-32"], "teacher.mode is zeroshot, but teacher has no weights; set"),
        (["data.classes=[circle, square]"], "data: the classes are those of train; take out classes or train"),
        (["data.train=null"], "train is missing; name the labeled items or, for a pool without one label, the classes"),
    ],
)
def test_what_cannot_be_is_one_line(bsssl, zero_shot, tmp_path, overrides, message):
    outcome = bsssl("run", "--config", zero_shot, f"output_dir={tmp_path / 'run'}", *overrides)
    assert outcome.status == 1 and len(outcome.errors) == 1
    assert message in outcome.errors[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.mode=probe", "there are no labels that teacher could be trained on: set teacher.mode=zeroshot, or"),
        ("ceiling.length=1 steps", "ceiling needs labels, and there is no data.train; take it out"),
        ("pretrain.with_labels=true", "pretrain.with_labels needs labels, and there is no data.train; take it out"),
        ("select.top_k=auto", "select.top_k: auto needs labels, and there is no data.train; take it out"),
        ("data.labels_per_class=2", "labels_per_class is about labels, of which there are none; take it out"),
        ("data.classes=[circle, circle]", "classes: 'circle' is there twice; give each class a name of its own"),
        ("data.classes=[circle, 'circle ']", "classes: 'circle' is there twice; give each class a name of its own"),
        ("data.classes=[circle, ' ']", "classes: a name is empty; give each class a name"),
        ("data.num_classes=4", "num_classes (4) is not that of classes (3); take it out"),
        ("score.top_p=4", "score.top_p (4) is above data.classes (3); lower it"),
    ],
)
def test_what_cannot_be_without_labels_is_one_line(bsssl, unlabeled, tmp_path, override, message):
    outcome = bsssl("run", "--config", unlabeled, f"output_dir={tmp_path / 'run'}", override)
    assert outcome.status == 1 and len(outcome.errors) == 1
    assert message in outcome.errors[0]
