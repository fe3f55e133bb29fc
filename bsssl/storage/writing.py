"""Writes that are complete or absent, local or remote."""

import contextlib
import errno
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bsssl.errors import UserError
from bsssl.storage.remote import is_remote, remote_filesystem
from bsssl.storage.retries import attempt, in_a_line

# Where a file appears once its upload is complete. A rename is a copy and a deletion there.
_OBJECT_STORES = frozenset({"s3", "gs", "abfs", "oss"})
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing bytes that appears at ``path`` complete, or not at all.

    A reader never sees half a file, and two writers of the same result do no harm: the bytes go to a name of this
    writer's own in the same folder, which replaces ``path`` at the end; those of a remote file to a temporary local
    file, which is uploaded at the end, again from its start when the connection breaks.

    Raises:
        UserError: The disk is full or the folder read-only.
    """
    with _write_remote(path) if is_remote(path) else _write_local(path) as file:
        yield file


def write_text(path: str, text: str) -> None:
    """Write ``text`` as UTF-8, complete or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def unwritable(path: str, error: OSError) -> UserError:
    """Return what to raise when ``error`` kept us from writing ``path``: a full disk, a folder that is read-only."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; {'free space or ' if error.errno in _FULL else ''}write "
        "to another folder (a run: output_dir=)"
    )


def require_writable(folder: str) -> None:
    """Refuse a local folder that could not be made or written to, as far as that is seen without writing.

    Raises:
        UserError: A file is in the way, or the permissions are missing.
    """
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there):
        there = there.parent
    code = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK | os.X_OK) else errno.EACCES
    if code:
        raise unwritable(folder, OSError(code, os.strerror(code)))


def remove_leftovers(folder: str, *, unchanged_for: float = 0.0) -> None:
    """Remove what killed writers left in a local folder; where others may be writing, what is this many seconds old."""
    for leftover in Path(folder).rglob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime >= unchanged_for:
                leftover.unlink()


@contextlib.contextmanager
def _write_local(path: str) -> Iterator[IO[bytes]]:
    temporary = _temporary(path)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _temporary(path: str) -> str:
    """Return a name of this writer's own in the folder of ``path``."""
    return f"{path}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


@contextlib.contextmanager
def _write_remote(path: str) -> Iterator[IO[bytes]]:
    remote_filesystem(path)  # an unknown one is refused before the work
    try:
        with tempfile.TemporaryDirectory(prefix="bsssl-") as folder:
            local = os.path.join(folder, "file")
            with open(local, "wb") as file:
                yield file
            _upload(local, path)
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"cannot write {path}: no space left in {tempfile.gettempdir()}, where it is put together; free some, "
                "or set TMPDIR to another folder"
            ) from error
        raise UserError(
            f"cannot write {path}: {in_a_line(error)}; check the bucket or folder and the permissions"
        ) from error


def _upload(local: str, path: str) -> None:
    """Copy a local file to a remote place, complete or not at all."""
    filesystem, inner = remote_filesystem(path)
    kinds = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
    if kinds & _OBJECT_STORES:
        attempt(path, lambda: filesystem.put_file(local, inner), doing="write")
        return
    temporary = filesystem._strip_protocol(_temporary(path))
    try:
        attempt(path, lambda: filesystem.makedirs(filesystem._parent(inner), exist_ok=True), doing="write")
        attempt(path, lambda: filesystem.put_file(local, temporary), doing="write")
        attempt(path, lambda: filesystem.mv(temporary, inner), doing="write")
    except BaseException:
        with contextlib.suppress(Exception):
            filesystem.rm(temporary)
        raise
