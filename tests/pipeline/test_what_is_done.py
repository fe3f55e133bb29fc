"""What runs again and why, what is kept aside, and how work of other settings comes back."""

import json
import os
import re
import shutil

import pytest

from bsssl.config import Config, load_config
from bsssl.recipes.runs import all_runs, as_yaml
from tests.pipeline.test_fingerprints import as_overrides


@pytest.fixture
def again(bsssl, recipe, finished):
    """Runs a command on the copy of the finished run."""

    def call(command, *overrides):
        return bsssl(command, "--config", recipe.config, f"output_dir={finished}", *overrides)

    return call


def ran(outcome):
    """The stages that a call ran, in order."""
    assert outcome.status == 0, outcome.err
    return re.findall(r"seed \d+: (\S+) \(", outcome.err)


def weights(finished, stage):
    return (finished / "seed-0" / stage / "model.safetensors").read_bytes()


def aside(finished, stage):
    return sorted((finished / "seed-0" / "aside" / stage).glob("*"))


# Other settings


def test_a_finished_training_of_other_settings_is_kept_and_comes_back(again, finished):
    before = weights(finished, "baseline")
    outcome = again("run", "baseline.base_lr=1")
    (kept,) = aside(finished, "baseline")
    assert f"baseline: what was there is kept in {kept} (baseline.base_lr: 2.0 -> 1.0); --redo" in outcome.err
    assert (kept / "model.safetensors").read_bytes() == before != weights(finished, "baseline")
    back = again("run")
    assert "baseline: taken back from" in back.err and weights(finished, "baseline") == before
    assert "step/s" not in back.err and len(aside(finished, "baseline")) == 1


@pytest.mark.parametrize(
    ("stage", "settings", "error"),
    [
        ("baseline", ("baseline.base_lr=1e30", "baseline.warmup=0 steps"), "the loss is nan by step 8: "),
        ("data", ("data.num_classes=4",), "data.train has 3 classes, but data.num_classes says 4"),
    ],
)
def test_new_work_that_fails_says_where_the_earlier_result_is_and_that_comes_back(
    again, finished, stage, settings, error
):
    before = (finished / "seed-0" / stage / "done.json").read_bytes()
    outcome = again("run", *settings)
    (kept,) = aside(finished, stage)
    assert outcome.status == 1 and len(outcome.errors) == 1 and outcome.errors[0].startswith(f"error: {error}")
    note = f"; what was done with other settings or inputs is kept in {kept}, and comes back with them"
    assert outcome.errors[0].endswith(note) and again("run", *settings).errors == outcome.errors
    back = again("run")
    assert f"{stage}: taken back from {kept}" in back.err and ran(back) == [stage]
    assert (finished / "seed-0" / stage / "done.json").read_bytes() == before


def test_redo_replaces_what_was_there(again, finished):
    outcome = again("run", "baseline.base_lr=1", "--redo")
    assert "baseline: what was there is replaced (baseline.base_lr: 2.0 -> 1.0)" in outcome.err
    assert aside(finished, "baseline") == []


def test_an_unfinished_training_of_other_settings_is_kept_and_goes_on_later(again, bsssl, recipe, finished):
    """A training that stops after a checkpoint, another setting, and back: it does not begin anew."""
    folder, expected = finished / "seed-0" / "baseline", weights(finished, "baseline")
    (run,) = all_runs(load_config(str(recipe.config), [f"output_dir={finished}"]), config_path="")
    shutil.rmtree(folder)
    outcome = again("train", "stage=baseline", "system.checkpoint_steps=3", "data.max_failure_rate=0.05")
    assert outcome.status == 0
    # What a kill before the end leaves: the checkpoint of step 6, and what the training was begun with.
    (folder / "done.json").rename(folder / "begun.json")
    (folder / "model.safetensors").unlink()
    checkpoint = folder / f"checkpoint-{run.identity('baseline')}-000000006.pt"
    checkpoint.write_bytes(b"")
    other = again("train", "stage=baseline", "baseline.base_lr=1")
    assert "baseline (not done yet; what was begun differs: baseline.base_lr: 2.0 -> 1.0)" in other.err
    (kept,) = aside(finished, "baseline")
    assert (kept / checkpoint.name).exists()
    back = again("train", "stage=baseline")
    assert "taken back from" in back.err and f"{folder / checkpoint.name} is damaged" in back.err
    assert weights(finished, "baseline") == expected


# What was read


def test_a_test_item_more_runs_evaluations_alone(bsssl, recipe, draw, tmp_path):
    data = tmp_path / "test"
    shutil.copytree(recipe.folder / "test", data)
    arguments = ("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", f"data.test.path={data}")
    assert bsssl(*arguments).status == 0
    draw("circle", seed=900).save(data / "circle" / "900.png")
    outcome = bsssl(*arguments)
    tests = [f"evaluate-{name}" for name in ("teacher", "pretrain", "finetune", "baseline")]
    # What the new item is a copy of, or near to, is looked for; nothing is, and the selection stays.
    assert ran(outcome) == ["data", "contents", tests[0], "near", *tests[1:]]
    assert json.loads((tmp_path / "run/seed-0/evaluate-finetune/done.json").read_text())["result"]["items"] == 16


