"""Labels from the files to the classes of a run: their order, and what is said of them before anything is trained."""

import json
import shutil

import pytest
import yaml

from bsssl import storage
from bsssl.config import load_config
from bsssl.pipeline.runner import run_stage
from bsssl.recipes.runs import all_runs

NUMBERS = [str(number) for number in range(12)]
FEW = ["a", "b"] * 4


@pytest.fixture
def listed(recipe, tmp_path):
    """``listed(labels, test)``: a config with lists of pictures, which are not there, that have these labels."""

    def write(labels, test=None, **data):
        sources = {}
        for part, given in (("train", labels), ("test", labels if test is None else test)):
            rows = [{"path": f"{part}-{number}.jpg", "label": label} for number, label in enumerate(given)]
            write_rows(tmp_path / f"{part}.jsonl", rows)
            sources[part] = {"dataset": "manifest", "path": str(tmp_path / f"{part}.jsonl")}
        pool = [{"dataset": "folder", "path": str(recipe.folder / "loose")}]
        common = {"pool": pool, "num_classes": None, "pool_overlap": "allow"}
        values = {**recipe.values["data"], **common, **sources, **data}
        path = tmp_path / "listed.yaml"
        path.write_text(yaml.safe_dump({**recipe.values, "output_dir": str(tmp_path / "run"), "data": values}))
        return path

    return write


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def data_of(config, *overrides):
    """Run the data stage alone; return the run and its classes."""
    (run,) = all_runs(load_config(str(config), list(overrides)), config_path=str(config))
    run_stage(run, "data")
    return run, json.loads((run.folder("data") / "classes.json").read_text())


def test_classes_that_are_numbers_are_in_their_order(listed, bsssl):
    config = listed(NUMBERS * 2, NUMBERS[:8])
    plan = bsssl("run", config, "--plan")
    assert plan.status == 0, plan.err
    assert "data.train: 12 names of classes are numbers, in the order of numbers: 0, 1, 2, ..., 11" in plan.out
    assert "data.test: 4 of 12 classes have no item to test with: '8', '9', '10' and 1 more" in plan.out
    assert data_of(config)[1] == NUMBERS


def test_numbers_that_became_floats_are_the_same_classes(listed):
    run, classes = data_of(listed([*map(float, NUMBERS * 2), float("nan")], NUMBERS))
    assert classes == NUMBERS
    assert run.result("data")["labeled"] == 24


@pytest.mark.parametrize("change", ["data.pool_fraction=0.5", None])
def test_earlier_work_keeps_its_order_and_its_draw(listed, caplog, change):
    """A run from when names were sorted as text: its networks go by that order, and nothing of it runs again."""
    config = listed(NUMBERS * 4, labels_per_class=2, imbalance=2.0)
    run, classes = data_of(config)
    assert classes == NUMBERS
    labeled = (run.folder("data") / "labeled.csv").read_text()
    shutil.rmtree(run.path)
    as_text = in_text_order(*data_of(config))
    caplog.clear()
    assert data_of(config)[1] == as_text and not caplog.text  # it was done already
    if change is None:  # the labels stay as they are: the stage works in its folder again
        (config.parent / "train.jsonl").write_text((config.parent / "train.jsonl").read_text() + "\n")
    run, classes = data_of(config, *([] if change is None else [change]))
    assert classes == as_text and "12 names of classes are numbers, in the order of texts" in caplog.text
    assert (run.folder("data") / "labeled.csv").read_text() != labeled  # the long tail falls along the classes
    shutil.rmtree(run.path)
    assert data_of(config)[1] == NUMBERS


def in_text_order(run, classes):
    """Make a finished data stage one of those times; return its classes."""
    folder, as_text = run.folder("data"), sorted(classes)
    storage.write_json(str(folder / "classes.json"), as_text)
    record = json.loads((folder / "done.json").read_text())
    digests = {**record["digests"], "classes": storage.digest([str(folder / "classes.json")])}
    (folder / "done.json").write_text(json.dumps({**record, "files": {}, "digests": digests}))
    return as_text


SAID = {
    "alike": (["Cat", "cat", "cat"] * 2, {}, "2 names of classes look alike, such as 'Cat' (2) and 'cat' (4), and are"),
    "merged": (
        ["Cat", "cat", "cat", "d", "d"],
        {"merge_lookalikes": True},
        "data.train: 1 spellings of labels are taken for another: 'Cat' as 'cat'",
    ),
    "single": ([*FEW, "c"], {}, "data.train: 1 of 3 classes have a single item: 'c'"),
    "nothing": ([*FEW, "-1", " "], {}, "data.train: 2 labels are no label (1 times '-1', "),
    "list": ([*FEW, '["a"]'], {}, "labels that are lists are each taken as one class of that name: '[\"a\"]'"),
    "code": ([*FEW, "NA"], {}, "data.train: 'NA' is taken as a class; where there is no label, leave it empty"),
    "word": ([*FEW, "none"], {}, "data.train: 'none' is taken as a class; where there is no label, leave it empty"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID)
def test_what_is_said_before_anything_runs(listed, bsssl, caplog, kind):
    labels, data, line = SAID[kind]
    config = listed(labels, [label for label in labels if label not in ("-1", " ")], **data)
    plan = bsssl("run", config, "--plan")
    assert plan.status == 0 and sum(line in said for said in plan.out.splitlines()) == 1, plan.out
    data_of(config)
    assert line in caplog.text


def test_lookalikes_are_one_class_where_that_is_wanted(listed):
    labels = ["Cat", "cat", "cat", "new  york", "New York", "New York", "dog", "dog"]
    _, classes = data_of(listed(labels, ["CAT", "dog", "new york"], merge_lookalikes=True))
    assert classes == ["New York", "cat", "dog"]


def test_an_item_with_two_labels(listed, bsssl):
    config = listed(FEW)
    rows = [{"path": f"{number}.jpg", "label": label} for number, label in enumerate(FEW)]
    write_rows(config.parent / "train.jsonl", [*rows, {"path": "0.jpg", "label": "b"}, {"path": "1.jpg", "label": "b"}])
    plan = bsssl("run", config, "--plan")
    assert f"1 items have more than one label: {config.parent / '0.jpg'} ('a' and 'b'); correct the wrong" in plan.out


@pytest.mark.parametrize("arguments", [[], ["--plan"]])
@pytest.mark.parametrize("labels", [[f"a {number} on a table" for number in range(6)], NUMBERS])
def test_labels_that_every_item_has_of_its_own(listed, bsssl, labels, arguments):
    outcome = bsssl("run", listed(labels), *arguments)
    assert outcome.status == 1 and len(outcome.errors) == 1
    number = len(labels)
    assert f"data.train: {number} items have {number} classes (such as '{labels[0]}', " in outcome.errors[0]
    assert outcome.errors[0].endswith(f"set data.num_classes={number}")
    assert data_of(listed(labels, num_classes=number))[1] == labels


def test_a_first_config_is_not_written_for_captions(listed, bsssl):
    config = listed(NUMBERS)
    outcome = bsssl(
        "init",
        config.parent / "train.jsonl",
        "--test",
        config.parent / "test.jsonl",
        "--to",
        config.parent / "first.yaml",
    )
    assert outcome.status == 1 and "12 items have 12 classes (such as '0', '1', '2' and 9 more)" in outcome.errors[0]
    assert not (config.parent / "first.yaml").exists()
