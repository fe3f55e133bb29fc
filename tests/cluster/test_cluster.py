"""Stages as jobs of a real Slurm cluster: chains, arrays, several nodes, and whatever goes wrong on one."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmarks.kills import differences, digests
from bsssl.launch.status import JobRow, read_jobs
from tests.cluster.conftest import CLUSTER, NODES, SLURM, ask, wait_until
from tests.engine.trainings import same

TRAINING = ("stage=teacher", "teacher.length=60 steps", "system.checkpoint_steps=20")
HALFWAY = 32
"""readings behind the gate, one by the data stage, two by the contents stage and one per step: enough for the first
checkpoint, even when some are ahead of the training, and too few for the second"""

FEW = 10
"""further readings: enough for a step of all processes, whoever reads ahead, and too few for the end of the training"""


def selection(output: Path) -> bytes:
    return (output / "seed-0" / "select" / "selection.parquet").read_bytes()


def begun(output: Path, stage: str = "teacher") -> bool:
    """Whether the training has left its first checkpoint."""
    return any((output / "seed-0" / stage).glob("checkpoint-*.pt"))


def teacher(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "seed-0" / "teacher" / "model.safetensors")


@pytest.fixture(scope="session")
def undisturbed(recipe, tmp_path_factory) -> Callable[[int], dict[str, torch.Tensor]]:
    """What the training comes to on this machine, not as a job, with so many processes."""

    @functools.cache
    def train(processes: int) -> dict[str, torch.Tensor]:
        output = tmp_path_factory.mktemp("undisturbed") / "run"
        command = [str(Path(sys.executable).parent / "bsssl"), "train", "--config", str(recipe.config), *TRAINING]
        group = ["--launch", f"launcher.processes_per_node={processes}"] if processes > 1 else []
        subprocess.run([*command, f"output_dir={output}", "system.workers=1", *group], check=True)
        return teacher(output)

    return train


def begin(cluster, gated, output: Path, *arguments: str) -> JobRow:
    """The training as a job that has left its first checkpoint and cannot go on before the gate opens."""
    gated.gate.close(after=HALFWAY)
    cluster.launch("train", output, *TRAINING, *arguments, config=gated.config)
    wait_until(lambda: begun(output))
    return cluster.job(output, "teacher")


def test_the_whole_recipe_as_a_chain(cluster, finished_once, tmp_path):
    output = tmp_path / "run"
    with cluster.holding():
        printed = cluster.launch("run", output, "launcher.array_tasks=3")
        jobs = read_jobs(str(output))
        assert [job.tasks for job in jobs if job.stage == "score"] == [3, None]
        assert all(job.job_id in printed for job in jobs) and f"bsssl cancel {output}" in printed
        wait_until(lambda: "PENDING (Dependency)" in cluster.status(output))  # Slurm sees by and by why a job waits
        assert "waiting" in cluster.status(output)
        again = cluster.launch("run", output, status=1)
        assert f"{output} has {len(jobs)} unfinished jobs" in again

    cluster.wait(output)
    assert set(cluster.ends(output).values()) == {"COMPLETED"}
    assert differences(digests(tmp_path), digests(finished_once.parent)) == []
    text = cluster.status(output)
    assert text.count(" done ") == len(jobs) - 2 and "6 of 6 shards" in text  # contents and score have two jobs each
    assert "failed" not in text
    assert "not done" not in cluster.status(output, "--shards")
    assert "everything is done already" in cluster.launch("run", output)


def test_predictions_are_an_array(cluster, bsssl, finished_once, tmp_path):
    output, to = tmp_path / "said.jobs", tmp_path / "said.csv"
    predict = ("predict", finished_once, finished_once / "seed-0" / "data" / "test.csv", "--workers", 0, "--to", to)
    printed = bsssl(*predict, *SLURM, "launcher.array_tasks=2").out
    assert read_jobs(str(output))[0].tasks == 2 and f"bsssl cancel {output}" in printed
    cluster.wait(output)
    assert set(cluster.ends(output).values()) == {"COMPLETED"}
    assert bsssl(*predict).status == 0
    parts = [(tmp_path / f"said-0000{number}-of-00002.csv").read_text().splitlines() for number in range(2)]
    assert sorted({*parts[0], *parts[1]}) == sorted(to.read_text().splitlines())


def test_a_sweep_shares_jobs(cluster, tmp_path):
    output = tmp_path / "sweep"
    cluster.launch("sweep", output, "select.top_k=4,6", "launcher.array_tasks=2", "materialise.samples_per_tar=6")
    stages = Counter(job.stage for job in read_jobs(str(output)))
    assert stages["teacher"] == stages["baseline"] == 1 and stages["score"] == 2  # the array and its end
    assert stages["select"] == stages["finetune"] == 2 and stages["materialise"] == 4
    cluster.wait(output)
    assert set(cluster.ends(output).values()) == {"COMPLETED"}
    assert (output / "sweep.csv").read_text().startswith("select.top_k,teacher top1,")
    assert len(list(output.glob("*/seed-0/materialise/*.tar"))) > 4
    assert cluster.status(output).count("teacher ") == 2  # with its evaluation


def test_a_reproduction_is_submitted_whole(cluster, recipe, tmp_path):
    config, output = tmp_path / "reproduce.yaml", tmp_path / "out"
    values = {"recipe": str(recipe.config), "output_dir": "elsewhere", "seeds": 1, "experiments": {"top_k": {4: {}}}}
    config.write_text(yaml.safe_dump(values))
    cluster.launch("reproduce", output, "set.select.top_k=4", config=config)
    cluster.wait(output)
    assert set(cluster.ends(output).values()) == {"COMPLETED"}
    assert "| 4 | 4 |" in (output / "reproduce.md").read_text()


def test_a_task_of_scoring_is_killed(cluster, gated, bsssl, tmp_path):
    output = tmp_path / "run"
    assert bsssl("run", "--config", gated.config, f"output_dir={output}").status == 0
    expected = selection(output)
    for stage in ("score", "select"):
        for path in (output / "seed-0" / stage).iterdir():
            path.unlink()
    assert "run first: bsssl score" in cluster.launch("select", output, status=1, config=gated.config)
    gated.gate.close()
    before = gated.gate.asked
    cluster.launch("score", output, "launcher.array_tasks=4", config=gated.config)
    array = next(job for job in read_jobs(str(output)) if job.tasks)
    wait_until(lambda: gated.gate.asked > before)  # by the second task, for its first shard
    for pid in computing(array.job_id, 1):
        os.kill(pid, signal.SIGKILL)
    cluster.wait(output)
    gated.gate.open()
    there = {path.name: path.stat().st_mtime_ns for path in (output / "seed-0" / "score").glob("*.scores")}
    assert sorted(there) == [f"{number:06d}.scores" for number in (0, 2, 3, 4)]  # 1 and 5 were the killed task's
    text = cluster.status(output)
    assert "4 of 6 shards" in text and "1 failed" in text and array.ids[1] in text
    lines = cluster.status(output, "--shards").splitlines()[1:]
    assert [line.split()[-1] for line in lines if " score " in line] == [
        *("done", "failed", "done", "done", "done", "failed"),
    ]

    cluster.launch("score", output, "launcher.array_tasks=2", config=gated.config)
    cluster.wait(output)
    cluster.launch("select", output, config=gated.config)
    cluster.wait(output)
    assert selection(output) == expected
    for name, written in there.items():
        assert (output / "seed-0" / "score" / name).stat().st_mtime_ns == written


def test_two_nodes_train_like_one_process(cluster, undisturbed, bsssl, recipe, tmp_path):
    cluster.launch("train", tmp_path / "two", *TRAINING, "launcher.nodes=2")
    cluster.wait(tmp_path / "two")
    assert ask("sacct", "-X", "-n", "-P", "-o", "NNodes", "-j", cluster.job(tmp_path / "two", "teacher").job_id) == "2"
    assert same(teacher(tmp_path / "two"), undisturbed(2))

    # Batch normalisation sees each process's share of a batch, so for this the network is one without.
    short = ("stage=teacher", "models.teacher={name: timm/test_convnext}", "data.transforms.size=32")
    cluster.launch("train", tmp_path / "short", *short, "launcher.nodes=2")
    cluster.wait(tmp_path / "short")
    assert bsssl("train", "--config", recipe.config, f"output_dir={tmp_path / 'one'}", *short).status == 0
    torch.testing.assert_close(teacher(tmp_path / "short"), teacher(tmp_path / "one"), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("how", ["preempted", "USR2", "TERM to a process"])
def test_two_nodes_are_interrupted(cluster, gated, undisturbed, tmp_path, how):
    output = tmp_path / "run"
    job = begin(cluster, gated, output, "launcher.nodes=2")
    if how == "preempted":
        urgent = ["sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap=sleep 2"]
        subprocess.run(urgent, check=True)
    else:
        number = signal.SIGUSR2 if how == "USR2" else signal.SIGTERM
        subprocess.run(["scancel", f"--signal={number.value}", job.job_id], check=True)
        wait_until(lambda: all(was_sent(number, job, node) for node in NODES))
    if how == "USR2":
        # Python heeds a signal between two steps, and the first process may be in one, which the second has to share.
        gated.gate.close(after=FEW)
    if how != "TERM to a process":
        cluster.wait_for_restart(output, "teacher")
    gated.gate.open()
    cluster.wait(output)
    assert cluster.ends(output)["teacher"] == "COMPLETED"
    assert cluster.ends(output)["evaluate-teacher"] == "COMPLETED"  # what depends on it is not dropped
    assert same(teacher(output), undisturbed(2))


@pytest.mark.parametrize("what", ["the node", "only its daemon"])
def test_a_node_dies(cluster, gated, undisturbed, tmp_path, what):
    output = tmp_path / "run"
    job = begin(cluster, gated, output)
    node = ask("squeue", "-h", "-j", job.job_id, "-o", "%N")
    victims = [int((CLUSTER / f"slurmd-{node}.pid").read_text())]
    if what == "the node":
        victims += [*steps_of(job.job_id), *processes_of(f"SLURM_JOB_ID={job.job_id}")]
        assert len(victims) >= 6  # the daemon, two steps, the batch script, srun, the training
    for number in (signal.SIGSTOP, signal.SIGKILL):  # nobody may see the others die
        for pid in victims:
            os.kill(pid, number)
    before = gated.gate.asked
    # Slurm finds out, and gives the job to the other node, perhaps with the old process still at work.
    cluster.wait_for_restart(output, "teacher")
    wait_until(lambda: gated.gate.asked > before)
    gated.gate.open()
    cluster.wait(output)
    assert cluster.ends(output)["teacher"] == "COMPLETED"
    assert same(teacher(output), undisturbed(1))


def test_a_job_reaches_its_time_limit(cluster, gated, undisturbed, tmp_path):
    output = tmp_path / "run"
    job = begin(cluster, gated, output, "launcher.minutes=10")
    ask("scontrol", "update", f"jobid={job.job_id}", "EndTime=now+60")
    wait_until(lambda: cluster.restarts(job) >= 1)
    ask("scontrol", "update", f"jobid={job.job_id}", "TimeLimit=10")
    cluster.wait_for_restart(output, "teacher")
    gated.gate.open()
    cluster.wait(output)
    assert cluster.ends(output)["teacher"] == "COMPLETED"
    assert same(teacher(output), undisturbed(1))


def was_sent(number: int, job: JobRow, node: str) -> bool:
    """Whether Slurm has sent a signal to the processes of a job on a node."""
    return f"Sent signal {number:d} to StepId={job.job_id}.0" in (CLUSTER / "log" / f"slurmd-{node}").read_text()


def processes_of(*variables: str) -> list[int]:
    """Processes with all of these in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            if all(variable.encode() in environment for variable in variables):
                found.append(int(folder.name))
    return found


