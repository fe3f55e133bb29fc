"""Files opened for reading, local or remote."""

import contextlib
import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from typing import IO, Any

from bsssl.errors import UserError
from bsssl.storage.remote import is_remote, read_range, refused, remote_info

_READ_AHEAD = 2**20
_NO_FILES = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe"}


class NotAFile(OSError):
    """What lies at a path is not a file that one can read; the message says what it is."""


def open_read(path: str) -> IO[bytes]:
    """Open a file for reading bytes.

    Raises:
        UserError: The file does not exist, is no file or cannot be opened.
    """
    if is_remote(path):
        with _as_user_errors(path):
            return io.BufferedReader(_RemoteFile(path), _READ_AHEAD)
    try:
        return open(path, "rb", opener=open_file)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_such_file(path) from None
    except NotAFile as error:
        raise UserError(f"{error}; give a file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}; check the path, and who may read it") from None


def open_file(path: str, flags: int = os.O_RDONLY) -> int:
    """Return the descriptor of a local file, as an ``opener`` of ``open`` does.

    Raises:
        NotAFile: There is a folder, a pipe, whose writer one would wait for, a socket or a device.
        OSError: The file cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # what Linux says of sockets
            raise NotAFile(f"{path} is a socket, not a file") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    what = next((name for is_kind, name in _NO_FILES.items() if is_kind(mode)), "a device")
    raise NotAFile(f"{path} is {what}, not a file")


def read_whole(path: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: The file is missing, is none or cannot be read; of a URL as of ``read_range``.
    """
    if is_remote(path):
        return read_range(path)
    with open(path, "rb", opener=open_file) as file:
        return file.read()


def exists(path: str) -> bool:
    """Return whether a file or folder is there.

    Raises:
        UserError: A server does not let us know.
    """
    if not is_remote(path):
        return os.path.exists(path)
    # Not the file systems' own answer: to some, a server that does not answer has no file.
    try:
        remote_info(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused(path, error) from error
    return True


def require(path: str) -> None:
    """Refuse a path at which there is nothing; what a URL or a pattern leads to is for its reader to find out.

    Raises:
        UserError: There is no such file or folder.
    """
    if not (is_remote(path) or re.search(r"[*?\[{]", path) or exists(path)):
        raise UserError(f"no such file or folder: {path}; check the path")


def is_folder(path: str) -> bool:
    """Return whether there is a folder.

    Raises:
        UserError: A server does not let us know.
    """
    if not is_remote(path):
        return os.path.isdir(path)
    try:
        return bool(remote_info(path)["type"] == "directory")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused(path, error) from error


def _no_such_file(path: str) -> UserError:
    return UserError(f"no such file: {path}; check the path")


@contextlib.contextmanager
def _as_user_errors(path: str) -> Iterator[None]:
    """Turn an OSError of remote calls about ``path`` itself, which is not an item, into a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except OSError as error:
        raise refused(path, error) from error


class _RemoteFile(io.RawIOBase):
    """A remote file as ranges of bytes, each with as many attempts as it needs.

    The libraries' own files keep what they read ahead, and a part that was cut short with it.
    """

    def __init__(self, path: str) -> None:
        self._path, self._position = path, 0
        info = remote_info(path)
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
        """Return the bytes from the position to ``stop``, which is the position from then on."""
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
