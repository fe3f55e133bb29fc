import base64
import csv
import io
import itertools
import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bsssl.data import Record, Thumbnailer, Unreadable
from bsssl.errors import UserError
from bsssl.reports.page import picks, tested, verdict, work
from bsssl.reports.page.album import Album
from bsssl.reports.page.opening import open_run
from bsssl.reports.page.writing import write_page
from bsssl.selection import read_selection
from tests.reports.conftest import ODD_NAMES, content


@pytest.fixture(scope="module")
def page(odd):
    return content(odd / "report.html")


@pytest.fixture(scope="module")
def picked(odd):
    return picks.read_picks(open_run(str(odd)))


def test_a_run_leaves_its_report(finished_once):
    text = (finished_once / "report.html").read_text()
    assert "Counts per class" in text and len(content(finished_once / "report.html").pictures) > 10
    assert not re.findall(r'(?:src|href)="(?!#)', text) and "@import" not in text and "url(" not in text


def test_nothing_from_data_becomes_markup(page):
    assert page.data["classes"] == sorted(ODD_NAMES)
    scripts = re.findall(r"<script([^>]*)>", page.text)
    assert all(one in ("",) or one.startswith(' type="application/json" id="') for one in scripts)
    assert scripts.count("") == 1 and page.text.count("<!--") == 0 and "\u2028" not in page.text.split("<main")[0]
    assert page.text.count("</script>") == len(scripts)


def test_the_picks_of_the_page_are_those_of_the_selection(odd, page):
    table = read_selection(str(odd / "seed-0" / "select" / "selection.parquet")).table.to_pylist()
    rows = {(row["class"], row["rank"] + 1): row for row in table}
    counts = Counter(row["class"] for row in table)
    assert page.data["per_class"]["picks"] == [counts[index] for index in range(3)]
    for index, of in enumerate(page.data["picks"]):
        assert of["rank"][: counts[index]] == [*range(1, counts[index] + 1)]  # there are few: all are shown
        for rank, score, key, right in zip(of["rank"], of["score"], of["key"], of["right"], strict=True):
            if rank <= counts[index]:
                row = rows[index, rank]
                assert (key, score) == (row["key"], pytest.approx(row["score"], abs=1e-4))
                name = page.data["classes"][index]
                assert right == (ODD_NAMES[int(key.rsplit("/", 1)[-1][0])] == name)
            else:
                assert right is None and key not in {row["key"] for row in table if row["class"] == index}
    assert all(of["rank"][-1] > counts[index] for index, of in enumerate(page.data["picks"]))


def test_thumbnails_are_pictures_and_none_is_there_twice(page):
    assert len(set(page.pictures)) == len(page.pictures)
    with Image.open(io.BytesIO(base64.b64decode(page.pictures[0]))) as image:
        assert image.format == "WEBP" and image.size == (32, 32)


@pytest.mark.parametrize("room", [0, 0.003, 0.01])
def test_the_room_for_thumbnails_is_kept_to(odd, tmp_path, room):
    written = write_page(open_run(str(odd)), str(tmp_path / "page.html"), thumbnails_mb=room)
    page = content(tmp_path / "page.html")
    assert sum(map(len, page.pictures)) <= room * 1e6 * 1.1 and written.thumbnails == len(page.pictures)
    shown = sum(rank <= 6 for of in page.data["picks"] for rank in of["rank"])
    assert f"showing {shown} picks out of" in page.text


def test_the_first_pictures_are_those_that_matter_most(picked):
    rows = [*picks.rows_to_show(picked)]
    first = [int(start) for start in picked.starts]
    assert rows[:3] == first and len(rows) == len(set(rows)) == len(picked.chosen) + len(picked.after)
    assert picks.landmarks(100) == [0, 24, 49, 99] and picks.landmarks(1) == [0] and picks.landmarks(0) == []


