"""Launching without a cluster: processes on this machine, shares of a stage, what is said where there is no Slurm."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bsssl.config import Config, Launcher
from bsssl.errors import UserError
from bsssl.launch.jobs import ReportJob
from bsssl.launch.slurm import SlurmLauncher
from bsssl.launch.status import JobRow, save_jobs
from bsssl.pipeline.stage import Resources
from tests.processes import PATIENCE, run_to_end, wait_until

BSSSL = str(Path(sys.executable).parent / "bsssl")
TWO = ("--launch", "launcher.processes_per_node=2")


def run(command, recipe, output, *arguments):
    """The command in a process of its own."""
    call = [BSSSL, command, "--config", str(recipe.config), f"output_dir={output}", *arguments]
    return run_to_end(call)


def test_two_processes_on_this_machine(recipe, finished, tmp_path):
    done = run("run", recipe, tmp_path / "two", *TWO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results.json, results.md, results.png and report.html are in") == 1
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
    broken = ("stage=teacher", "teacher.base_lr=1e30", "teacher.warmup=0 steps", "system.workers=2")
    done = run("train", recipe, tmp_path / "run", *broken)
    assert done.returncode == 1 and "training diverged" in done.stderr


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


def test_a_task_of_another_config_unmakes_a_finished_stage(bsssl, finished, recipe):
    common = ("--config", recipe.config, f"output_dir={finished}")
    selection = finished / "seed-0" / "select" / "selection.parquet"
    expected = selection.read_bytes()
    assert bsssl("score", *common, "--task", "0/1", "score.top_p=3").status == 0
    outcome = bsssl("select", *common)
    assert outcome.status == 1 and "run first: bsssl score" in outcome.errors[0]
    assert bsssl("score", *common).status == bsssl("select", *common).status == 0
    assert selection.read_bytes() == expected


def test_tasks_of_one_config_go_together_and_keep_others_away(bsssl, gated, tmp_path):
    off = ("data.verify=off", "data.duplicates=allow", "data.pool_overlap=allow")  # scoring alone passes the gate
    seed, common = tmp_path / "run" / "seed-0", ("--config", str(gated.config), f"output_dir={tmp_path / 'run'}", *off)
    assert bsssl("train", *common, "stage=teacher").status == 0
    gated.gate.close()
    before = gated.gate.asked
    at_work = subprocess.Popen([BSSSL, "score", *common, "--task", "1/2"], stderr=subprocess.DEVNULL)
    wait_until(lambda: gated.gate.asked > before)
    assert bsssl("score", *common, "--task", "0/2").status == 0
    scores = sorted(path.name for path in (seed / "score").glob("*.scores"))
    assert scores == ["000000.scores", "000002.scores", "000004.scores"]
    for arguments in ((), ("--redo",), ("--task", "0/2")):
        outcome = bsssl("score", *common, "score.top_p=1", *arguments)
        assert outcome.status == 1 and len(outcome.errors) == 1
        assert f"score in {seed} is being worked on by process {at_work.pid} on " in outcome.errors[0]
    assert sorted(path.name for path in (seed / "score").glob("*.scores")) == scores

    at_work.kill()
    at_work.wait()
    gated.gate.open()
    outcome = bsssl("score", *common, "score.top_p=1")
    assert outcome.status == 0 and f"process {at_work.pid} on " in outcome.err and " is gone; going on" in outcome.err
    assert not list(seed.glob(".*"))
    assert "score: taken back from" in bsssl("score", *common, "--task", "1/2").err


def test_shares_within_a_group_of_processes(recipe, finished):
    score = finished / "seed-0" / "score"
    before = {path.name: path.stat().st_mtime_ns for path in score.glob("*.scores")}
    for path in score.iterdir():
        path.unlink()
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node=2", BSSSL]
    call = [*torchrun, "score", "--config", str(recipe.config), f"output_dir={finished}", "--task", "0/2"]
    done = run_to_end(call)
    assert done.returncode == 0, done.stderr
    # Two tasks of two processes are four shares, of which these are the first two.
    assert (
        {path.name for path in score.glob("*.scores")}
        == {f"{shard:06d}.scores" for shard in (0, 1, 4, 5)}
        < set(before)
    )


def test_a_task_lists_a_pool_that_has_changed(bsssl, finished, recipe):
    common = ("--config", recipe.config, f"output_dir={finished}", "data.pool_fraction=0.5")
    for task in ("0/2", "1/2"):
        outcome = bsssl("score", *common, "--task", task)
        assert outcome.status == 0, outcome.err
    assert not (finished / "seed-0" / "score" / "done.json").exists()
    assert bsssl("score", *common).status == 0


def test_a_task_of_work_without_parts_is_refused(bsssl, finished, recipe):
    outcome = bsssl("select", "--config", recipe.config, f"output_dir={finished}", "--task", "0/2")
    assert outcome.errors == [
        "error: the work of data, near, select has no parts that tasks could share; leave --task out"
    ]


def test_a_task_is_not_launched(bsssl, recipe):
    outcome = bsssl("score", "--config", recipe.config, "--task", "0/2", "--launch")
    assert outcome.status == 1 and "set launcher.array_tasks instead" in outcome.errors[0]


def test_options_are_not_abbreviated(bsssl, recipe):
    assert "unrecognized arguments: --laun" in bsssl("run", "--config", recipe.config, "--laun").err


def test_an_interrupt_of_processes_on_this_machine(gated, tmp_path):
    call = [BSSSL, "train", "--config", str(gated.config), f"output_dir={tmp_path / 'run'}", "stage=teacher"]
    gated.gate.close(after=7)
    running = subprocess.Popen(
        [*call, "system.workers=1", *TWO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: gated.gate.asked >= 8)  # thrice before; the training waits for its fifth reading
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "interrupted: the same command goes on from the last checkpoint"


def children(pid):
    """The processes that process ``pid`` has started and that are at work."""
    of_all = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            state, parent = path.read_text().rpartition(") ")[2].split()[:2]
            of_all += [path.parent] if parent == str(pid) and state != "Z" else []
    return of_all


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
def test_processes_on_this_machine_end_with_a_launcher_that_is_killed(gated, tmp_path):
    call = [BSSSL, "train", "--config", str(gated.config), f"output_dir={tmp_path / 'run'}", "stage=teacher", *TWO]
    gated.gate.close()
    launcher = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: gated.gate.asked)  # all have met; the main one looks at the labels
    started = children(launcher.pid)
    launcher.kill()
    launcher.wait()
    assert len(started) == 2
    wait_until(lambda: not any((one / "cmdline").exists() and (one / "cmdline").read_bytes() for one in started))


@pytest.mark.parametrize("task", ["4/4", "1", "-1/2", "a/b"])
def test_a_task_that_is_none(bsssl, recipe, task):
    outcome = bsssl("score", "--config", recipe.config, f"--task={task}")
    assert outcome.status == 2 and "write for example 0/16 for the first of 16" in outcome.err


def test_a_job_that_cannot_write_the_results_ends_with_one_line(recipe, finished, tmp_path):
    config = recipe.write(tmp_path / "config.yaml", {"output_dir": str(finished)})
    (finished / "seed-0" / "evaluate-finetune" / "done.json").unlink()
    with pytest.raises(SystemExit) as caught:
        ReportJob(str(config), Config)()
    error = f"error: stage 'evaluate-finetune' of {finished}/seed-0 is not done; run first: bsssl evaluate"
    assert caught.value.code.startswith(error) and "\n" not in caught.value.code


@pytest.mark.parametrize(
    ("launcher", "folder", "message"),
    [
        ({"sbatch": {"comment": "a\nrm -rf"}}, "/run", r"launcher: comment must be one line, not 'a\\nrm -rf'"),
        ({"partition": "gpu\n#SBATCH --mem=0"}, "/run", "launcher: partition must be one line"),
        ({}, "/runs/%j", "sbatch takes the % in /runs/%j for a pattern; choose an output_dir without one"),
    ],
)
def test_what_sbatch_would_take_for_something_else(launcher, folder, message):
    launcher = SlurmLauncher(Launcher(kind="slurm", **launcher))
    with pytest.raises(UserError, match=message):
        launcher.submit(
            [ReportJob("a.yaml", schema=Config)], kind="report", resources=Resources(), folder=folder, after=[]
        )


def test_no_slurm_here(bsssl, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}", "--launch", "launcher.kind=slurm")
    assert outcome.status == 1 and outcome.errors[0].startswith("error: the job of data cannot be submitted")
    assert "slurm" in outcome.errors[0] and outcome.err.count("\n") == 1


def test_a_batch_that_the_cluster_cannot_share_is_refused_before_anything_is_submitted(bsssl, recipe, tmp_path):
    launcher = "launcher={kind: slurm, nodes: 5, gpus_per_node: 8, stages: {train: {gpus_per_node: 7}}}"
    for plan in ((), ("--plan",)):
        outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}", "--launch", launcher, *plan)
        assert outcome.status == 1
        assert "teacher.batch_size (12) does not divide evenly over 35 processes" in outcome.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("launcher.nodes=2", "launcher: kind is local, which has one node, not 2; set kind=slurm or nodes=1"),
        (
            "launcher.stages={training: {minutes: 3}}",
            "launcher: stages: unknown stage 'training':",
        ),
        (
            "launcher={kind: slurm, processes_per_node: 4, cpus_per_node: 2}",
            "cpus_per_node (2) is below the 4 processes",
        ),
    ],
)
def test_a_wrong_launcher(bsssl, recipe, argument, error):
    outcome = bsssl("run", "--config", recipe.config, "--launch", argument)
    assert outcome.status == 1 and error in outcome.err


def unfinish(folder):
    """Make a stage one that was begun and is not finished."""
    (folder / "done.json").rename(folder / "begun.json")


def test_status_of_a_run_without_jobs(bsssl, finished, tmp_path):
    lines = bsssl("status", finished).out.splitlines()
    assert lines[0].split() == ["run", "stage", "state", "job"]
    assert all(line.split()[2] == "done" for line in lines[1:]) and "6 of 6 shards" in "".join(lines)
    unfinish(finished / "seed-0" / "score")
    (finished / "seed-0" / "score" / "000003.scores").unlink()
    assert "5 of 6 shards" in bsssl("status", finished).out
    lines = bsssl("status", finished, "--shards").out.splitlines()[1:]
    shards = [line.split()[-2:] for line in lines if " score " in line]
    assert shards[3] == ["not", "done"] and [shard[-1] for shard in shards].count("done") == 6
    assert bsssl("cancel", finished).out == f"{finished} has no unfinished jobs\n"
    outcome = bsssl("status", tmp_path / "none")
    assert outcome.status == 1 and outcome.errors == [
        f"error: no run in {tmp_path / 'none'}; give the output_dir of one"
    ]


def test_status_without_squeue(bsssl, finished, monkeypatch):
    (finished / "jobs" / "1").mkdir(parents=True)
    save_jobs(str(finished / "jobs" / "1"), [JobRow(job_id="7", run="seed-0", stage="score", folder="")])
    monkeypatch.setenv("PATH", "/nowhere")
    assert "squeue does not answer" in bsssl("status", finished).errors[0]


@pytest.fixture
def slurm(finished, tmp_path, monkeypatch):
    """``slurm(squeue=..., sacct=...)``: Slurm's commands, printing these lines, and a submission of four jobs."""

    def answer(**printed):
        (tmp_path / "bin").mkdir(exist_ok=True)
        for command, lines in printed.items():
            script = tmp_path / "bin" / command
            script.write_text("#!/bin/sh\ncat <<'E'\n" + "".join(f"{line}\n" for line in lines) + "E\n")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    logs = finished / "jobs" / "1"
    logs.mkdir(parents=True)
    common = {"run": "seed-0", "folder": str(logs)}
    jobs = [JobRow(job_id="7", stage="teacher", **common), JobRow(job_id="8", stage="score", tasks=4, **common)]
    jobs += [JobRow(job_id="9", stage="score", **common), JobRow(job_id="10", stage="report", **{**common, "run": "."})]
    save_jobs(str(logs), jobs)
    return answer


