"""The transfer of checkpoints to another labeled set, through the command line."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bsssl.config import Transfer, load_config
from bsssl.data import hold_out
from bsssl.models import build_model
from tests.processes import run_to_end

NETWORK = {"name": "small_resnet", "options": {"width": 4, "blocks": [1]}}
CLASSES = ("001.Disc", "002.Box", "003.Tent")
TRAIN, TEST = 6, 4  # images per class


@pytest.fixture
def cub(tmp_path, draw):
    """Shapes in CUB's layout: its folder."""
    folder, lines = tmp_path / "cub", {"images": [], "image_class_labels": [], "train_test_split": []}
    for number, (name, shape) in enumerate(zip(CLASSES, ("circle", "square", "triangle"), strict=True), start=1):
        (folder / "images" / name).mkdir(parents=True)
        for seed in range(TRAIN + TEST):
            draw(shape, seed=700 + seed).save(folder / "images" / name / f"{seed}.png")
            image = len(lines["images"]) + 1
            lines["images"].append(f"{image} {name}/{seed}.png")
            lines["image_class_labels"].append(f"{image} {number}")
            lines["train_test_split"].append(f"{image} {int(seed < TRAIN)}")
    lines["classes"] = [f"{number} {name}" for number, name in enumerate(CLASSES, start=1)]
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def config(cub, finished_once, tmp_path):
    """A transfer of the finished recipe's student and of one from scratch."""
    values = {
        "output_dir": str(tmp_path / "out"),
        "data": {
            "train": {"dataset": "cub", "path": str(cub), "options": {"part": "train"}},
            "test": {"dataset": "cub", "path": str(cub), "options": {"part": "test"}},
            "transforms": {"size": 16, "train_crop": "none", "flip": False},
        },
        "checkpoints": {
            "semi": str(finished_once / "seed-0" / "finetune"),
            "scratch": {"model": NETWORK},
        },
        "full_ft": {"length": "6 steps", "batch_size": 6, "base_lr": 1.0},
        "fc_only": {"c_values": [0.001, 0.1, 10.0]},
        "batch_size": 8,
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    path = tmp_path / "transfer.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def transfer(bsssl, config):
    """The command on that config."""
    return lambda *overrides: bsssl("transfer", "--config", config, *overrides)


@pytest.fixture
def refused(transfer, tmp_path):
    """The one error line of a call that must fail."""

    def call(*overrides):
        outcome = transfer(*overrides)
        assert outcome.status == 1 and len(outcome.errors) == 1, outcome.err
        assert "Traceback" not in outcome.err and not outcome.out
        assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "out" / "transfer.json").exists()
        return outcome.errors[0].removeprefix("error: ")

    return call


