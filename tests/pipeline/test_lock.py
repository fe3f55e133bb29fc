"""One worker at a time."""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest

from bsssl.errors import UserError
from bsssl.pipeline import lock


def owner(path):
    return json.loads(path.read_text())


def change(path, **values):
    path.write_text(json.dumps({**owner(path), **values}))


@pytest.fixture
def held(tmp_path):
    """The lock of a process that lives on another machine, with a sign of life of just now."""
    path = tmp_path / ".teacher.lock"
    with lock.hold(path, what="teacher"):
        content = path.read_text()
    path.write_text(content)
    change(path, machine="another", host="far", pid=12, since="2026-01-01T00:00:00", command="bsssl run", token="t")
    return path


def test_a_lock_is_gone_afterwards_also_after_an_error(tmp_path):
    path = tmp_path / ".teacher.lock"
    with pytest.raises(ZeroDivisionError), lock.hold(path, what="teacher"):
        assert owner(path)["pid"] == os.getpid()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_living_owner_is_told(held):
    with pytest.raises(UserError) as caught, lock.hold(held, what="teacher in outputs/x"):
        pass
    assert str(caught.value) == (
        "teacher in outputs/x is being worked on by process 12 on far since 2026-01-01T00:00:00 (bsssl run); wait "
        f"for it or end it, then run again (if it is gone for certain, delete {held})"
    )


def test_an_owner_on_another_machine_without_a_sign_of_life_is_dead(held, caplog):
    old = time.time() - lock.STALE - 1
    os.utime(held, (old, old))
    with lock.hold(held, what="teacher"):
        assert owner(held)["pid"] == os.getpid()
    assert not held.exists()


def test_a_dead_process_of_this_machine_is_recognised_at_once(tmp_path):
    path = tmp_path / ".teacher.lock"
    program = (
        "import os, pathlib, sys\nfrom bsssl.pipeline import lock\n"
        "with lock.hold(pathlib.Path(sys.argv[1]), what='x'): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.exists()
    with lock.hold(path, what="teacher"):
        assert owner(path)["pid"] == os.getpid()


def test_a_number_that_another_process_has_by_now_is_not_the_owner(tmp_path):
    path = tmp_path / ".teacher.lock"
    with lock.hold(path, what="teacher"):
        content = path.read_text()
    path.write_text(content)
    change(path, started="1", token="t")
    with lock.hold(path, what="teacher"):
        assert owner(path)["token"] != "t"


def test_the_same_job_started_again_takes_over(held, monkeypatch):
    change(held, job="77")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(UserError, match="is being worked on"), lock.hold(held, what="teacher"):
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with lock.hold(held, what="teacher"):
        assert owner(held)["job"] == "77" and owner(held)["pid"] == os.getpid()


def test_a_lock_that_says_nothing_counts_while_it_is_young(tmp_path):
    path = tmp_path / ".teacher.lock"
    path.write_text("")
    with pytest.raises(UserError, match="is being worked on by another process; wait"), lock.hold(path, what="teacher"):
        pass
    old = time.time() - lock.STALE - 1
    os.utime(path, (old, old))
    with lock.hold(path, what="teacher"):
        pass


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[1, 2]", b'{"host": "far", "pid": 12}', b'{"host": '])
def test_a_lock_that_is_damaged_counts_while_it_is_young(tmp_path, content):
    path = tmp_path / ".teacher.lock"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is being worked on by another process; wait"), lock.hold(path, what="teacher"):
        pass
    os.utime(path, (0, 0))
    with lock.hold(path, what="teacher"):
        assert owner(path)["pid"] == os.getpid()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_lock(tmp_path, make):
    path = tmp_path / ".teacher.lock"
    make(path)
    with pytest.raises(UserError, match=r"teacher.lock is a lock file by its name, but not a file; move it away"):
        lock.hold(path, what="teacher").__enter__()
    assert list(tmp_path.iterdir()) == [path]


def test_several_share_the_work_of_one_identity(tmp_path):
    path = tmp_path / ".score.lock"
    with contextlib.ExitStack() as workers:
        for _ in range(2):
            with lock.hold(path, what="score", identity="a"):
                workers.enter_context(lock.share(path, identity="a"))
        assert len(list(tmp_path.iterdir())) == 2
        for other in ("b", ""):
            with pytest.raises(UserError, match=f"process {os.getpid()} on"), lock.hold(path, what="x", identity=other):
                pass
        for worker in tmp_path.iterdir():  # as if they were on another machine, which has died since
            change(worker, machine="another")
            os.utime(worker, (0, 0))
        with lock.hold(path, what="score", identity="b"):
            assert list(tmp_path.iterdir()) == [path]
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_the_same_job_started_again_takes_over(tmp_path, monkeypatch):
    path = tmp_path / ".score.lock"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with lock.hold(path, what="score", identity="a"), lock.share(path, identity="a"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        path.unlink()
        with lock.hold(path, what="score", identity="b"):
            assert list(tmp_path.iterdir()) == [path]


def test_the_second_command_says_who_is_at_work(bsssl, recipe, finished):
    (finished / "seed-0" / "baseline" / "done.json").unlink()
    path = finished / "seed-0" / ".baseline.lock"
    with lock.hold(path, what="baseline"):
        outcome = bsssl("run", "--config", recipe.config, f"output_dir={finished}")
    assert outcome.status == 1
    (line,) = outcome.errors
    assert line.startswith(f"error: baseline in {finished}/seed-0 is being worked on by process {os.getpid()} on ")


def test_onlookers_see_who_is_at_work_and_write_nothing(tmp_path):
    folder = tmp_path / "score"
    path = lock.lock_of(folder)
    assert not lock.is_held(folder)
    with lock.hold(path, what="score"):
        assert lock.is_held(folder)
        with lock.share(path, identity="a"):
            path.rename(tmp_path / "away")
            assert lock.is_held(folder)
            (worker,) = tmp_path.glob(".score.lock-*")
            change(worker, machine="another")
            assert lock.is_held(folder)
            os.utime(worker, (0, 0))
            assert not lock.is_held(folder)
            assert {one.name for one in tmp_path.iterdir()} == {"away", worker.name}
