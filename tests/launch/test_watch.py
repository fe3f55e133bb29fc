"""What is seen of a run while it runs: from its files alone, once or in place on a terminal."""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bsssl.launch import watch as watching
from bsssl.launch.status import JobRow, save_jobs
from tests.processes import wait_until

BSSSL = str(Path(sys.executable).parent / "bsssl")


def unfinish(folder):
    """Make a stage one that was begun and is not finished."""
    (folder / "done.json").rename(folder / "begun.json")


def cells(text):
    """The cells of the table, by the first of each row."""
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()[1:]]
    table = rows[: rows.index([])] if [] in rows else rows
    return {row[0]: row[1:] for row in table}


@pytest.fixture
def see(bsssl):
    """``see(run)``: what `bsssl watch` shows of it where the output is no terminal."""

    def call(folder, *arguments):
        outcome = bsssl("watch", folder, *arguments)
        assert outcome.status == 0, outcome.err
        assert "\x1b" not in outcome.out
        return outcome.out

    return call


def test_a_finished_run(see, finished):
    text = see(finished)
    table = cells(text)
    stages = json.loads((finished / "seed-0" / "stages.json").read_text())
    assert [*table] == ["stage", *stages] and len(stages) == 13
    assert all(row[0].startswith("done, ") for name, row in table.items() if name != "stage")
    for row in ("evaluate-baseline.log:", "seed 0: evaluate-baseline ends"):
        assert row in text
    assert see(finished / "seed-0", "--once").splitlines()[1:] == text.splitlines()[1:]


def test_the_log_of_a_stage_says_how_it_went(bsssl, recipe, tmp_path):
    common = ("--config", recipe.config, f"output_dir={tmp_path / 'run'}", "teacher.warmup=0 steps")
    assert bsssl("train", *common, "stage=teacher", "teacher.base_lr=1e30").status == 1
    log = tmp_path / "run" / "seed-0" / "logs" / "teacher.log"
    first, last = log.read_text().splitlines()
    assert first.endswith(" seed 0: teacher begins") and last.startswith("error: the loss is ")
    text = bsssl("watch", tmp_path / "run").out
    assert cells(text)["teacher"] == ["failed"] and cells(text)["score"] == ["waiting"]
    assert f"{log}:" in text and "    error: the loss is " in text
    assert bsssl("train", *common, "stage=teacher").status == 0
    assert log.read_text().splitlines()[2:][-1].endswith(" seed 0: teacher ends")
    assert cells(bsssl("watch", tmp_path / "run").out)["teacher"][0].startswith("done, ")


def test_a_run_at_work_and_killed(see, gated, tmp_path):
    run = tmp_path / "run"
    gated.gate.close(after=6)  # three by the stages before
    call = [BSSSL, "train", "--config", str(gated.config), f"output_dir={run}", "stage=teacher"]
    running = subprocess.Popen([*call, "system.checkpoint_steps=1"], stderr=subprocess.DEVNULL)
    metrics = run / "seed-0" / "teacher" / "metrics.jsonl"
    wait_until(lambda: gated.gate.asked >= 7 and metrics.exists() and len(metrics.read_text().splitlines()) == 3)
    text = see(run)
    table = cells(text)
    assert table["teacher"][0].startswith("running, 38 %, ") and table["teacher"][0].endswith(" left")
    assert table["data"][0].startswith("done, ") and table["score"] == ["waiting"]
    row = json.loads(metrics.read_text().splitlines()[-1])
    assert f"seed-0: teacher, step 3 of 8, loss {row['loss']:.3f}, accuracy {row['accuracy']:.1f} %, " in text
    assert " samples/s, " in text and "█" in text and " seed 0: teacher begins" in text
    running.kill()
    running.wait()
    assert cells(see(run))["teacher"] == ["stopped"]
    gated.gate.open()


def test_parts_that_are_done_of_a_running_stage(see, finished, monkeypatch):
    score = finished / "seed-0" / "score"
    unfinish(score)
    for number in (1, 4):
        (score / f"{number:06d}.scores").unlink()
    assert cells(see(finished))["score"] == ["stopped"]
    monkeypatch.setattr("bsssl.pipeline.progress.is_held", lambda folder: folder == score)
    begun = (score / "begun.json").stat().st_mtime
    monkeypatch.setattr(time, "time", lambda: begun + 400)
    for path in score.glob("*.scores"):
        path.touch()
    assert cells(see(finished))["score"] == ["running, 67 %, 3 min left"]  # 100 s for each


