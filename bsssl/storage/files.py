"""Files, local or remote (any URL fsspec knows): reading, listing, and writes that are complete or absent.

Every remote call goes through ``bsssl.storage.retries.attempt``.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.utils import glob_translate

from bsssl.errors import UserError
from bsssl.storage.retries import CutShort, attempt, causes, in_a_line, status_of

_RANGE_NOT_SATISFIABLE = 416
_READ_AHEAD = 2**20
# Where a file appears once its upload is complete. A rename is a copy and a deletion there.
_OBJECT_STORES = frozenset({"s3", "gs", "abfs", "oss"})
# Kept for good: a forked process that lets go of one closes its connections. The system watches them for both processes
# in one place, from which they are then gone: this process would wait for an answer until it gives up, minutes later.
_filesystems: set[fsspec.AbstractFileSystem] = set()


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
        # Without a cache of listings, what others write meanwhile is seen, and memory does not grow with the pool.
        filesystem, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
    except ImportError as error:  # "Install s3fs to access S3", and the like
        raise UserError(f"cannot read {path}: {error} (pip install in the same environment)") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}; check the part before ://") from None
    _filesystems.add(filesystem)
    return filesystem, inner


def open_read(path: str) -> IO[bytes]:
    """Open a file for reading bytes; UserError when it does not exist or, a remote one, cannot be read."""
    if is_remote(path):
        with _as_user_errors(path):
            return io.BufferedReader(_RemoteFile(path), _READ_AHEAD)
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise _no_such_file(path) from None


def _no_such_file(path: str) -> UserError:
    return UserError(f"no such file: {path}; check the path")


@contextlib.contextmanager
def _as_user_errors(path: str) -> Iterator[None]:
    """Around remote calls about ``path`` itself, not an item: an OSError becomes a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {in_a_line(error)}; check the path and the permissions")


class _RemoteFile(io.RawIOBase):
    """A remote file as ranges of bytes, each with as many attempts as it needs.

    The libraries' own files keep what they read ahead, and a part that was cut short with it.
    """

    def __init__(self, path: str) -> None:
        self._path, self._position = path, 0
        info = _info(path)
        self._whole: bytes | None = None
        if info.get("size") is None or info.get("partial") is False:  # web servers that do not say, or do not serve it
            self._whole = read_range(path)
        self._size: int = info["size"] if self._whole is None else len(self._whole)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read(min(self._position + len(buffer), self._size))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(self._size)

    def _read(self, stop: int) -> bytes:
        """The bytes from where we are to ``stop``, which is where we then are."""
        start = self._position
        if stop <= start:
            return b""
        if self._whole is None:
            with _as_user_errors(self._path):
                data = read_range(self._path, start, stop)
            if len(data) == stop - start:
                self._position = stop
                return data
            if len(data) != self._size:
                raise UserError(f"{self._path} changed while it was read; run again once it is complete")
            self._whole = data  # a server that ignores ranges sends all of it
        self._position = stop
        return self._whole[start:stop]