def test_a_pool_with_more_items_scores_the_shards_that_changed_alone(bsssl, recipe, draw, tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(30):
        draw("square", seed=600 + number).save(pool / f"{number:02d}.png")
    source = json.dumps([{"dataset": "folder", "path": str(pool)}])
    arguments = ("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", f"data.pool={source}")
    assert bsssl(*arguments).status == 0
    scores = tmp_path / "run" / "seed-0" / "score"
    before = {path.name: path.stat().st_mtime_ns for path in scores.glob("*.scores")}
    assert len(before) == 3
    draw("square", seed=700).save(pool / "99.png")
    assert "score" in ran(bsssl(*arguments))
    after = {path.name: path.stat().st_mtime_ns for path in scores.glob("*.scores")}
    assert {name for name in after if after[name] != before.get(name)} == {"000002.scores"}
    assert json.loads((scores / "done.json").read_text())["result"]["records"] == 31


def test_an_input_that_was_made_again_and_is_the_same_runs_nothing(again, finished):
    (finished / "seed-0" / "teacher" / "done.json").unlink()
    assert ran(again("run")) == ["teacher"]


def test_a_result_that_somebody_changed_is_noticed_and_kept(again, finished):
    path = finished / "seed-0" / "data" / "labeled.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    outcome = again("run")
    assert ran(outcome) == ["data"]
    assert "data (labeled.csv is not what the stage has left)" in outcome.err
    (kept,) = aside(finished, "data")
    assert (kept / "labeled.csv").read_text() == "".join(lines[:-1]) and path.read_text() == "".join(lines)


@pytest.mark.parametrize(
    ("stage", "name"),
    [("data", "labeled.csv"), ("data", "test.csv"), ("select", "selection.parquet"), ("teacher", "model.safetensors")],
)
def test_a_result_that_was_changed_at_the_same_size_and_time_is_noticed(again, finished, stage, name):
    path = finished / "seed-0" / stage / name
    assert ran(again("run")) == []  # its record is of this copy from here on
    whole, status = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-20] + whole[-20:].swapcase()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == len(whole) and path.read_bytes() != whole
    outcome = again("run")
    assert ran(outcome) == [stage] and f"{stage} ({name} is not what the stage has left)" in outcome.err
    assert path.read_bytes() == whole


def test_a_result_with_other_times_alone_runs_nothing(again, finished):
    for path in (finished / "seed-0").rglob("*"):
        os.utime(path, (0, 0))
    assert ran(again("run")) == []


def test_a_shard_that_somebody_cut_is_noticed_and_made_again(again, finished):
    shards = {"score": "000003.scores", "materialise": "000001.tar", "data": "pool/shard-000002.parquet"}
    assert again("run", "materialise.samples_per_tar=6").status == 0
    for stage, shard in shards.items():
        path = finished / "seed-0" / stage / shard
        times = {other: other.stat().st_mtime_ns for other in path.parent.glob(f"*{path.suffix}")}
        whole = path.read_bytes()
        path.write_bytes(whole[:-7])
        plan = again("run", "materialise.samples_per_tar=6", "--plan").out
        assert re.search(rf"^{stage} .* to do \({shard} is not what the stage has left\)$", plan, re.MULTILINE), plan
        assert ran(again("run", "materialise.samples_per_tar=6")) == [stage]
        assert path.read_bytes() == whole
        if stage != "data":
            assert [other for other, time in times.items() if other.stat().st_mtime_ns != time] == [path]
    (kept,) = aside(finished, "data")  # the one whose work has no parts
    assert (kept / shard).stat().st_size == len(whole) - 7 and not aside(finished, "score")


def test_an_input_that_changes_under_a_stage_is_noticed(again, finished, monkeypatch):
    """Another process makes the scores anew while the selection is at work."""
    from bsssl.stages.select import SelectStage

    work, path = SelectStage.work, finished / "seed-0" / "score" / "done.json"

    def disturbed(stage, run):
        result, record = work(stage, run), json.loads(path.read_text())
        path.write_text(json.dumps({**record, "digests": {"scores": "0" * 16}}))
        return result

    monkeypatch.setattr(SelectStage, "work", disturbed)
    outcome = again("select", "select.top_k=5")
    assert outcome.errors == [
        "error: select: what it reads has changed while it was at work; run the same command again"
    ]
    assert not (finished / "seed-0" / "select" / "done.json").exists()


def test_the_plan_says_what_depends_on_what_comes_out(again):
    outcome = again("run", "teacher.base_lr=1", "--plan")
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line}
    assert "to do (teacher.base_lr: 2.0 -> 1.0)" in rows["teacher"]
    assert rows["finetune"].endswith("done, unless teacher comes out differently")
    assert rows["baseline"].endswith("done")


