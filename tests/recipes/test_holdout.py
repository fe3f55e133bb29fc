"""No test set, and no list of the pool: labels held out, and one list of labeled and unlabeled items."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
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
    ("ending", "labels", "nothing"),
    [
        ("parquet", [0.0, 1.0, 2.0], float("nan")),
        ("parquet", [0, 1, 2], -1),
        ("jsonl", [0.0, 1.0, 2.0], float("nan")),
        ("jsonl", ["a", "b", "c"], float("nan")),
        ("jsonl", ["a", "b", "c"], None),
        ("csv", [0.0, 1.0, 2.0], -1.0),
        ("csv", ["a", "b", "c"], "-1 "),
    ],
)
def test_no_label_is_none_however_it_is_written(bsssl, recipe, tmp_path, ending, labels, nothing):
    file = write_labels(tmp_path / f"all.{ending}", recipe, lambda shape, number: labels[shape] if number else nothing)
    tested = write_labels(tmp_path / f"test.{ending}", recipe, lambda shape, number: labels[shape])
    common = ("--config", one_list(recipe, file, tmp_path), f"output_dir={tmp_path / 'run'}")
    test = f"data.test={{dataset: manifest, path: {tested}}}"
    done = bsssl("train", "stage=teacher", *common, test, "data.pool_overlap=allow")
    assert done.status == 0, done.err
    result = json.loads((tmp_path / "run" / "seed-0" / "data" / "done.json").read_text())["result"]
    assert (result["classes"], result["labeled"], result["pool"]) == (3, 9, 3)


def write_labels(path: Path, recipe: Any, label: Callable[[int, int], Any]) -> Path:
    """A list of the labeled pictures; ``label`` is given the number of the shape and that of the picture in it."""
    items = [sorted(folder.iterdir()) for folder in sorted((recipe.folder / "train").iterdir())]
    rows = [(str(item), label(shape, number)) for shape, of in enumerate(items) for number, item in enumerate(of)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(("path", "label"), map(list, zip(*rows, strict=True)), strict=True))), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"path": item, "label": one}) + "\n" for item, one in rows))
    else:
        path.write_text("path,label\n" + "".join(f"{item},{one}\n" for item, one in rows))
    return path


def test_items_none_of_which_has_a_label(bsssl, recipe, tmp_path):
    file = write_labels(tmp_path / "all.jsonl", recipe, lambda shape, number: "-1" if number else "")
    outcome = bsssl("run", "--config", one_list(recipe, file, tmp_path), f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1 and "data.train: 12 of 12 items have no label" in outcome.errors[0]


def test_spellings_of_a_class_are_one_or_said(bsssl, recipe, tmp_path):
    """Blanks around a label and forms of Unicode make no class; case does, and is warned of."""
    names = (["cafe\u0301", "caf\u00e9", " caf\u00e9 ", "caf\u00e9"], ["b", "b", "b", "b\t"], ["c", "c", "C", "nan"])
    file = write_labels(tmp_path / "all.jsonl", recipe, lambda shape, number: names[shape][number])
    config = one_list(recipe, file, tmp_path)
    data = (
        f"data.test={{dataset: manifest, path: {file}}}",
        "data.num_classes=null",
        "data.pool_overlap=allow",
        "data.max_failure_rate=0.1",
    )
    pool = f"data.pool=[{{dataset: folder, path: {recipe.folder / 'loose'}}}]"
    done = bsssl("train", "stage=teacher", "--config", config, f"output_dir={tmp_path / 'run'}", *data, pool)
    assert done.status == 0, done.err
    classes = json.loads((tmp_path / "run" / "seed-0" / "data" / "classes.json").read_text())
    assert classes == ["C", "b", "c", "caf\u00e9", "nan"]
    assert (
        "data.train: 2 names of classes look alike, such as 'C' (1) and 'c' (2), and are taken as classes of their own"
        in done.err
    )
    assert "data.train: 2 of 5 classes have a single item: 'C', 'nan'" in done.err
    assert "3 spellings of labels are taken for another: 'cafe\u0301' as 'caf\u00e9'" in done.err
    assert "'nan' is taken as a class; where there is no label, leave it empty" in done.err


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


@pytest.mark.parametrize("arguments", [["--plan"], []])
def test_a_folder_of_labels_alone_has_no_pool(bsssl, recipe, tmp_path, arguments):
    outcome = bsssl("run", recipe.config, f"output_dir={tmp_path}", "data.pool=[]", *arguments)
    assert outcome.status == 1 and "there is no pool: set data.pool, or data.labels_per_class" in outcome.errors[0]


def test_loose_files_beside_the_folders_of_classes_are_the_pool(bsssl, recipe, tmp_path):
    shutil.copytree(recipe.folder / "train", tmp_path / "all")
    for file in (recipe.folder / "manifest" / "listed").iterdir():
        shutil.copy(file, tmp_path / "all")
    overrides = [f"output_dir={tmp_path / 'run'}", "data.pool=[]", f"data.train.path={tmp_path / 'all'}"]
    outcome = bsssl("run", recipe.config, *overrides)
    assert outcome.status == 0, outcome.err
    assert json.loads((tmp_path / "run" / "seed-0" / "data" / "done.json").read_text())["result"]["pool"] == 15


def test_copies_among_the_held_out_items_are_said(bsssl, recipe, without_test, tmp_path):
    shutil.copytree(recipe.folder / "train", tmp_path / "train")
    for item in sorted((tmp_path / "train").glob("*/*.jpg")):
        shutil.copy(item, item.with_name(f"copy-{item.name}"))
    run = ("train", "stage=teacher", "--config", without_test, f"output_dir={tmp_path / 'run'}")
    done = bsssl(*run, f"data.train.path={tmp_path / 'train'}", "data.holdout=0.5")
    assert done.status == 0, done.err
    assert re.search(
        r"data\.test\.holdout: \d+ items are copies of others in data\.train .*the accuracies will be", done.err
    )
    assert "copies" not in bsssl(*run[:-1], f"output_dir={tmp_path / 'other'}").err
