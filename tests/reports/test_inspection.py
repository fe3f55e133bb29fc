"""``bsssl data inspect``: what is seen of the data before a run, in tables, on a page and in a file."""

import json
import re
import shutil

import pytest
import yaml
from PIL import Image

from tests.data.videos import RATE, write_video
from tests.reports.browser import NAMES, Page, find_browser
from tests.reports.conftest import ODD_NAMES

READY = "document.querySelector('table') !== null"


@pytest.fixture
def inspect(bsssl, recipe, tmp_path):
    """``inspect(*arguments)``: the outcome and what ``data.json`` says, of a copy of the data in ``tmp_path``."""
    for part in ("train", "test", "loose"):
        shutil.copytree(recipe.folder / part, tmp_path / part)
    (tmp_path / "loose" / "broken.jpg").unlink()

    def call(*arguments, **data):
        source = lambda part: {"dataset": "folder", "path": str(tmp_path / part)}  # noqa: E731
        common = {"train": source("train"), "test": source("test"), "pool": [source("loose")]}
        config = recipe.write(tmp_path / "c.yaml", {"output_dir": str(tmp_path / "run"), "data": {**common, **data}})
        outcome = bsssl("data", "inspect", config, *arguments)
        written = tmp_path / "run" / "data.json"
        return outcome, json.loads(written.read_text()) if written.exists() else None

    return call


def rows(text, title):
    """The rows of a table by their first cell."""
    table = next(part for part in text.split("\n\n") if part.startswith(title))
    return {line.split()[0]: re.split(r"  +", line)[1:] for line in table.splitlines()[1:]}


def test_what_there_is(inspect, tmp_path):
    outcome, figures = inspect()
    assert outcome.status == 0, outcome.err
    assert rows(outcome.out, "source  ")["data.train"][:6] == ["12", "12", "0", "3", "12", "0"]
    train, test, pool = figures["sources"]
    assert train["classes"] == {"circle": 4, "square": 4, "triangle": 4}
    assert (train["formats"], set(train["pixels_spread"])) == ({"JPEG": 12}, {"32x32"})
    assert train["bytes"] == sum(file.stat().st_size for file in (tmp_path / "train").rglob("*.jpg"))
    assert (test["items"], pool["labeled"], pool["classes"]) == (15, 0, {})
    assert figures["copies"] == figures["stops"] == []
    assert not (tmp_path / "run" / "seed-0").exists()


def test_what_is_left_out_and_what_cannot_be_read(inspect, tmp_path):
    for name in ("a.MOV", "b.mov", "notes.txt"):
        (tmp_path / "loose" / name).write_text("x")
    cut = (tmp_path / "loose" / "00-circle.jpg").read_bytes()[:-200]
    (tmp_path / "loose" / "cut.jpg").write_bytes(cut)
    (tmp_path / "loose" / "none.png").write_text("no picture")
    outcome, figures = inspect(max_failure_rate=0.0)
    pool = figures["sources"][2]
    assert pool["left_out"] == {".mov": 2, ".txt": 1}
    assert pool["unreadable_examples"] == [["none.png", "not a picture, or of an unknown kind"]]
    assert outcome.status == 1 and "data.pool[0]: 1 of " in outcome.errors[0]
    _, figures = inspect("--decode")
    assert [name for name, _ in figures["sources"][2]["unreadable_examples"]] == ["cut.jpg", "none.png"]


def test_copies_and_contradictions(inspect, tmp_path):
    picture = tmp_path / "train" / "circle" / "0.jpg"
    shutil.copy(picture, tmp_path / "train" / "square" / "same.jpg")
    shutil.copy(picture, tmp_path / "test" / "circle" / "same.jpg")
    shutil.copy(picture, tmp_path / "loose" / "x.jpg")
    shutil.copy(picture, tmp_path / "loose" / "y.jpg")
    outcome, figures = inspect()
    counts = {(pair["first"], pair["second"]): pair["count"] for pair in figures["copies"]}
    assert counts == {
        ("data.train", "data.train"): 1,
        ("data.train", "data.test"): 1,
        ("data.train", "data.pool[0]"): 2,
        ("data.test", "data.pool[0]"): 2,
        ("data.pool[0]", "data.pool[0]"): 1,
    }
    torn = "1 contents have more than one label: circle/0.jpg ('circle') and square/same.jpg ('square')"
    assert torn in outcome.out.splitlines()
    assert outcome.status == 1 and len(outcome.errors) == 2 and "data.pool_overlap=exclude" in outcome.errors[0]
    assert inspect(pool_overlap="exclude")[0].status == 0


