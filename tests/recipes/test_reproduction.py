import json
import re
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import yaml

from bsssl.launch.jobs import GridJob
from bsssl.recipes.reproduction.grid import ReproductionGrid
from bsssl.recipes.reproduction.paper import BALANCED, EXPERIMENTS, RANDOM, UNBALANCED, WITH_TAGS, WITHOUT_TAGS
from bsssl.recipes.reproduction.verdicts import FAILS, HOLDS, OPEN, judge

EXPERIMENTS_HERE = {
    "students": {"narrow": {}, "wide": {"models.student.options.width": 6}},
    "top_k": {6: {}, 4: {"select.top_k": 4}},  # axes are sorted, whatever the order here
    "pool_size": {"all": {}, "half": {"data.pool_fraction": 0.5}},
    "samples": {"all": {}, "few": {"pretrain.length": "2 steps", "pretrain.warmup": "0 steps"}},
    "top_p": {"2": {"score.top_p": 2}, "1": {"score.top_p": 1}},
    "variants": {BALANCED: {}, UNBALANCED: {"select.variant": "unbalanced"}},
}


@pytest.fixture
def reproduce(bsssl, recipe, tmp_path):
    """``reproduce(*arguments, **values)``: the command with a config of these values, at ``tmp_path / "out"``."""

    def call(*arguments, **values):
        config = tmp_path / "reproduce.yaml"
        given = {"recipe": str(recipe.config), "output_dir": str(tmp_path / "out"), "seeds": 2, **values}
        config.write_text(yaml.safe_dump(given, sort_keys=False))
        return bsssl("reproduce", "--config", config, *arguments)

    return call


def computed(folder: Path, stage: str) -> int:
    """How many times a stage was computed."""
    return len(list(folder.glob(f"shared/*/{stage}/done.json")))


def found_samples(folder: Path, label: str) -> int:
    """How many samples the pre-training of a point processed."""
    record = json.loads((folder / f"samples={label}" / "seed-0" / "pretrain" / "done.json").read_text())
    return record["result"]["samples"]


def test_the_page_has_what_the_runs_found(reproduce, tmp_path):
    options = {"K 3": {"set": {"select.top_k": 3}}}
    outcome = reproduce(experiments=EXPERIMENTS_HERE, options=options)
    assert outcome.status == 0, outcome.err
    out = tmp_path / "out"
    assert computed(out, "teacher") == computed(out, "baseline") - 2 == 2  # two students, two seeds
    # Eight ways to pre-train (plain, wide, K 4, half the pool, 2 steps, P 1, unbalanced, K 3), two seeds.
    assert computed(out, "pretrain") == 16

    found = json.loads((out / "reproduce.json").read_text())
    assert found["seeds"] == [0, 1]
    assert [point["label"] for point in found["experiments"]["pool_size"]] == ["half", "all"]
    half, whole = (point["place"] for point in found["experiments"]["pool_size"])
    assert whole == 52 and 15 < half < 37
    places = {name: [point["place"] for point in points] for name, points in found["experiments"].items()}
    assert places["top_k"] == [4, 6] and places["top_p"] == [1, 2]
    assert places["samples"] == [found_samples(out, "few"), found_samples(out, "all")]
    wide = found["experiments"]["students"][1]
    for seed, top1 in enumerate(wide["top1"]["finetuned"]):
        metrics = json.loads(
            (out / "students=wide" / f"seed-{seed}" / "evaluate-finetune" / "metrics.json").read_text()
        )
        assert metrics["top1"] == pytest.approx(top1, abs=0.01)
    plain = found["experiments"]["students"][0]["top1"]["finetuned"]
    assert found["options"][0]["top1"]["without"] == plain
    verdicts = {entry["advice"]: entry["verdict"] for entry in found["advice"]}
    assert len(verdicts) == 6
    assert set(verdicts.values()) == {OPEN, "not tried"}  # two seeds decide nothing

    page = (out / "reproduce.md").read_text()
    mean = np.mean(wide["top1"]["finetuned"])
    assert re.search(rf"^\| wide \|.*\| {mean:.1f} ± ", page, re.MULTILINE)
    assert "six recommendations" in page
    assert "| ResNet-50 | 75.9 | 79.1 | 76.4 | +2.7 |" in page and "| 25 | 78.0 |" in page
    pool = next(entry for entry in found["advice"] if "large unlabeled pool" in entry["advice"])
    shown = f"{pool['difference']:+.1f} ± {pool['half_width']:.1f}"
    assert f"| largest pool over smallest | {shown} | {OPEN} |" in page and "| difference (95 %) |" in page
    option = found["options"][0]
    shown = [f"{np.mean(option['top1'][which]):.1f} ± " for which in ("with", "without")]
    assert re.search(rf"^\| K 3 \| {re.escape(shown[0])}\S+ \| {re.escape(shown[1])}", page, re.MULTILINE)
    assert "Not finished" not in page and "In every run" not in page
    assert "![K, samples kept per class](top_k.png)" in page
    html = (out / "reproduce.html").read_text()
    assert html.count("data:image/png;base64,") == 3 and f"<td>{mean:.1f} ± " in html
    assert (out / "top_k.png").stat().st_size > 5000 and (out / "pool_size.png").exists()
    assert "Balance the distribution" in outcome.out


