"""Names of any letters and length break no line, reach no terminal as they are, and fill no screen."""

import json
import shutil

import pytest

LABELS = ["two\nlines", "\x1b[31mred", "y" * 10_000]
PICTURES = ["li\nne.jpg", "\x1b[2J.jpg", "=cmd.jpg", "\u202egpj.jpg", "n" * 246 + ".jpg"]
FOR_PEOPLE = {".json", ".jsonl", ".yaml", ".md", ".html", ".log", ".txt"}
"""the ends of names of files that people look at; in lists of items the names are as they are"""


@pytest.fixture
def odd(recipe, tmp_path):
    """Arguments of a command: labels and pictures have such names, and one of the pictures is damaged."""
    for part in ("train", "test"):
        pictures = enumerate(sorted((recipe.folder / part).glob("*/*.jpg")))
        rows = [
            {"path": str(path), "label": LABELS[row * 3 // (12 if part == "train" else 15)]} for row, path in pictures
        ]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pool").mkdir()
    for name, path in zip(PICTURES, sorted((recipe.folder / "manifest" / "listed").iterdir()), strict=False):
        shutil.copy(path, tmp_path / "pool" / name)
    (tmp_path / "pool" / "bro\x1bken\n.jpg").write_bytes(b"no picture")
    sources = {part: {"dataset": "manifest", "path": str(tmp_path / f"{part}.jsonl")} for part in ("train", "test")}
    values = {**sources, "pool": [{"dataset": "folder", "path": str(tmp_path / "pool")}], "max_failure_rate": 0.5}
    return [recipe.write(tmp_path / "odd.yaml", {"data": values}), f"output_dir={tmp_path / 'run'}"]


def seen(text):
    """Whether a terminal shows all of a text, but for the ends of lines."""
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", ["run", "data inspect"])
def test_what_is_printed_and_left_for_people(bsssl, odd, tmp_path, command):
    outcome = bsssl(*command.split(), *odd)
    assert outcome.status == 0, outcome.err
    printed = outcome.out + outcome.err
    assert seen(printed) and "two\\nlines" in printed and max(map(len, printed.splitlines())) < 4000
    files = [path for path in (tmp_path / "run").rglob("*") if path.suffix in FOR_PEOPLE]
    assert files and [path.name for path in files if not seen(path.read_text())] == []


def test_the_card_of_a_network_shortens_names(bsssl, odd, tmp_path):
    bsssl("run", *odd)
    lines = (tmp_path / "run" / "seed-0" / "teacher" / "README.md").read_text().splitlines()
    [classes] = [line for line in lines if "two" in line]
    assert classes.startswith("\\\\x1b\\[31mred, two lines, yyyy") and len(classes) < 500
