"""Near copies in the pool, through the whole recipe as far as the selection."""

import io
import json
import re
import shutil
import sys

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from bsssl.config import load_config
from bsssl.pipeline.stage import Resources
from bsssl.recipes.teacher_student import stages
from bsssl.selection import read_selection
from tests.reports.browser import Page, find_browser
from tests.reports.conftest import content

COPIES = 5


def changed(image, number):
    """The picture as somebody else would have it: re-encoded, at another size, brighter, mirrored."""
    image = image.resize((48 + 8 * number, 48 + 8 * number), Image.Resampling.BICUBIC)
    image = ImageEnhance.Brightness(image).enhance(1 + 0.05 * number)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number == COPIES - 1 else image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95 - 5 * number)
    return file.getvalue()


@pytest.fixture
def scored(recipe, draw, bsssl, tmp_path):
    """A config whose pool has a picture with five copies, copies of a test and of a labeled item, and three that are of
    one colour; the teacher has scored it, and each item keeps every class."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(12):
        draw("circle", seed=2000 + number).save(pool / f"other-{number:02d}.png")
    draw("square", seed=3000).save(pool / "copied-9.png")
    for number in range(COPIES):
        (pool / f"copied-{number}.jpg").write_bytes(changed(draw("square", seed=3000), number))
    for name in ("train", "test"):
        with Image.open(sorted((recipe.folder / name / "square").iterdir())[0]) as image:
            (pool / f"of-{name}.jpg").write_bytes(changed(image, 1))
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number,) * 3).save(pool / f"plain-{number}.png")
    values = {
        "output_dir": str(tmp_path / "run"),
        "data": {
            "pool": [{"dataset": "folder", "path": str(pool)}],
            "transforms": {"size": 32},
        },
        "score": {"top_p": 3},
        "select": {"top_k": 100},
    }
    config = recipe.write(tmp_path / "near.yaml", values)
    for command in ("train", "score"):
        assert bsssl(command, "--config", config, *(["stage=teacher"] if command == "train" else [])).status == 0
    return config


def picked(config):
    """The keys that were selected for each class."""
    rows = read_selection(str(config.parent / "run/seed-0/select/selection.parquet")).table.to_pylist()
    return [sorted(row["key"] for row in rows if row["class"] == index) for index in range(3)]


def test_one_of_a_group_has_a_place_of_a_class_and_none_is_of_the_test(scored, bsssl):
    outcome = bsssl("select", "--config", scored)
    assert outcome.status == 0 and "2 items of the pool are near to labeled or test items" in outcome.err
    for keys in picked(scored):
        assert sum(key.startswith("copied") for key in keys) == 1
        assert len(keys) == 12 + 1 + 3 and not any(key.startswith("of-") for key in keys)
    near = pq.read_table(scored.parent / "run/seed-0/near/near.parquet").to_pylist()
    assert sorted((row["key"], row["set"]) for row in near if row["set"] != "pool") == [
        ("of-test.jpg", "test"),
        ("of-train.jpg", "labeled"),
    ]
    assert {row["near_key"] for row in near if row["set"] == "pool"} == {"copied-0.jpg"}
    assert all(0 <= row["distance"] <= 31 for row in near)


def test_near_copies_can_be_kept(scored, bsssl):
    assert bsssl("select", "--config", scored, "select.near_duplicates=keep").status == 0
    assert all(len(keys) == 12 + 1 + COPIES + 3 for keys in picked(scored))


def executed(outcome):
    """The stages that a call ran, in order."""
    return re.findall(r"seed \d+: (\S+) \((?!.*kept in)", outcome.err)


def test_what_is_switched_off_is_not_searched_and_on_again_nothing_is_scored_again(scored, bsssl):
    off = "data.near_duplicates=off"
    assert bsssl("select", "--config", scored).status == 0
    thinned = picked(scored)
    assert executed(bsssl("select", "--config", scored, off)) == ["near", "select"]
    assert all(len(keys) == 12 + 1 + COPIES + 3 + 2 for keys in picked(scored))
    assert bsssl("report", scored.parent / "run").status == 0
    assert content(scored.parent / "run/report.html").data["near"] is None
    assert executed(bsssl("select", "--config", scored)) == ["near", "select"]
    assert picked(scored) == thinned


def test_pools_that_were_scored_without_hashes_are_not_searched(scored, bsssl):
    output = f"output_dir={scored.parent / 'without'}"
    for command in ("train", "score"):
        stage = ["stage=teacher"] if command == "train" else []
        assert bsssl(command, "--config", scored, output, "data.near_duplicates=off", *stage).status == 0
    outcome = bsssl("select", "--config", scored, output)
    assert outcome.status == 0 and executed(outcome) == ["near", "select"]
    assert "23 of 23 items of the pool were scored without data.near_duplicates=hash" in outcome.err


def test_a_run_from_before_near_copies_were_looked_for_goes_on_without_it(scored, bsssl):
    assert bsssl("select", "--config", scored, "data.near_duplicates=off").status == 0
    run = scored.parent / "run/seed-0"
    shutil.rmtree(run / "near")
    for looks in run.glob("score/*.looks"):
        looks.unlink()
    record = json.loads((run / "select/done.json").read_text())
    del record["read"]["near"], record["identity"]
    (run / "select/done.json").write_text(json.dumps(record))
    again = bsssl("select", "--config", scored)
    assert again.status == 0 and executed(again) == [], again.err
    assert executed(bsssl("select", "--config", scored, "select.top_k=2")) == ["select"]
    assert not (run / "near").exists()


def test_the_report_shows_the_pairs(scored, bsssl):
    assert bsssl("select", "--config", scored).status == 0
    assert bsssl("report", scored.parent / "run").status == 0
    page = content(scored.parent / "run/report.html")
    assert "2 are nearly the same as a labeled or test item, and 6 in 1 groups" in page.text
    sets = [pair["set"] for pair in page.data["near"]]
    assert sorted(sets[:2]) == ["labeled", "test"] and sets[2:] == ["pool"] * COPIES
    distances = [pair["distance"] for pair in page.data["near"]]
    assert distances[2:] == sorted(distances[2:], reverse=True)
    for pair in page.data["near"]:
        (key, first), (other, second) = pair["items"]
        assert key != other and first != second and all(0 <= one < len(page.pictures) for one in (first, second))
    # What came just after the picks is not what was left out.
    assert not any(key.startswith("of-") for of in page.data["picks"] for key in of["key"])


@pytest.mark.parametrize(
    ("module", "package", "installed"), [("imagehash", "ImageHash", "ImageHash"), ("faiss", "Faiss", "faiss-cpu")]
)
def test_a_package_that_lacks_is_said_before_anything_is_trained(
    recipe, bsssl, tmp_path, monkeypatch, module, package, installed
):
    monkeypatch.setitem(sys.modules, module, None)
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 1 and len(outcome.errors) == 1
    assert package in outcome.errors[0] and f"pip install {installed}" in outcome.errors[0]
    assert not (tmp_path / "run" / "seed-0" / "teacher" / "done.json").exists()


@pytest.mark.parametrize(("method", "gpu"), [("hash", False), ("off", False), ("features", True)])
def test_a_job_that_computes_features_has_a_gpu(recipe, method, gpu):
    (stage,) = (
        one
        for one in stages(load_config(str(recipe.config), [f"data.near_duplicates={method}"]), seed=0)
        if one.name == "near"
    )
    assert stage.resources == Resources(gpu=gpu)


def test_what_is_switched_off_needs_no_package(scored, bsssl, monkeypatch):
    for module in ("imagehash", "faiss"):
        monkeypatch.setitem(sys.modules, module, None)
    outcome = bsssl("select", "--config", scored, "data.near_duplicates=off")
    assert outcome.status == 0, outcome.err


@pytest.mark.skipif(find_browser() is None, reason="there is no browser")
def test_a_browser_shows_the_pairs_side_by_side(scored, bsssl):
    assert bsssl("select", "--config", scored).status == 0
    assert bsssl("report", scored.parent / "run").status == 0
    with Page() as page:
        page.open(scored.parent / "run/report.html", until="document.querySelector('#near-rows tr')")
        assert page.troubles() == []
        rows = page.run("[...document.querySelectorAll('#near-rows tr')].map((row) => row.innerText)")
        assert len(rows) == 2 + COPIES and "of-test.jpg" in "".join(rows[:2])
        pictures = "[...document.querySelectorAll('#near-rows tr')].map((row) => row.querySelectorAll('img').length)"
        assert page.run(pictures) == [2] * len(rows)


def test_the_features_of_the_teacher_find_them_too(scored, bsssl):
    output = scored.parent / "by-features"
    asked = (f"output_dir={output}", "data.near_duplicates=features")
    assert bsssl("train", "--config", scored, "stage=teacher", *asked).status == 0
    assert bsssl("score", "--config", scored, *asked).status == 0

    def found(cosine):
        outcome = bsssl("select", "--config", scored, *asked, f"data.near_cosine={cosine}")
        rows = pq.read_table(output / "seed-0/near/near.parquet").to_pylist()
        assert all(-1e-5 <= row["distance"] <= 1 - cosine + 1e-5 for row in rows)
        return outcome, rows

    outcome, few = found(0.9999)
    assert outcome.status == 0, outcome.err
    assert bsssl("report", output).status == 0
    page = content(output / "report.html")
    assert "cosine of features" in page.text
    assert all(pair["measured"] == f"{1 - pair['distance']:.3f}" for pair in page.data["near"])
    # To a network that has hardly learned anything everything looks alike, also what is in labels and test.
    outcome, many = found(0.5)
    assert outcome.status == 1 and len(many) > len(few)
    assert {row["set"] for row in many} == {"pool", "labeled"} or {row["set"] for row in many} >= {"pool", "test"}


def test_in_a_pool_of_too_many_items_copies_of_labels_and_tests_are_found_alone(scored, bsssl, monkeypatch):
    monkeypatch.setattr("bsssl.stages.near.MOST_IN_POOL", 22)
    outcome = bsssl("select", "--config", scored)
    assert outcome.status == 0 and "not those near to each other, as of 22 at most" in outcome.err
    near = pq.read_table(scored.parent / "run" / "seed-0" / "near" / "near.parquet").to_pylist()
    assert {(row["key"], row["set"]) for row in near} == {("of-test.jpg", "test"), ("of-train.jpg", "labeled")}