def test_the_plan_says_which_test_sets_are_others(again, recipe, finished):
    def reasons(**tests):
        given = {name: {"dataset": "folder", "path": str(recipe.folder / path)} for name, path in tests.items()}
        outcome = again("run", *([f"data.test={json.dumps(given)}"] if given else []), "--plan")
        return dict(re.findall(r"^(\S+) .*?((?:to do|done)\b.*)", outcome.out, re.MULTILINE))

    assert reasons(plain="test")["data"] == "to do (data.test has changed)"
    assert again("run", f'data.test={{"plain": {{"dataset": "folder", "path": "{recipe.folder}/test"}}}}').status == 0
    assert reasons(plain="test", more="train")["data"] == "to do (data.test.more is new)"
    assert reasons(clean="test")["data"] == "to do (data.test.clean is new; data.test.plain is gone)"
    assert reasons(plain="test", more="train")["evaluate-teacher.plain"] == "done, unless data comes out differently"
    assert reasons(plain="train")["data"].startswith("to do (data.test.plain.path")
    back = reasons()
    assert back["data"] == "to do (data.test has changed)"
    assert back["evaluate-teacher"] == "done, unless data comes out differently"
    # What is a copy of what, or near to it, is known of the last test sets alone.
    copies = ("contents", "near")
    assert {back[name] for name in copies} == {"to do (data was made again and came out differently)"}
    rest = {name: state for name, state in back.items() if name not in ("data", *copies)}
    assert set(rest.values()) == {"done, unless data comes out differently"}
    assert ran(again("run")) == ["data", *copies]


# New options, new versions


def test_an_option_that_is_new_and_off_runs_nothing(recipe, finished, monkeypatch):
    """The identity of work leaves out whatever is at its default, in every section."""
    (run,) = all_runs(load_config(str(recipe.config), [f"output_dir={finished}"]), config_path="")
    for name, stage in run.stages.items():
        record = json.loads((run.folder(name) / "done.json").read_text())
        assert run.work(name).identifying == record["identifying"]
        assert not _defaults(type(stage.settings), record["identifying"])


def test_every_key_given_as_it_is_anyway_runs_nothing(again, recipe, finished):
    config = load_config(str(recipe.config), [f"output_dir={finished}"])
    outcome = again("run", *as_overrides(config.model_dump(mode="json")))
    assert ran(outcome) == [] and "student, then fine-tuned on the labels" in outcome.out


def _defaults(section, values):
    """The keys of ``values`` that are at the default of their section."""
    at_default = []
    for key, value in values.items():
        field = section.model_fields[key]
        inner = field.annotation
        if isinstance(value, dict) and isinstance(inner, type) and hasattr(inner, "model_fields"):
            at_default += _defaults(inner, value)
        elif not field.is_required() and value == json.loads(json.dumps(field.default, default=str)):
            at_default.append(key)
    return at_default


def test_a_new_version_of_a_kind_runs_its_stages_again(again, monkeypatch):
    from bsssl.stages.select import SelectStage

    monkeypatch.setattr(SelectStage, "version", 2)
    outcome = again("run")
    assert ran(outcome)[0] == "select"
    assert "select ('select' works differently since it was done (version 1 -> 2))" in outcome.err


def test_a_resolved_config_reads_back_as_itself(recipe, tmp_path):
    lengths = ("0.00005 epochs", "20.33333333 epochs", "1e9 samples", "123456789.5 samples", "1_000 samples")
    for length in (*lengths, "1e-7 epochs", f"{0.1 + 0.2} epochs", "1e22 samples", "5e-324 epochs"):
        config = load_config(str(recipe.config), [f"teacher.length={length}", "teacher.warmup=0 epochs"])
        path = tmp_path / "resolved.yaml"
        path.write_text(as_yaml(config))
        assert load_config(str(path), [], Config) == config, length


# Records that cannot be used


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "done.json is not valid JSON ("),
        ("[]", "done.json is not a record of a stage; delete it, and the stage runs again"),
        ("{}", "done.json is not a record of a stage; delete it, and the stage runs again"),
        ('{"format": 2, "stage": "teacher"}', "done.json is not a record of a stage; delete it"),
        (
            '{"format": 99}',
            "has record format 99, this program reads up to 2: it was written by a newer bsssl",
        ),
        ('{"format": "x"}', "done.json is not a record of a stage; delete it, and the stage runs again"),
        ('{"stage": "teacher", "settings": [], "result": {}, "digests": {}, "read": {}}', "is not a record of a stage"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_line(again, finished, content, error):
    (finished / "seed-0" / "teacher" / "done.json").write_text(content)
    for arguments in (("run",), ("run", "--plan")):
        outcome = again(*arguments)
        assert outcome.status == 1 and len(outcome.errors) == 1 and error in outcome.errors[0], outcome.err
