"""The whole recipe on generated videos, as users run it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from sklearn.datasets import load_digits

from bsssl import load, selection, storage
from bsssl.data.datasets.generated import MovingDigits

NETWORK = {"name": "small_r2plus1d", "options": {"width": 4, "blocks": [1, 1], "stem_stride": 1}}


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Folders train (10 for each of the digits 0 to 3) and test (4 for each), label/motion/number.mp4."""
    folder, loaded = tmp_path_factory.mktemp("digits"), load_digits()
    rows = np.concatenate([np.flatnonzero(loaded.target == digit)[:14] for digit in range(4)])
    source = MovingDigits(path=str(folder), split="train")
    for number, (name, content) in enumerate(source.members(rows, loaded.images, loaded.target)):
        path = folder / ("train" if number % 14 < 10 else "test") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def config(videos, tmp_path):
    """A recipe of a few steps, 4 labels of each class; the others are the pool."""
    short = {"length": "3 steps", "batch_size": 8, "base_lr": 0.1, "warmup": "0 steps"}
    options = {"dataset": "folder"}
    values = {
        "output_dir": str(tmp_path / "run"),
        "data": {
            "train": {**options, "path": str(videos / "train")},
            "test": {**options, "path": str(videos / "test")},
            "num_classes": 4,
            "labels_per_class": 4,
            "transforms": {"size": 24, "train_crop": "short_side", "flip": False},
            "clips": {"frames": 4, "stride": 2, "stride_jitter": 1, "test_clips": 3, "score_clips": 2},
        },
        "models": {"teacher": {**NETWORK, "frames": 6}, "student": NETWORK},
        "teacher": short,
        "baseline": short,
        "score": {"top_p": 4, "batch_size": 64},
        "select": {"top_k": 6},
        "pretrain": {**short, "cutmix": 1.0},
        "finetune": short,
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    path = tmp_path / "video.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def read(path):
    return json.loads(path.read_text())


def test_whole_recipe(bsssl, config, tmp_path):
    outcome = bsssl("run", "--config", config)
    assert outcome.status == 0, outcome.err
    run = tmp_path / "run" / "seed-0"
    summary = read(run / "evaluate-finetune" / "metrics.json")
    assert summary["clips"] == 3 and summary["missing"] == 0 and summary["items"] == 16
    assert summary["video_top1"] == summary["top1"] and 0 <= summary["clip_top1"] <= 100
    assert "  video top-1 %  clip top-1 %  ECE %" in outcome.out and "\n16 test items\n" in outcome.out
    predictions = pq.read_table(run / "evaluate-finetune" / "predictions.parquet")
    assert len(predictions) == 16 and not predictions["predicted"].null_count
    header = selection.read_header(selection.score_path(str(run / "score"), 0))
    assert header.top_p == 4 and header.preprocessing["clips"]["count"] == 2
    assert header.preprocessing["clips"]["frames"] == 6  # the teacher's
    assert read(run / "select" / "selection.json")["pairs"] == 24
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "alone").mkdir(exist_ok=True)
        shutil.copy(run / "teacher" / name, tmp_path / "alone")
    alone, whole = load(tmp_path / "alone"), load(run / "teacher")
    assert alone.preprocessing == whole.preprocessing
    assert (alone.preprocessing.clips.frames, alone.preprocessing.clips.count) == (6, 3)
    card = (run / "finetune" / "README.md").read_text()
    assert "pipeline_tag: video-classification" in card and "| test | 16 |" in card and str(tmp_path) not in card