def read_range(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes of a remote file from ``start`` to ``stop`` (None: its end), fewer only if the file ends before.

    A server that does not serve ranges may send more. OSError and Unreachable as ``attempt``.
    """
    filesystem, inner = remote_filesystem(path)

    def read() -> bytes:
        try:
            # With a start even for whole files: without one, s3fs asks for each file's size first.
            data = bytes(filesystem.cat_file(inner, start=start, end=stop))
        except Exception as error:
            if any(status_of(cause) == _RANGE_NOT_SATISFIABLE for cause in causes(error)):
                return b""  # begins at the file's end or after it
            raise
        if stop is not None and len(data) < stop - start:
            size = filesystem.info(inner).get("size")
            if size is not None and len(data) < min(stop, size) - start:
                raise CutShort(f"{len(data)} of {stop - start} bytes came")
        return data

    return attempt(path, read)


def _info(path: str) -> dict[str, Any]:
    """What the file system says of a remote file or folder; OSError and Unreachable as ``attempt``."""
    filesystem, inner = remote_filesystem(path)
    return dict(attempt(path, lambda: filesystem.info(inner)))


def exists(path: str) -> bool:
    """Whether a file or folder is there; UserError when that cannot be told."""
    if not is_remote(path):
        return os.path.exists(path)
    # Not the file systems' own answer: to some, a server that does not answer has no file.
    try:
        _info(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refused(path, error) from error
    return True


def glob(pattern: str) -> list[str]:
    """Paths that match ``pattern``, sorted; URLs keep their protocol."""
    filesystem, inner = remote_filesystem(pattern)
    if not is_remote(pattern):
        return sorted(filesystem.glob(inner))
    fixed = re.split(r"[*?\[]", inner, maxsplit=1)[0]
    top = fixed.rpartition("/")[0]
    matches = re.compile(glob_translate(inner)).match
    depth = None if "**" in inner else inner[len(top) + 1 :].count("/")
    # Not the file systems' own: what cannot be listed is left out there.
    found = [
        f"{folder}/{name}"
        for folder, folders, files in _walk_remote(filesystem.unstrip_protocol(top), depth=depth)
        for name in [*folders, *files]
        if matches(f"{folder}/{name}")
    ]
    return sorted(filesystem.unstrip_protocol(name) for name in found)


def _walk_remote(root: str, *, depth: int | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders below ``root`` and itself, each before its sub-folders, with the sorted names of these and of its files.

    A folder that is not there has no files. ``depth``: how many levels below ``root`` to go down.
    """
    filesystem, top = remote_filesystem(root)
    waiting = [(top.rstrip("/"), depth)]
    while waiting:
        folder, depth = waiting.pop()
        folders, files = _list(filesystem, folder)
        yield folder, folders, files
        if depth is None or depth > 0:
            below = None if depth is None else depth - 1
            waiting += [(f"{folder}/{name}", below) for name in reversed(folders)]


def _list(filesystem: fsspec.AbstractFileSystem, folder: str) -> tuple[list[str], list[str]]:
    """The sorted names of the sub-folders and files of a remote folder; none if it is not there."""
    path = filesystem.unstrip_protocol(folder)
    try:
        found = attempt(path, lambda: filesystem.ls(folder, detail=True), doing="list")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise _refused(path, error) from error
    # S3 may list an empty object with the folder's own name, which some programs make to stand for it.
    places = {entry["name"].rstrip("/"): entry["type"] for entry in found}
    places.pop(folder, None)
    kinds: tuple[list[str], list[str]] = ([], [])
    for place, kind in places.items():
        kinds[kind != "directory"].append(place.rsplit("/", 1)[-1])
    return sorted(kinds[0]), sorted(kinds[1])


def walk(root: str) -> Iterator[str]:
    """Paths of all files below ``root``, relative to it, with forward slashes, in an order that never varies.

    Links are followed, hidden names skipped; a folder that is not there has no files.
    """
    top = remote_filesystem(root)[1].rstrip("/") if is_remote(root) else root
    for folder, subfolders, files in _walk_remote(root) if is_remote(root) else os.walk(root, followlinks=True):
        # Both kinds of walk descend into what this list holds, in its order.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = folder[len(top) :].strip("/").replace(os.sep, "/")
        for name in sorted(files):
            if not name.startswith("."):
                yield f"{prefix}/{name}" if prefix else name


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[IO[bytes]]:
    """A file opened for writing bytes that appears at ``path`` complete, or not at all.

    A reader never sees half a file, and two writers of the same result do no harm: the bytes go to a name of this
    writer's own in the same folder, which replaces ``path`` at the end; those of a remote file to a temporary local
    file, which is uploaded at the end, again from its start when the connection breaks. A full disk or a read-only
    folder is a UserError.
    """
    with _write_remote(path) if is_remote(path) else _write_local(path) as file:
        yield file


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
    """A name of this writer's own in the folder of ``path``."""
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
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


def write_csv(path: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, complete or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