def test_both_settings_of_every_checkpoint(transfer, config, tmp_path):
    outcome = transfer("seeds=2")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["checkpoint", "full-ft", "top-1", "%", "fc-only", "top-1", "%", "C"]
    assert [line.split()[0] for line in lines[1:3]] == ["semi", "scratch"]
    assert lines[3] == "3 classes, 18 items to train on, 12 to test on"
    assert lines[4] == ("preprocessing: whole pictures to 16x16, mean 0.485 0.456 0.406, std 0.229 0.224 0.225")
    assert "seeds: 0, 1" in lines and lines[-1].startswith("transfer.json, transfer.csv, transfer.md and transfer.png")

    out = tmp_path / "out"
    found = json.loads((out / "transfer.json").read_text())
    assert list(found["checkpoints"]) == ["semi", "scratch"] and found["seeds"] == [0, 1]
    assert found["checkpoints"]["semi"]["preprocessing"]["transforms"]["size"] == 16
    for name, one in found["checkpoints"].items():
        for section in ("full_ft", "fc_only"):
            metrics = [
                json.loads((out / f"seed-{seed}" / f"evaluate-{section}-{name}" / "metrics.json").read_text())
                for seed in (0, 1)
            ]
            assert one[section]["per_seed"] == [round(one["top1"], 2) for one in metrics]
            assert one[section]["std"] >= 0
    assert found["checkpoints"]["semi"]["fc_only"]["top1"] > 60  # it knows the three shapes
    with open(out / "transfer.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["checkpoint"] for row in rows] == ["semi", "scratch"]
    assert float(rows[0]["fc_only top1"]) == found["checkpoints"]["semi"]["fc_only"]["top1"]
    assert rows[0]["size"] == "16" and rows[0]["mean"] == "0.485 0.456 0.406"
    assert (out / "transfer.md").read_text().startswith("| checkpoint | full-ft top-1 % | fc-only top-1 % | C |")
    assert (out / "transfer.png").stat().st_size > 5000
    predictions = out / "seed-0" / "evaluate-fc_only-semi"
    assert (predictions / "per_class.csv").exists() and (predictions / "predictions.parquet").exists()

    resolved = load_config(str(out / "seed-1" / "config.yaml"), [], Transfer)
    assert resolved == load_config(str(config), ["seeds=2"], Transfer)

    again = transfer("seeds=2")
    assert again.out == outcome.out and again.err.count("is done already") == 2 * 9


def test_fixed_features_stay_and_the_classifier_is_the_networks(transfer, finished_once, tmp_path):
    assert transfer("full_ft=null").status == 0
    assert not list((tmp_path / "out" / "seed-0").glob("*full_ft*"))
    before = load_file(finished_once / "seed-0" / "finetune" / "model.safetensors")
    after = load_file(tmp_path / "out" / "seed-0" / "fc_only-semi" / "model.safetensors")
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["fc.bias", "fc.weight"]
    result = json.loads((tmp_path / "out" / "seed-0" / "fc_only-semi" / "done.json").read_text())["result"]
    assert result["rows"] == 18 and result["features"] == 4 and result["converged"]
    assert [one["c"] for one in result["tried"]] == [0.001, 0.1, 10.0]
    best = max(result["tried"], key=lambda one: (one["holdout_top1"], -one["holdout_loss"]))
    assert result["c"] == best["c"]


def test_the_test_part_chooses_nothing(transfer, cub, tmp_path):
    weights = tmp_path / "out" / "seed-0" / "fc_only-semi" / "model.safetensors"
    assert transfer("full_ft=null").status == 0
    expected = weights.read_bytes()
    labels = [line.split() for line in (cub / "image_class_labels.txt").read_text().splitlines()]
    tested = {
        line.split()[0] for line in (cub / "train_test_split.txt").read_text().splitlines() if line.endswith(" 0")
    }
    moved = [(image, str(int(label) % 3 + 1) if image in tested else label) for image, label in labels]
    (cub / "image_class_labels.txt").write_text("".join(f"{image} {label}\n" for image, label in moved))
    shutil.rmtree(tmp_path / "out")
    assert transfer("full_ft=null").status == 0
    assert weights.read_bytes() == expected


def test_full_fine_tuning_starts_from_the_checkpoint_with_a_new_classifier(transfer, config, tmp_path):
    assert transfer("fc_only=null", "full_ft.length=0 epochs").status == 0
    values = yaml.safe_load(config.read_text())
    source = Path(values["checkpoints"]["semi"]) / "model.safetensors"
    start, trained = load_file(source), load_file(tmp_path / "out" / "seed-0" / "full_ft-semi" / "model.safetensors")
    assert all(torch.equal(start[name], trained[name]) for name in start if not name.startswith("fc."))
    assert not torch.equal(start["fc.weight"], trained["fc.weight"])
    assert transfer("fc_only=null", f"output_dir={tmp_path / 'more'}").status == 0
    trained = load_file(tmp_path / "more" / "seed-0" / "full_ft-semi" / "model.safetensors")
    assert not torch.equal(start["conv1.weight"], trained["conv1.weight"])


def test_classes_of_the_same_names_get_a_new_classifier_too(transfer, recipe, config, tmp_path):
    same = [f"data.{part}={{dataset: folder, path: {recipe.folder / part}}}" for part in ("train", "test")]
    assert transfer("fc_only=null", "full_ft.length=0 epochs", *same).status == 0
    start = load_file(Path(yaml.safe_load(config.read_text())["checkpoints"]["semi"]) / "model.safetensors")
    trained = load_file(tmp_path / "out" / "seed-0" / "full_ft-semi" / "model.safetensors")
    assert not torch.equal(start["fc.weight"], trained["fc.weight"])


def test_held_out_items_are_a_share_of_every_class():
    targets = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    held = hold_out(targets, share=0.2, seed=0)
    assert [int(held[targets == target].sum()) for target in range(4)] == [10, 2, 1, 0]
    assert (held == hold_out(targets, share=0.2, seed=0)).all()
    assert (held != hold_out(targets, share=0.2, seed=1)).any()


def test_a_checkpoint_of_each_seed_and_a_file_with_its_model(transfer, finished_once, tmp_path):
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"seed-{seed}" / "finetune"
        shutil.copytree(finished_once / "seed-0" / ("finetune", "pretrain")[seed], folder)
    model = build_model(NETWORK["name"], num_classes=7, **NETWORK["options"])
    torch.save(model.state_dict(), tmp_path / "other.pth")
    each = f"checkpoints.semi={tmp_path}/runs/seed-{{seed}}/finetune"
    other = f"checkpoints.other={{init_from: {tmp_path / 'other.pth'}, model: {json.dumps(NETWORK)}}}"
    assert transfer(each, other, "full_ft=null", "seeds=2").status == 0
    for seed, stage in enumerate(("finetune", "pretrain")):
        before = load_file(finished_once / "seed-0" / stage / "model.safetensors")
        after = load_file(tmp_path / "out" / f"seed-{seed}" / "fc_only-semi" / "model.safetensors")
        assert torch.equal(before["conv1.weight"], after["conv1.weight"])
    after = load_file(tmp_path / "out" / "seed-1" / "fc_only-other" / "model.safetensors")
    assert torch.equal(model.state_dict()["conv1.weight"], after["conv1.weight"])


def test_the_plan(transfer, config, tmp_path):
    planned = transfer("--plan")
    assert planned.status == 0, planned.err
    lines = planned.out.splitlines()
    assert [line.split()[:2] for line in lines[3:5]] == [["semi", "small_resnet"], ["scratch", "small_resnet"]]
    assert "seed-0" in lines[3] and " scratch " not in lines[3]
    assert [line.split()[:2] for line in lines[7:]][:3] == [
        ["data", "30"],
        ["full_ft-semi", "18"],
        ["evaluate-full_ft-semi", "12"],
    ]
    assert not (tmp_path / "out").exists()


def seen_by(transfer, checkpoint, *overrides):
    """What the plan says that a checkpoint sees."""
    out = transfer("--plan", *overrides).out
    return next(line for line in out.splitlines() if line.startswith(f"{checkpoint} "))


@pytest.fixture
def student(recipe, bsssl, tmp_path):
    """The folder of a student that sees pictures otherwise than by default."""
    transforms = "data.transforms={size: 20, test_resize: 24, interpolation: bicubic, mean: [0.5, 0.4, 0.3]}"
    call = ("train", "stage=baseline", "--config", recipe.config, f"output_dir={tmp_path / 'student'}", transforms)
    done = bsssl(*call, "baseline.length=0 steps", "baseline.warmup=0 steps")
    assert done.status == 0, done.err
    return tmp_path / "student" / "seed-0" / "baseline"


OWN = "short side 24, centre crop to 20x20, bicubic, mean 0.5 0.4 0.3"


@pytest.mark.parametrize("copied", [False, True])
def test_a_checkpoint_sees_pictures_as_it_was_trained_to(transfer, config, student, tmp_path, copied):
    if copied:  # without the record of its stage
        student = Path(shutil.copytree(student, tmp_path / "copied", ignore=shutil.ignore_patterns("done.json")))
    values = yaml.safe_load(config.read_text())
    values["data"]["transforms"] = {"train_crop": "none"}
    values["checkpoints"] = {"semi": str(student), "scratch": {"model": NETWORK}}
    config.write_text(yaml.safe_dump(values))
    assert OWN in seen_by(transfer, "semi")
    assert "whole pictures to 224x224, mean 0.485" in seen_by(transfer, "scratch")
    bigger = seen_by(transfer, "semi", "data.transforms.size=40")
    assert "short side 48, centre crop to 40x40, bicubic, mean 0.5 0.4 0.3" in bigger
    assert "to 20x20, bilinear" not in seen_by(transfer, "semi", "data.transforms.mean=[0, 0, 0]")
    one = {"init_from": str(student), "model": {**NETWORK, "transforms": {"size": 30}}}
    own = seen_by(transfer, "semi", f"checkpoints.semi={json.dumps(one)}", "data.transforms.size=40")
    assert "short side 36, centre crop to 30x30, bicubic" in own
    done = transfer("full_ft=null", "checkpoints.scratch=null")
    assert done.status == 0 and " was trained with mean " not in done.err
    described = json.loads((tmp_path / "out" / "seed-0" / "fc_only-semi" / "config.json").read_text())
    assert described["pretrained_cfg"]["input_size"] == [3, 20, 20]


def test_data_that_says_what_the_checkpoint_says_is_the_same_transfer(transfer, config, tmp_path):
    """What was done when the checkpoint did not say it."""
    assert transfer("full_ft=null").status == 0
    values = yaml.safe_load(config.read_text())
    values["data"]["transforms"] = {"train_crop": "none", "flip": False}
    del values["checkpoints"]["scratch"]
    config.write_text(yaml.safe_dump(values))
    assert transfer("full_ft=null").err.count("is done already") == 3


def test_values_that_do_not_go_together_are_one_line(refused, student):
    for size, resize in (({}, 20), ({"size": 15}, 15)):
        one = {"init_from": str(student), "model": {**NETWORK, "transforms": {**size, "test_resize": resize - 1}}}
        line = refused(f"checkpoints.semi={json.dumps(one)}", "data.transforms={size: 224}")
        assert line.startswith(
            f"checkpoints.semi.model.transforms: test_resize ({resize - 1}) is below size ({resize}); "
        )


def test_other_colours_than_the_checkpoint_saw_are_warned_of(transfer):
    colours = "data.transforms.mean=[0.5, 0.5, 0.5]"
    outcome = transfer("full_ft=null", colours)
    assert (
        "checkpoints.semi was trained with mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225], but "
        in outcome.err
    )
    assert outcome.err.count(" was trained with mean ") == 1
    assert " was trained with mean " not in transfer("full_ft=null").err


def test_the_best_c_at_the_edge_and_too_few_iterations_are_told(transfer):
    outcome = transfer("full_ft=null", "fc_only={c_values: [1.0e-7, 1.0e-6], max_iterations: 1}")
    assert outcome.status == 0
    assert "is at the edge of fc_only.c_values; widen them" in outcome.err and "not converged at C = " in outcome.err
    assert "C with a star: at the edge of fc_only.c_values, widen them" in outcome.out
    assert "not every fit of fc-only has converged: raise fc_only.max_iterations" in outcome.out


def test_a_value_of_c_that_was_cut_short_is_told_though_another_was_chosen(transfer, tmp_path):
    outcome = transfer("full_ft=null", "fc_only={c_values: [1.0e-9, 1.0e+4], max_iterations: 4}")
    assert outcome.status == 0, outcome.err
    result = json.loads((tmp_path / "out" / "seed-0" / "fc_only-scratch" / "done.json").read_text())["result"]
    assert [one["converged"] for one in result["tried"]] == [True, False]
    assert not result["converged"]


def test_one_value_of_c_is_not_chosen(transfer, tmp_path):
    outcome = transfer("full_ft=null", "fc_only.c_values=[0.5]")
    assert outcome.status == 0 and "edge" not in outcome.err
    assert "fc-only: standardised features, C given, fitted to all of them" in outcome.out
    result = json.loads((tmp_path / "out" / "seed-0" / "fc_only-semi" / "done.json").read_text())["result"]
    assert result["c"] == 0.5 and result["tried"] == []


def test_more_classes_than_features(transfer, tmp_path):
    model = {**NETWORK, "options": {"width": 2, "blocks": [1]}}
    outcome = transfer(f"checkpoints.tiny={{model: {json.dumps(model)}}}", "full_ft=null")
    assert outcome.status == 0, outcome.err
    result = json.loads((tmp_path / "out" / "seed-0" / "fc_only-tiny" / "done.json").read_text())["result"]
    assert result["features"] == 2 and result["converged"]


def test_two_processes(config, tmp_path):
    program = Path(sys.executable).parent / "bsssl"
    call = [str(program), "transfer", "--config", str(config), "--launch", "launcher.processes_per_node=2"]
    done = run_to_end(call)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("transfer.json, transfer.csv, transfer.md and transfer.png are in") == 1
    assert '"processes": 2' in (tmp_path / "out" / "seed-0" / "full_ft-semi" / "done.json").read_text()


# What is wrong


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["full_ft=null", "fc_only=null"], "nothing to do: give full_ft, fc_only or both"),
        (["full_ft.init_from=a.pth"], "full_ft.init_from: `checkpoints` says what to start from; leave it out"),
        (["checkpoints={}"], "checkpoints: Dictionary should have at least 1 item"),
        (["checkpoints.a/b=x"], "checkpoints: 'a/b' names folders too: use letters, digits, _, + and - alone"),
        (["checkpoints.a={}"], "checkpoints.a: give init_from (the folder of a trained stage or a file of weights)"),
        (["checkpoints.a.modl=x"], "unknown key 'checkpoints.a.modl': did you mean 'model'? valid: init_from, model"),
        (["fc_only.c_values=[1, 0.1]"], "fc_only: c_values [1.0, 0.1] must be above 0 and rise"),
        (["data.pool=[]"], "unknown key 'data.pool': "),
        (["teacher.length=1 epochs"], "unknown key 'teacher': "),
    ],
)
def test_config(refused, config, tmp_path, overrides, message):
    assert refused(*overrides).startswith(f"{config}: {message}")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there(refused, tmp_path, finished_once):
    assert refused("checkpoints.semi=nowhere/seed-{seed}/finetune") == (
        "checkpoints.semi: there is no nowhere/seed-0/finetune; run the stage that leaves it first, or correct the path"
    )
    line = refused(f"checkpoints.semi={finished_once / 'seed-0' / 'score'}")
    assert line.endswith("score/model.safetensors; give the folder of a trained stage, or run that stage first")
    line = refused(f"checkpoints.semi={{init_from: nowhere.pth, model: {json.dumps(NETWORK)}}}")
    assert line == "checkpoints.semi: there is no nowhere.pth; run the stage that leaves it first"
    assert not (tmp_path / "out").exists()