def test_a_teacher_of_transformers_is_one_like_any_other(bsssl, config, videos, tmp_path):
    """Its folder says how it sees frames, and how many; three of its classes are other ones."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    settings = transformers.VideoMAEConfig(image_size=32, patch_size=8, num_frames=4, num_labels=3, **sizes)
    transformers.VideoMAEForVideoClassification(settings).save_pretrained(tmp_path / "net")
    sees = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    transformers.VideoMAEImageProcessor(**sees).save_pretrained(tmp_path / "net")
    teacher = f"models.teacher={{name: 'transformers/local-dir:{tmp_path / 'net'}', stride: 3}}"
    outcome = bsssl("run", "--config", config, teacher, "teacher.layer_decay=0.7", "system.channels_last=true")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "run" / "seed-0"
    header = selection.read_header(selection.score_path(str(run / "score"), 0))
    assert header.preprocessing["transforms"]["size"] == 32 and header.preprocessing["transforms"]["resize"] == 36
    assert (header.preprocessing["clips"]["frames"], header.preprocessing["clips"]["stride"]) == (4, 3)
    theirs = transformers.AutoModelForVideoClassification.from_pretrained(run / "teacher").eval()
    ours = load(run / "teacher")
    assert ours.name == "transformers/VideoMAEForVideoClassification" and len(ours.classes) == 4
    assert [*theirs.config.id2label.values()] == ours.classes
    clips = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(ours.network(clips), theirs(clips.transpose(1, 2)).logits)
    probed = [teacher, "teacher.mode=probe", f"output_dir={tmp_path / 'probed'}"]
    assert bsssl("train", "--config", config, "stage=teacher", *probed).status == 0
    [found] = load(tmp_path / "probed" / "seed-0" / "teacher").predict([next((videos / "test").rglob("*.mp4"))])
    assert set(found.classes) < set(ours.classes)


def test_by_the_clock_and_in_several_squares(bsssl, config, videos, tmp_path):
    arguments = ["data.clips.fps=12", "data.clips.test_crops=3"]
    outcome = bsssl("train", "--config", config, "stage=teacher", *arguments, "data.transforms.test_resize=whole")
    assert outcome.status == 1 and "data.clips.test_crops: models.teacher sees whole pictures" in outcome.err
    outcome = bsssl("train", "--config", config, "stage=teacher", *arguments)
    assert outcome.status == 0, outcome.err
    run = tmp_path / "run" / "seed-0"
    summary = read(run / "evaluate-teacher" / "metrics.json")
    assert summary["views"] == 9 and 0 <= summary["view_top1"] <= 100 and summary["video_top1"] == summary["top1"]
    shutil.copytree(run / "teacher", tmp_path / "alone")
    alone, whole = load(tmp_path / "alone"), load(run / "teacher")
    assert alone.preprocessing == whole.preprocessing
    clips = alone.preprocessing.clips
    assert (clips.frames, clips.fps, clips.count, clips.crops) == (6, 12, 3, 3)
    exported = tmp_path / "exported"
    assert bsssl("export", run / "teacher", "--to", "hub-folder", "--path", exported).status == 0
    assert load(exported).preprocessing.clips.fps == 12
    [found] = alone.predict([next((videos / "test").rglob("*.mp4"))])
    assert len(found.classes) == 3


def test_a_student_says_what_it_lacks(bsssl, config):
    outcome = bsssl("train", "--config", config, "stage=pretrain")
    assert outcome.status == 1
    assert "pretrain needs the result of 'select'" in outcome.err
    assert f"run first: bsssl select --config {config}" in outcome.err
    assert "and before it contents, teacher, score, which bsssl run does one after the other; " in outcome.err


def test_in_an_empty_folder_all_that_is_missing_is_told(bsssl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = Path(__file__).parents[2] / "projects" / "video" / "student.yaml"
    outcome = bsssl("train", "--config", student)
    [line] = outcome.errors
    assert outcome.status == 1 and not [*tmp_path.iterdir()]
    for part in ("before it contents, teacher, score, which", "data/kinetics400/train.csv", "kinetics400/val.csv"):
        assert part in line
    assert "the first lines of the config say what it needs, and bsssl init" in line
    planned = bsssl("train", "--config", student, "--plan")
    assert planned.status == 1 and "train.csv" in planned.errors[0] and "val.csv" in planned.errors[0]


def test_transfer(bsssl, videos, config, tmp_path):
    """Features of video networks, the mean over the clips of a video; a checkpoint sees clips as long as it was
    trained with, which may be others than the rest."""
    assert bsssl("train", "--config", config, "stage=teacher").status == 0
    values = {
        "output_dir": str(tmp_path / "transfer"),
        "data": {
            "train": {"dataset": "folder", "path": str(videos / "train")},
            "test": {"dataset": "folder", "path": str(videos / "test")},
            "transforms": {"size": 24, "train_crop": "short_side", "flip": False},
            "clips": {"frames": 4, "stride": 2, "test_clips": 3},
        },
        "checkpoints": {"short": {"model": NETWORK}, "long": str(tmp_path / "run" / "seed-0" / "teacher")},
        "full_ft": {"length": "2 steps", "batch_size": 8},
        "fc_only": {"c_values": [0.1, 1]},
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    path = tmp_path / "transfer.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    outcome = bsssl("transfer", "--config", path)
    assert outcome.status == 0, outcome.err
    for name, frames in (("short", 4), ("long", 6)):
        seen = f"preprocessing of {name}: 3 clips of {frames} frames, stride 2, short side 27, centre crop to 24x24, "
        assert seen in outcome.out
        for section in ("full_ft", "fc_only"):
            metrics = read(tmp_path / "transfer" / "seed-0" / f"evaluate-{section}-{name}" / "metrics.json")
            assert metrics["clips"] == 3 and metrics["items"] == 16
    found = read(tmp_path / "transfer" / "transfer.json")["checkpoints"]
    assert found["long"]["preprocessing"]["clips"]["frames"] == 6


def test_the_plan_shows_what_each_network_sees(bsssl, config):
    outcome = bsssl("run", "--config", config, "--plan")
    assert outcome.status == 0, outcome.err
    assert "at 6x24x24" in outcome.out and "at 4x24x24" in outcome.out


def test_frames_are_for_videos(bsssl, recipe):
    outcome = bsssl("run", "--config", recipe.config, "--plan", "models.teacher.frames=8")
    assert outcome.status == 1 and "models.teacher.frames is for videos; set data.clips" in outcome.err


@pytest.fixture
def broken(videos, tmp_path):
    """A copy of the videos of which four cannot be read: three of the training set, one test item."""
    folder = Path(shutil.copytree(videos, tmp_path / "broken"))
    files = sorted((folder / "train" / "0").rglob("*.mp4"))
    files[0].write_bytes(b"")
    files[1].write_bytes(b"no video at all")
    files[2].write_bytes(files[2].read_bytes()[:300])
    next(folder.glob("test/1/*/*.mp4")).write_bytes(b"")
    return folder


def paths_in(folder):
    return [f"data.train.path={folder}/train", f"data.test.path={folder}/test"]


@pytest.mark.parametrize(("workers", "method"), [(0, "fork"), (2, "fork"), (1, "spawn")])
def test_unreadable_videos_are_replaced_counted_and_listed(bsssl, config, broken, tmp_path, workers, method):
    """Every one of the 40 training videos is labeled, so that each broken one is drawn."""
    arguments = ["--config", config, *paths_in(broken), "stage=teacher", "data.labels_per_class=10"]
    arguments += [f"data.pool=[{{dataset: folder, path: {broken}/test}}]"]
    arguments += ["data.pool_overlap=allow", "data.max_missing_rate=0.1", "teacher.length=2 epochs"]
    arguments += [f"system.workers={workers}", f"system.start_method={method}"]
    outcome = bsssl("train", *arguments)
    assert (
        outcome.status == 1 and "data.train: 3 of 40 items cannot be read, more than the tolerated 1.0%" in outcome.err
    )
    outcome = bsssl("train", *arguments, "data.max_failure_rate=0.1")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "run/seed-0/teacher"
    listed = [json.loads(line) for line in (folder / "unreadable.jsonl").read_text().splitlines()]
    assert len(listed) == 3 and all(entry["key"].startswith("0/") and entry["reason"] for entry in listed)
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 10


def test_unreadable_test_videos_are_missing_and_wrong(bsssl, config, broken, tmp_path):
    arguments = ["--config", config, *paths_in(broken), "data.max_failure_rate=0.2", "stage=baseline"]
    outcome = bsssl("train", *arguments)
    assert outcome.status == 1 and "data.test: 1 of 16 items cannot be read, more than the tolerated" in outcome.err
    outcome = bsssl("train", *arguments, "data.max_missing_rate=0.1")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "run/seed-0/evaluate-baseline"
    assert read(folder / "metrics.json")["missing"] == 1
    assert "1/" in (folder / "missing.jsonl").read_text()
    assert pq.read_table(folder / "predictions.parquet")["predicted"].null_count == 1


def test_unreadable_videos_of_the_pool_are_in_the_ledger(bsssl, config, broken, tmp_path):
    arguments = ["--config", config, *paths_in(broken), "data.max_failure_rate=0.2"]
    assert bsssl("run", *arguments, "data.max_missing_rate=0.1").status == 0
    run = tmp_path / "run/seed-0"
    ledger = storage.read_ledger(selection.ledger_path(selection.score_path(str(run / "score"), 0)))
    unreadable = [json.loads(line)["key"] for line in (run / "teacher/unreadable.jsonl").read_text().splitlines()]
    assert len(ledger) + len(unreadable) >= 3 and all(reason for _, reason in ledger)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reader_that_is_not_installed_is_told_before_anything_runs(bsssl, config, tmp_path, monkeypatch, workers):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "decord.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))  # of the process that decodes
    monkeypatch.setattr("bsssl.data.decoding.readers.helper._idle", {})
    outcome = bsssl("run", "--config", config, "data.clips.reader=decord", f"system.workers={workers}")
    assert outcome.status == 1
    assert re.match(r"error: .*decord.*(pip install|install it anew).*\n\Z", outcome.err), outcome.err
    assert not (tmp_path / "run").exists()


def test_a_stride_cannot_vary_by_more_than_itself(bsssl, config):
    outcome = bsssl("run", "--config", config, "--plan", "data.clips.stride_jitter=2")
    assert outcome.status == 1 and "stride_jitter (2) must be below stride (2)" in outcome.err


def test_the_clients_command_says_what_to_run_first(bsssl, tmp_path):
    outcome = bsssl("train", "--config", "projects/video/student.yaml", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1 and len(outcome.errors) == 1
    assert "pretrain needs the result of 'select'" in outcome.err
    assert "run first: bsssl select --config projects/video/student.yaml" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_plan_does_not_take_a_mistake_for_missing_data(bsssl, tmp_path):
    outcome = bsssl(
        *("run", "--config", "projects/video/quickstart.yaml", "--plan", f"output_dir={tmp_path / 'run'}"),
        *("data.train.options.label=colour", f"data.train.path={tmp_path}", f"data.test.path={tmp_path}"),
    )
    assert outcome.status == 1 and "moving_digits has no label 'colour'" in outcome.errors[0]


def test_a_network_for_images(bsssl, config):
    outcome = bsssl("run", "--config", config, "models.student={name: small_resnet}")
    assert outcome.status == 1 and "if it is a network for images, set options.per_frame=true" in outcome.errors[0]
