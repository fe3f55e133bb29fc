"""Items are known by their bytes: what is damaged, or there under two names, is found before anything is trained."""

import json
import os
import re
import shutil
import tarfile

import pyarrow.parquet as pq
import pytest
import yaml

from bsssl import selection
from tests.conftest import draw_shape
from tests.reports.conftest import content


def executed(outcome):
    """The stages that a call ran, in order."""
    return re.findall(r"seed \d+: (\S+) \((?!.*kept in)", outcome.err)


@pytest.fixture
def planted(recipe, tmp_path):
    """A recipe with a pool of a folder of its own, and the folder."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(30):
        name = ("circle", "square", "triangle")[number % 3]
        draw_shape(name, seed=700 + number).save(pool / f"{number:02d}-{name}.png")
    short = {"length": "2 steps", "warmup": "0 steps"}
    sections = dict.fromkeys(("teacher", "baseline", "pretrain", "finetune"), short)
    values = {"data": {"pool": [{"dataset": "folder", "path": str(pool)}], "max_failure_rate": 0.0}, **sections}
    return recipe.write(tmp_path / "planted.yaml", {"output_dir": str(tmp_path / "run"), **values}), pool


def listed(output):
    table = pq.read_table(output / "seed-0" / "contents" / "copies.parquet").to_pylist()
    return [(row["set"], row["key"], row["of_set"], row["of_key"], row["left_out"]) for row in table]


def result(output, stage="contents"):
    return json.loads((output / "seed-0" / stage / "done.json").read_text())["result"]


def picked(output):
    return selection.read_selection(str(output / "seed-0" / "select" / "selection.parquet")).key.to_pylist()


def test_one_content_takes_one_place_and_the_next_moves_up(bsssl, planted, tmp_path):
    config, pool = planted
    plain = bsssl("run", "--config", config, f"output_dir={tmp_path / 'plain'}")
    assert plain.status == 0, plain.err
    assert "copies" not in plain.err and result(tmp_path / "plain")["left_out"] == 0
    for original in sorted(pool.iterdir()):
        for number in range(3):
            shutil.copy(original, pool / f"copy-{number}-of-{original.name}")
    done = bsssl("run", "--config", config)
    assert done.status == 0, done.err
    assert executed(done)[:3] == ["data", "contents", "teacher"]
    assert "data.pool: 90 items are copies of others in data.pool (such as copy-0-of-00-circle.png of " in done.err
    assert sorted(picked(tmp_path / "run")) == sorted(picked(tmp_path / "plain"))
    copies = listed(tmp_path / "run")
    assert len(copies) == 90 and copies == sorted(copies) and result(tmp_path / "run")["left_out"] == 90
    assert copies[0] == ("pool", "copy-0-of-00-circle.png", "pool", "00-circle.png", True)
    # What came just after the picks is no copy, and there is something.
    assert bsssl("report", tmp_path / "run").status == 0
    page = content(tmp_path / "run/report.html").data
    after = [
        key
        for of, count in zip(page["picks"], page["per_class"]["picks"], strict=True)
        for key, rank in zip(of["key"], of["rank"], strict=True)
        if rank > count
    ]
    assert after and not any(key.startswith("copy-") for key in after)
    # Allowed, and as near copies too, copies take places of their own, and are listed as before.
    allowed = ("data.duplicates=allow", "select.near_duplicates=keep")
    ended = bsssl("select", "--config", config, *allowed)
    assert "needs the result of 'contents'" in ended.err and "run first: bsssl contents --config" in ended.err
    assert "data.duplicates: remove -> allow" in ended.err
    assert executed(bsssl("contents", "--config", config, *allowed)) == ["contents"]
    assert executed(bsssl("select", "--config", config, *allowed)) == ["select"]
    assert any(key.startswith("copy-") for key in picked(tmp_path / "run"))
    assert listed(tmp_path / "run") == [(*row[:4], False) for row in copies]


@pytest.mark.parametrize("sources", ["links", "manifest", "tars"])
def test_the_same_items_by_other_ways_are_copies(bsssl, planted, tmp_path, sources):
    """Links of both sorts, a row twice, a tar that a pattern, a list and a link name: 30 items in all, each once."""
    config, pool = planted
    names = [path.name for path in sorted(pool.iterdir())]
    if sources == "links":
        os.link(pool / names[0], pool / "hard.png")
        (pool / "soft.png").symlink_to(pool / names[1])
        paths, copies = [pool, f"{pool}/../pool/"], 34
    elif sources == "manifest":
        rows = [*names, names[0], f"../pool/{names[1]}"]
        (tmp_path / "pool.csv").write_text("path\n" + "".join(f"pool/{name}\n" for name in rows))
        paths, copies = [tmp_path / "pool.csv"], 2
    else:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            tar.add(pool, arcname="")
        (tmp_path / "b.tar").symlink_to("a.tar")
        paths, copies = [f"{tmp_path}/*.tar", f"{tmp_path}/{{a,a}}.tar"], 90
    kind = {"links": "folder"}.get(sources, sources)
    given = json.dumps([{"dataset": kind, "path": str(path)} for path in paths])
    assert bsssl("run", "--config", config, f"data.pool={given}").status == 0
    left_out = [row for row in listed(tmp_path / "run") if row[4]]
    assert len(left_out) == copies == result(tmp_path / "run")["left_out"]
    assert len(selection.read_selection(str(tmp_path / "run/seed-0/select/selection.parquet"))) == 18


def test_the_same_content_with_two_labels_is_named(bsssl, planted, recipe, tmp_path):
    """In the labels, and of a test item."""
    config, _ = planted
    shutil.copytree(recipe.folder / "train", tmp_path / "train")
    shutil.copytree(recipe.folder / "test", tmp_path / "test")
    shutil.copy(tmp_path / "train/circle/0.jpg", tmp_path / "train/square/other.jpg")
    shutil.copy(tmp_path / "train/circle/1.jpg", tmp_path / "train/circle/same.jpg")
    shutil.copy(tmp_path / "train/circle/2.jpg", tmp_path / "test/triangle/test.jpg")
    given = [f"data.{part}.path={tmp_path / part}" for part in ("train", "test")]
    ended = bsssl("train", "stage=teacher", "--config", config, *given)
    line = (
        "2 copies have another label than what they are of (square/other.jpg (square) of circle/0.jpg (circle), "
        "triangle/test.jpg (triangle) of circle/2.jpg (circle)); correct the wrong ones"
    )
    assert ended.status == 0 and line in ended.err, ended.err


def test_what_cannot_be_read_ends_the_run_before_anything_is_trained_and_is_listed(bsssl, planted, recipe, tmp_path):
    config, pool = planted
    (pool / "cut.png").write_bytes((pool / "00-circle.png").read_bytes()[:20])
    (pool / "empty.jpg").touch()
    (pool / "gone.png").symlink_to(tmp_path / "nowhere.png")
    test = tmp_path / "test"
    shutil.copytree(recipe.folder / "test", test)
    (test / "circle" / "0.jpg").write_bytes(b"no picture")
    ended = bsssl("run", "--config", config, f"data.test.path={test}")
    assert ended.status == 1 and executed(ended) == ["data", "contents"]
    of_test, of_pool = sorted(ended.errors, reverse=True)
    assert "data.test: 1 of 15 items cannot be read, more than the tolerated 0.0 %" in of_test.replace("%", " %")
    assert "raise data.max_missing_rate" in of_test and "circle/0.jpg: not a picture" in of_test
    assert "data.pool: 3 of 33 items cannot be read" in of_pool and "raise data.max_failure_rate" in of_pool
    ledger = tmp_path / "run" / "seed-0" / "contents" / "unreadable.jsonl"
    assert str(ledger) in of_pool
    keys = [json.loads(line)["key"] for line in ledger.read_text().splitlines()]
    assert keys == ["circle/0.jpg", "cut.png", "empty.jpg", "gone.png"]
    # Nothing is looked at without verify; what cannot be read at all is still said.
    ended = bsssl("run", "--config", config, f"data.test.path={test}", "data.verify=off")
    assert len(ended.errors) == 1 and "data.pool: 2 of 33 items" in ended.errors[0]  # empty, or not there
    # What is mended in its place is seen by the same command.
    for name in (tmp_path / "nowhere.png", pool / "empty.jpg"):
        name.write_bytes((pool / "01-square.png").read_bytes())
    assert executed(bsssl("run", "--config", config, f"data.test.path={test}", "data.verify=off"))[1] == "teacher"


def test_damage_behind_the_header_is_found_when_it_is_asked_for(bsssl, planted):
    config, pool = planted
    content = (pool / "00-circle.png").read_bytes()
    (pool / "00-circle.png").write_bytes(content[: len(content) // 2])
    ended = bsssl("run", "--config", config, "data.verify=decode")
    assert executed(ended) == ["data", "contents"] and "data.pool: 1 of 30 items cannot be read" in ended.err
    done = bsssl("run", "--config", config, "data.max_failure_rate=0.1")
    assert done.status == 0 and executed(done)[:2] == ["contents", "teacher"]


@pytest.fixture
def leaking(planted, recipe, tmp_path):
    """The recipe with a copy of a labeled item in the test set and in the pool, and one of a test item in the pool."""
    config, pool = planted
    test = tmp_path / "test"
    shutil.copytree(recipe.folder / "test", test)
    shutil.copy(recipe.folder / "train" / "circle" / "1.jpg", test / "circle" / "copied.jpg")
    shutil.copy(recipe.folder / "train" / "circle" / "1.jpg", pool / "a.jpg")
    shutil.copy(test / "square" / "2.jpg", pool / "b.jpg")
    shutil.copy(test / "square" / "2.jpg", pool / "c.jpg")
    content = yaml.safe_load(config.read_text())
    content["data"]["test"] = {"dataset": "folder", "path": str(test)}
    config.write_text(yaml.safe_dump(content))
    return config


def test_a_pool_that_holds_labeled_or_test_items_under_other_names_is_refused_before_training(bsssl, leaking, tmp_path):
    ended = bsssl("run", "--config", leaking)
    assert executed(ended) == ["data", "contents"]
    (line,) = ended.errors
    assert "the pool holds 3 copies of labeled or test items (such as a.jpg of circle/1.jpg, a.jpg of" in line
    assert "set data.pool_overlap=exclude" in line
    ours = [row[:4] for row in listed(tmp_path / "run")]
    assert ours == [
        ("test", "circle/copied.jpg", "labeled", "circle/1.jpg"),
        ("pool", "a.jpg", "labeled", "circle/1.jpg"),
        ("pool", "a.jpg", "test", "circle/copied.jpg"),
        ("pool", "b.jpg", "test", "square/2.jpg"),
        ("pool", "c.jpg", "test", "square/2.jpg"),
        ("pool", "c.jpg", "pool", "b.jpg"),
    ]


def test_copies_of_test_items_are_excluded_or_allowed(bsssl, leaking, tmp_path):
    done = bsssl("run", "--config", leaking, "data.pool_overlap=exclude", "select.top_k=30")
    assert done.status == 0, done.err
    # In one warning, and where the figures are.
    leak = (
        "data.test: 1 items are copies of others in data.train (such as circle/copied.jpg of circle/1.jpg): the "
        "accuracies will be too high"
    )
    assert done.err.count("copies of others in data.train") == 2  # of the test and of the pool
    assert leak in done.err and leak in (tmp_path / "run" / "results.md").read_text()
    (figures,) = json.loads((tmp_path / "run" / "results.json").read_text())["contents"]
    assert figures["copies"]["test of labeled"] == 1 and figures["left_out"] == 3 and figures["seed"] == 0
    assert figures["examples"]["test of labeled"] == ["circle/copied.jpg of circle/1.jpg"]
    assert leak in bsssl("run", "--config", leaking, "data.pool_overlap=exclude", "select.top_k=30", "--plan").out
    assert bsssl("report", tmp_path / "run").status == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<code>circle/copied.jpg of circle/1.jpg</code>" in page and '<a href="#copies">' in page
    assert not {"a.jpg", "b.jpg", "c.jpg"}.intersection(picked(tmp_path / "run"))
    done = bsssl("run", "--config", leaking, "data.pool_overlap=allow", "select.top_k=33")
    assert done.status == 0, done.err
    assert {"a.jpg", "b.jpg", "c.jpg"}.intersection(picked(tmp_path / "run")) == {"a.jpg", "b.jpg"}


def test_tasks_share_the_work_and_what_is_read_is_not_read_again(bsssl, planted, tmp_path):
    config, pool = planted
    folder = tmp_path / "run" / "seed-0" / "contents"
    overrides = ("data.shard_size=12", "data.pool_fraction=1.0")
    for number, parts in enumerate(([0, 2, 4], [0, 1, 2, 3, 4])):  # three shards, then the labels and the test
        task = bsssl("contents", "--config", config, "--task", f"{number}/2", *overrides)
        assert task.status == 0, task.err
        assert sorted(path.name for path in folder.glob("*.contents")) == [f"{part:06d}.contents" for part in parts]
    assert not (folder / "done.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.contents")}
    assert executed(bsssl("train", "--config", config, "stage=baseline", *overrides))[:2] == ["contents", "baseline"]
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.contents")} == before
    # Of a pool that grows at its end, the last shard alone is read.
    shutil.copy(pool / "00-circle.png", pool / "z.png")
    assert executed(bsssl("run", "--config", config, *overrides))[:2] == ["data", "contents"]
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.contents")}
    assert [name for name in before if after[name] != before[name]] == ["000002.contents"]
    assert result(tmp_path / "run")["left_out"] == 1
    # A part that is gone is read again, and nothing else.
    (folder / "000001.contents").unlink()
    assert executed(bsssl("run", "--config", config, *overrides)) == ["contents"]


def test_a_run_from_before_there_was_such_a_stage_goes_on_without_it(bsssl, planted, tmp_path):
    config, _pool = planted
    assert bsssl("run", "--config", config).status == 0
    run = tmp_path / "run" / "seed-0"
    shutil.rmtree(run / "contents")
    record = json.loads((run / "select" / "done.json").read_text())
    del record["read"]["contents"], record["identity"]
    (run / "select" / "done.json").write_text(json.dumps(record))
    plan = bsssl("run", "--config", config, "--plan")
    assert plan.status == 0 and "to do" not in plan.out
    again = bsssl("run", "--config", config)
    assert again.status == 0 and executed(again) == []
    assert "contents is left out, as the run is from before there was such a stage" in again.err
    assert not (run / "contents").exists()
    # Another selection is made as before, too.
    assert executed(bsssl("select", "--config", config, "select.top_k=2")) == ["select"]


def test_an_earlier_selection_stays_where_there_are_no_copies(bsssl, planted, tmp_path):
    config, pool = planted
    assert bsssl("run", "--config", config).status == 0
    select = tmp_path / "run" / "seed-0" / "select"
    record = json.loads((select / "done.json").read_text())
    del record["read"]["contents"], record["identity"]
    (select / "done.json").write_text(json.dumps(record))
    assert "to do" not in bsssl("run", "--config", config, "--plan").out
    shutil.copy(pool / "00-circle.png", pool / "copy.png")
    assert executed(bsssl("contents", "--config", config)) == ["data", "contents"]
    assert executed(bsssl("score", "--config", config)) == ["score"]
    # The scores are others, too; what the list of copies says is told beside.
    assert "contents was made again" in bsssl("select", "--config", config).err


def test_a_fine_tuning_that_starts_from_scratch_comes_after_the_contents_too(bsssl, leaking):
    ended = bsssl("train", "--config", leaking, "stage=finetune", "finetune.init_from=null")
    assert executed(ended) == ["data", "contents"] and "the pool holds 3 copies" in ended.err