def test_what_came_since_the_paper_has_a_table_of_its_own(reproduce, tmp_path):
    ceiling = {"length": "8 steps", "batch_size": 12, "base_lr": 2.0, "warmup": "0 steps"}
    outcome = reproduce(set={"ceiling": ceiling, "data.labels_per_class": 3}, experiments={"since_2019": {"plain": {}}})
    assert outcome.status == 0, outcome.err
    (point,) = json.loads((tmp_path / "out" / "reproduce.json").read_text())["experiments"]["since_2019"]
    assert len(point["top1"]["ceiling"]) == 2
    page = (tmp_path / "out" / "reproduce.md").read_text()
    assert re.search(r"^\| SSLD .*ResNet-50-vd \| +79\.1 \| +83\.0 \|$", page, re.MULTILINE)
    assert re.search(rf"^\| plain \|.*\| {np.mean(point['top1']['ceiling']):.1f} ± ", page, re.MULTILINE)
    assert "six recommendations" not in page  # none of which was tried
    assert "published:" in page and "the paper:" not in page


def test_an_edited_experiment_takes_no_results_from_another(reproduce, tmp_path):
    found = []
    for plain in ({}, {"select.top_k": 2}, {"select.top_k": 2}, {}):
        experiments = {"top_k": {"a": {}, "b": {"select.top_k": 4}}, "students": {"plain": plain}}
        outcome = reproduce(experiments=experiments, seeds=1)
        assert outcome.status == 0 and " -> " not in outcome.err, outcome.err
        found.append(json.loads((tmp_path / "out" / "reproduce.json").read_text())["experiments"])
    assert found[0]["top_k"] == found[1]["top_k"] and found[0] == found[3] and found[1] == found[2]
    assert computed(tmp_path / "out", "pretrain") == 3


def test_weak_pre_training_of_the_student_stands_beside_it(reproduce, recipe, tmp_path):
    tagged = tmp_path / "tagged.csv"
    rows = [f"{path},{path.parent.name}" for path in sorted((recipe.folder / "train").glob("*/*.jpg"))]
    tagged.write_text("\n".join(["path,tags", *rows]) + "\n")
    training = {"length": "4 steps", "batch_size": 12, "base_lr": 2.0, "warmup": "0 steps"}
    tags = {"classes": "targets", "min_samples": 0}
    weak = {"weak": {"sources": [{"dataset": "manifest", "path": str(tagged)}], "tags": tags, **training}}
    weak["teacher.init_from"] = "weak"
    experiments = {
        "videos": {"narrow": {"models.student.options.width": 6}},
        "weak": {WITHOUT_TAGS: {}, WITH_TAGS: weak},
    }
    outcome = reproduce(experiments=experiments, weak=weak, seeds=1)
    assert outcome.status == 0, outcome.err
    out = tmp_path / "out"
    found = json.loads((out / "reproduce.json").read_text())["experiments"]
    alone = out / "videos=narrow,_weak_pre-training" / "seed-0"
    metrics = json.loads((alone / "evaluate-teacher" / "metrics.json").read_text())
    assert found["videos"][0]["top1"]["weak pre-training"] == [metrics["top1"]]
    assert yaml.safe_load((alone / "config.yaml").read_text())["models"]["teacher"]["options"]["width"] == 6
    assert {path.name for path in alone.iterdir()} == {
        *("data", "tags", "weak", "teacher", "evaluate-teacher", "config.yaml", "stages.json", "logs"),
    }
    assert [point["label"] for point in found["weak"]] == [WITHOUT_TAGS, WITH_TAGS]
    assert "| narrow | " in (out / "reproduce.md").read_text()


