"""Texts that a spreadsheet would run: no CSV file begins a cell so, and the program reads what it has written."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from bsssl.data.records import Records
from bsssl.selection import read_exclusions, read_selection

CLASSES = ["=1+1", "'-b", "@c"]
RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n")


def cells(folder: Path) -> dict[str, list[str]]:
    """The cells of all CSV files below a folder that are not numbers."""

    def texts(path: Path) -> list[str]:
        with open(path, newline="") as file:
            return [cell for row in csv.reader(file) for cell in row if cell != "-1"]

    return {path.name: texts(path) for path in folder.rglob("*.csv")}


@pytest.fixture
def renamed(recipe, tmp_path):
    """A config whose classes and files begin as formulas do."""
    for part in ("train", "test"):
        for old, new in zip(("circle", "square", "triangle"), CLASSES, strict=True):
            shutil.copytree(recipe.folder / part / old, tmp_path / part / new)
    shutil.copytree(recipe.folder / "loose", tmp_path / "pool")
    for path in (tmp_path / "pool").iterdir():
        path.rename(path.with_name(f"-{path.name}"))
    data = {part: {"dataset": "folder", "path": str(tmp_path / part)} for part in ("train", "test")}
    data["pool"] = [{"dataset": "folder", "path": str(tmp_path / "pool")}]
    return recipe.write(tmp_path / "renamed.yaml", {"data": {**data, "max_failure_rate": 0.1}})


def test_a_run_and_its_predictions(bsssl, renamed, tmp_path):
    run, pictures = tmp_path / "run", tmp_path / "run" / "predicted.csv"
    assert bsssl("run", renamed, f"output_dir={run}").status == 0
    assert bsssl("predict", run, tmp_path / "pool", "--to", pictures).status == 0
    written = cells(run)
    assert {"labeled.csv", "test.csv", "per_class.csv", "confusion.csv", "predicted.csv"} <= written.keys()
    assert not [cell for texts in written.values() for cell in texts if cell.startswith(RUN_BY_SPREADSHEETS)]
    assert {"'=1+1", "''-b", "'@c"} <= set(written["per_class.csv"]) & set(written["confusion.csv"])

    # What was written is data again: the split as manifests, with the very same labels.
    manifest = json.dumps({"dataset": "manifest", "path": str(run / "seed-0" / "data" / "labeled.csv")})
    again = tmp_path / "again"
    assert bsssl("train", renamed, f"output_dir={again}", "stage=teacher", f"data.train={manifest}").status == 0
    for folder in (run, again):
        assert set(Records.read(str(folder / "seed-0" / "data" / "labeled.csv")).label.to_pylist()) == set(CLASSES)


def test_a_list_of_exclusions(bsssl, renamed, tmp_path):
    arguments = ["run", renamed, f"output_dir={tmp_path / 'run'}"]
    assert bsssl(*arguments).status == 0
    chosen = tmp_path / "run" / "seed-0" / "select" / "selection.parquet"
    key = read_selection(str(chosen)).key[0].as_py()
    assert key.startswith("-")
    (tmp_path / "exclude.csv").write_text(f"key,class\n\"'{key}\",\n,'=1+1\n")
    assert bsssl("select", *arguments[1:], f"select.exclude={tmp_path / 'exclude.csv'}").status == 0
    left = read_selection(str(chosen))
    classes = {left.facts["class_names"][number] for number in left.table["class"].to_pylist()}
    assert key not in left.key.to_pylist() and classes and "=1+1" not in classes


def test_a_list_by_hand_needs_no_apostrophes(tmp_path):
    (tmp_path / "exclude.csv").write_text("key,class\n-a.jpg,=1+1\n'b.jpg,\n")
    excluded = read_exclusions(str(tmp_path / "exclude.csv"))
    assert excluded.pairs == {("-a.jpg", "=1+1")} and excluded.everywhere == {"'b.jpg"}


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "''=a", "'a", "-1", "\t=", "a=b", "'", ""])
def test_every_text_comes_back(tmp_path, text):
    path = str(tmp_path / "records.csv")
    records = Records.from_columns(key=[text], path=[text], label=[text])
    records.write(path)
    assert Records.read(path) == records
