"""Pre-training of the teacher on hashtags: the stages, what the student may see, bad input, and `tags inspect`."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors
import yaml

from bsssl import data, selection
from bsssl.config import load_config
from bsssl.data.datasets.generated import Digits
from bsssl.recipes.runs import stages

ROOT = Path(__file__).parents[2]
WORDS = {"circle": "Kreis", "square": "#Square", "triangle": "tri-angle"}
MAP = {"kreis": "circle", "triangles": "triangle"}
SHORT = {"length": "8 steps", "batch_size": 12, "base_lr": 2.0, "schedule": "cosine", "warmup": "2 steps"}


def executed(outcome):
    return re.findall(r"seed \d+: (\S+) \(", outcome.err)


def tagged(path, rows):
    """A manifest with tags."""
    path.write_text("path,tags\n" + "".join(f"{name},{';'.join(tags)}\n" for name, tags in rows))
    return path


@pytest.fixture
def rows(recipe):
    """18 pictures, 6 of each shape, with its word and one that says nothing."""
    loose = sorted((recipe.folder / "loose").glob("[01]*.jpg"))
    return [(path, [WORDS[path.stem.split("-")[1]], "love"]) for path in loose]


@pytest.fixture
def config(recipe, rows, tmp_path):
    """The recipe with tags in a label space of their own."""
    manifest = tagged(tmp_path / "weak.csv", rows)
    weak = {**SHORT, "sources": [{"dataset": "manifest", "path": str(manifest)}], "tags": {"min_samples": 5}}
    return recipe.write(tmp_path / "weak.yaml", {"weak": weak, "teacher": {"init_from": "weak"}})


@pytest.fixture
def call(bsssl, config, tmp_path):
    def run(command, *overrides, output=tmp_path / "run"):
        return bsssl(command, "--config", config, f"output_dir={output}", *overrides)

    return run


@pytest.fixture
def refused(call):
    def run(*overrides, command="run"):
        outcome = call(command, *overrides)
        assert outcome.status == 1 and len(outcome.errors) == 1, outcome.err
        assert "not an error we foresaw" not in outcome.err
        return outcome.errors[0].removeprefix("error: ")

    return run


TARGETS = ("weak.tags.classes=targets", f"weak.tags.map={json.dumps(MAP)}", "weak.tags.spelling={triangle: triangles}")


def weights(folder, stage):
    return (folder / "seed-0" / stage / "model.safetensors").read_bytes()


def head(folder, stage):
    with safetensors.safe_open(folder / "seed-0" / stage / "model.safetensors", "np") as file:
        return file.get_tensor("fc.weight"), json.loads(file.metadata()["classes"])


# The stages


def test_tags_in_their_own_label_space(call, tmp_path):
    outcome = call("run")
    assert outcome.status == 0, outcome.err
    assert executed(outcome)[:6] == ["data", "contents", "tags", "weak", "teacher", "evaluate-teacher"]
    folder = tmp_path / "run" / "seed-0" / "tags"
    assert {path.name for path in folder.iterdir()} == {"tagged.parquet", "classes.json", "tags.csv", "done.json"}
    assert json.loads((folder / "classes.json").read_text()) == ["kreis", "love", "square", "triangle"]
    assert pq.read_table(folder / "tagged.parquet")["classes"].to_pylist()[:3] == [[0, 1], [1, 2], [1, 3]]
    assert (tmp_path / "run/seed-0/weak/metrics.jsonl").stat().st_size > 0
    assert head(tmp_path / "run", "weak")[1] == ["kreis", "love", "square", "triangle"]
    assert head(tmp_path / "run", "teacher")[1] == ["circle", "square", "triangle"]
    assert executed(call("run")) == []


def test_tags_that_mean_the_classes(call, tmp_path):
    outcome = call("run", *TARGETS)
    assert outcome.status == 0, outcome.err
    assert "evaluate-weak" in executed(outcome)
    with open(tmp_path / "run/seed-0/tags/tags.csv") as file:
        assert sorted(csv.reader(file)) == [
            ["kreis", "6", "circle", "kept"],
            ["love", "18", "", "unmapped"],
            ["square", "6", "square", "kept"],
            ["tag", "samples", "class", "fate"],
            ["triangles", "6", "triangle", "kept"],
        ]
    assert "teacher's network, on tags alone" in outcome.out
    assert "top1" in json.loads((tmp_path / "run/results.json").read_text())["weak"]
    records, targets = data.tagged_training_set(str(tmp_path / "run/seed-0/tags/tagged.parquet"), num_classes=3)
    shapes = [re.search(r"\d\d-(\w+)\.jpg", path)[1] for path in records.path.to_pylist()]
    classes = ["circle", "square", "triangle"]
    assert [classes[int(targets[row].argmax())] for row in range(18)] == shapes


def test_the_teacher_starts_from_the_tags_with_a_new_head(call, tmp_path):
    """Even when the classes are the same."""
    outcome = call("train", "stage=weak", *TARGETS)
    assert executed(outcome) == ["data", "contents", "tags", "weak", "evaluate-weak"], outcome.err
    none = ("teacher.length=0 steps", "teacher.warmup=0 steps")
    assert call("train", "stage=teacher", *TARGETS, *none).status == 0
    with (
        safetensors.safe_open(tmp_path / "run/seed-0/weak/model.safetensors", "np") as weak,
        safetensors.safe_open(tmp_path / "run/seed-0/teacher/model.safetensors", "np") as teacher,
    ):
        same = {name for name in weak.keys() if (weak.get_tensor(name) == teacher.get_tensor(name)).all()}  # noqa: SIM118
        assert set(weak.keys()) - same == {"fc.weight", "fc.bias"}


def test_what_a_change_runs_again(call, rows, tmp_path):
    assert call("train", "stage=weak").status == 0
    assert executed(call("train", "stage=weak", "weak.resample=0")) == ["weak"]
    ran = executed(call("train", "stage=weak", "weak.tags.min_samples=4", "weak.resample=0"))
    assert ran[0] == "tags"
    tagged(tmp_path / "weak.csv", rows[:-1])
    assert executed(call("train", "stage=weak", "weak.resample=0")) == ["tags", "weak"]
    # Tags belong to the items, whichever of them have their labels drawn: seeds share the network.
    assert executed(call("train", "stage=weak", "weak.resample=0", "data.labels_per_class=2")) == ["data", "contents"]


def test_a_stage_that_lacks_another_names_its_command(refused, call):
    assert "run first: bsssl train --config" in (line := refused("stage=teacher", command="train"))
    assert line.startswith("teacher needs the result of 'weak' in ") and line.endswith("stage=weak")
    assert executed(call("train", "stage=weak")) == ["data", "contents", "tags", "weak"]
    assert refused("stage=weak", command="evaluate") == (
        "weak has classes of its own, which data.test has not; set weak.tags.classes=targets"
    )


def test_the_plan(call):
    lines = {line.split()[0]: line.split() for line in call("run", "--plan").out.splitlines() if line}
    assert lines["tags"][:2] == ["tags", "unknown"] and lines["weak"][:4] == ["weak", "unknown", "12", "8"]
    assert call("train", "stage=weak").status == 0
    lines = {line.split()[0]: line.split() for line in call("run", "--plan").out.splitlines() if line}
    assert lines["tags"] == ["tags", "18", "done"] and lines["weak"][:3] == ["weak", "18", "12"]


@pytest.mark.parametrize("key", ["file", "map", "spelling"])
def test_a_file_about_tags_that_is_not_there_is_told_before_anything_runs(call, tmp_path, key):
    missing = f"weak.tags.{key}={tmp_path / 'none.csv'}"
    error = f"error: weak.tags.{key}: there is no {tmp_path / 'none.csv'}; correct the path, or write the file first"
    plan = call("run", "--plan", missing)
    assert plan.status == 1 and plan.errors == [error] == call("run", missing).errors
    assert re.search(rf"^tags .* cannot run: weak.tags.{key}: there is no ", plan.out, re.MULTILINE), plan.out
    assert not (tmp_path / "run").exists()


def test_tags_that_are_rare_are_left_out_and_listed(call, rows, tmp_path):
    tagged(tmp_path / "weak.csv", [*rows[1:], (rows[0][0], ["rare", "Kreis"])])
    outcome = call("train", "stage=weak")
    assert "1 of 5 classes have fewer than weak.tags.min_samples = 5 samples and are left out: rare (1)" in outcome.err
    with open(tmp_path / "run/seed-0/tags/tags.csv") as file:
        assert ["rare", "1", "rare", "fewer than 5 samples"] in list(csv.reader(file))


def test_tags_of_a_file_by_key(call, rows, recipe, tmp_path):
    (tmp_path / "tags.csv").write_text("key,tags\n" + "".join(f"{p.name},{t[0]};{t[1]}\n" for p, t in rows))
    source = json.dumps([{"dataset": "folder", "path": str(recipe.folder / "loose")}])
    outcome = call("train", "stage=weak", f"weak.sources={source}", f"weak.tags.file={tmp_path / 'tags.csv'}")
    assert outcome.status == 0, outcome.err
    result = json.loads((tmp_path / "run/seed-0/tags/done.json").read_text())["result"]
    assert (result["listed"], result["samples"], result["untagged"]) == (19, 18, 1)  # one file is no picture


# What the student may see


def test_only_the_weak_training_reads_tags_and_only_the_teacher_its_result(config):
    needs = {stage.name: stage.needs for stage in stages(load_config(str(config), ["rounds=2"]), seed=0)}
    assert [name for name, found in needs.items() if "tags" in found.values()] == ["weak"]
    assert [name for name, found in needs.items() if "weak" in found.values()] == ["teacher"]


def test_the_student_never_sees_a_tag(call, rows, tmp_path):
    """With the same teacher, samples that have other tags, or none, give the same student, bit for bit.

    ``weak`` is 0 steps long, so that the teacher starts from the same weights whatever the tags say; the pool holds the
    tagged samples, with their tags in one run, with wrong ones in the next and without any in the last.
    """
    none = ("weak.length=0 steps", "weak.warmup=0 steps", "weak.tags.min_samples=0")
    turned = [(path, tags) for (path, _), (_, tags) in zip(rows, [*rows[1:], rows[0]], strict=True)]
    bare = [(path, []) for path, _ in rows]
    found = []
    for name, pool_rows, weak_rows in (("own", rows, rows), ("wrong", turned, turned), ("none", bare, rows)):
        pool = tagged(tmp_path / f"pool-{name}.csv", pool_rows)
        weak = tagged(tmp_path / f"weak-{name}.csv", weak_rows)
        sources = {
            key: json.dumps([{"dataset": "manifest", "path": str(path)}]) for key, path in (("p", pool), ("w", weak))
        }
        output = tmp_path / name
        outcome = call("run", f"data.pool={sources['p']}", f"weak.sources={sources['w']}", *none, output=output)
        assert outcome.status == 0, outcome.err
        chosen = selection.read_selection(str(output / "seed-0/select/selection.parquet")).table
        trained = {stage: weights(output, stage) for stage in ("teacher", "pretrain", "finetune", "baseline")}
        found.append((trained, chosen.drop_columns(["key"]).to_pydict()))
        assert not any("tag" in column for column in chosen.column_names)
        trained_on, _ = data.selected_training_set(str(output / "seed-0/select/selection.parquet"), mode="per_pair")
        assert trained_on.tags.null_count == trained_on.label.null_count == len(trained_on)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("section", ["pretrain", "finetune", "baseline", "ceiling"])
@pytest.mark.parametrize("origin", ["weak", "teacher"])
def test_a_student_that_starts_from_tags_is_refused(refused, config, section, origin):
    """Be it by way of the teacher."""
    warmup = [f"{section}.warmup=0 steps"] if section == "ceiling" else []
    line = refused(f"{section}.init_from={origin}", *warmup)
    assert line == f"{config}: {section}.init_from: {origin} is trained on tags; the student never sees one"


# Bad input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["teacher.init_from=null"],
            "weak is trained, but the teacher does not start from it; set teacher.init_from=weak",
        ),
        (["weak=null"], "teacher.init_from is weak, but there is no weak section; add weak.sources"),
        (["weak.sources=[]"], "weak.sources: List should have at least 1 item"),
        (
            ["weak.init_from=teacher"],
            "weak.init_from: teacher is not trained before weak; give an earlier stage (none)",
        ),
        (["weak.resample=2"], "weak.resample: Input should be less than or equal to 1 (given: 2)"),
        (["weak.tag.file=x"], "unknown key 'weak.tag': did you mean 'tags'? valid: "),
    ],
)
def test_configs(refused, config, overrides, message):
    assert refused(*overrides).startswith(f"{config}: {message}")


def test_without_the_section(bsssl, recipe):
    for command in ("train", "evaluate"):
        outcome = bsssl(command, "--config", recipe.config, "stage=weak")
        assert outcome.errors == ["error: the config has no weak section; add weak.sources and teacher.init_from=weak"]


def test_a_source_without_tags(refused, recipe):
    source = json.dumps([{"dataset": "folder", "path": str(recipe.folder / "loose")}])
    assert refused(f"weak.sources={source}") == (
        f"weak.sources.0: no sample of {recipe.folder / 'loose'} has tags; give it a column of tags, or set "
        "weak.tags.file"
    )


def test_a_tag_file_of_other_samples(refused, tmp_path):
    (tmp_path / "tags.csv").write_text("key,tags\nnobody.jpg,sea\n")
    line = refused(f"weak.tags.file={tmp_path / 'tags.csv'}")
    assert line.startswith(
        f"{tmp_path / 'tags.csv'}: none of its 1 keys is a sample's (the file has 'nobody.jpg', the "
    )


def test_a_map_to_unknown_classes(refused, tmp_path):
    line = refused("weak.tags.classes=targets", "weak.tags.map={kreis: cirlce}")
    assert line.startswith(
        "weak.tags.map: tag 'kreis' means the unknown class 'cirlce': did you mean 'circle'? valid: "
    )
    (tmp_path / "map.csv").write_text("tag,class\nkreis,cirlce\n")
    line = refused("weak.tags.classes=targets", f"weak.tags.map={tmp_path / 'map.csv'}")
    assert line.startswith(f"{tmp_path / 'map.csv'}: tag 'kreis' means the unknown class 'cirlce'")


def test_a_malformed_map(refused, tmp_path):
    (tmp_path / "map.yaml").write_text("- kreis\n")
    line = refused(f"weak.tags.map={tmp_path / 'map.yaml'}")
    assert line == f"{tmp_path / 'map.yaml'} is not a map: it must hold 'tag: meaning' lines"
    assert not list(tmp_path.rglob("*.tmp"))


def test_tags_that_leave_a_class_empty(refused, call):
    line = refused("weak.tags.classes=targets", "weak.tags.map={quadrat: circle}")
    assert line == (
        "weak: 1 of 3 classes have fewer than weak.tags.min_samples = 5 tagged samples: circle (0); map more tags to "
        "them or lower it, to 0 for none at all (`bsssl tags inspect` shows the tags)"
    )
    outcome = call("train", "stage=weak", "weak.tags.classes=targets", "weak.tags.min_samples=0")
    assert outcome.status == 0 and "1 classes have no tagged sample: circle (0)" in outcome.err
    source = ("weak.tags.classes=targets", "weak.tags.min_samples=0", "weak.tags.spelling={square: a, triangle: b}")
    assert refused(*source).startswith("weak: no tag means a class of data.train; set weak.tags.map (")


def test_too_few_classes(refused):
    line = refused("weak.tags.min_samples=7")
    assert line.startswith("weak: 1 classes have 7 samples, two at least are needed; map more tags or lower weak.tags.")


def test_samples_that_are_test_items(bsssl, config, refused, call, rows, recipe, tmp_path):
    tested = [(recipe.folder / "test/circle/0.jpg", ["Kreis"])]
    tagged(tmp_path / "weak.csv", [*rows, *tested])
    line = refused()
    assert line.startswith("weak.sources contains 1 test items (such as ") and "data.pool_overlap=exclude" in line
    told = bsssl("tags", "inspect", "--config", config).out.splitlines()
    assert any(line.startswith("refused: 1 samples are test items; ") for line in told)
    for choice, samples in (("exclude", 18), ("allow", 19)):
        outcome = call("train", "stage=weak", f"data.pool_overlap={choice}")
        assert outcome.status == 0, outcome.err
        assert json.loads((tmp_path / "run/seed-0/tags/done.json").read_text())["result"]["samples"] == samples
        assert f"samples: {samples};" in bsssl("tags", "inspect", "--config", config, f"data.pool_overlap={choice}").out


def test_labeled_items_may_have_tags(call, rows, recipe, tmp_path):
    tagged(tmp_path / "weak.csv", [*rows, (recipe.folder / "train/circle/0.jpg", ["Kreis"])])
    assert call("train", "stage=weak").status == 0


# tags inspect


def test_inspect(bsssl, config):
    outcome = bsssl("tags", "inspect", "--config", config, *TARGETS[:2])
    assert outcome.status == 0, outcome.err
    lines = [re.split(r"  +", line.strip()) for line in outcome.out.splitlines()]
    assert lines[0] == [
        "samples: 18; without tags 0; with tags that mean no class 0; of dropped classes alone 0; to train on 18"
    ]
    assert lines[1] == ["tags: 4; with a class 3"]
    assert ["class", "samples", "%", "% drawn"] in lines and ["circle", "6", "33.33", "33.33"] in lines
    assert ["unmapped tag", "samples"] in lines and ["love", "18"] in lines
    assert not any("plural" in line[0] for line in lines)
    assert not any("refused" in line[0] for line in lines)


def test_inspect_shows_what_training_would_refuse_or_drop(bsssl, config):
    outcome = bsssl("tags", "inspect", "--config", config, "weak.tags.classes=targets")
    assert "refused class  samples\ncircle         0\n" in outcome.out
    outcome = bsssl("tags", "inspect", "--config", config, "weak.tags.min_samples=7")
    assert "dropped class  samples\nkreis          6\n" in outcome.out
    assert "to train on 18" in outcome.out


def test_inspect_shows_what_may_be_plurals(bsssl, config, rows, tmp_path):
    tagged(tmp_path / "weak.csv", [(path, [*tags, "Loves"]) for path, tags in rows[:7]] + rows[7:])
    arguments = ("tags", "inspect", "--config", config)
    assert "perhaps a plural  samples  of    samples\nloves             7        love  18\n" in bsssl(*arguments).out
    assert "plural" not in bsssl(*arguments, "weak.tags.spelling={loves: love}").out


def test_inspect_shows_the_most_frequent_unless_asked_for_all(bsssl, config, rows, tmp_path):
    tagged(tmp_path / "weak.csv", [(path, [*tags, f"tag{number}"]) for number, (path, tags) in enumerate(rows * 2)])
    arguments = ("tags", "inspect", "--config", config, "weak.tags.min_samples=0")
    assert "... 20 more, shown with --all" in bsssl(*arguments).out
    assert "more, shown" not in (out := bsssl(*arguments, "--all").out) and "tag35" in out


def test_inspect_without_the_section(bsssl, recipe):
    outcome = bsssl("tags", "inspect", "--config", recipe.config)
    assert outcome.errors == ["error: the config has no weak section; add weak.sources and teacher.init_from=weak"]


def test_the_tool_that_inspects(capsys, monkeypatch, config):
    monkeypatch.setattr(sys, "argv", ["tools/inspect_tags.py", "--config", str(config)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "tools" / "inspect_tags.py"), run_name="__main__")
    assert not caught.value.code and capsys.readouterr().out.startswith("samples: 18; ")


# Generated hashtags


def test_the_map_of_the_generated_digits_knows_their_words(tmp_path):
    rules = data.tag_rules(
        spelling={}, mapping=data.read_pairs(str(ROOT / "projects/image/digit_tags.csv")), targets=list("0123456789")
    )
    found = data.read_tags(Digits(path=str(tmp_path), split="train", tags=True).batches(), rules)
    unmapped = {tag for tag, number in zip(found.tags, found.tag_classes, strict=True) if number < 0}
    assert unmapped <= {
        "love", "instagood", "handwriting", "nofilter", "photooftheday", "math", "school", "cute", "monday"
    }  # fmt: skip
    assert min(found.samples_of(list("0123456789")).values()) > 80


def test_moving_digits_have_tags_too(bsssl, tmp_path):
    values = yaml.safe_load((ROOT / "projects/video/quickstart.yaml").read_text())
    network = {"name": "small_r2plus1d", "options": {"width": 4, "blocks": [1, 1], "stem_stride": 2}}
    source = {
        "dataset": "moving_digits",
        "path": str(tmp_path / "videos"),
        "options": {"split": "test", "label": "motion"},
    }
    values["data"] |= {"train": source, "test": source}
    values |= {
        "output_dir": str(tmp_path / "run"), "models": {"teacher": network, "student": network},
        "weak": {
            "sources": [{**source, "options": {**source["options"], "tags": True}}], "length": "2 steps",
            "batch_size": 8, "warmup": "0 steps",
        },
        "system": {"workers": 0, "threads": 1},
    }  # fmt: skip
    values["data"]["pool_overlap"] = "allow"
    values["teacher"] = {**values["teacher"], "init_from": "weak"}
    (tmp_path / "video.yaml").write_text(yaml.safe_dump(values))
    outcome = bsssl("train", "--config", tmp_path / "video.yaml", "stage=weak")
    assert outcome.status == 0, outcome.err
    assert executed(outcome)[-1] == "weak"
    classes = json.loads((tmp_path / "run/seed-0/tags/classes.json").read_text())
    assert {"left", "clockwise", "links", "love"} <= set(classes)
