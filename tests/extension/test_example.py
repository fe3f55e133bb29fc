"""Every part of the example package in one recipe: in this process, in others, on several, in a job of its own."""

import csv
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import cloudpickle
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from bsssl.config import Config, load_config
from bsssl.launch.jobs import StageJob
from bsssl.recipes.runs import all_runs, as_yaml
from tests.extension.conftest import PACKAGE, ROOT, paths
from tests.processes import run_to_end

RUN = "from bsssl.cli import main; main()"


def python(text, *arguments, path=(PACKAGE, ROOT), folder=None):
    """The program ``text`` in a new interpreter that knows nothing but PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    call = [sys.executable, "-c", text, *map(str, arguments)]
    return run_to_end(call, env=environment, cwd=folder)


def weights(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("seed-0/*/model.safetensors")}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The folder of the example recipe, run by the command line with nothing but PYTHONPATH."""
    folder = tmp_path_factory.mktemp("example")
    done = python(RUN, "run", "--config", PACKAGE / "recipe.yaml", *paths(folder), folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def scores(folder, stage):
    return pq.read_table(folder / "run" / "seed-0" / stage / "selection.parquet")["score"].to_numpy()


def test_every_part_has_done_its_work(once):
    run = once / "run" / "seed-0"
    selected, sure = scores(once, "select"), scores(once, "sure")
    assert len(sure) == sum(selected >= 0.98) and 0 < len(sure) < len(selected)  # the rule, and the stage
    pretrain = json.loads((run / "pretrain" / "done.json").read_text())
    assert pretrain["result"]["rows"] == len(sure)
    rows = list(csv.reader((run / "teacher" / "metrics.csv").open()))  # the logger
    lines = [json.loads(line) for line in (run / "teacher" / "metrics.jsonl").read_text().splitlines()]
    assert rows == [[str(line["step"]), str(line["loss"])] for line in lines]
    results = json.loads((once / "run" / "results.json").read_text())  # the metric
    assert results["finetuned"]["example_worst_class"] == 100
    assert results["selection"] == {"pairs": len(sure), "samples": len(sure), "precision": None}
    assert "example worst class" in (once / "run" / "results.md").read_text()
    assert sorted(path.name for path in (once / "train").iterdir()) == ["across", "down"]  # the dataset
    assert "example_parts" in (run / "config.yaml").read_text()


def test_here_it_comes_out_the_same_and_is_done_then(once, example, bsssl, tmp_path):
    outcome = bsssl("run", *example)
    assert outcome.status == 0, outcome.err
    assert weights(tmp_path / "run") == weights(once / "run") != {}
    again = bsssl("run", *example, "--plan").out
    assert again.count("done\n") == 14 and "to do" not in again
    changed = bsssl("run", *example, "--plan", "stages.sure.options.min_score=0.97").out
    assert [line.split()[0] for line in changed.splitlines() if "to do" in line] == ["sure"]
    assert "sure" in bsssl("status", tmp_path / "run").out


def test_a_logger_gets_the_figures_of_tests_too(example, bsssl, tmp_path):
    outcome = bsssl("train", *example, "stage=teacher", "system.loggers.example_csv.name=top1")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "run" / "seed-0"
    figures = json.loads((run / "evaluate-teacher" / "metrics.json").read_text())
    rows = [*csv.reader((run / "evaluate-teacher" / "metrics.csv").open())]
    assert rows == [["120", str(figures["top1"])]] and (run / "teacher" / "metrics.csv").read_text() == ""
    assert not (run / "evaluate-teacher" / "metrics.jsonl").exists()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_the_loader_that_know_nothing(once, tmp_path, method):
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run" / "seed-0" / "pretrain")
    workers = ("stage=pretrain", f"system.start_method={method}", "system.workers=1")
    done = python(
        RUN, "train", "--config", PACKAGE / "recipe.yaml", *paths(once)[1:], *workers, f"output_dir={tmp_path / 'run'}"
    )
    assert done.returncode == 0, done.stderr
    assert "pretrain (not done yet)" in done.stderr
    assert weights(tmp_path / "run") == weights(once / "run")


def test_two_processes_on_this_machine(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (PACKAGE, ROOT)))}
    call = [sys.executable, script, "run", "--config", PACKAGE / "recipe.yaml", *paths(tmp_path)]
    two = ["--launch", "launcher.processes_per_node=2", "system.workers=0"]
    done = run_to_end([*map(str, call), *two], env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "seed-0" / "pretrain" / "done.json").read_text())["processes"] == 2