def test_a_job_makes_the_page_whatever_became_of_the_config(reproduce, tmp_path, capsys):
    assert reproduce(experiments={"top_k": {"4": {"select.top_k": 4}}}, seeds=1).status == 0
    grid = ReproductionGrid(str(tmp_path / "reproduce.yaml"), ())
    job = cloudpickle.dumps(GridJob(grid, grid.points()))
    page = (tmp_path / "out" / "reproduce.md").read_text()
    (tmp_path / "out" / "reproduce.md").unlink()
    (tmp_path / "reproduce.yaml").unlink()
    cloudpickle.loads(job)()
    assert (tmp_path / "out" / "reproduce.md").read_text() == page
    assert "reproduce.html, reproduce.md and reproduce.json are in" in capsys.readouterr().out
    (record,) = (tmp_path / "out").glob("top_k*/seed-0/evaluate-finetune/done.json")
    record.write_text("{}")
    with pytest.raises(SystemExit) as caught:
        cloudpickle.loads(job)()
    assert re.fullmatch("error: .* is not a record of a stage; delete it, and the stage runs again", caught.value.code)


def test_a_plan_runs_nothing_and_a_second_call_does_nothing_again(reproduce, tmp_path):
    experiments = {"top_k": {4: {"select.top_k": 4}, 6: {}}}
    planned = reproduce("--plan", experiments=experiments, seeds=1)
    assert planned.out.startswith("2 points, seeds 0:\n  top_k=4\n  top_k=6\n")
    assert not (tmp_path / "out").exists()
    assert reproduce(experiments=experiments, seeds=1).status == 0
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("done.json")}
    assert reproduce(experiments=experiments, seeds=1).status == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("done.json")} == records


def test_a_page_of_what_is_finished(reproduce, tmp_path):
    part = {"top_k": {4: {"select.top_k": 4}}, "variants": EXPERIMENTS_HERE["variants"]}
    options = {"K 4": {"set": {"select.top_k": 4}}, "K 3": {"set": {"select.top_k": 3}}}
    assert reproduce(experiments=part, options={"K 4": options["K 4"]}).status == 0
    more = {
        "variants": {**part["variants"], RANDOM: {"select.variant": "random"}},
        "students": EXPERIMENTS_HERE["students"],
    }
    whole = {"experiments": {**part, **more}, "options": options}
    outcome = reproduce("--finished", **whole)
    assert outcome.status == 0, outcome.err
    # What the narrow student and the option's plain recipe need is there, though nobody has asked for them before.
    assert outcome.out.endswith("\n7 of 10 points are done\n")
    found = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    labels = {name: [point["label"] for point in points] for name, points in found["experiments"].items()}
    assert labels == {"top_k": ["4"], "variants": [BALANCED, UNBALANCED], "students": ["narrow"]}
    assert [option["label"] for option in found["options"]] == ["K 4"]
    verdicts = {entry["compared"]: entry["verdict"] for entry in found["advice"]}
    assert verdicts["fine-tuned over pre-trained, mean over the students"] == "not finished"
    assert verdicts["largest pool over smallest"] == "not tried"
    assert verdicts["the K best of each class over the best K x classes of all"] == OPEN  # both are there
    assert (
        "Not finished: variants=balanced,_random; students=wide; options=K_3."
        in (tmp_path / "out" / "reproduce.md").read_text()
    )
    assert computed(tmp_path / "out", "pretrain") == 6
    assert (tmp_path / "out" / "students=narrow" / "seed-1" / "config.yaml").exists()
    outcome = reproduce("--finished", "seeds=3", **whole)
    assert outcome.errors == [f"error: none of the 10 points in {tmp_path / 'out'} is done"]