def test_seeds_beside_each_other_and_those_to_come(see, finished):
    config = finished / "seed-0" / "config.yaml"
    config.write_text(config.read_text().replace("\nseeds: 1\n", "\nseeds: 3\n"))
    shutil.copytree(finished / "seed-0", finished / "seed-1")
    unfinish(finished / "seed-1" / "finetune")
    table = cells(see(finished))
    assert table["stage"] == ["seed-0", "seed-1", "seed-2"]
    assert [cell.split(",")[0] for cell in table["finetune"]] == ["done", "stopped", "waiting"]


def test_a_folder_of_many_runs_is_a_table_of_them(see, finished, tmp_path):
    for name in ("top_k=4", "top_k=6"):
        shutil.copytree(finished / "seed-0", tmp_path / "sweep" / name / "seed-0")
    unfinish(tmp_path / "sweep" / "top_k=6" / "seed-0" / "finetune")
    table = cells(see(tmp_path / "sweep"))
    assert table["top_k=4/seed-0"] == ["13 of 13", "done"]
    assert table["top_k=6/seed-0"] == ["12 of 13", "stopped", "finetune: stopped"]


def test_a_run_of_an_earlier_version(see, finished):
    """It has no list of its stages and no logs, and rows without the length."""
    run = finished / "seed-0"
    (run / "stages.json").unlink()
    shutil.rmtree(run / "logs")
    metrics = run / "finetune" / "metrics.jsonl"
    rows = [{"step": step, "time": 1e9 + step, "loss": 1.0 / step} for step in (2, 4, 8)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "finetune" / "done.json").touch()
    unfinish(run / "finetune")
    text = see(finished)
    assert cells(text)["finetune"] == ["stopped"] and len(cells(text)) == 14 and ".log" not in text
    assert "seed-0" in text


def test_rows_that_are_being_written(see, finished):
    metrics = finished / "seed-0" / "ceiling" / "metrics.jsonl"
    metrics.parent.mkdir()
    metrics.write_text(
        '{"step": 50, "time": 5e9, "loss": 0.5}\n{"step": 100, "time": 5e9, "loss": NaN}\n[1]\n{"step": 1'
    )
    (metrics.parent / "begun.json").write_bytes((finished / "seed-0" / "teacher" / "done.json").read_bytes())
    assert "seed-0: ceiling, step 100\n" in see(finished)


def test_a_job_that_failed_before_its_work(see, finished):
    logs = finished / "jobs" / "1"
    logs.mkdir(parents=True)
    unfinish(finished / "seed-0" / "teacher")
    save_jobs(str(logs), [JobRow(job_id="7", run="seed-0", stage="teacher", folder=str(logs))])
    assert cells(see(finished))["teacher"] == ["stopped"]
    (logs / "7_0_log.out").write_text("20:00 hello\nerror: there is no GPU\n")
    text = see(finished)
    assert cells(text)["teacher"] == ["failed"] and "    error: there is no GPU" in text


def test_bad_folders(bsssl, finished, tmp_path):
    def error(folder):
        outcome = bsssl("watch", folder)
        assert outcome.status == 1 and outcome.out == "" and "Traceback" not in outcome.err
        (line,) = outcome.errors
        return line

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("none", "empty", "file"):
        assert error(tmp_path / name) == f"error: no run in {tmp_path / name}; give the output_dir of one"
    record = finished / "seed-0" / "select" / "done.json"
    whole = json.loads(record.read_text())
    record.write_text(json.dumps({**whole, "format": 99}))
    assert "it was written by a newer bsssl; upgrade" in error(finished)
    record.write_text("{")
    assert f"{record} is not valid JSON" in error(finished)
    record.write_text(json.dumps(whole))
    (finished / "seed-0" / "stages.json").write_text("{}")
    assert "stages.json is no list of stages; delete it" in error(finished)


