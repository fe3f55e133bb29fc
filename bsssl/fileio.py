"""Files, local or remote (any URL fsspec knows): reading, listing, and writes that are complete or absent."""

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import fsspec

from bsssl.registry import UserError


def is_remote(path: str) -> bool:
    """Whether ``path`` is a URL (``s3://...``, ``https://...``, ``memory://...``) rather than a local file."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """``folder/name/...`` for local and remote folders alike."""
    return "/".join([folder.rstrip("/") or "/", *names]) if is_remote(folder) else os.path.join(folder, *names)


def absolute(path: str) -> str:
    """The absolute path; of a URL itself, once it is sure that its protocol can be read."""
    if not is_remote(path):
        return os.path.abspath(path)
    remote_filesystem(path)
    return path


def remote_filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL (fsspec keeps one per process) and the path inside it; UserError for an unknown one."""
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:  # "Install s3fs to access S3", and the like
        raise UserError(f"cannot read {path}: {error} (pip install in the same environment)") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}; check the part before ://") from None
    return filesystem, inner


def open_read(path: str) -> IO[bytes]:
    """Open a file for reading bytes; UserError when it does not exist."""
    try:
        if not is_remote(path):
            return open(path, "rb")
        filesystem, inner = remote_filesystem(path)
        return filesystem.open(inner, "rb")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}; check the path") from None


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(path):
        return os.path.exists(path)
    filesystem, inner = remote_filesystem(path)
    return bool(filesystem.exists(inner))


def glob(pattern: str) -> list[str]:
    """Paths that match ``pattern``, sorted; URLs keep their protocol."""
    filesystem, inner = remote_filesystem(pattern)
    found = sorted(filesystem.glob(inner))
    return [filesystem.unstrip_protocol(name) for name in found] if is_remote(pattern) else found


def walk(root: str) -> Iterator[str]:
    """Paths of all files below ``root``, relative to it, with forward slashes, in an order that never varies.

    Links are followed, hidden names skipped; a folder that is not there has no files.
    """
    if is_remote(root):
        filesystem, top = remote_filesystem(root)
        top = top.rstrip("/")
        folders = filesystem.walk(top)
    else:
        top, folders = root, os.walk(root, followlinks=True)
    for folder, subfolders, files in folders:
        # os.walk descends in the order in which it finds this list; remote walks give theirs in listing order.
        subfolders_kept = sorted(name for name in subfolders if not name.startswith("."))
        if isinstance(subfolders, list):
            subfolders[:] = subfolders_kept
        prefix = folder[len(top) :].strip("/").replace(os.sep, "/")
        for name in sorted(files):
            if not name.startswith("."):
                yield f"{prefix}/{name}" if prefix else name


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[IO[bytes]]:
    """A file opened for writing bytes that appears at ``path`` complete, or not at all.

    The bytes go to a name of this writer's own in the same folder, which replaces ``path`` at the end: a reader never
    sees half a file, and two writers of the same result do no harm. A full disk or a read-only folder is a UserError.
    """
    temporary = f"{path}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    if is_remote(path):
        filesystem, inner = remote_filesystem(path)
        inner_temporary = filesystem._strip_protocol(temporary)
        try:
            with filesystem.open(inner_temporary, "wb") as file:
                yield file
            filesystem.mv(inner_temporary, inner)
        except BaseException:
            with contextlib.suppress(Exception):
                filesystem.rm(inner_temporary)
            raise
        return
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


def unwritable(path: str, error: OSError) -> UserError:
    """What to raise when ``error`` kept us from writing ``path``: a full disk, a folder that is read-only."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return UserError(
        f"cannot write {path}: {error.strerror or error}; {'free space or ' if full else ''}choose another folder with "
        "output_dir="
    )


def remove_leftovers(folder: str, *, unchanged_for: float = 0.0) -> None:
    """Remove what killed writers left in a local folder; where others may be writing, what is this many seconds old."""
    for leftover in Path(folder).rglob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime >= unchanged_for:
                leftover.unlink()


def write_text(path: str, text: str) -> None:
    """Write ``text`` as UTF-8, complete or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as indented JSON, complete or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: str) -> Any:
    """The value in a JSON file; UserError naming the file when it is missing or damaged."""
    with open_read(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON-serialisable value; equal values give equal fingerprints."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest(paths: Iterable[str]) -> str:
    """16 hexadecimal digits of the SHA-256 of the content of local files, one after the other."""
    found = hashlib.sha256()
    for path in paths:
        with open_read(path) as file:
            while chunk := file.read(2**22):
                found.update(chunk)
    return found.hexdigest()[:16]


def state(path: str) -> list[Any]:
    """Something cheap that changes when what lies at ``path`` does: name, size and time of a file, or of a folder and
    its sub-folders; of a URL or a pattern only its text."""
    local = Path(path)
    if is_remote(path) or not local.exists():
        return [path]
    parts = [local]
    if local.is_dir():
        with os.scandir(local) as entries:  # tells folders from files without asking for each of very many
            parts += sorted(Path(entry.path) for entry in entries if entry.is_dir())
    return [[str(part), part.stat().st_size, part.stat().st_mtime_ns] for part in parts]


def as_json(value: Any) -> Any:
    """``value`` as it comes back from a JSON file (tuples become lists)."""
    return json.loads(json.dumps(value))


def write_json_lines(path: str, values: Iterable[Any]) -> None:
    """Write one JSON value per line, complete or not at all."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))