def test_overrides_of_the_recipe_by_way_of_the_reproduction(reproduce, recipe, tmp_path):
    experiments = {"top_k": {4: {"select.top_k": 4}, 5: {"select.top_k": 5}}}
    shared = {"teacher.length": "4 steps", "models.teacher.options.width": 6}
    outcome = reproduce(
        "set.teacher.length=5 steps", f"set.data.train.path={recipe.folder / 'train'}", "experiments.top_k.5=null",
        "experiments.top_k.4.select.top_k=3", "launcher.kind=slurm", "launcher.minutes=7", "options=null", "--plan",
        experiments=experiments, set=shared,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    overrides = ("set.teacher.length=5 steps", "experiments.top_k.5=null", "experiments.top_k.4.select.top_k=3",
                 "launcher.kind=slurm", "launcher.minutes=7")  # fmt: skip
    (point,) = ReproductionGrid(str(tmp_path / "reproduce.yaml"), overrides).points()
    assert str(point.config.teacher.length) == "5 steps" and point.config.select.top_k == 3
    assert point.config.models.teacher.options["width"] == 6
    assert (point.config.launcher.kind, point.config.launcher.minutes) == ("slurm", 7)


def test_half_a_page_of_videos(reproduce, recipe, tmp_path):
    """The student that is pre-trained on hashtags comes after its own point, and may be missing."""
    weak = {"weak.sources": [{"dataset": "folder", "path": str(recipe.folder / "train")}], "teacher.init_from": "weak"}
    values = {
        "experiments": {"videos": {"18": {}}},
        "weak": weak,
        "set": {"models.teacher.options.width": 6},
        "seeds": 1,
    }
    assert reproduce(**values).status == 1  # the folder has no tags
    outcome = reproduce("--finished", **values)
    assert outcome.status == 0, outcome.err
    page = (tmp_path / "out" / "reproduce.md").read_text()
    assert re.search(r"^\| 18 \| \S+ \| \S+ \|  \|$", page, re.MULTILINE)
    assert "In every run: models.teacher.options.width = 6." in page
    assert "Not finished: videos=18,_weak_pre-training." in page


def test_a_larger_share_of_the_pool_holds_the_smaller(bsssl, recipe, tmp_path):
    keys = {}
    for share in (0.3, 0.6, 1.0):
        output = tmp_path / str(share)
        assert bsssl("train", "--config", recipe.config, "stage=teacher", f"output_dir={output}",
                     f"data.pool_fraction={share}").status == 0  # fmt: skip
        from bsssl.data import read_pool

        pool = read_pool(str(output / "seed-0" / "data" / "pool"))
        keys[share] = {(shard.name, key) for shard in pool.shards for key in shard.records().key.to_pylist()}
    keys = {share: {key for _, key in found} for share, found in keys.items()}
    assert keys[0.3] < keys[0.6] < keys[1.0]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.2, 0.9], HOLDS),
        ([-1.0, -1.2, -0.9], FAILS),
        ([1.0, -0.5, 2.0], OPEN),
        ([3.0, 3.1], OPEN),  # too few
        ([3.0], OPEN),
        ([0.0, 0.0, 0.0], OPEN),
        ([0.5, 0.5, 0.5], HOLDS),
    ],
)
def test_verdicts(differences, verdict):
    assert judge(np.array(differences)).text == verdict


def test_one_test_item_decides_nothing():
    one_item = 100 / 500
    assert judge(np.array([80.2, 80.2, 80.2]) - 80.0, one_item=one_item).text == OPEN
    assert judge(np.array([80.4, 80.4, 80.4]) - 80.0, one_item=one_item).text == HOLDS


def test_the_interval_is_students():
    found = judge(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.3027 / 3**0.5, abs=1e-3)  # t of 2 degrees of freedom, 97.5 %


