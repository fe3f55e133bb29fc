"""Stored views: the student sees the very crops again that the teacher saw, with what it said of them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bsssl.engine.live import LiveTeacher
from bsssl.models import build_model, load_weights
from bsssl.stages import train as train_stage
from bsssl.stages import views as views_stage

CROPS = ("data.transforms.train_crop=random_resized", "data.transforms.flip=true", "pretrain.randaugment=5")
VIEWS = ("pretrain.targets=soft", "pretrain.soft_views=3", "score.top_p=3", *CROPS)


@pytest.fixture
def batches(monkeypatch):
    """The batches of every training, in order."""
    seen: list[dict[str, torch.Tensor]] = []
    original = train_stage.train

    def train(*, batches, normalize, **others):
        def noted(first):
            for batch in batches(first):
                seen.append({**batch, "floats": normalize(batch["input"].float().byte())})
                yield batch

        return original(batches=noted, normalize=normalize, **others)

    monkeypatch.setattr(train_stage, "train", train)
    return seen


def run(bsssl, recipe, folder, *overrides):
    done = bsssl("run", "--config", recipe.config, f"output_dir={folder}", *VIEWS, *overrides)
    assert done.status == 0, done.err
    return folder / "seed-0"


def test_the_student_sees_what_the_teacher_saw(bsssl, recipe, batches, monkeypatch, tmp_path):
    monkeypatch.setattr(views_stage, "_ROWS_PER_FILE", 5)
    seed = run(
        bsssl, recipe, tmp_path / "run", "pretrain.length=6 epochs", "system.workers=2", "pretrain.with_labels=true"
    )
    samples = len(set(pq.read_table(seed / "select" / "selection.parquet")["key"].to_pylist()))
    stored = [np.load(path) for path in sorted((seed / "views").glob("*.npy"))]
    assert len(stored) == -(-samples // 5) and sum(map(len, stored)) == samples
    assert stored[0].shape == (5, 3) and stored[0]["score"].shape == (5, 3, 3)
    network = build_model("small_resnet", num_classes=3, width=4, blocks=[1])
    load_weights(network, str(seed / "teacher" / "model.safetensors"))
    mean_std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    teacher = LiveTeacher(
        network, size=16, interpolation="bilinear", student=mean_std, teacher=mean_std, temperature=1.0
    )
    inputs: dict[int, set[bytes]] = {}
    for batch in (one for one in batches if one["target"].ndim == 2):
        is_pool = batch["index"] < samples
        torch.testing.assert_close(batch["target"][is_pool], teacher(batch["floats"][is_pool]), rtol=0, atol=1e-5)
        assert batch["target"][~is_pool].max(1).values.eq(1).all()
        for index, pixels in zip(batch["index"].tolist(), batch["input"], strict=True):
            inputs.setdefault(index, set()).add(pixels.numpy().tobytes())
    assert len(inputs) == samples + 12
    assert {len(inputs[row]) for row in range(samples)} == {3}
    assert min(len(inputs[row]) for row in range(samples, samples + 12)) > 3  # of a labeled item the views are any


def test_tasks_share_the_views_and_nothing_runs_again(bsssl, recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(views_stage, "_ROWS_PER_FILE", 4)
    whole = run(bsssl, recipe, tmp_path / "whole")
    (whole / "views" / "000001.npy").unlink()
    kept = (whole / "views" / "000000.npy").stat().st_mtime_ns
    before = (whole / "pretrain" / "model.safetensors").stat().st_mtime_ns
    run(bsssl, recipe, tmp_path / "whole")
    assert (whole / "views" / "000000.npy").stat().st_mtime_ns == kept
    assert (whole / "pretrain" / "model.safetensors").stat().st_mtime_ns == before
    # Temperature and the length of the training are the student's alone.
    run(bsssl, recipe, tmp_path / "whole", "pretrain.temperature=2", "pretrain.length=10 steps")
    assert (whole / "views" / "000000.npy").stat().st_mtime_ns == kept
    run(bsssl, recipe, tmp_path / "whole", "pretrain.randaugment=9")
    assert (whole / "views" / "000000.npy").stat().st_mtime_ns != kept
    assert json.loads((whole / "views" / "done.json").read_text())["result"]["views"] == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.soft_views=0"], "pretrain.soft_views"),
        (["pretrain.targets=multi"], "soft_views needs targets: soft"),
        (["score.given=scores.parquet", "models.teacher=null"], "pretrain.soft_views needs a teacher"),
    ],
)
def test_what_cannot_be_is_one_line(bsssl, recipe, tmp_path, overrides, message):
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", *VIEWS, *overrides)
    assert outcome.status == 1
    assert message in outcome.errors[0] and len(outcome.errors) == 1
