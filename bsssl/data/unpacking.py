"""What cannot be read in place, unpacked once into a tar: of tars, those that are compressed."""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from typing import IO, Any

import pyarrow as pa

from bsssl import storage
from bsssl.errors import UserError
from bsssl.runtime.console import logger

_COPIED = 2**22  # bytes at a time


def _zstd(file: IO[bytes]) -> IO[bytes]:
    stream: IO[bytes] = pa.CompressedInputStream(file, "zstd")
    return stream


_OPENERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys((".tar.gz", ".tgz"), gzip.open),
    **dict.fromkeys((".tar.bz2", ".tbz2"), bz2.open),
    **dict.fromkeys((".tar.xz", ".txz"), lzma.open),
    **dict.fromkeys((".tar.zst", ".tzst"), _zstd),
}
COMPRESSED = tuple(_OPENERS)
"""what the names of compressed tars end in"""


def unpacked(path: str, write: Callable[[IO[bytes]], None], *, folder: str | None = None, settings: Any = None) -> str:
    """Return the path of the tar that ``write`` makes of a file; it is made once, and again when the file changes.

    Args:
        path: The file, which may be a URL.
        write: Writes the tar.
        folder: Where the tar is to be, by default ``bsssl`` in the user's folder for caches.
        settings: What else decides its content, as JSON can hold it.
    """
    folder = os.path.abspath(os.path.expanduser(folder)) if folder else storage.cache_folder()
    known_by = storage.fingerprint([storage.state(path), settings])
    tar = os.path.join(folder, f"{os.path.basename(storage.inner_path(path))}-{known_by}.tar")
    if not storage.exists(tar):
        storage.require(path)
        logger.info("%s cannot be read in place: it is unpacked into %s, once (options.unpacked)", path, folder)
        with storage.atomic_write(tar) as file:
            write(file)
    return tar


def decompressed(path: str, *, folder: str | None = None) -> str:
    """Return the path of a tar with the content of ``path``: itself, if its name does not end as of compressed ones.

    Args:
        path: A tar, compressed or not.
        folder: Where the other tar is to be: see ``unpacked``.

    Raises:
        UserError: It is missing, damaged or cut short.
    """
    name = storage.inner_path(path).lower()
    opener = next((opener for ending, opener in _OPENERS.items() if name.endswith(ending)), None)
    if opener is None:
        return path

    def write(file: IO[bytes]) -> None:
        with storage.open_read(path) as packed:
            source = opener(packed)
            while content := _read(source, path):
                file.write(content)

    return unpacked(path, write, folder=folder)


def _read(source: IO[bytes], path: str) -> bytes:
    try:
        return source.read(_COPIED)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be decompressed ({reason}); download or write it again") from None