@pytest.fixture
def finished_example(once, example, tmp_path):
    """The config of the example recipe, and its finished run, copied; the package can be imported here."""
    # The data stay where they are: the run is made of them.
    config = load_config(example[1], [*paths(once), f"output_dir={tmp_path / 'run'}"])
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    return config


def test_a_job_in_a_fresh_interpreter(finished_example, tmp_path):
    """It is unpickled before the config, which names the plugin, is read."""
    saved = tmp_path / "config.yaml"
    saved.write_text(as_yaml(finished_example))
    record = tmp_path / "run" / "seed-0" / "sure" / "done.json"
    before = json.loads(record.read_text())["digests"]
    record.unlink()
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps(StageJob(str(saved), "recipe.yaml", 0, "sure")))
    done = python("import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))()", job)
    assert done.returncode == 0, done.stderr
    assert json.loads(record.read_text())["digests"] == before


def test_a_run_with_a_stage_of_a_plugin_is_pickled(finished_example, tmp_path):
    """As submitit does it to the job that writes the results of a sweep."""
    pickled = tmp_path / "run.pickle"
    pickled.write_bytes(cloudpickle.dumps(all_runs(finished_example, config_path="recipe.yaml")))
    text = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[0].pending('sure'))"
    done = python(text, pickled)
    assert done.stdout == "None\n", done.stderr


def test_an_exporter(finished_example, bsssl, tmp_path):
    folder, path = tmp_path / "run" / "seed-0" / "finetune", tmp_path / "weights.json"
    to = ("--to", "example_text", "--path", path, "--plugins", "example_parts")
    outcome = bsssl("export", folder, *to, "decimals=1")
    assert outcome.status == 0, outcome.err
    written, stored = json.loads(path.read_text()), load_file(folder / "model.safetensors")
    assert written["classes"] == ["across", "down"] and written["weights"].keys() == stored.keys()
    bias = stored["4.bias"].tolist()
    assert written["weights"]["4.bias"] == pytest.approx(bias, abs=0.051) and written["weights"]["4.bias"] != bias
    assert bsssl("export", folder, *to, "decimal=1").errors == [
        "error: exporter 'example_text' has no option 'decimal': did you mean 'decimals'? valid: decimals"
    ]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example package as pip installs it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    source = Path(shutil.copytree(PACKAGE, folder / "source"))  # building leaves files
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        folder / "site",
    ]
    done = run_to_end([*map(str, pip), str(source)])
    if done.returncode:
        pytest.skip(f"pip cannot install a package here: {done.stderr[-200:]}")
    return folder / "site"


def test_an_installed_package_announces_its_parts(installed, tmp_path):
    """By its entry point: the config does not list it."""
    config = tmp_path / "config.yaml"
    config.write_text((PACKAGE / "recipe.yaml").read_text().replace("plugins: [example_parts]\n", ""))
    assert load_config_fails(config)
    arguments = ("run", "--config", config, *paths(tmp_path), "--plan")
    done = python(RUN, *arguments, path=(installed, ROOT))
    assert done.returncode == 0 and "sure" in done.stdout, done.stderr
    listed = python(RUN, "options", "losses", path=(installed, ROOT)).stdout.split()
    assert listed == ["cross_entropy", "example_focal", "symmetric_kl"]


def load_config_fails(config):
    """Whether the config cannot be read where the package is not known."""
    try:
        load_config(str(config), [], Config)
    except Exception as error:
        return "unknown" in str(error)
    return False
