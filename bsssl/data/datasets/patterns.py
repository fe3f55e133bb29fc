"""Which files a path names: itself, or those that match it as a pattern."""

import glob
import os
import re

from bsssl import storage
from bsssl.errors import UserError


def files_at(path: str) -> list[str]:
    """Return the paths or URLs that ``path`` names, in order.

    What is there is itself, whatever its name is made of; so are the folders at its beginning. What follows them may
    have ``*``, ``?`` and ``[...]``, which must match something, ``{000..099}`` and ``{a,b}``, which need not be there.

    Raises:
        UserError: Nothing matches.
    """
    written = storage.inner_path(path) if path.startswith(("http://", "https://")) else path  # a query is no pattern
    if not re.search(r"[*?\[{]", written) or _is_there(path):
        return [path]
    folder, inner = ("", path) if storage.is_remote(path) else _split(path)
    found: list[str] = []
    for pattern in _expand_braces(inner):
        if re.search(r"[*?\[]", pattern):
            found += storage.glob(os.path.join(glob.escape(folder), pattern))
        else:
            found.append(os.path.join(folder, pattern))
    if not found:
        raise UserError(f"no file matches {path}; check the pattern")
    return found


def _is_there(path: str) -> bool:
    try:
        return storage.exists(path)
    except UserError:  # a server that refuses such a name
        return False


def _split(path: str) -> tuple[str, str]:
    """Return the folders at the beginning of a local path that are there, and the rest."""
    folder = path
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder, os.path.relpath(path, folder)


def _expand_braces(pattern: str) -> list[str]:
    """``a-{08..10}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``; ``{x,y}`` -> both; any number of braces."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    first, last, names = match.groups()
    if first is None:
        options = names.split(",")
    else:
        options = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [
        expanded
        for option in options
        for expanded in _expand_braces(pattern[: match.start()] + option + pattern[match.end() :])
    ]
