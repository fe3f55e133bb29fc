import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from bsssl.recipes.sweep import Sweep

GRID = ("select.top_k=4,6", "seed=0,1")


@pytest.fixture
def sweep(bsssl, recipe, tmp_path):
    def call(*arguments):
        return bsssl("sweep", "--config", recipe.config, f"output_dir={tmp_path / 'sweep'}", *arguments)

    return call


def computed(folder: Path) -> dict[str, int]:
    """How many times each stage was computed."""
    return Counter(path.name for path in folder.glob("shared/*/*"))


def test_what_points_share_is_done_once(sweep, finished_once, tmp_path):
    plan = sweep(*GRID, "--plan").out
    assert not (tmp_path / "sweep").exists()
    assert plan.startswith("2 points, seeds 0, 1:\n  select.top_k=4\n  select.top_k=6\n")
    assert ["teacher", "4", "2"] in [line.split() for line in plan.splitlines()]

    outcome = sweep(*GRID)
    assert outcome.status == 0, outcome.err
    stages = computed(tmp_path / "sweep")
    assert stages["data"] == 1  # every label is used, whatever the seed
    assert {stages[name] for name in ("teacher", "score", "baseline", "evaluate-baseline")} == {2}
    assert {stages[name] for name in ("select", "pretrain", "finetune", "evaluate-finetune")} == {4}
    with open(tmp_path / "sweep" / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["select.top_k"] for row in rows] == ["4", "6"]
    points = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    alone = json.loads((finished_once / "results.json").read_text())
    assert points[1]["values"] == {"select.top_k": "6"}
    assert points[1]["finetuned"]["per_seed"][0] == alone["finetuned"]["top1"]
    assert float(rows[1]["finetuned top1"]) == points[1]["finetuned"]["top1"]
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 5000
    assert (tmp_path / "sweep" / "sweep.md").read_text().startswith("| select.top_k | teacher |")
    assert outcome.out.splitlines()[0].split() == [
        *("select.top_k", "teacher", "supervised", "pretrained", "finetuned", "gain", "pairs"),
    ]


def test_the_plan_of_a_grid_ends_with_what_is_missing(sweep, tmp_path):
    outcome = sweep("select.top_k=4,6", "--plan", f"data.train.path={tmp_path / 'none'}")
    assert outcome.status == 1 and outcome.out.startswith("2 points, seeds 0:")
    assert outcome.errors == [f"error: data.train: no such file or folder: {tmp_path / 'none'}; check the path"]


def test_a_grid_that_grows_keeps_what_is_done(sweep, tmp_path):
    assert sweep("select.top_k=4,6").status == 0
    [teacher] = (tmp_path / "sweep").glob("shared/*/teacher")
    before = (teacher / "done.json").read_bytes()
    assert sweep("select.top_k=2,4,6").status == 0
    assert (teacher / "done.json").read_bytes() == before
    assert computed(tmp_path / "sweep")["teacher"] == 1
    assert (tmp_path / "sweep" / "select.top_k=2" / "seed-0" / "teacher").resolve() == teacher
    assert len(json.loads((tmp_path / "sweep" / "sweep.json").read_text())) == 3
    # Without the points that did the work, too.
    assert sweep("select.top_k=4,5", "score.top_p=2").status == sweep("select.top_k=5,6").status == 0
    assert (teacher / "done.json").read_bytes() == before
    assert computed(tmp_path / "sweep")["teacher"] == computed(tmp_path / "sweep")["score"] == 1


def test_values_with_commas(recipe):
    network = "models.student={name: small_resnet, options: {width: 4, blocks: [1]}}"
    points = Sweep(str(recipe.config), (network, "models.student.options.width=4,6", "select.top_k=3,4")).points()
    assert [point.name for point in points] == [
        f"models.student.options.width={width},select.top_k={top_k}" for width in (4, 6) for top_k in (3, 4)
    ]
    assert points[2].config.models.student.options == {"width": 6, "blocks": [1]}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "nothing to sweep: give at least one key several values"),
        (("select.top_k=4",), "nothing to sweep"),
        (("seeds=1,2",), "seeds cannot vary in a sweep; give seed=0,1,2"),
        (("output_dir=a,b",), "output_dir cannot vary in a sweep"),
        (("select.top_k=4,none",), "select.top_k: Input should be a valid integer"),
        (("selct.top_k=4,5",), "unknown key 'selct': did you mean 'select'?"),
    ],
)
def test_a_wrong_grid(sweep, tmp_path, arguments, error):
    outcome = sweep(*arguments)
    assert outcome.status == 1 and error in outcome.errors[0] and not (tmp_path / "sweep").exists()


def test_points_that_share_the_scores_have_what_each_of_them_reads(sweep, tmp_path):
    """The features that the last point needs are left by the scoring of the first."""
    outcome = sweep("data.near_duplicates=off,hash", "select.open_set.method=energy,distance")
    assert outcome.status == 0, outcome.err
    stages = computed(tmp_path / "sweep")
    assert (stages["score"], stages["open_set"]) == (1, 2)
    [score] = (tmp_path / "sweep").glob("shared/*/score")
    assert {path.suffix for path in score.glob("000000.*")} >= {".looks", ".features"}
    found = [json.loads(path.read_text())["result"] for path in (tmp_path / "sweep").glob("shared/*/near/done.json")]
    assert {one["method"]: one["searched"] > 0 for one in found} == {"off": False, "hash": True}
