"""Files found by a pattern or below a folder, local or remote, always in the same order."""

import os
import re
from collections.abc import Iterator

import fsspec
from fsspec.utils import glob_translate

from bsssl.runtime.console import logger
from bsssl.storage.remote import is_remote, refused, remote_filesystem
from bsssl.storage.retries import attempt


def glob(pattern: str) -> list[str]:
    """Return the paths that match ``pattern``, sorted; URLs keep their protocol."""
    if not is_remote(pattern):
        return sorted(fsspec.filesystem("file").glob(pattern))  # in which `::` chains nothing
    filesystem, inner = remote_filesystem(pattern)
    fixed = re.split(r"[*?\[]", inner, maxsplit=1)[0]
    top = fixed.rpartition("/")[0]
    matches = re.compile(glob_translate(inner)).match
    depth = None if "**" in inner else inner[len(top) + 1 :].count("/")
    # Not the file systems' own: what cannot be listed is left out there.
    paths = (
        f"{folder}/{name}"
        for folder, folders, files in _walk_remote(filesystem.unstrip_protocol(top), depth=depth)
        for name in [*folders, *files]
    )
    return sorted(filesystem.unstrip_protocol(path) for path in paths if matches(path))


def walk(root: str) -> Iterator[str]:
    """Yield the paths of all files below ``root``, relative to it, with forward slashes, in an order that never varies.

    Links are followed, but for those to folders that are walked anyway; hidden names are skipped. A folder that is not
    there has no files.
    """
    for folder, names in walk_folders(root):
        for name in names:
            yield f"{folder}/{name}" if folder else name


def walk_folders(root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield ``root``, as an empty text, and the folders below it, as ``walk`` does, with the names of their files."""
    top = remote_filesystem(root)[1].rstrip("/") if is_remote(root) else root
    for folder, subfolders, files in _walk_remote(root) if is_remote(root) else _walk_local(root):
        # Both kinds of walk descend into what this list holds, in its order.
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inner = folder[len(top) :].strip("/").replace(os.sep, "/")
        yield inner, sorted(name for name in files if not name.startswith("."))


def _walk_local(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what ``os.walk`` does, and each folder once, whatever links lead to it: where it is, else the first link.

    What the caller leaves out of the lists of folders is not walked.
    """
    top, targets, left_out = os.path.realpath(root), set[str](), list[str]()

    def is_new(path: str) -> bool:
        """Return whether the folder at ``path`` is to be walked, and remember where a link leads."""
        if not os.path.islink(path):
            return not targets or os.path.realpath(path) not in targets
        target = os.path.realpath(path)
        leads_back = _is_below(top, target) or any(_is_below(target, walked) for walked in (top, *targets))
        if leads_back:
            left_out.append(path)
        else:
            targets.add(target)
        return not leads_back

    for folder, subfolders, files in os.walk(root, followlinks=True):
        names = [name for name in sorted(subfolders) if not name.startswith(".")]
        subfolders[:] = [name for name in names if is_new(os.path.join(folder, name))]
        yield folder, subfolders, files
    if left_out:
        logger.info(
            "%s: %d links to folders that are read anyway were not followed (first: %s)",
            *(root, len(left_out), left_out[0]),
        )


def _is_below(path: str, folder: str) -> bool:
    """Return whether a walk of ``folder`` comes to ``path``, both without links: not through hidden names."""
    inner = os.path.relpath(path, folder)
    return inner == "." or (not inner.startswith(".") and f"{os.sep}." not in inner)


def _walk_remote(root: str, *, depth: int | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield ``root`` and the folders below it, each before its sub-folders, with the names of its folders and files.

    The names are sorted. A folder that is not there has no files.

    Args:
        root: The URL of a folder.
        depth: How many levels to go down below ``root``; None goes down to the last.
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
    """Return the sorted names of the sub-folders and of the files of a remote folder; none if it is not there."""
    path = filesystem.unstrip_protocol(folder)
    try:
        entries = attempt(path, lambda: filesystem.ls(folder, detail=True), doing="list")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise refused(path, error) from error
    # S3 may list an empty object with the folder's own name, which some programs make to stand for it.
    places = {entry["name"].rstrip("/"): entry["type"] for entry in entries}
    places.pop(folder, None)
    kinds: tuple[list[str], list[str]] = ([], [])
    for place, kind in places.items():
        kinds[kind != "directory"].append(place.rsplit("/", 1)[-1])
    return sorted(kinds[0]), sorted(kinds[1])
