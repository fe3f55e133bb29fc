"""Paths of local files and URLs alike."""

import os
import tempfile
from urllib.parse import urlsplit

from bsssl.storage.remote import is_remote, remote_filesystem


def join(folder: str, *names: str) -> str:
    """Return ``folder/name/...``, for local and remote folders alike."""
    return "/".join([folder.rstrip("/") or "/", *names]) if is_remote(folder) else os.path.join(folder, *names)


def inner_path(path: str) -> str:
    """Return the path in a URL, without the signature that may follow it; a local path as it is."""
    return urlsplit(path).path if is_remote(path) else path


def absolute(path: str) -> str:
    """Return the absolute path of a local file, a leading ~ being the user's own folder; a URL as it is.

    Raises:
        UserError: The protocol of the URL cannot be read.
    """
    if not is_remote(path):
        return os.path.abspath(os.path.expanduser(path))
    remote_filesystem(path)
    return path


def cache_folder() -> str:
    """Return the folder in which this user keeps what can be made again, see ``XDG_CACHE_HOME``; it need not exist.

    Of a user who has no folder, as in some containers, it is one for temporary files.
    """
    caches = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"))
    if caches.startswith("~"):
        return os.path.join(tempfile.gettempdir(), f"bsssl-{os.getuid()}")
    return os.path.abspath(os.path.join(caches, "bsssl"))