def test_a_tar_that_is_cut_is_what_a_run_makes_of_it(inspect, recipe, tmp_path, bsssl):
    whole = (recipe.folder / "tars" / "part-000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    pool = [{"dataset": "tars", "path": str(tmp_path / "cut.tar")}]
    outcome, figures = inspect(pool=pool, max_failure_rate=0.5)
    seen = figures["sources"][2]
    assert outcome.status == 0 and seen["unreadable"] == 1 < seen["items"]
    assert seen["unreadable_examples"][0][0].endswith("(end of the tar)")
    assert bsssl("run", tmp_path / "c.yaml", "--plan").status == 0


def test_a_random_part_is_opened_and_that_is_said(inspect):
    outcome, figures = inspect("--sample", "5")
    assert [one["opened"] for one in figures["sources"]] == [5, 5, 5]
    assert figures["sources"][0]["classes"] == {"circle": 4, "square": 4, "triangle": 4}
    assert "data.train: 5 of 12 items were opened" in outcome.out


def test_a_source_that_is_not_there_hinders_no_other(inspect, tmp_path):
    shutil.rmtree(tmp_path / "test")
    outcome, figures = inspect()
    assert outcome.status == 1 and f"data.test: no such folder: {tmp_path / 'test'}" in outcome.errors[0]
    assert [bool(one["error"]) for one in figures["sources"]] == [False, True, False]


def test_labels_that_a_run_would_stop_at(inspect, tmp_path):
    (tmp_path / "test" / "circle").rename(tmp_path / "test" / "oval")
    outcome, figures = inspect()
    assert outcome.status == 1 and "data.test: unknown class 'oval'" in outcome.errors[0]
    assert outcome.errors == [f"error: {line}" for line in figures["stops"]]


def test_the_data_of_a_transfer(bsssl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the data is not
    outcome = bsssl("data", "inspect", "image/transfer_folder", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1 and [line.split()[1] for line in outcome.errors] == ["data.train:", "data.test:"]


def test_videos(bsssl, tmp_path, recipe):
    folders = {}
    for number, part in enumerate(("train", "test", "pool")):
        for more, shape in enumerate("ab"):
            folder = tmp_path / part / shape
            folder.mkdir(parents=True)
            write_video(folder / "it.mp4", frames=5 * (1 + 2 * number + more))
        folders[part] = {"dataset": "folder", "path": str(tmp_path / part)}
    values = {**recipe.values, "output_dir": str(tmp_path / "run")}
    values["data"] = {**values["data"], **folders, "pool": [folders["pool"]], "clips": {"frames": 2}, "num_classes": 2}
    model = {"name": "small_r2plus1d"}
    values["models"] = {"teacher": model, "student": model}
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(values))
    outcome = bsssl("data", "inspect", tmp_path / "v.yaml", "--to", tmp_path / "seen")
    assert outcome.status == 0, outcome.err
    train, *_ = json.loads((tmp_path / "seen" / "data.json").read_text())["sources"]
    assert (train["rate_spread"], train["seconds_spread"]) == ([RATE] * 5, [0.2, 0.2, 0.2, 0.4, 0.4])
    assert set(train["pixels_spread"]) == {"64x48"} and all("mp4" in name for name in train["formats"])
    assert "frames per second, of which" not in outcome.out
    write_video(tmp_path / "pool" / "a" / "it.mp4", frames=6, seconds=[number / 12.5 for number in range(6)])
    said = "there are videos of 12.5 to 25 frames per second"
    assert said in bsssl("data", "inspect", tmp_path / "v.yaml").out
    assert said not in bsssl("data", "inspect", tmp_path / "v.yaml", "data.clips.fps=25").out


def test_the_page_says_all_and_escapes_it(inspect, tmp_path):
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    lines = [json.dumps({"path": str(file), "label": ODD_NAMES[row % 2]}) for row, file in enumerate(files)]
    (tmp_path / "named.jsonl").write_text("\n".join(lines) + "\n")
    Image.new("RGB", (40, 30)).save(tmp_path / "loose" / "wide.png")
    source = {"dataset": "manifest", "path": str(tmp_path / "named.jsonl")}
    inspect(train=source, test=source, num_classes=2)
    text = (tmp_path / "run" / "data.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "40x30" in text
    assert "http://" not in text and "https://" not in text


@pytest.mark.skipif(find_browser() is None, reason=f"there is no browser: none of {', '.join(NAMES)}")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_a_complaint(inspect, tmp_path, scheme):
    shutil.copy(tmp_path / "train" / "circle" / "0.jpg", tmp_path / "loose" / "x.jpg")
    inspect()
    with Page() as page:
        page.prefer(color_scheme=scheme)
        page.open(tmp_path / "run" / "data.html", until=READY)
        assert page.troubles() == []
        assert page.run("document.querySelector('h2').textContent") == "A run would stop"
        dark = page.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        page.resize(400, 800)
        assert page.run("document.documentElement.scrollWidth <= 400")
