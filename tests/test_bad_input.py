"""Whatever is wrong with what a user gives: one clear line, a non-zero exit, and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.numpy
import torch

from bsssl import selection, storage
from bsssl.config import load_config
from bsssl.recipes.runs import all_runs
from tests.processes import run_to_end

ROOT = Path(__file__).parent.parent


@pytest.fixture
def refused(bsssl, recipe, tmp_path):
    """Runs a command that must fail as users are to see it; its one error line, without the ``error: ``."""
    output = tmp_path / "run"

    def call(command: str, *overrides: str, config: Path | None = None, output: Path = output) -> str:
        outcome = bsssl(command, "--config", config or recipe.config, f"output_dir={output}", *overrides)
        assert outcome.status == 1
        assert len(outcome.errors) == 1, outcome.err
        assert outcome.err.splitlines()[-1] == outcome.errors[0]
        assert "Traceback" not in outcome.err and "not an error we foresaw" not in outcome.err
        assert not outcome.out
        if output.is_dir():
            assert not list(output.rglob("*.tmp"))
        return outcome.errors[0].removeprefix("error: ")

    return call


@pytest.fixture
def source(tmp_path):
    """``source(dataset, path)``: an override for the pool; ``source.path(...)`` are written below."""

    def override(dataset: str, path: Path) -> str:
        return "data.pool=" + json.dumps([{"dataset": dataset, "path": str(path)}])

    return override


def done(output: Path) -> set[str]:
    return {path.parent.name for path in output.rglob("done.json")}


def seed_folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "seed-0"


# The config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.base_lrr=1", "unknown key 'finetune.base_lrr': did you mean 'base_lr'? valid: "),
        ("seed=many", "seed: Input should be a valid integer"),
        ("select.top_k=0", "select.top_k: Input should be greater than or equal to 1"),
        ("select.top_k=5000000000", "select.top_k: Input should be less than or equal to 4294967296"),
        ("score.top_p=4", "score.top_p (4) is above data.num_classes (3); lower it"),
        ("teacher.warmup=9 steps", "teacher: warmup (9 steps) is longer than length (8 steps); shorten it"),
    ],
)
def test_config(refused, recipe, tmp_path, override, message):
    assert refused("run", override).startswith(f"{recipe.config}: {message}")
    assert not (tmp_path / "run").exists()


def test_several_problems_of_a_config_have_a_line_each(bsssl, recipe):
    outcome = bsssl("run", "--config", recipe.config, "seed=many", "select.top_k=0", "a=1")
    assert outcome.status == 1
    assert len(outcome.errors) == 3 == len(outcome.err.splitlines())


def test_p_above_the_classes_that_the_data_has(refused, tmp_path):
    line = refused("run", "score.top_p=4", "data.num_classes=null")
    assert line == "score.top_p (4) is above the 3 classes of data.train; lower it"
    assert done(tmp_path) == set()


def test_a_warm_up_that_turns_out_too_long(refused, tmp_path):
    line = refused("train", "stage=teacher", "teacher.warmup=9 epochs")
    assert line == "teacher.warmup (9 epochs, 9 steps) is longer than teacher.length (8 steps, 8 steps); shorten it"
    assert done(tmp_path) == {"data", "contents"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.student.name=small_resnt", "unknown model 'small_resnt': did you mean 'small_resnet'? valid: "),
        ("models.student.name=timm/resnet19", "unknown timm model 'timm/resnet19': nearest: timm/resnet1"),
        ("models.student.options.widht=3", "model 'small_resnet' has no option 'widht': did you mean 'width'? "),
        (
            "models.student.weights=resnet18.fb",
            "models.student.weights: unknown weights 'resnet18.fb': valid: ",
        ),
        (
            "data.pool=[{dataset: foldr, path: x}]",
            "unknown dataset 'foldr': did you mean 'folder'? valid: activitynet, cub, digits, ",
        ),
        (
            "pretrain={loss: symmetric_kl, loss_options: {epsilon: 0}}",
            "pretrain.loss: loss 'symmetric_kl': epsilon=0: Input should be greater than 0",
        ),
        (
            "pretrain={loss: symmetric_kl, loss_options: {eps: 1}}",
            "pretrain.loss: loss 'symmetric_kl' has no option 'eps': did you mean 'epsilon'? valid: epsilon",
        ),
        (
            "finetune.freeze=[stages.3]",
            "finetune.freeze: SmallResNet has no part 'stages.3': did you mean 'stages.0'? valid: stages.0",
        ),
        (
            "finetune.freeze=[layer1]",
            "finetune.freeze: SmallResNet has no part 'layer1': valid: bn1, conv1, fc, stages",
        ),
        (
            "finetune.freeze=[bn1, conv1, stages, fc]",
            "finetune.freeze: no part of SmallResNet is left to train; leave ",
        ),
        ("finetune.init_from=pretrian", "finetune.init_from: 'pretrian' is neither a stage (weak, teacher, "),
    ],
)
def test_unknown_names_are_found_before_anything_runs(refused, tmp_path, override, message):
    assert refused("run", override).startswith(message)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_processes_cannot_share(refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    line = refused("run", "finetune.accumulate=3")
    assert line == (
        "teacher.batch_size (12) does not divide evenly over 8 processes with accumulate=1; make it a multiple of 8"
    )


def test_an_unknown_option_of_a_dataset(refused):
    line = refused("run", "data.test.options={splt: test}")
    assert line == "dataset 'folder' has no option 'splt': valid: extensions"


def test_no_gpu(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused("run", "system.device=cuda")
    assert line.startswith("system.device is cuda, but no GPU is usable; set system.device=cpu or auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "train needs a training stage, not stage=None; add stage=NAME, one of teacher, pretrain, "),
        (["train", "stage=select"], "train needs a training stage, not stage=select; "),
        (["train", "stage=ceiling"], "the config has no ceiling section; add for example ceiling.length='90 epochs'"),
        (["evaluate", "stage=ceiling"], "the config has no ceiling section; add for example ceiling.length="),
    ],
)
def test_a_command_without_its_stage(refused, arguments, message):
    assert refused(*arguments).startswith(message)


# The data


@pytest.mark.parametrize("key", ["train", "test"])
def test_a_missing_path(refused, tmp_path, key):
    line = refused("run", f"data.{key}.path={tmp_path / 'none'}")
    assert line == f"data.{key}: no such file or folder: {tmp_path / 'none'}; check the path"
    assert done(tmp_path) == set()


@pytest.mark.parametrize(
    ("dataset", "name", "message"),
    [
        ("folder", "none", "data.pool: no such file or folder: {path}; check the path"),
        ("manifest", "none.csv", "data.pool: no such file or folder: {path}; check the path"),
        ("tars", "none.tar", "data.pool: no such file or folder: {path}; check the path"),
        ("tars", "none-*.tar", "no file matches {path}; check the pattern"),
    ],
)
def test_a_pool_that_is_not_there(refused, source, tmp_path, dataset, name, message):
    path = tmp_path / name
    assert refused("run", source(dataset, path)) == message.format(path=path)
    assert done(tmp_path) == set()


def test_all_paths_that_are_missing_are_told_at_once(bsssl, recipe, source, tmp_path):
    paths = {key: tmp_path / f"no_{key}" for key in ("train", "test")}
    pool = source("folder", tmp_path / "no_pool")
    outcome = bsssl("run", "--config", recipe.config, *(f"data.{key}.path={path}" for key, path in paths.items()), pool)
    told = [line for line in outcome.err.splitlines() if "no such file or folder" in line]
    assert outcome.status == 1
    assert [line.split(": ")[1] for line in told] == ["data.train", "data.test", "data.pool"]


def test_an_empty_folder(refused, source, tmp_path):
    (tmp_path / "empty").mkdir()
    line = refused("run", source("folder", tmp_path / "empty"))
    assert line == f"nothing to read in {tmp_path / 'empty'}: there are no images in it; check the path"
    (tmp_path / "empty" / "notes.txt").touch()
    line = refused("run", source("folder", tmp_path / "empty"))
    assert "left out: 1 .txt; the source's options.extensions says what is taken" in line


def test_a_labeled_folder_without_classes(refused, recipe):
    line = refused("run", f"data.train.path={recipe.folder / 'loose'}")
    assert line.startswith("data.train: 19 of 19 items have no label (first: ") and "00-circle.jpg);" in line
    assert line.endswith("put each in its class's folder or give the manifest a label column")


def test_one_class_is_not_enough(refused, recipe, tmp_path):
    shutil.copytree(recipe.folder / "train" / "circle", tmp_path / "train" / "circle")
    line = refused("run", f"data.train.path={tmp_path / 'train'}", "data.num_classes=null", "score.top_p=1")
    assert line == "data.train has a single class (circle), two at least are needed; give each its own folder or label"


def test_class_lists_that_disagree(refused, recipe, tmp_path):
    shutil.copytree(recipe.folder / "test", tmp_path / "test")
    (tmp_path / "test" / "circle").rename(tmp_path / "test" / "cirlce")
    line = refused("run", f"data.test.path={tmp_path / 'test'}")
    assert line.startswith("data.test: unknown class 'cirlce': did you mean 'circle'? valid: circle, square, triangle")
    line = refused("run", "data.num_classes=4")
    assert line == (
        "data.train has 3 classes, but data.num_classes says 4; correct one of them (the classes with the fewest "
        "items: circle (4), square (4), triangle (4))"
    )


def test_more_labels_per_class_than_there_are(refused):
    line = refused("run", "data.labels_per_class=5")
    assert line.startswith("labels_per_class=5 is more than 3 of 3 classes have (fewest: 'circle' with 4); lower it")


def test_a_manifest_with_a_missing_column(refused, source, tmp_path):
    (tmp_path / "pool.csv").write_text("file,label\na.jpg,circle\n")
    line = refused("run", source("manifest", tmp_path / "pool.csv"))
    assert line.startswith(f"{tmp_path / 'pool.csv'} has no column 'path'; columns found: file, label; rename one or")


@pytest.fixture
def cut_tar(recipe, tmp_path):
    path = tmp_path / "cut.tar"
    path.write_bytes((recipe.folder / "tars" / "part-000.tar").read_bytes()[:5000])
    return path


def test_a_tar_cut_short_in_a_labeled_set(refused, cut_tar):
    line = refused("run", f"data.train={{dataset: tars, path: {cut_tar}}}")
    assert line == f"{cut_tar} is cut short; download or write it again"


def test_a_tar_cut_short_in_the_pool_is_an_unreadable_item(refused, source, cut_tar, bsssl, recipe, tmp_path):
    line = refused("run", source("tars", cut_tar))
    assert "items cannot be read, more than the tolerated 5.0% (for example: " in line and str(cut_tar) in line
    assert line.endswith("mend the pool or raise data.max_failure_rate")
    assert "score" not in done(tmp_path)
    arguments = ["--config", recipe.config, f"output_dir={tmp_path / 'run'}", source("tars", cut_tar)]
    for command in (["train", "stage=teacher"], ["score"]):
        assert bsssl(*command, *arguments, "data.max_failure_rate=0.6").status == 0
    ledger = storage.read_ledger(selection.ledger_path(selection.score_files(str(seed_folder(tmp_path) / "score"))[0]))
    assert all("cut.tar" in key for key, _ in ledger) and len(ledger) >= 1


def test_a_pool_with_nothing_readable(refused, source, tmp_path):
    (tmp_path / "pool").mkdir()
    for number in range(4):
        (tmp_path / "pool" / f"{number}.jpg").write_bytes(b"no picture")
    line = refused("run", source("folder", tmp_path / "pool"))
    assert line.startswith("data.pool: 4 of 4 items cannot be read, more than the tolerated 5.0% (for example: ")
    assert str(tmp_path / "pool" / "0.jpg") in line
    line = refused("run", source("folder", tmp_path / "pool"), "data.max_failure_rate=1")
    assert line.startswith("nothing to select: no sample of the pool was scored (") and "ledger" in line
    assert "select" not in done(tmp_path)


def test_training_items_that_cannot_be_read(refused, recipe, tmp_path):
    shutil.copytree(recipe.folder / "train", tmp_path / "train")
    (tmp_path / "train" / "circle" / "0.jpg").write_bytes(b"")
    source, unseen = f"data.train.path={tmp_path / 'train'}", ("data.verify=off", "data.duplicates=allow")
    line = refused("train", "stage=teacher", source)
    assert line.startswith("data.train: 1 of 12 items cannot be read") and done(tmp_path) == {"data"}
    out = tmp_path / "unseen"
    line = refused("train", "stage=teacher", source, *unseen, "data.pool_overlap=allow", output=out)
    assert line.startswith("1 of 12 training items cannot be read, more than the tolerated 5.0%: row ")
    assert f"{tmp_path / 'train' / 'circle' / '0.jpg'}: " in line
    assert line.endswith("mend the data or raise data.max_failure_rate")
    assert {path.parent.name for path in out.rglob("done.json")} == {"data", "contents"}


def test_an_unreadable_test_item(refused, recipe, tmp_path):
    shutil.copytree(recipe.folder / "test", tmp_path / "test")
    (tmp_path / "test" / "square" / "3.jpg").write_bytes(b"no picture at all")
    call = ("train", "stage=teacher", f"data.test.path={tmp_path / 'test'}", "data.max_failure_rate=1")
    line = refused(*call)
    assert line.startswith("data.test: 1 of 15 items cannot be read") and done(tmp_path) == {"data"}
    line = refused(*call, "data.verify=off", "--redo")
    assert line.startswith("1 of 15 test items have no complete result (square/3.jpg: ")
    assert "mend them, take them out of data.test, or raise data.max_missing_rate" in line
    assert done(tmp_path) == {"data", "contents", "teacher"}
    assert not (seed_folder(tmp_path) / "evaluate-teacher" / "metrics.json").exists()


def test_a_test_set_of_training_items_is_warned_of(bsssl, recipe, tmp_path):
    test = f"data.test.path={recipe.folder / 'train'}"
    outcome = bsssl("train", "--config", recipe.config, f"output_dir={tmp_path}", "stage=teacher", test)
    assert outcome.status == 0, outcome.err
    assert "12 items of data.test are in data.train too (such as circle/0.jpg): the accuracies will be" in outcome.err


def test_a_pool_that_holds_a_labeled_item_by_path(refused, source, recipe, tmp_path):
    line = refused("run", source("folder", recipe.folder / "train"))
    assert line.startswith("the pool contains 12 labeled or test items (such as circle/0.jpg, ")
    assert line.endswith(
        "take them out, set data.pool_overlap=exclude to have them left out, or set it to allow to keep them"
    )
    assert done(tmp_path) == set()


def test_a_pool_that_holds_a_test_item_by_content(refused, source, recipe, tmp_path):
    shutil.copytree(recipe.folder / "loose", tmp_path / "pool")
    shutil.copy(recipe.folder / "test" / "square" / "2.jpg", tmp_path / "pool" / "other name.jpg")
    line = refused("run", source("folder", tmp_path / "pool"))
    assert line.startswith("the pool holds 1 copies of labeled or test items (such as other name.jpg of square/2.jpg; ")
    assert "; take them out, set data.pool_overlap=exclude" in line
    assert done(tmp_path) == {"data"}


# Files of weights, and results of other stages


@pytest.fixture
def altered(finished, refused, recipe):
    """The finished run, and a refused call on it."""

    def call(command: str, *overrides: str) -> str:
        return refused(command, *overrides, output=finished)

    return call


def test_a_checkpoint_of_another_architecture(altered, finished, tmp_path):
    other = tmp_path / "other.pth"
    torch.save(torch.nn.Linear(3, 2).state_dict(), other)
    line = altered("train", "stage=finetune", f"finetune.init_from={other}")
    assert line.startswith(f"{other} is of another architecture: 0 of its 2 tensors match the network's ")
    assert "finetune" not in done(finished)


def test_a_student_that_starts_from_another_network(altered):
    line = altered("train", "stage=finetune", "finetune.init_from=teacher", "models.student.options.width=8")
    assert "teacher/model.safetensors is of another architecture: " in line
    assert "; configure model 'small_resnet' with its options, or give another file" in line


def test_classes_that_were_edited_are_not_those_of_the_weights(altered, finished):
    classes = finished / "seed-0" / "data" / "classes.json"
    classes.write_text(json.dumps(["circle", "square", "star"]))
    line = altered("evaluate", "stage=teacher", "data.max_missing_rate=0.1")
    assert "(classes.json is not what the stage has left); run first: bsssl run --config " in line


@pytest.mark.parametrize("damage", [lambda old: old[: len(old) // 2], lambda old: b"", lambda old: b"x" * len(old)])
def test_corrupt_final_weights(altered, finished, bsssl, recipe, damage: Callable[[bytes], bytes]):
    path = finished / "seed-0" / "teacher" / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    line = altered("score", "score.top_p=1")
    assert "(model.safetensors is not what the stage has left); run first: bsssl train --config " in line
    path.unlink()
    line = altered("score", "score.top_p=1")
    assert "(model.safetensors is missing); run first: bsssl train --config " in line
    assert bsssl("run", "--config", recipe.config, f"output_dir={finished}").status == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other"])
def test_a_corrupt_resumable_checkpoint_is_passed_over(finished, bsssl, recipe, damage):
    folder = finished / "seed-0" / "baseline"
    expected = (folder / "model.safetensors").read_bytes()
    (run,) = all_runs(load_config(str(recipe.config), [f"output_dir={finished}"]), config_path="")
    (folder / "done.json").unlink()
    path = folder / f"checkpoint-{run.identity('baseline')}-000000003.pt"
    torch.save([3] if damage == "other" else {"step": 3, "state": {}}, path)
    if damage != "other":
        content = path.read_bytes()
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": b"\x00" * 500}[damage])
    outcome = bsssl("train", "--config", recipe.config, f"output_dir={finished}", "stage=baseline")
    assert outcome.status == 0
    assert f"{path} is damaged; going on from the one before it, or from the start" in outcome.err
    assert (folder / "model.safetensors").read_bytes() == expected


def test_a_file_of_weights_that_would_run_code(altered, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    line = altered("train", "stage=finetune", f"finetune.init_from={tmp_path / 'evil.pth'}")
    assert "holds Python objects besides weights (" in line and "not loaded" in line
    assert not (tmp_path / "ran").exists()


def test_a_damaged_record_and_a_damaged_selection(altered, finished):
    path = finished / "seed-0" / "teacher" / "done.json"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    line = altered("score", "score.top_p=1")
    assert f"{path} is not valid JSON (" in line and "delete it and run again" in line
    path.write_bytes(content)
    path = finished / "seed-0" / "select" / "selection.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    line = altered("train", "stage=pretrain", "pretrain.base_lr=1")
    assert "(selection.parquet is not what the stage has left); run first: bsssl select --config " in line


@pytest.mark.parametrize("name", ["pool/pool.json", "classes.json", "labeled.csv"])
def test_damaged_data_is_made_again(finished, bsssl, recipe, name):
    path = finished / "seed-0" / "data" / name
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    outcome = bsssl("score", "--config", recipe.config, f"output_dir={finished}")
    assert outcome.status == 0 and f"data ({name} is not what the stage has left)" in outcome.err
    assert path.read_bytes() == content and "score is done already" in outcome.err


def test_a_stage_whose_inputs_are_missing(refused, recipe, tmp_path):
    tools = f"--config {recipe.config} output_dir={tmp_path / 'run'}"
    folder = seed_folder(tmp_path)
    assert refused("score") == (
        f"score needs the result of 'teacher' in {folder / 'teacher'} (not done yet); run first: "
        f"bsssl train {tools} stage=teacher"
    )
    line = refused("select")
    assert f"'score' in {folder / 'score'} (not done yet), and before it teacher, which bsssl run does" in line
    assert line.endswith(f"; run first: bsssl score {tools}")
    line = refused("train", "stage=pretrain")
    assert "teacher, score, which bsssl run does" in line and line.endswith(f"; run first: bsssl select {tools}")
    assert refused("train", "stage=finetune").endswith(f"bsssl train {tools} stage=pretrain")
    line = refused("evaluate", "stage=baseline", "baseline.base_lr=3")
    assert line.endswith(f"bsssl train {tools} baseline.base_lr=3 stage=baseline")
    assert not folder.exists()


def test_a_stage_whose_inputs_are_stale(altered):
    line = altered("select", "teacher.base_lr=1")
    assert "near needs the result of 'teacher' in " in line
    assert "(teacher.base_lr: 2.0 -> 1.0); run first: bsssl train --config " in line
    line = altered("train", "stage=finetune", "pretrain.base_lr=1")
    assert "(pretrain.base_lr: 2.0 -> 1.0); run first: bsssl train" in line
    assert line.endswith("pretrain.base_lr=1 stage=pretrain")


# While it runs


def test_a_loss_that_is_not_a_number(refused, tmp_path):
    line = refused("train", "stage=teacher", "teacher.base_lr=1e30", "teacher.warmup=0 steps")
    assert line.startswith("the loss is ") and "training diverged; lower base_lr, set clip_norm" in line
    assert done(tmp_path) == {"data", "contents"}
    assert {path.name for path in (seed_folder(tmp_path) / "teacher").iterdir()} == {"metrics.jsonl", "begun.json"}


def test_weights_that_became_infinite_in_the_last_step(refused, tmp_path):
    line = refused("train", "stage=teacher", "teacher.base_lr=1e38", "teacher.length=1 steps", "teacher.warmup=0 steps")
    assert line.startswith("the network's scores are not numbers for 15 of 15 test items (first: circle/0.jpg); its ")
    assert "evaluate-teacher" not in done(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(size)``: a folder that holds so much, such as 64k."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a disk of its own")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # at once or, where one still looks, after that


@pytest.mark.parametrize("free", ["16k", "64k", "128k"])
def test_a_full_disk(refused, small_disk, bsssl, recipe, finished_once, free):
    """Wherever the disk fills up, and then the same command goes on where it stopped."""
    disk = small_disk(free)
    line = refused("run", "system.checkpoint_steps=1", output=disk)
    assert line.startswith(f"cannot write {disk}/seed-0/")
    assert line.endswith(": No space left on device; free space or write to another folder (a run: output_dir=)")
    subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
    assert bsssl("run", "--config", recipe.config, f"output_dir={disk}").status == 0
    assert (disk / "results.json").read_text() == (finished_once / "results.json").read_text()
    assert not list(disk.rglob("*.tmp"))


@pytest.mark.parametrize("failing", ["fsync", "replace", "makedirs"])
def test_a_full_disk_without_one(refused, monkeypatch, tmp_path, failing):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    line = refused("run")
    assert line.startswith("cannot write ") and "No space left on device; free space or write to another" in line
    assert done(tmp_path) == set()


def test_an_output_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused("run", output=tmp_path / "file")
    assert str(tmp_path / "file") in line
    assert line.startswith("cannot write ") and line.endswith("; write to another folder (a run: output_dir=)")
    assert refused("run", output=Path("/proc/none")).startswith("cannot write /proc/none/")


# As users see it


def test_the_traceback_is_for_debug_alone(bsssl, recipe, tmp_path):
    arguments = ("run", "--config", recipe.config, f"output_dir={tmp_path}", f"data.train.path={tmp_path / 'none'}")
    assert "Traceback" not in bsssl(*arguments).err
    outcome = bsssl(*arguments, "--debug")
    assert outcome.status == 1
    assert "Traceback" in outcome.err
    assert (
        outcome.err.splitlines()[-1]
        == f"error: data.train: no such file or folder: {tmp_path / 'none'}; check the path"
    )


def test_an_error_nobody_foresaw_is_one_line_too(bsssl, recipe, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("bsssl.pipeline.runner.execute", broken)
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}")
    assert outcome.errors == [
        "error: ZeroDivisionError: a b (not an error we foresaw: run again with --debug and report the traceback)"
    ]


def test_a_process_exits_with_1_and_one_line(recipe, tmp_path):
    command = [sys.executable, ROOT / "tools" / "run_recipe.py", "--config", recipe.config, "select.top_k=0"]
    ended = run_to_end([*map(str, command), f"output_dir={tmp_path}"])
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ") and len(ended.stderr.splitlines()) == 1


def test_errors_in_data_loading_processes_are_one_line_too(refused, recipe, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("bsssl.data.views.views.decode_image", broken)
    line = refused("train", "stage=teacher", "system.workers=1", "system.start_method=fork")
    assert line == "a process of the loader failed (run again with --debug for the traceback): RuntimeError: a bug"


def test_weights_without_names(altered, tmp_path):
    path = tmp_path / "plain.safetensors"
    safetensors.numpy.save_file({}, path)
    line = altered("train", "stage=finetune", f"finetune.init_from={path}")
    assert line.startswith(f"{path} is damaged or not a file of weights (it holds no tensors); ")