@pytest.mark.parametrize("count", [0, 1, 2, 5, 64, 100])
def test_ranks_ever_closer_are_all_ranks(count):
    assert {*picks._spread(count)} == {*range(count)}


def test_what_classes_share(picked):
    samples, classes = picked.samples.tolist(), picked.classes.tolist()
    of_sample = {
        sample: sorted(index for index, one in zip(classes, samples, strict=True) if one == sample)
        for sample in samples
    }
    expected = Counter(pair for found in of_sample.values() for pair in itertools.combinations(found, 2))
    found = picks.sharing(picked)
    assert {tuple(pair["classes"]): pair["count"] for pair in found["pairs"]} == expected and found["all"] == len(
        expected
    )
    assert found["samples"] == [
        sum(len(one) == times for one in of_sample.values()) for times in range(1, len(found["samples"]) + 1)
    ]
    for pair in found["pairs"]:
        assert all({*pair["classes"]} <= {*of_sample[samples[row]]} for row in pair["rows"])


def test_curves_and_precision(picked):
    figures, right = picks.per_class(picked), picked.right
    for index, (start, count) in enumerate(zip(picked.starts, picked.counts, strict=True)):
        assert figures["precision"][index] == pytest.approx(100 * right[start : start + count].mean(), abs=0.1)
        assert figures["lowest"][index] == pytest.approx(picked.scores[start + count - 1], abs=1e-4)
        assert len(figures["scores"][index]) == len(picks.curve_ranks(count))
    overall = picks.by_rank(picked)
    assert len(overall["share"]) == len(overall["median"]) == len(overall["precision"])


def test_selected_and_left_out_are_all_pairs_with_scores(odd, picked):
    mine, others = picked.histogram
    assert sum(mine) == len(picked.chosen) and picked.scored == 30
    assert sum(mine) + sum(others) == 30 * 3  # the teacher kept all three classes of each item


def test_the_confusion_matrix_is_that_of_the_test(odd, page):
    with open(odd / "seed-0" / "evaluate-finetune" / "confusion.csv", newline="") as file:
        matrix = [[int(count) for count in row[1:]] for row in [*csv.reader(file)][1:]]
    cells = {(cell["true"], cell["predicted"]): cell for cell in page.data["tested"]["cells"]}
    assert {place: cell["count"] for place, cell in cells.items()} == {
        (true, predicted): count for true, row in enumerate(matrix) for predicted, count in enumerate(row) if count
    }
    for (true, _), cell in cells.items():
        for row in cell["rows"]:
            key, _, number = page.data["tested"]["items"][str(row)]
            assert page.data["classes"][true] == ODD_NAMES[int(key.rsplit("/", 1)[-1][0])] and number >= 0


def test_calibration_is_that_of_the_metrics(odd):
    curves = tested.calibration(open_run(str(odd)))
    assert [curve["title"] for curve in curves][-1] == "student, then fine-tuned on the labels"
    figures = json.loads((odd / "seed-0" / "evaluate-finetune" / "metrics.json").read_text())
    assert curves[-1]["ece"] == figures["ece"]


def test_the_gain_of_one_seed_is_judged_by_the_test_items(odd):
    gain = verdict.gain(open_run(str(odd)))
    right = []
    for name in ("baseline", "finetune"):
        table = pq.read_table(odd / "seed-0" / f"evaluate-{name}" / "predictions.parquet").to_pylist()
        right.append([row["label"] == row["predicted"] for row in table])
    differences = [100.0 * (after - before) for before, after in zip(*right, strict=True)]
    assert gain.mean == pytest.approx(np.mean(differences))
    assert gain.half == pytest.approx(
        max(1.96 * np.std(differences) / math.sqrt(len(differences)), 100 / len(differences))
    )
    assert "McNemar" in gain.how and gain.text.startswith(f"{gain.mean:+.1f} points (")


def test_the_verdict_in_a_sentence():
    sentences = {(2.0, 1.0): "gained", (-2.0, 1.0): "lost", (1.0, 2.0): "not decide", (1.0, None): "not decide"}
    for (mean, half), word in sentences.items():
        assert word in verdict.Gain(mean, half, "").headline