def computing(array_id: str, task: int) -> list[int]:
    """The processes of a task of an array that compute."""
    return processes_of(f"SLURM_ARRAY_JOB_ID={array_id}", f"SLURM_ARRAY_TASK_ID={task}", "SLURM_PROCID=0")


def steps_of(job_id: str) -> list[int]:
    """Slurm's own processes that watch over a job's."""
    lines = ask("pgrep", "-f", "-a", f"slurmstepd: .{job_id}[.]").splitlines()
    return [int(line.split()[0]) for line in lines]


def test_cancel(cluster, gated, bsssl, tmp_path):
    output = tmp_path / "run"
    gated.gate.close()
    cluster.launch("run", output, config=gated.config)
    jobs = read_jobs(str(output))
    wait_until(lambda: gated.gate.asked)  # by the first job
    assert bsssl("cancel", output).out.startswith(f"{len(jobs)} jobs cancelled")
    wait_until(lambda: not ask("squeue", "-h"))
    text = cluster.status(output)
    assert "cancelled" in text and "waiting" not in text and "running" not in text
    assert bsssl("cancel", output).out == f"{output} has no unfinished jobs\n"


def test_a_stage_that_fails_stops_the_chain_and_names_its_log(cluster, tmp_path):
    output = tmp_path / "run"
    cluster.launch("run", output, "data.max_failure_rate=0.001", "launcher.array_tasks=2")
    cluster.wait(output)
    ends = cluster.ends(output)
    assert {ends[name] for name in ("teacher", "baseline", "select", "pretrain", "finetune", "report")} == {"CANCELLED"}
    text = cluster.status(output)
    logs = [line.rpartition(" ")[2] for line in text.splitlines() if "contents, failed: " in line]
    assert logs and "data.pool: 1 of 52 items cannot be read" in Path(logs[0]).read_text()
    assert "error: data.pool: 1 of 52 items cannot be read" in text
    assert "Traceback" not in Path(logs[0]).read_text()


def test_what_cannot_be_submitted_leaves_nothing_behind(cluster, tmp_path):
    with cluster.holding():  # so that no job can leave the queue by ending
        error = cluster.launch("run", tmp_path / "run", "launcher.stages={select: {partition: nowhere}}", status=1)
        assert "the job of select cannot be submitted" in error and "nowhere" in error
        assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
        wait_until(lambda: not ask("squeue", "-h"))
