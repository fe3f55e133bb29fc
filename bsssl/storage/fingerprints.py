"""By what a value, or the content of a file, is known again."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bsssl.storage.reading import open_read
from bsssl.storage.remote import is_remote


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what JSON can hold; equal values have equal fingerprints."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest(paths: Iterable[str]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the content of files, one after the other."""
    content = hashlib.sha256()
    for path in paths:
        with open_read(path) as file:
            while chunk := file.read(2**22):
                content.update(chunk)
    return content.hexdigest()[:16]


def state(path: str, *, levels: int = 1) -> list[Any]:
    """Return something cheap that changes when what lies at ``path`` does.

    That is the name, size and time of a file, or of a folder and so many ``levels`` of folders below it, which change
    with the names in them; of more levels than one their fingerprint. Of a URL or a pattern it is only the text.
    """
    local = Path(path)
    if is_remote(path) or not local.exists():
        return [path]
    parts = level = [local]
    for _ in range(levels):
        level = [folder for above in level if above.is_dir() for folder in _folders(above)]
        parts = parts + level
    known_by = [[str(part), part.stat().st_size, part.stat().st_mtime_ns] for part in parts]
    return known_by if levels == 1 else [path, fingerprint(known_by)]


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # tells folders from files without asking for each of very many
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())
