"""One worker at a time for a stage of a run, or several that share its parts, on machines with a common file system."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from bsssl import storage
from bsssl.errors import UserError
from bsssl.runtime.console import logger

HEARTBEAT = 20.0
"""seconds between signs of life of an owner"""
_ATTEMPTS = 5  # to take a lock that others take and release meanwhile
STALE = 180.0
"""seconds without a sign of life after which an owner on another machine counts as dead"""


@contextlib.contextmanager
def hold(path: Path, *, what: str, identity: str = "", patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` while ``what`` (for messages) is worked on.

    The lock of a process that has died is taken over: on this machine that is known for certain, of another machine by
    the signs of life that an owner gives. So is one of the same Slurm job, which Slurm has started again elsewhere.
    A living owner is waited for as long as ``patience`` says, in seconds.

    ``identity``: what tells the work from that of other settings or inputs. Processes that ``share`` work of the same
    identity do not matter; one that shares work of another counts as an owner, and is not waited for.

    Raises:
        UserError: Another process is at work; the message says which, on which host and since when.
    """
    mine, end = _own(), time.monotonic() + patience
    while not _take(path, mine, what):
        if time.monotonic() >= end:
            raise _busy(path, what)
        time.sleep(0.1)
    with _kept(path, mine):
        for other in path.parent.glob(f"{path.name}-{'?' * len(mine['token'])}"):
            if not _is_free(other, mine, what) and _read(other).get("identity") != identity and other.exists():
                raise _busy(other, what)
        yield


def lock_of(folder: Path) -> Path:
    """Return the lock file of the stage with this folder."""
    folder = folder.resolve()  # several runs of a sweep share it
    return folder.parent / f".{folder.name}.lock"


def is_held(folder: Path) -> bool:
    """Return whether somebody is at work on the stage with this folder, alone or with others; nothing is written."""
    path = lock_of(folder)
    return any(_has_owner(one) for one in (path, *path.parent.glob(f"{path.name}-{'?' * 32}")))


@contextlib.contextmanager
def share(path: Path, *, identity: str) -> Iterator[None]:
    """Be one of several who do parts of the work of ``identity``; for that of another nobody can ``hold`` the lock.

    The lock has to be held when this begins, and may be let go of at once. Each of the several has a file beside it.
    """
    mine = {**_own(), "identity": identity}
    own_path = path.with_name(f"{path.name}-{mine['token']}")
    storage.write_text(str(own_path), json.dumps(mine))
    with _kept(own_path, mine):
        yield


@contextlib.contextmanager
def _kept(path: Path, mine: dict[str, Any]) -> Iterator[None]:
    """Give signs of life for a lock that is ours, and remove it in the end."""
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, mine, stop), daemon=True, name="lock")
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _read(path) == mine:
            with contextlib.suppress(OSError):
                path.unlink()


_FIELDS = {"host", "machine", "pid", "started", "job", "restarts", "since", "command", "token"}


def _own() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(sys.argv)[:200],
        "token": uuid.uuid4().hex,
    }


def _take(path: Path, mine: dict[str, Any], what: str) -> bool:
    """Write the lock, in the place of a dead owner's; return whether it is ours now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_ATTEMPTS):
        try:
            with open(path, "x") as file:
                file.write(json.dumps(mine))
            return True
        except FileExistsError:
            if path.exists() and not path.is_file():
                raise UserError(f"{path} is a lock file by its name, but not a file; move it away") from None
            if not _is_free(path, mine, what):
                return False
        except OSError as error:
            raise storage.unwritable(str(path), error) from error
    return False


def _is_free(path: Path, mine: dict[str, Any], what: str) -> bool:
    """Return whether nobody has the lock ``path``; that of a dead owner is removed."""
    owner = _read(path)
    if _is_alive(owner, path) and not _has_replaced(mine, owner):
        return False
    if owner:
        logger.info("%s: process %s on %s is gone; going on", what, owner["pid"], owner["host"])
    _remove(path, owner)
    return True


def _has_replaced(mine: dict[str, Any], owner: dict[str, Any]) -> bool:
    """Return whether this process is the same Slurm job as the owner, started again since."""
    return owner.get("job") is not None and owner["job"] == mine["job"] and mine["restarts"] > owner["restarts"]


def _remove(path: Path, owner: dict[str, Any]) -> None:
    """Remove the lock of ``owner``, but not that of somebody who has been quicker."""
    away = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.rename(away)
    except FileNotFoundError:
        return
    if _read(away) != owner:
        with contextlib.suppress(FileExistsError):
            os.link(away, path)
    away.unlink()


def _busy(path: Path, what: str) -> UserError:
    owner = _read(path)
    by = (
        f"process {owner['pid']} on {owner['host']} since {owner['since']} ({owner['command']})"
        if owner
        else "another process"
    )
    return UserError(
        f"{what} is being worked on by {by}; wait for it or end it, then run again (if it is gone for certain, delete "
        f"{path})"
    )


def _read(path: Path) -> dict[str, Any]:
    """Return what a lock says of its owner; nothing where it says nothing, as when its writer was killed at once."""
    try:
        owner = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) and owner.keys() >= _FIELDS else {}


def _is_alive(owner: dict[str, Any], path: Path) -> bool:
    if owner and owner["machine"] == _machine():
        return bool(_start_of(owner["pid"]) == owner["started"])
    return _age(path) < STALE


def _has_owner(path: Path) -> bool:
    """Return whether the owner of a lock seems to live, by the clock of this machine, whose may be another."""
    owner = _read(path)
    if owner and owner["machine"] == _machine():
        return bool(_start_of(owner["pid"]) == owner["started"])
    try:
        return time.time() - path.stat().st_mtime < STALE
    except OSError:
        return False


def _machine() -> str:
    """Return what tells machines apart between which process numbers mean different processes."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}-{uuid.getnode()}"


def _start_of(pid: int) -> str | None:
    """Return when a process of this machine was started, in the system's own terms; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if os.path.isdir("/proc/self"):
            return None
        return _lives(pid)
    state, *fields = text.rpartition(") ")[2].split()
    return None if state == "Z" else fields[18]


def _lives(pid: int) -> str | None:
    """Return something for a living process, for systems that do not say when it was started."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def _age(path: Path) -> float:
    """Return the seconds since the last sign of life, by the clock of the file system."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # it has just been released
    finally:
        probe.unlink(missing_ok=True)


def _beat(path: Path, mine: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        if _read(path) == mine:
            with contextlib.suppress(OSError):
                os.utime(path)