def state_of(text, stage):
    return next(line.split()[2] for line in text.splitlines()[1:] if line.split()[1:2] == [stage])


def test_status_of_a_run_that_ended_well(bsssl, finished, slurm):
    slurm(squeue=[], sacct=["7|COMPLETED", "8_[0-3]|COMPLETED", "9|COMPLETED", "10|COMPLETED"])
    text = bsssl("status", finished).out
    assert "failed" not in text and state_of(text, "report") == "done"


def test_status_of_tasks(bsssl, finished, slurm):
    unfinish(finished / "seed-0" / "score")
    for name in ("000001.scores", "000002.scores"):
        (finished / "seed-0" / "score" / name).unlink()
    slurm(
        squeue=["8_1|RUNNING|None", "8_2|PENDING|Resources", "9|PENDING|Dependency", "10|PENDING|Dependency"],
        sacct=["7|COMPLETED", "8_0|COMPLETED", "8_3|COMPLETED"],
    )
    text = bsssl("status", finished).out
    assert state_of(text, "score") == "running" and "4 of 6 shards; tasks: 2 ended, 1 running, 2 waiting" in text
    assert state_of(text, "report") == "waiting"
    lines = bsssl("status", finished, "--shards").out.splitlines()[1:]
    shards = [line.split(maxsplit=3)[3] for line in lines if " score " in line]
    assert shards == ["done", "running", "waiting", "done", "done", "done"]


def test_status_of_a_cancelled_array(bsssl, finished, slurm):
    (finished / "seed-0" / "score" / "done.json").unlink()
    slurm(
        squeue=[], sacct=["7|COMPLETED", "8_[0-1,3%2]|CANCELLED by 0", "8_2|COMPLETED", "9|CANCELLED", "10|CANCELLED"]
    )
    text = bsssl("status", finished).out
    assert state_of(text, "score") == "cancelled" and "tasks: 4 cancelled, 1 ended" in text


def test_status_shows_the_log_of_the_process_that_failed(bsssl, finished, slurm):
    (finished / "seed-0" / "teacher" / "done.json").unlink()
    logs = finished / "jobs" / "1"
    for process, text in enumerate(
        ["20:00:00 seed 0: teacher", "", "error: the GPU's memory is full; lower batch_size"]
    ):
        (logs / f"7_{process}_log.out").write_text(text + "\n")
    slurm(squeue=[], sacct=["7|FAILED", "8_[0-3]|CANCELLED", "9|CANCELLED", "10|CANCELLED"])
    text = bsssl("status", finished).out
    assert state_of(text, "teacher") == "failed"
    assert f"teacher, failed: {logs / '7_2_log.out'}\n    error: the GPU's memory is full" in text