def test_a_file_that_does_not_say_its_network(refused, tmp_path):
    torch.save(build_model("small_resnet", num_classes=3).state_dict(), tmp_path / "bare.pth")
    line = refused(f"checkpoints.semi={tmp_path / 'bare.pth'}")
    assert line == (
        f"checkpoints.semi: {tmp_path / 'bare.pth'} does not say which network it is of; "
        "add checkpoints.semi.model.name=..."
    )


def test_weights_of_another_network(refused, finished_once):
    path = finished_once / "seed-0" / "finetune"
    other = json.dumps({**NETWORK, "options": {"width": 8, "blocks": [1]}})
    line = refused(f"checkpoints.semi={{init_from: {path}, model: {other}}}")
    assert "is of another architecture" in line


def test_a_checkpoint_without_features(refused, tmp_path):
    model = "{name: timm/deit_tiny_distilled_patch16_224}"
    line = refused(f"checkpoints.semi={{model: {model}}}", "data.transforms.size=224")
    assert line.startswith("checkpoints.semi.model: ") and "has no single linear classifier" in line
    assert not (tmp_path / "out").exists()


def test_unknown_released_weights(refused):
    line = refused(f"checkpoints.semi={{model: {json.dumps({**NETWORK, 'weights': 'resnet18.fb'})}}}")
    assert line.startswith("checkpoints.semi.model.weights: unknown weights 'resnet18.fb': ")


def test_one_class_only(refused, cub):
    lines = (cub / "image_class_labels.txt").read_text().splitlines()
    (cub / "image_class_labels.txt").write_text("".join(f"{line.split()[0]} 2\n" for line in lines))
    assert refused().startswith("data.train has a single class (002.Box), ")


def test_a_cub_folder_that_disagrees(refused, cub, tmp_path):
    (cub / "train_test_split.txt").write_text("1 1\n2 0\n")
    line = refused()
    assert line.startswith(f"{cub / 'train_test_split.txt'} lacks ids of images.txt (28, first: 3); ")
    (cub / "classes.txt").unlink()
    assert refused() == f"no such file: {cub / 'classes.txt'}; check the path"
    assert not list((tmp_path / "out").rglob("done.json"))


def test_one_item_per_class_cannot_choose_c(refused):
    line = refused("data.labels_per_class=1", "full_ft=null")
    assert line == "fc_only cannot choose C: no class has two items; give one value, such as fc_only.c_values=[1]"
