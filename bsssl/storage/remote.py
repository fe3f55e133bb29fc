"""Remote files by fsspec: their file systems, and single reads. Every call goes through ``retries.attempt``."""

from typing import Any

import fsspec

from bsssl.errors import UserError
from bsssl.storage.retries import CutShort, attempt, causes, in_a_line, status_of

_RANGE_NOT_SATISFIABLE = 416
# Kept for good: a forked process that lets go of one closes its connections. The system watches them for both processes
# in one place, from which they are then gone: this process would wait for an answer until it gives up, minutes later.
_filesystems: set[fsspec.AbstractFileSystem] = set()


def is_remote(path: str) -> bool:
    """Return whether ``path`` is a URL (``s3://...``, ``https://...``, ``memory://...``) rather than a local file."""
    return "://" in path


def remote_filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a URL (fsspec keeps one per process) and the path inside that file system.

    Raises:
        UserError: The protocol of the URL is unknown, or the library that reads it is not installed.
    """
    try:
        # Without a cache of listings, what others write meanwhile is seen, and memory does not grow with the pool.
        filesystem, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
    except ImportError as error:  # "Install s3fs to access S3", and the like
        mend = "pip install 'bsssl[s3]'" if path.startswith(("s3:", "s3a:")) else "pip install in the same environment"
        raise UserError(f"cannot read {path}: {error} ({mend})") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}; check the part before ://") from None
    _filesystems.add(filesystem)
    return filesystem, inner


def read_range(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes of a remote file from ``start`` to ``stop`` (None: its end), fewer if the file ends before.

    A server that does not serve ranges may send more.

    Raises:
        OSError: The file is missing or refused, as ``retries.attempt`` says.
        Unreachable: The server did not answer, likewise.
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


def remote_info(path: str) -> dict[str, Any]:
    """Return what the file system says of a remote file or folder.

    Raises:
        OSError: The file is missing or refused, as ``retries.attempt`` says.
        Unreachable: The server did not answer, likewise.
    """
    filesystem, inner = remote_filesystem(path)
    return dict(attempt(path, lambda: filesystem.info(inner)))


def refused(path: str, error: OSError) -> UserError:
    """Return what to raise when ``error`` kept us from reading ``path`` itself, which is not an item."""
    return UserError(f"cannot read {path}: {in_a_line(error)}; check the path and the permissions")
