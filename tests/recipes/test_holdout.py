"""No test set, and no list of the pool: labels held out, and one list of labeled and unlabeled items."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml


def lists(folder: Path) -> tuple[set[str], set[str], set[str]]:
    """The keys of the labeled, the held-out and the pool's items."""
    labeled, held = (
        {row["key"] for row in csv.DictReader((folder / name).read_text().splitlines())}
        for name in ("labeled.csv", "test-holdout.csv")
    )
    pool = {key for path in (folder / "pool").glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist()}
    return labeled, held, pool


@pytest.fixture
def without_test(recipe: Any, tmp_path: Path) -> Path:
    """The recipe with a quarter of the labels as its test set."""
    data = {key: value for key, value in recipe.values["data"].items() if key != "test"}
    path = tmp_path / "holdout.yaml"
    path.write_text(yaml.safe_dump({**recipe.values, "data": {**data, "holdout": 0.25}}))
    return path


def test_labels_are_held_out_by_the_seed_and_every_table_says_so(bsssl, without_test, tmp_path):
    done = bsssl("run", "--config", without_test, f"output_dir={tmp_path / 'run'}", "seeds=2")
    assert done.status == 0, done.err
    assert "top-1 % (holdout)" in done.out
    assert "(holdout)" in (tmp_path / "run" / "results.md").read_text()
    splits = [lists(tmp_path / "run" / f"seed-{seed}" / "data") for seed in (0, 1)]
    for labeled, held, pool in splits:
        assert len(labeled) == 9 and len(held) == 3 and labeled.isdisjoint(held) and pool.isdisjoint(held)
        assert {Path(key).parent.name for key in held} == {"circle", "square", "triangle"}
    assert splits[0][1] != splits[1][1]
    metrics = json.loads((tmp_path / "run" / "seed-0" / "evaluate-finetune.holdout" / "metrics.json").read_text())
    assert metrics["items"] == 3


def write_list(path: Path, recipe: Any, unlabeled: list[str]) -> Path:
    """One manifest of the labels and the loose items, which have these values in the place of labels."""
    rows = [(item, item.parent.name) for item in sorted((recipe.folder / "train").glob("*/*.jpg"))]
    rows += [
        (item, unlabeled[number % len(unlabeled)])
        for number, item in enumerate(sorted((recipe.folder / "manifest" / "listed").iterdir()))
    ]
    path.write_text("path,label\n" + "".join(f"{item},{label}\n" for item, label in rows))
    return path


def one_list(recipe: Any, manifest: Path, folder: Path) -> Path:
    """The recipe with this list in the place of labels and pool."""
    data = {**recipe.values["data"], "pool": [], "train": {"dataset": "manifest", "path": str(manifest)}}
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump({**recipe.values, "data": data}))
    return path


def test_items_without_a_label_are_the_pool(bsssl, recipe, tmp_path):
    config = one_list(recipe, write_list(tmp_path / "all.csv", recipe, ["", "-1", " "]), tmp_path)
    plan = bsssl("run", "--config", config, f"output_dir={tmp_path / 'run'}", "--plan")
    done = bsssl("run", "--config", config, f"output_dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    result = json.loads((tmp_path / "run" / "seed-0" / "data" / "done.json").read_text())["result"]
    assert result["labeled"] == 12 and result["pool"] == 15 and result["classes"] == 3
    assert "15" in next(line for line in plan.out.splitlines() if line.startswith("score"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, "there is no test set: set test, or holdout"),
        ({"holdout": 0.2}, "holdout is for data without a test set"),
        ({"test": None, "holdout": 1.0}, "data.holdout"),
    ],
)
def test_a_test_set_that_cannot_be(bsssl, recipe, tmp_path, change, message):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**recipe.values, "data": {**recipe.values["data"], **change}}))
    outcome = bsssl("run", "--config", tmp_path / "bad.yaml", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1 and message in outcome.errors[0] and len(outcome.errors) == 1


def test_a_class_with_one_item_cannot_be_held_out(bsssl, recipe, tmp_path):
    rows = [(item, item.parent.name) for item in sorted((recipe.folder / "train").glob("*/*.jpg"))][:9]
    (tmp_path / "few.csv").write_text("path,label\n" + "".join(f"{item},{label}\n" for item, label in rows))
    data = {**recipe.values["data"], "train": {"dataset": "manifest", "path": str(tmp_path / "few.csv")}}
    values = {**recipe.values, "data": {**data, "test": None, "holdout": 0.2, "num_classes": None}}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(values))
    outcome = bsssl("run", "--config", tmp_path / "few.yaml", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1
    assert "data.holdout leaves 1 of 3 classes without an item to train on or to test with" in outcome.errors[0]
    assert "'triangle', which has one" in outcome.errors[0]


def test_a_list_of_labels_alone_has_no_pool(bsssl, recipe, tmp_path):
    rows = [(item, item.parent.name) for item in sorted((recipe.folder / "train").glob("*/*.jpg"))]
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"{item},{label}\n" for item, label in rows))
    outcome = bsssl("run", "--config", one_list(recipe, tmp_path / "all.csv", tmp_path), f"output_dir={tmp_path / 'o'}")
    assert outcome.status == 1 and "there is no pool: set data.pool" in outcome.errors[0]