def test_a_teacher_that_is_no_better_is_told():
    rows = [{"role": "teacher", "mean": 60.0}, {"role": "supervised", "mean": 61.0}]
    assert "no better than the student" in verdict.warnings(rows)[0]
    assert verdict.warnings([{**rows[0], "mean": 62.0}, rows[1]]) == []
    assert verdict.warnings([{**rows[0], "mean": None}, rows[1]]) == []


def test_several_seeds(finished, bsssl):
    for seed in (1, 2):
        shutil.copytree(finished / "seed-0", finished / f"seed-{seed}")
    outcome = bsssl("report", finished, "--seed", 1)
    assert outcome.status == 0, outcome.err
    text = (finished / "report.html").read_text()
    assert "Student&#39;s t over 3 seeds" in text and "All that follows is of seed 1" in text
    assert "has no seed 7; it has 0, 1, 2" in bsssl("report", finished, "--seed", 7).err


def test_a_run_that_is_not_complete(finished, bsssl):
    for name in ("finetune", "evaluate-finetune"):
        (finished / "seed-0" / name / "done.json").unlink()
    outcome = bsssl("report", finished)
    assert outcome.status == 0 and "2 stages are not done" in outcome.out
    text = (finished / "report.html").read_text()
    assert "finetune (seed 0); evaluate-finetune (seed 0)" in text and "There is no verdict yet" in text
    assert content(finished / "report.html").data["tested"] is not None  # of the pre-trained student


def test_a_run_that_has_hardly_begun(finished, bsssl):
    for path in (finished / "seed-0").glob("*/done.json"):
        if path.parent.name != "data":
            path.unlink()
    outcome = bsssl("report", finished / "seed-0", "--to", finished / "page.html")
    assert outcome.status == 0 and outcome.out.startswith(f"{finished / 'page.html'} has been written: ")
    assert content(finished / "page.html").data["picks"] is None


def test_a_run_that_was_moved(finished, tmp_path, bsssl):
    moved = tmp_path / "else where & <here>"
    shutil.move(finished, moved)
    assert bsssl("report", moved).status == 0
    assert "<h1>else where &amp; &lt;here&gt;</h1>" in (moved / "report.html").read_text()


def test_pictures_that_are_gone(odd, tmp_path, bsssl):
    gone = sorted((odd.parent / "pictures" / "train").glob("0-*"))
    for path in gone:
        path.rename(path.with_suffix(".away"))
    try:
        outcome = bsssl("report", odd, "--to", tmp_path / "page.html")
    finally:
        for path in gone:
            path.with_suffix(".away").rename(path)
    assert outcome.status == 0 and "pictures cannot be read any more (No such file or directory)" in outcome.out
    page = content(tmp_path / "page.html")
    assert any(number < 0 for of in page.data["picks"] for number in of["thumb"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda seed: shutil.rmtree(seed), "is no run: there is no seed-N/config.yaml in it"),
        (lambda seed: shutil.rmtree(seed.parent), "there is no folder"),
        (lambda seed: (seed / "config.yaml").write_text("checkpoints: {}\n"), "is a config of a transfer"),
        (
            lambda seed: (seed / "config.yaml").write_text((seed / "config.yaml").read_text() + "new: 1\n"),
            "unknown key 'new'",
        ),
        (lambda seed: (seed / "select" / "done.json").write_text('{"format": 99}'), "written by a newer bsssl"),
        (lambda seed: (seed / "select" / "done.json").write_text("{}"), "is not a record of a stage"),
        (lambda seed: (seed / "select" / "selection.parquet").write_text("x"), "is damaged"),
        (lambda seed: seed.rename(seed.parent / "point") or (seed.parent / "sweep").mkdir(), "is no run"),
    ],
)
def test_what_is_wrong_is_one_line(finished, bsssl, spoil, message):
    spoil(finished / "seed-0")
    outcome = bsssl("report", finished)
    assert outcome.status == 1 and message in outcome.err and len(outcome.errors) == 1


