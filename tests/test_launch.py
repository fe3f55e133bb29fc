"""Launching without a cluster: processes on this machine, shares of a stage, what is said where there is no Slurm."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bsssl.status import Job, save_jobs

BSSSL = str(Path(sys.executable).parent / "bsssl")
TWO = ("--launch", "launcher.processes_per_node=2")


def run(command, recipe, output, *arguments):
    """The command in a process of its own."""
    call = [BSSSL, command, "--config", str(recipe.config), f"output_dir={output}", *arguments]
    return subprocess.run(call, capture_output=True, text=True)


def test_two_processes_on_this_machine(recipe, finished, tmp_path):
    done = run("run", recipe, tmp_path / "two", *TWO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results.json, results.md and results.png are in") == 1
    two = tmp_path / "two" / "seed-0"
    assert '"processes": 2' in (two / "teacher" / "done.json").read_text()
    # Batch normalisation sees half a batch each, so weights differ a little, and what they lead to too.
    one = load_file(finished / "seed-0" / "teacher" / "model.safetensors")
    assert not torch.equal(one["conv1.weight"], load_file(two / "teacher" / "model.safetensors")["conv1.weight"])
    assert len(list((two / "score").glob("*.scores"))) == 6


def test_a_process_that_fails_ends_all(recipe, tmp_path):
    done = run(
        "train", recipe, tmp_path / "run", "stage=teacher", "teacher.base_lr=1e30", "teacher.warmup=0 steps", *TWO
    )
    assert done.returncode == 1
    errors = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    assert errors and all("training diverged" in line for line in errors)
    assert "Traceback" not in done.stderr


def test_an_error_ends_the_loaders_processes_too(recipe, tmp_path):
    began = time.monotonic()
    broken = ("stage=teacher", "teacher.base_lr=1e30", "teacher.warmup=0 steps", "system.workers=2")
    done = run("train", recipe, tmp_path / "run", *broken)
    assert done.returncode == 1 and "training diverged" in done.stderr
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("count", [1, 4])
def test_shares_of_scoring(bsssl, finished, recipe, count):
    score, common = finished / "seed-0" / "score", ("--config", recipe.config, f"output_dir={finished}")
    expected = {path.name: path.read_bytes() for path in score.glob("*.scores")}
    selection = (finished / "seed-0" / "select" / "selection.parquet").read_bytes()
    for path in score.iterdir():
        path.unlink()
    for task in reversed(range(count)):
        assert bsssl("score", *common, "--task", f"{task}/{count}").status == 0
        assert {path.name for path in score.glob("*.scores")} == {
            f"{shard:06d}.scores" for shard in range(6) if shard % count >= task
        }
    assert not (score / "done.json").exists()
    assert bsssl("score", *common).status == bsssl("select", *common).status == 0
    assert {path.name: path.read_bytes() for path in score.glob("*.scores")} == expected
    assert (finished / "seed-0" / "select" / "selection.parquet").read_bytes() == selection


@pytest.mark.parametrize("task", ["4/4", "1", "-1/2", "a/b"])
def test_a_task_that_is_none(bsssl, recipe, task):
    outcome = bsssl("score", "--config", recipe.config, f"--task={task}")
    assert outcome.status == 2 and "write for example 0/16 for the first of 16" in outcome.err


def test_no_slurm_here(bsssl, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}", "--launch", "launcher.kind=slurm")
    assert outcome.status == 1 and outcome.errors[0].startswith("error: the job of data cannot be submitted")
    assert "slurm" in outcome.errors[0] and outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("launcher.nodes=2", "launcher: kind is local, which has one node, not 2; set kind=slurm or nodes=1"),
        ("launcher.stages={training: {minutes: 3}}", "launcher.stages.training"),
        (
            "launcher={kind: slurm, processes_per_node: 4, cpus_per_node: 2}",
            "cpus_per_node (2) is below the 4 processes",
        ),
    ],
)
def test_a_wrong_launcher(bsssl, recipe, argument, error):
    outcome = bsssl("run", "--config", recipe.config, "--launch", argument)
    assert outcome.status == 1 and error in outcome.err


def test_status_of_a_run_without_jobs(bsssl, finished, tmp_path):
    lines = bsssl("status", finished).out.splitlines()
    assert lines[0].split() == ["run", "stage", "state", "job"]
    assert all(line.split()[2] == "done" for line in lines[1:]) and "6 of 6 shards" in "".join(lines)
    (finished / "seed-0" / "score" / "done.json").unlink()
    (finished / "seed-0" / "score" / "000003.scores").unlink()
    assert "5 of 6 shards" in bsssl("status", finished).out
    shards = [line.split()[-2:] for line in bsssl("status", finished, "--shards").out.splitlines()[1:]]
    assert shards[3] == ["not", "done"] and [shard[-1] for shard in shards].count("done") == 6
    assert bsssl("cancel", finished).out == f"{finished} has no unfinished jobs\n"
    outcome = bsssl("status", tmp_path / "none")
    assert outcome.status == 1 and outcome.errors == [
        f"error: no run in {tmp_path / 'none'}; give the output_dir of one"
    ]


def test_status_without_squeue(bsssl, finished, monkeypatch):
    (finished / "jobs" / "1").mkdir(parents=True)
    save_jobs(str(finished / "jobs" / "1"), [Job(job_id="7", run="seed-0", stage="score", folder="")])
    monkeypatch.setenv("PATH", "/nowhere")
    assert "squeue does not answer" in bsssl("status", finished).errors[0]