class Terminal(io.StringIO):
    """An output that takes codes of terminals."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """``terminal(folder, *acts)``: what a terminal is sent while one act after the other takes the place of waiting."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")

    def call(folder, *acts):
        left, out = [*acts], Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(time, "sleep", lambda seconds: left.pop(0)())
        try:
            watching.watch(str(folder))
        finally:
            assert not left and out.getvalue().count("\x1b[?1049l") == 1
        frames, after = out.getvalue().split("\x1b[?1049l")
        return frames.removeprefix("\x1b[?1049h\x1b[?25l").split("\x1b[H")[1:], after

    return call


def test_a_damaged_list_of_jobs(bsssl, finished):
    path = finished / "jobs" / "20260101-000000" / "jobs.json"
    path.parent.mkdir(parents=True)
    path.write_text('[{"job": 1}]')
    for command in ("watch", "status", "cancel"):
        problem = "is no list of jobs, or of another version; delete it and launch again"
        assert bsssl(command, finished).errors == [f"error: {path} {problem}"]


def test_in_place_until_the_run_ends(finished, terminal):
    finetune = finished / "seed-0" / "finetune"
    unfinish(finetune)
    frames, after = terminal(finished, lambda: (finetune / "begun.json").rename(finetune / "done.json"))
    assert len(frames) == 1 and "stopped" in frames[0]
    assert cells(after)["finetune"][0].startswith("done, ") and "\x1b" not in after


def test_in_place_until_nobody_has_been_at_work_for_a_while(finished, terminal, monkeypatch):
    unfinish(finished / "seed-0" / "finetune")
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    frames, _ = terminal(finished, lambda: clock.append(clock.pop() + 10), lambda: clock.append(clock.pop() + 11))
    assert len(frames) == 2


def test_in_place_while_jobs_may_wait_until_one_leaves(finished, terminal, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    logs = finished / "jobs" / "1"
    logs.mkdir(parents=True)
    save_jobs(str(logs), [JobRow(job_id="7", run="seed-0", stage="finetune", folder=str(logs))])
    unfinish(finished / "seed-0" / "finetune")
    clock = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    frames, after = terminal(finished, *[lambda: None] * 3, interrupt)
    assert len(frames) == 4 and cells(after)["finetune"] == ["stopped"]


def test_a_run_that_vanishes_is_one_line(bsssl, finished, terminal):
    unfinish(finished / "seed-0" / "finetune")
    with pytest.raises(Exception, match=r"^no run in .*; give the output_dir of one$"):
        terminal(finished, lambda: shutil.rmtree(finished))


def test_a_small_terminal(finished, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "12")
    unfinish(finished / "seed-0" / "finetune")
    (frame,), _ = terminal(
        finished, lambda: (finished / "seed-0/finetune/begun.json").rename(finished / "seed-0/finetune/done.json")
    )
    lines = frame.replace("\x1b[K", "").replace("\x1b[J", "").split("\n")
    assert len(lines) <= 12 and max(map(len, lines)) <= 40
    assert "finetune  stopped" in lines and "... and 12 done" in lines


def test_a_curve():
    rising = watching.chart([0, 1, 2, 3, 4, 5, 6, 7], width=8, height=1)
    assert rising == ["▁▂▃▄▅▆▇█"]
    assert watching.chart([0.0, 1.0], width=4, height=2) == ["  ██", "▁▁██"]
    assert watching.chart([5.0] * 10, width=3, height=2) == ["   ", "▁▁▁"]
    assert watching.chart([*range(1000)], width=2, height=1, blocks=" .#") == [".#"]


def test_a_terminal_without_blocks(finished, monkeypatch):
    metrics = finished / "seed-0" / "finetune" / "metrics.jsonl"
    rows = [{"step": step, "time": 5e9, "loss": 1.0 / step} for step in (2, 4, 8)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    watching.watch(str(finished), once=True)
    out.flush()
    text = out.buffer.getvalue().decode("ascii")
    assert "@@@" in text and "loss 0.125" in text and "?" not in text


def test_the_metrics_of_a_run_have_the_length_of_each_training(finished_once):
    rows = (finished_once / "seed-0" / "teacher" / "metrics.jsonl").read_text().splitlines()
    assert rows and all(yaml.safe_load(row)["steps"] == 8 for row in rows)