def test_the_points_of_a_sweep_are_named(finished, tmp_path):
    (tmp_path / "sweep").mkdir()
    shutil.move(finished, tmp_path / "sweep" / "select.top_k=6")
    with pytest.raises(UserError, match=r"give one: .*select\.top_k=6"):
        open_run(str(tmp_path / "sweep"))


def test_scores_that_are_gone_leave_the_rest(finished, bsssl):
    shutil.rmtree(finished / "seed-0" / "score")
    assert bsssl("report", finished).status == 0
    assert "It is not known what was left out" in (finished / "report.html").read_text()


def test_a_page_that_cannot_be_written_does_not_fail_the_run(finished, recipe, bsssl):
    (finished / "report.html").unlink()
    (finished / "report.html").mkdir()
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={finished}")
    assert outcome.status == 0 and "there is no report.html: error: " in outcome.err
    assert "results.json, results.md and results.png are in" in outcome.out


def test_the_room_must_be_a_number(bsssl):
    assert bsssl("report", "run", "--thumbnails-mb", "many").status == 2
    assert bsssl("report", "run", "--thumbnails-mb", "30").status == 2


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("/pool/a/1.jpg: empty file", "empty file"),
        ("/pool/a.tar@512: JPEG is cut short in its header", "JPEG is cut short in its header"),
        (
            "20000 x 3 pixels: one side is more than 100 times the other",
            "N x N pixels: one side is more than N times the other",
        ),
        ("[Errno 2] No such file or directory: '/pool/1.jpg'", "[Errno N] No such file or directory: …"),
        ("a labeled or test item, excluded", "a labeled or test item, excluded"),
    ],
)
def test_reasons_of_one_kind(reason, kind):
    assert work.kind_of(reason, "1.jpg") == kind


def test_failures_are_counted_by_reason(finished_once):
    rows, is_all = work.failures(open_run(str(finished_once)))
    assert is_all and [(row["stage"], row["count"]) for row in rows] == [("contents", 1), ("score", 1)]
    assert all(row["example"].endswith("broken.jpg") for row in rows)


def test_time_and_curves(finished_once):
    run = open_run(str(finished_once))
    rows = {row["stage"]: row for row in work.stages(run)}
    assert rows["score"]["samples"] == 52 and rows["teacher"]["samples"] == 96 and rows["data"]["samples"] is None
    assert {curve["stage"] for curve in work.curves(run)} == {"teacher", "baseline", "pretrain", "finetune"}


def test_thumbnails_of_what_is_no_picture(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for name, reason in (("text.jpg", "not a picture"), ("nowhere.jpg", "No such file")):
        with pytest.raises(Unreadable, match=reason):
            Thumbnailer()(Record(name, str(tmp_path / name), 0, -1, None, None))


def test_an_album_keeps_to_its_time(tmp_path):
    draw = Image.new("RGB", (300, 200), "red")
    draw.save(tmp_path / "red.png")
    records = [(number, Record(str(number), str(tmp_path / "red.png"), 0, -1, None, None)) for number in range(5)]
    album = Album(Thumbnailer())
    assert [*album.add(records, room=10_000, seconds=60)] == [(number, 0) for number in range(5)]
    with Image.open(io.BytesIO(album.pictures[0])) as image:
        assert image.size == (96, 64)
    late = Album(Thumbnailer())
    assert [*late.add(records, room=10_000, seconds=-1)] == [] and late.is_late


def test_long_names_take_room_too(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "red.png")
    records = [(number, Record("k" * 5_000, str(tmp_path / "red.png"), 0, -1, None, None)) for number in range(9)]
    album = Album(Thumbnailer())
    assert len([*album.add(records, room=21_000, seconds=60)]) == 4 and album.characters <= 21_000
