"""A pre-trained teacher with its own eyes, and a student with others, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image
from torch import nn

from bsssl import load
from bsssl.config import load_config
from bsssl.data import Normalize
from bsssl.models.weights.folder import describe
from bsssl.pipeline.stage import identifying
from bsssl.recipes import teacher_student

TRANSFORMS = {"size": 48, "resize": 54, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bicubic"}


@pytest.fixture(scope="session")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network of timm and how it sees pictures, as a hub would have it."""
    folder = tmp_path_factory.mktemp("foundation")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    described = describe("timm/test_resnet", {}, classes=list("abcdefg"), transforms=TRANSFORMS)
    (folder / "config.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def pretrained(recipe: Any, foundation: Path, tmp_path: Path) -> Path:
    """The recipe with the pre-trained network as a frozen teacher."""
    return with_teacher(recipe, tmp_path, f"local-dir:{foundation}", {"mode": "probe"})


def with_teacher(recipe: Any, folder: Path, name: str, teacher: dict[str, Any]) -> Path:
    """The recipe with another teacher."""
    models = {**recipe.values["models"], "teacher": {"name": name}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**recipe.values, "models": models, "teacher": teacher}))
    return path


def scores_by_timm(folder: Path, paths: list[Path]) -> np.ndarray:
    """Softmax scores as a stranger gets them, who has the folder and timm alone."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    inputs = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    with torch.inference_mode():
        return network(inputs).softmax(1).numpy()  # type: ignore[no-any-return]


def test_teacher_and_student_each_have_their_own_eyes(bsssl, recipe, pretrained, tmp_path):
    assert bsssl("run", "--config", pretrained, f"output_dir={tmp_path / 'run'}").status == 0
    seed = tmp_path / "run" / "seed-0"
    config = json.loads((seed / "teacher" / "config.json").read_text())
    assert config["architecture"] == "test_resnet" and config["label_names"] == ["circle", "square", "triangle"]
    assert config["pretrained_cfg"]["input_size"] == [3, 48, 48]
    student = json.loads((seed / "finetune" / "config.json").read_text())
    assert student["pretrained_cfg"]["input_size"] == [3, 16, 16] and student["architecture"] == "small_resnet"
    predictions = pq.read_table(seed / "evaluate-teacher" / "predictions.parquet").to_pydict()
    theirs = scores_by_timm(seed / "teacher", [recipe.folder / "test" / key for key in predictions["key"]])
    best = [score[0] for score in predictions["top_scores"]]
    np.testing.assert_allclose(theirs.max(1), best, atol=0.02)  # Pillow and torch resize to within a grey level
    model, paths = load(seed / "teacher"), [recipe.folder / "test" / key for key in predictions["key"]]
    in_memory = model.predict_probabilities(Image.open(path) for path in paths)
    np.testing.assert_allclose(in_memory.max(1), best, atol=1e-5)
    assert model.preprocessing.interpolation == "bicubic"


def fitted(seed: Path) -> dict[str, torch.Tensor]:
    """The weights of the teacher of a run."""
    return safetensors.torch.load_file(seed / "teacher" / "model.safetensors")


def test_other_settings_of_the_classifier_fit_again_to_the_same_features(bsssl, pretrained, tmp_path):
    common = ("train", "stage=teacher", "--config", pretrained, f"output_dir={tmp_path / 'run'}")
    assert bsssl(*common).status == 0
    seed = tmp_path / "run" / "seed-0"
    kept = safetensors.torch.load_file(seed / "features-teacher" / "features.safetensors")
    assert kept["features"].shape[0] == 12 and kept["rows"].tolist() == list(range(12))
    first = fitted(seed)
    again = bsssl(*common, "teacher.probe={c_values: [0.5, 5], holdout: 0.4}")
    assert again.status == 0, again.err
    assert "features-teacher is done already" in again.err
    assert "teacher (teacher.probe.c_values" in again.err
    other = fitted(seed)
    assert [name for name in first if not torch.equal(first[name], other[name])] == ["fc.bias", "fc.weight"]


def test_a_classifier_on_kept_features_is_the_one_on_features_of_its_own(
    bsssl, pretrained, recipe, foundation, tmp_path
):
    """The transfer computes the features in the stage that fits to them."""
    assert bsssl("train", "stage=teacher", "--config", pretrained, f"output_dir={tmp_path / 'run'}").status == 0
    labeled = {"dataset": "manifest", "path": str(tmp_path / "run" / "seed-0" / "data" / "labeled.csv")}
    values = {
        "output_dir": str(tmp_path / "transfer"),
        "data": {"train": labeled, "test": recipe.values["data"]["test"]},
        "checkpoints": {"same": {"model": {"name": f"local-dir:{foundation}"}}},
        "full_ft": None,
        "system": recipe.values["system"],
    }
    (tmp_path / "transfer.yaml").write_text(yaml.safe_dump(values))
    done = bsssl("transfer", "--config", tmp_path / "transfer.yaml")
    assert done.status == 0, done.err
    ours = fitted(tmp_path / "run" / "seed-0")
    theirs = safetensors.torch.load_file(tmp_path / "transfer" / "seed-0" / "fc_only-same" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_plan_and_the_status_have_the_features(bsssl, pretrained, tmp_path):
    call = ("--config", pretrained, f"output_dir={tmp_path / 'run'}")
    assert bsssl("train", "stage=teacher", *call).status == 0
    lines = bsssl("run", *call, "--plan").out.splitlines()
    (features,) = (line for line in lines if line.startswith("features-teacher"))
    assert features.split() == ["features-teacher", "12", "8", "12", "done"]
    status = bsssl("status", tmp_path / "run").out
    assert "features-teacher" in status


def test_pictures_are_resized_as_the_weights_say(recipe, pretrained, foundation):
    stages = {stage.name: stage for stage in teacher_student.stages(load_config(str(pretrained), []), seed=0)}
    network = timm.create_model(f"local-dir:{foundation}", pretrained=True)
    path = next((recipe.folder / "test").glob("*/*.jpg"))
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(network))(Image.open(path))
    for name in ("evaluate-teacher", "score"):
        seen = stages[name].settings.seen
        pixels = seen.views(deadline=None)(path.read_bytes(), (None, None))[0]
        ours = Normalize(mean=seen.transforms.mean, std=seen.transforms.std)(pixels[None])[0]
        assert (ours - theirs).abs().mean() < 0.02  # bilinear, or other colours, are further off


def test_the_plan_shows_what_the_networks_start_from_and_see(bsssl, pretrained, foundation, tmp_path):
    out = bsssl("run", "--config", pretrained, f"output_dir={tmp_path / 'run'}", "--plan").out
    teacher, student = (
        next(line for line in out.splitlines() if line.startswith(name)) for name in ("teacher ", "student")
    )
    assert (
        f"local-dir:{foundation}" in teacher
        and "short side 54, centre crop to 48x48, bicubic, mean 0.5 0.4 0.3" in teacher
    )
    assert "scratch" in student and "whole pictures to 16x16" in student
    start = f"teacher.init_from={foundation / 'model.safetensors'}"
    out = bsssl("run", "--config", pretrained, f"output_dir={tmp_path / 'run'}", "--plan", start).out
    teacher = next(line for line in out.splitlines() if line.startswith("teacher "))
    assert f" {foundation / 'model.safetensors'} " in teacher and "local-dir:" not in teacher


@pytest.mark.parametrize(
    ("override", "size", "resize"),
    [("size=24", 24, 27), ("{size: 24, test_resize: 24}", 24, 24), ("mean=[0, 0, 0]", 48, 54)],
)
def test_the_config_overrides_what_weights_say(bsssl, pretrained, tmp_path, override, size, resize):
    key = "models.teacher.transforms"
    change = f"{key}={override}" if override.startswith("{") else f"{key}.{override}"
    done = bsssl("train", "stage=teacher", "--config", pretrained, f"output_dir={tmp_path / 'run'}", change)
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "run" / "seed-0" / "teacher" / "config.json").read_text())["pretrained_cfg"]
    assert config["input_size"][1] == size and int(size / config["crop_pct"]) == resize
    assert config["interpolation"] == "bicubic"
    assert config["mean"] == ([0, 0, 0] if "mean" in override else [0.5, 0.4, 0.3])


def test_a_folder_of_ours_is_a_network_too(bsssl, recipe, tmp_path):
    bsssl("train", "stage=baseline", "--config", recipe.config, f"output_dir={tmp_path / 'first'}")
    student = tmp_path / "first" / "seed-0" / "baseline"
    config = with_teacher(recipe, tmp_path, f"local-dir:{student}", {"length": "0 steps", "warmup": "0 steps"})
    common = ("--config", config, f"output_dir={tmp_path / 'run'}")
    assert bsssl("train", "stage=teacher", *common).status == 0
    weights = (tmp_path / "run" / "seed-0" / "teacher" / "model.safetensors").read_bytes()
    assert weights == (student / "model.safetensors").read_bytes()


def test_live_targets_depend_on_what_of_the_teachers_eyes_they_use(pretrained):
    def settings(*overrides: str) -> Any:
        config = load_config(str(pretrained), ["pretrain.targets=live", *overrides])
        stages = {stage.name: stage for stage in teacher_student.stages(config, seed=0)}
        return identifying(stages["pretrain"].settings)

    assert settings() == settings("models.teacher.transforms.test_resize=60")  # a crop is not cropped again
    assert settings() != settings("models.teacher.transforms={size: 32, test_resize: 54}")


def test_live_targets_and_labels_beside_the_selection(bsssl, pretrained, tmp_path):
    live = ("pretrain.targets=live", "finetune.targets=live", "pretrain.with_labels=true", "pretrain.mixup=0.2")
    done = bsssl("run", "--config", pretrained, f"output_dir={tmp_path / 'run'}", *live)
    assert done.status == 0, done.err
    seed = tmp_path / "run" / "seed-0"
    selected = set(pq.read_table(seed / "select" / "selection.parquet")["key"].to_pylist())
    assert json.loads((seed / "pretrain" / "done.json").read_text())["result"]["rows"] == len(selected) + 12
    # The same samples, seen alike, with the selection's own targets.
    own = (*live, "pretrain.targets=multi")
    weights = (seed / "pretrain" / "model.safetensors").read_bytes()
    common = ("train", "stage=pretrain", "--config", pretrained, f"output_dir={tmp_path / 'run'}")
    assert bsssl(*common, *own).status == 0
    assert (seed / "pretrain" / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models.teacher.name=small_resnet"], "teacher.mode is probe, but teacher has no weights; set"),
        (["teacher.mode=scratch"], "teacher.mode is scratch, but teacher is given weights"),
        (
            ["teacher.mode=finetune", "teacher.length=0 steps", "teacher.warmup=0 steps"],
            "the classifier of teacher was never trained, so that its scores would be random",
        ),
        (
            ["models.teacher.transforms.size=64", "models.teacher.transforms.test_resize=60"],
            "test_resize (60) is below",
        ),
        (
            ["models.teacher.transforms.test_resize=40"],
            "models.teacher.transforms: test_resize (40) is below size (48)",
        ),
        (
            ["models.student.transforms={size: 64, test_resize: 60}"],
            "models.student.transforms: test_resize (60) is below size (64)",
        ),
        (["models.teacher.weights=nothing.pth"], "models.teacher.weights: unknown weights 'nothing.pth'"),
        (["models.teacher.transforms.sise=64"], "models.teacher.transforms.sise"),
        (
            ["models.teacher.name=timm/resnet18.a9_in1k"],
            "models.teacher: unknown weights 'timm/resnet18.a9_in1k': timm's weights of resnet18 are timm/resnet18.a1",
        ),
        (
            ["models.teacher.weights=ResNet18_Weights.IMAGENET1K_V9"],
            "did you mean 'torchvision/ResNet18_Weights.IMAGENET1K_V1'?",
        ),
        (["models.teacher.options.num_classes=3"], "options.num_classes: the data says how many classes there are"),
        (
            ["models.teacher.options.pretrained=true"],
            "model 'timm/test_resnet' is built without weights: take pretrained out of its options",
        ),
        (
            ["models.teacher.options.features_only=true"],
            "model 'timm/test_resnet' gives list for an input, not a vector of 3 logits; choose a classifier",
        ),
        (
            ["models.student={name: timm/deit_tiny_patch16_224, transforms: {size: 32}}"],
            "model 'timm/deit_tiny_patch16_224' cannot take inputs of 3x32x32 (Input height (32) doesn't match model",
        ),
        (["models.student.weights=timm/resnet18.a9_in1k"], "models.student: unknown weights 'timm/resnet18.a9_in1k'"),
        (["models.student={name: small_resnet, pretrained: true}"], "no pre-trained weights of 'small_resnet'"),
    ],
)
def test_what_cannot_be_is_one_line(bsssl, pretrained, tmp_path, overrides, message):
    outcome = bsssl("run", "--config", pretrained, f"output_dir={tmp_path / 'run'}", *overrides)
    assert outcome.status == 1
    assert message in outcome.errors[0] and len(outcome.errors) == 1


def left_by(network: nn.Module, folder: Path, **said: Any) -> str:
    """The name of a folder with a network, and a description of it with other values than the right ones."""
    folder.mkdir()
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    classes = [f"class {number}" for number in range(network.num_classes)]
    described = describe("timm/test_resnet", {}, classes=classes, transforms=TRANSFORMS)
    (folder / "config.json").write_text(json.dumps({**described, **said}))
    return f"local-dir:{folder}"


UNTRAINED = {"mode": "finetune", "length": "0 steps", "warmup": "0 steps"}


@pytest.mark.parametrize(
    ("said", "count", "teacher", "message"),
    [
        ({"architecture": "test_resnt"}, 3, {}, "timm has no 'test_resnt': did you mean 'test_resnet'? "),
        ({"architecture": 1}, 3, {}, "its config.json names no architecture; give a folder that timm or "),
        (
            {"architecture": "resnet18"},
            3,
            {},
            "is of another architecture: 9 of its 90 tensors match the network's 122",
        ),
        ({"model_args": {"widht": 3}}, 3, {}, "model 'timm/test_resnet' cannot be made with options {'widht': 3}: "),
        ({"pretrained_cfg": []}, 3, {}, "its config.json is not as timm writes it ("),
        ({"pretrained_cfg": {"input_size": 48}}, 3, {}, "its config.json is not as timm writes it ("),
        (
            {"pretrained_cfg": {"mean": [0.5, "red", 0.5]}},
            3,
            {},
            "models.teacher: how its weights see pictures: mean.1",
        ),
        ({}, 2, UNTRAINED, "the classifier of teacher was never trained, so that its scores would be random; set "),
        (
            {"label_names": ["circle", "square", "triangle"], "num_classes": 3},
            2,
            UNTRAINED,
            "has 2 classes and the net",
        ),
    ],
)
def test_folders_that_cannot_be(bsssl, recipe, tmp_path, said, count, teacher, message):
    name = left_by(timm.create_model("test_resnet", num_classes=count), tmp_path / "theirs", **said)
    config = with_teacher(recipe, tmp_path, name, {"mode": "probe", **teacher})
    outcome = bsssl("run", "--config", config, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1
    assert message in outcome.errors[0] and len(outcome.errors) == 1


def test_a_student_that_was_never_trained_teaches_no_next_round(bsssl, recipe, tmp_path):
    none = [f"{section}.{key}=0 steps" for section in ("pretrain", "finetune") for key in ("length", "warmup")]
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", "rounds=2", *none)
    assert outcome.status == 1
    (error,) = outcome.errors
    assert error.startswith("error: the classifier of finetune was never trained, so that its scores would be random; ")
    assert "set finetune.length" in error and not (tmp_path / "run/seed-0/score-2/done.json").exists()


@pytest.mark.parametrize(
    ("lost", "message"),
    [("config.json", "there is no "), ("model.safetensors", " has no model.safetensors; give a folder with one, or ")],
)
def test_folders_that_lack_something(bsssl, recipe, tmp_path, lost, message):
    name = left_by(timm.create_model("test_resnet", num_classes=3), tmp_path / "theirs")
    (tmp_path / "theirs" / lost).unlink()
    config = with_teacher(recipe, tmp_path, name, {"mode": "probe"})
    outcome = bsssl("run", "--config", config, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1 and message in outcome.errors[0] and len(outcome.errors) == 1


def test_a_network_whose_features_are_no_vector(bsssl, recipe, tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=48, depth=1, num_heads=1, embed_dim=8)
    options = {"img_size": 48, "depth": 1, "num_heads": 1, "embed_dim": 8}
    for architecture, more, message in (
        ("vit_tiny_patch16_224", {"global_pool": ""}, "gives 1x10x3 for an input, not a vector of 3 logits"),
        ("deit_tiny_distilled_patch16_224", {}, "models.teacher: VisionTransformerDistilled has no single linear"),
    ):
        folder = tmp_path / architecture
        name = left_by(network, folder, architecture=architecture, model_args={**options, **more})
        config = with_teacher(recipe, tmp_path, name, {"mode": "probe"})
        outcome = bsssl("run", "--config", config, f"output_dir={tmp_path / 'run'}")
        assert outcome.status == 1 and message in outcome.errors[0] and len(outcome.errors) == 1


def test_networks_of_one_size_are_told_apart(bsssl, recipe, tmp_path):
    (tmp_path / "vit").mkdir()
    network = timm.create_model("test_vit", num_classes=3)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "vit" / "model.safetensors")
    described = describe(
        "timm/test_vit", {}, classes=["x", "y", "z"], transforms={**TRANSFORMS, "size": 160, "resize": 160}
    )
    described["pretrained_cfg"]["fixed_input_size"] = True
    (tmp_path / "vit" / "config.json").write_text(json.dumps(described))
    config = with_teacher(recipe, tmp_path, f"local-dir:{tmp_path / 'vit'}", {"mode": "probe"})
    common = ("train", "stage=teacher", "--config", config, f"output_dir={tmp_path / 'run'}")
    refused = bsssl(*common, "models.teacher.transforms.size=32")
    assert (
        "timm/test_vit takes pictures of 160x160 alone, not of 32x32; set models.teacher.transforms.size=160, or "
        "models.teacher.options.img_size=32 too" in refused.err
    )
    done = bsssl(*common, "models.teacher.transforms.size=32", "models.teacher.options.img_size=32")
    assert done.status == 0, done.err


def test_several_teachers_are_averaged_each_in_its_own_eyes(bsssl, recipe, foundation, tmp_path):
    first, second = {"name": f"local-dir:{foundation}"}, recipe.values["models"]["student"]
    models = {**recipe.values["models"], "teacher": [first, second]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**recipe.values, "models": models, "score": {"top_p": 3}}))
    live = ("pretrain.targets=live", "pretrain.temperature=2")
    done = bsssl("run", "--config", tmp_path / "two.yaml", f"output_dir={tmp_path / 'run'}", *live)
    assert done.status == 0, done.err
    seed = tmp_path / "run" / "seed-0"
    assert (seed / "evaluate-teacher-2" / "metrics.json").exists()
    written = bsssl("scores", seed / "score", "--to", tmp_path / "both.parquet")
    assert written.status == 0, written.err
    both, single = scores_of(tmp_path / "both.parquet"), []
    for number, model in ((1, first), (2, second)):
        alone = {**recipe.values["models"], "teacher": model}
        config, folder = tmp_path / f"single-{number}.yaml", tmp_path / f"single-{number}"
        config.write_text(yaml.safe_dump({**recipe.values, "models": alone, "score": {"top_p": 3}}))
        (folder / "seed-0").mkdir(parents=True)
        shutil.copytree(seed / "data", folder / "seed-0" / "data")
        assert bsssl("train", "stage=teacher", "--config", config, f"output_dir={folder}").status == 0
        assert bsssl("score", "--config", config, f"output_dir={folder}").status == 0
        assert bsssl("scores", folder / "seed-0" / "score", "--to", folder / "scores.parquet").status == 0
        single.append(scores_of(folder / "scores.parquet"))
    assert both.keys() == single[0].keys() == single[1].keys()
    expected = [(single[0][pair] + single[1][pair]) / 2 for pair in both]
    np.testing.assert_allclose(list(both.values()), expected, atol=1e-6)


def test_several_frozen_teachers_stored_views_and_a_chosen_k(bsssl, recipe, foundation, tmp_path):
    teachers = [{"name": f"local-dir:{foundation}", "transforms": {"size": size}} for size in (48, 32)]
    values = {**recipe.values, "teacher": {"mode": "probe"}, "select": {"top_k": "auto", "grid": [2, 6]}}
    values["models"] = {**recipe.values["models"], "teacher": teachers}
    values["pretrain"] = {**recipe.values["pretrain"], "targets": "soft", "soft_views": 2}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(values))
    call = ("run", "--config", tmp_path / "both.yaml", f"output_dir={tmp_path / 'run'}")
    done = bsssl(*call)
    assert done.status == 0, done.err
    assert "whose result is copied" not in done.err  # the candidates are taught by scores of whole pictures
    seed = tmp_path / "run" / "seed-0"
    read = json.loads((seed / "views" / "done.json").read_text())["read"]
    assert read.keys() == {"data", "selection", "teacher", "teacher-2"}
    assert read["teacher"] != read["teacher-2"]
    plan = bsssl(*call, "--plan", "teacher.probe.c_values=[1]").out.splitlines()
    todo = [line.split()[0] for line in plan if "to do" in line]
    assert todo == ["teacher", "teacher-2"]  # with features that are kept


@pytest.mark.parametrize("key", ["teacher.init_from", "models.teacher.weights"])
def test_one_of_several_sets_of_weights_is_chosen(bsssl, recipe, finished, tmp_path, key):
    """The file also holds weights of another network, and is a part of what the record says was read."""
    state = safetensors.torch.load_file(finished / "seed-0" / "teacher" / "model.safetensors")
    noise = {name: torch.randn_like(value.float()) for name, value in state.items()}
    file = tmp_path / "a#b.pth"
    torch.save({"model": state, "model_ema": noise}, file)
    common = ("train", "stage=teacher", "--config", recipe.config, f"output_dir={tmp_path / 'run'}")
    chosen = (*common, "teacher.length=0 epochs", f"{key}={file}#model")
    assert bsssl(*chosen).status == 0
    loaded = safetensors.torch.load_file(tmp_path / "run" / "seed-0" / "teacher" / "model.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    torch.save({"model": noise, "model_ema": state}, file)
    assert " has changed)" in bsssl(*chosen).err
    assert "has no weights under 'modl': did you mean 'model'?" in bsssl(*common, f"{key}={file}#modl").errors[0]


def scores_of(path: Path) -> dict[tuple[str, str], float]:
    """The scores in a Parquet file by (key, class)."""
    table = pq.read_table(path).to_pydict()
    return dict(zip(zip(table["key"], table["class"], strict=True), table["score"], strict=True))


def test_scores_from_elsewhere_stand_for_a_teacher(bsssl, recipe, finished, tmp_path):
    """What a teacher said, taken out as Parquet and in again, makes the same selection."""
    exported = tmp_path / "scores.parquet"
    assert bsssl("scores", finished / "seed-0" / "score", "--to", exported).status == 0
    refused = bsssl("scores", finished / "seed-0" / "score", "--to", tmp_path / "scores.csv")
    assert "scores.csv: scores are written as Parquet; give the file a name that ends in .parquet" in refused.errors[0]
    models = {"student": recipe.values["models"]["student"]}
    values = {**recipe.values, "models": models, "score": {"top_p": 2, "given": str(exported)}}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(values))
    done = bsssl("run", "--config", tmp_path / "given.yaml", f"output_dir={tmp_path / 'again'}")
    assert done.status == 0, done.err
    ours, theirs = (
        pq.read_table(folder / "seed-0" / "select" / "selection.parquet") for folder in (tmp_path / "again", finished)
    )
    assert ours.to_pylist() == theirs.to_pylist()
    assert not (tmp_path / "again" / "seed-0" / "teacher").exists()
    assert "has no scores of 1 of the pool's 52 items" in done.err


def test_copies_of_test_items_in_the_pool_of_given_scores_are_refused(given, recipe, tmp_path):
    shutil.copytree(recipe.folder / "loose", tmp_path / "loose")
    shutil.copy(recipe.folder / "test" / "circle" / "0.jpg", tmp_path / "loose" / "another name.jpg")
    pool = json.dumps([{"dataset": "folder", "path": str(tmp_path / "loose")}])
    error = given(PAIR, f"data.pool={pool}", "data.max_failure_rate=0.1")
    assert "the pool holds 1 copies of labeled or test items (such as another name.jpg of circle/0.jpg; " in error


def test_labeled_items_in_the_pool_of_given_scores_are_refused(given, recipe):
    folder = json.dumps([{"dataset": "folder", "path": str(recipe.folder / "train")}])
    assert "the pool contains 12 labeled or test items (such as " in given(PAIR, f"data.pool={folder}")


@pytest.fixture
def given(bsssl, recipe, tmp_path):
    """``given(rows)``: the errors of selecting by a file of these rows."""

    def call(rows: dict[str, list[Any]] | bytes, *overrides: str) -> str:
        path = tmp_path / "scores.parquet"
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            pq.write_table(pa.table(rows), path)
        models = {"student": recipe.values["models"]["student"]}
        values = {**recipe.values, "models": models, "score": {"top_p": 2, "given": str(path)}}
        (tmp_path / "given.yaml").write_text(yaml.safe_dump(values))
        outcome = bsssl("run", "--config", tmp_path / "given.yaml", f"output_dir={tmp_path / 'run'}", *overrides)
        assert outcome.status == 1 and len(outcome.errors) == 1
        return outcome.errors[0]

    return call


PAIR = {"key": ["00-circle.jpg", "00-circle.jpg"], "class": ["circle", "square"], "score": [0.9, 0.1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": ["nothing.jpg", "00-circle.jpg"]}, "1 names are no item of the pool, such as 'nothing.jpg'"),
        ({"class": ["circle", "blob"]}, "1 names are no class, such as 'blob'"),
        ({"score": [float("nan"), 0.1]}, "the score of '00-circle.jpg' for class 'circle' is nan, not in 0..1"),
        ({"score": [1.5, 0.1]}, "is 1.5, not in 0..1"),
        ({"class": ["circle", "circle"]}, "there are two scores of '00-circle.jpg' for class 'circle'"),
        ({"key": ["00-circle.jpg", "01-square.jpg"]}, "has scores for 1 classes, fewer than score.top_p=2"),
        ({"key": [None, "00-circle.jpg"]}, "key is empty in 1 rows"),
        (
            {"score": [0.0, 0.0]},
            "all scores of '00-circle.jpg' are 0 (1 items in all); leave out the rows of what is of",
        ),
        ({"key": [], "class": [], "score": []}, "has no rows"),
        ({"score": ["high", "low"]}, "must have text as key and class, and a number as score"),
    ],
)
def test_given_scores_that_cannot_be(given, change, message):
    assert message in given({**PAIR, **change})


def test_given_files_that_are_none(given):
    assert "score.top_p (4) is above data.num_classes (3); lower it" in given(PAIR, "score.top_p=4")
    assert "score.top_p (4) is above the 3 classes of data.train" in given(
        PAIR, "score.top_p=4", "data.num_classes=null"
    )
    assert "is not a readable Parquet file" in given(b"nothing")
    assert "has no column score; it has key, class" in given({name: PAIR[name] for name in ("key", "class")})
    assert "models.teacher is missing" in given(PAIR, "score.given=null")
    assert "score.given: there is no /nowhere.parquet; correct the path" in given(PAIR, "score.given=/nowhere.parquet")
    assert "targets: live needs a teacher" in given(PAIR, "pretrain.targets=live")