def point(**top1: float) -> dict[str, np.ndarray]:
    return {name: np.array([value, value + 1]) for name, value in top1.items()}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("students", {"a": point(finetuned=80, pretrained=77), "b": point(finetuned=70, pretrained=69)}),
        ("self_training", {"a": point(finetuned=80, supervised=77), "b": point(finetuned=70, supervised=69)}),
        ("pool_size", {"small": point(finetuned=70), "middle": point(finetuned=1), "all": point(finetuned=72)}),
        ("samples", {"few": point(finetuned=70), "many": point(finetuned=72)}),
        ("variants", {UNBALANCED: point(finetuned=70), BALANCED: point(finetuned=72)}),
        ("weak", {WITHOUT_TAGS: point(finetuned=70), WITH_TAGS: point(finetuned=72)}),
    ],
)
def test_the_six_recommendations_compare_the_right_things(name, found):
    assert EXPERIMENTS[name].advice.difference(found).tolist() == [2.0, 2.0]
    assert sum(experiment.advice is not None for experiment in EXPERIMENTS.values()) == 6


def test_an_option_may_have_its_own_plain_recipe(reproduce, tmp_path):
    option = {"set": {"select.top_k": 3}, "against": {"score.top_p": 1}}
    assert reproduce(options={"few": option, "left out": None}, seeds=1).status == 0
    config = yaml.safe_load((tmp_path / "out" / "options=few" / "seed-0" / "config.yaml").read_text())
    assert (config["select"]["top_k"], config["score"]["top_p"]) == (3, 1)
    without = yaml.safe_load((tmp_path / "out" / "options=few,_without" / "seed-0" / "config.yaml").read_text())
    assert (without["select"]["top_k"], without["score"]["top_p"]) == (6, 1)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"experiments": {"student": {"a": {}}}}, "unknown experiment 'student': did you mean 'students'?"),
        ({"experiments": {"top_k": {"4": {"select.top": 4}}}}, "unknown key 'select.top': did you mean"),
        ({"experiments": {"videos": {"18": {}}}}, "say under `weak` which keys turn that on"),
        ({"experiments": {}}, "nothing to reproduce"),
        ({"experiments": {"top_k": {"1/4": {}, "1-4": {}}}}, "2 points are called 'top_k=1-4'"),
        ({"experiments": {"top_k": {"4": {}, 4: {}}}}, "the key '4' is there twice"),
        ({"set": {"teacher.length": "3 steps", "teacher": {}}}, "'teacher' would replace 'teacher.length'"),
        ({"options": {"odd": {"set": {"score.top_p": 9}}}}, "options, odd: "),
        ({"recipe": "none.yaml"}, "reproduce.yaml: no such config"),
        ({"set": {"score.top": 1}}, "shapes.yaml: unknown key 'score.top': did you mean 'top_p'?"),
        ({"score": {"top_p": 1}}, "unknown key 'score': did you mean 'set.score'?"),
        ({"options": {"K 1.5": {"set": {}}}}, "the label 'K 1.5' has a dot, which overrides split"),
        ({"set": {"seeds": 9}}, "set has 'seeds', which is one for all points; set seeds"),
        (
            {"options": {"odd": {"set": {"seed": 9}}}},
            "options.odd.set has 'seed', which is one for all points; set set.seed",
        ),
        (
            {"experiments": {"self_training": {"a": {"models.student.options.width": 6}}}},
            "self_training, a: teacher and student are different networks",
        ),
        (
            {"experiments": {"variants": {BALANCED: {"select.variant": "random"}}}},
            "select.variant is random; set balanced, or another label",
        ),
        ({"experiments": {"weak": {WITH_TAGS: {}}}}, "there is no weak section; correct it, or the label"),
        ({"seeds": 0, "experiments": {"top_k": {"4": {}}}}, "seeds: Input should be greater than or equal to 1"),
        ({"experiment": {}}, "unknown key 'experiment': did you mean 'experiments'?"),
    ],
)
def test_bad_configs(reproduce, tmp_path, values, error):
    outcome = reproduce(**{"experiments": {"top_k": {"4": {}}}, **values})
    assert outcome.status == 1
    assert len(outcome.errors) == 1 and error in outcome.errors[0]
    assert not (tmp_path / "out").exists()
