"""Parts of plugins beyond those of the example package, and what `bsssl options` says of parts."""

import json
import os
import sys

import pytest

from tests.extension.conftest import PACKAGE, RECIPE, ROOT
from tests.processes import run_to_end

PARTS = """
import torch
from bsssl.launch.base import QueueLauncher
from bsssl.registry import LAUNCHERS, OPTIMIZERS, SCHEDULES

@OPTIMIZERS.register("plain")
def plain(params, *, lr: float, weight_decay: float, sign: float = 1.0):
    return torch.optim.SGD(params, lr=sign * lr, weight_decay=weight_decay)

@SCHEDULES.register("halves")
def halves(*, peak: float, steps: int, times: int):
    return lambda share: peak / 2 ** int(share * times)

@LAUNCHERS.register("at_once")
class AtOnce(QueueLauncher):
    def __init__(self, *, settings, first: int = 1):
        super().__init__(settings)
        self.number = first

    def submit(self, jobs, *, kind, resources, folder, after):
        for job in jobs:
            job()
        self.number += 1
        return str(self.number - 1)

    @classmethod
    def states(cls, job_ids):
        return {job_id + task: "COMPLETED" for job_id in job_ids for task in ("", "_0", "_1")}

    @classmethod
    def active(cls):
        return {}

    @classmethod
    def cancel(cls, job_ids):
        raise AssertionError("nothing to cancel")
"""


def rates(run):
    lines = (run / "seed-0" / "teacher" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["lr"] for line in lines]


def test_a_schedule_and_an_optimiser(bsssl, recipe, plugin, tmp_path):
    plugin("more_parts", PARTS)
    parts = ("teacher.optimizer=plain", "teacher.schedule=halves", "teacher.schedule_options.times=4")
    common = ("--config", recipe.config, f"output_dir={tmp_path / 'run'}", "plugins=[more_parts]", "stage=teacher")
    outcome = bsssl("train", *common, *parts, "teacher.warmup=0 steps", "teacher.length=200 steps")
    assert outcome.status == 0, outcome.err
    record = json.loads((tmp_path / "run" / "seed-0" / "teacher" / "done.json").read_text())
    assert record["settings"]["training"]["schedule"] == "halves"
    found = rates(tmp_path / "run")
    assert found[-1] == pytest.approx(2.0 * 12 / 256 / 8)
    (line,) = bsssl("train", *common, *parts, "teacher.schedule_options.times=x").errors
    assert "schedule 'halves': times='x': Input should be a valid integer" in line


def test_a_launcher(bsssl, recipe, plugin, tmp_path):
    """It is found again by `status`, in a process that knows nothing but the folder of the run."""
    plugin("more_parts", PARTS)
    launch = ("--launch", "launcher.kind=at_once", "launcher.options.first=7")
    common = ("--config", recipe.config, f"output_dir={tmp_path / 'run'}", "plugins=[more_parts]")
    outcome = bsssl("run", *common, *launch)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "run" / "results.md").exists()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "plugins"), str(ROOT)])}
    call = [sys.executable, "-c", "from bsssl.cli import main; main()", "status", str(tmp_path / "run")]
    done = run_to_end(call, env=environment)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line.split()[2:4] for line in done.stdout.splitlines()[1:]}
    assert rows["data"] == ["done", "7"] and rows["report"][0] == "done"


def test_predictions_in_the_queue_of_a_launcher(bsssl, finished_once, plugin, tmp_path):
    plugin("more_parts", PARTS)
    to = tmp_path / "said.csv"
    predict = ("predict", finished_once, finished_once / "seed-0" / "data" / "test.csv", "--workers", 0, "--to", to)
    keys = ("--launch", "launcher.kind=at_once", "launcher.array_tasks=2")
    outcome = bsssl(*predict, "--plugins", "more_parts", *keys)
    assert outcome.status == 0, outcome.err
    assert f"bsssl status {tmp_path / 'said.jobs'}" in outcome.out
    assert bsssl(*predict).status == 0
    parts = [(tmp_path / f"said-0000{number}-of-00002.csv").read_text().splitlines() for number in range(2)]
    assert sorted({*parts[0], *parts[1]}) == sorted(to.read_text().splitlines())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "plugins"), str(ROOT)])}
    call = [sys.executable, "-c", "from bsssl.cli import main; main()", "status", str(tmp_path / "said.jobs")]
    done = run_to_end(call, env=environment)
    assert done.stdout.splitlines()[1].split()[1:3] == ["predict", "done"], done.stderr


def test_stages_in_a_row_and_in_tars(bsssl, example, tmp_path):
    """The second stands instead of the first, and what copies the selection reads the second."""
    rows = (
        "stages={a: {kind: example_sure, needs: {selection: select}, instead_of: select, options: {min_score: 0.1}}, "
    )
    rows += "b: {kind: example_sure, needs: {selection: a}, instead_of: a, options: {min_score: 0.98}}}"
    outcome = bsssl("run", *example, rows, "materialise.samples_per_tar=5")
    assert outcome.status == 0, outcome.err
    pairs = {
        name: json.loads((tmp_path / "run" / "seed-0" / name / "done.json").read_text())["result"]["pairs"]
        for name in ("select", "a", "b", "materialise")
    }
    assert pairs["select"] == pairs["a"] > pairs["b"] == pairs["materialise"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["selection"]["pairs"] == pairs["b"]


def test_without_added_stages_and_metrics_nothing_runs_again(bsssl, recipe, finished):
    common = ("--config", recipe.config, f"output_dir={finished}", "--plan")
    before = bsssl("run", *common).out
    assert "to do" not in before and bsssl("run", *common, "stages={}", "metrics={}").out == before


def test_a_metric_makes_evaluations_run_again_alone(bsssl, example, tmp_path):
    assert bsssl("run", *example, "metrics={}").status == 0
    plan = bsssl("run", *example, "--plan").out
    to_do = [line.split()[0] for line in plan.splitlines() if "to do" in line]
    assert to_do == ["evaluate-teacher", "evaluate-pretrain", "evaluate-finetune", "evaluate-baseline"]


def test_the_options_of_a_part(bsssl):
    out = bsssl("options", "losses", "cross_entropy").out
    assert out.startswith("cross_entropy\n    Return softmax cross-entropy, with what the options add for noisy")
    assert "    gce: float = 0.0\n        The q of generalised cross-entropy; 0 is plain cross-entropy.\n" in out
    assert "num_classes" not in out


@pytest.mark.parametrize("named", [("--plugins", "example_parts"), ("--config", RECIPE)])
def test_the_options_of_a_plugins_parts(bsssl, guests, monkeypatch, named):
    monkeypatch.syspath_prepend(str(PACKAGE))
    assert bsssl("options", "losses", *named).out.split() == ["cross_entropy", "example_focal", "symmetric_kl"]
    out = bsssl("options", "losses", "example_focal", *named).out
    assert out.endswith("    gamma: float = 2.0\n        How much it does; 0 is cross-entropy.\n")
    out = bsssl("options", "stages", "example_sure", *named).out
    assert out.endswith("    min_score: float = 0.5\n        the least score with which a selected sample is kept\n")


def test_no_such_part(bsssl):
    assert bsssl("options", "losses", "crossentropy").errors == [
        "error: unknown loss 'crossentropy': did you mean 'cross_entropy'? valid: cross_entropy, symmetric_kl"
    ]
    assert bsssl("options", "loses").errors[0].startswith("error: a config has no part 'loses'; did you mean losses? ")
