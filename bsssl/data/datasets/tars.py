"""Indexes of tars: where each item's bytes lie, read from the headers alone."""

import json
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from bsssl import storage
from bsssl.data.records import Records
from bsssl.errors import UserError

CUT_KEY = "(end of the tar)"  # the member name of the record that stands for what a cut tar lacks
_BLOCK = tarfile.BLOCKSIZE  # a whole tar ends in blocks of zeros
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, MemoryError)  # the last three of sizes that nothing has
_SIDECARS = (".cls", ".json", ".txt")
_SIDECAR_BYTES = 1 << 20


def index_tar(path: str, *, endings: tuple[str, ...]) -> Records:
    """Return records of the members of one tar whose names end in one of ``endings``, in the tar's order.

    An item's label is the content of the member with the same name (up to its first dot) that ends in ``.cls``, else
    ``label`` in its ``.json``, else its ``.txt``, else the name of the folder it lies in, else null. ``tags`` come from
    the ``.json``.

    A tar that is cut short, or damaged in the middle, gives what comes before that and one more record, past the end
    of the file: reading it fails, which puts the cut in the ledger. UserError when the file is missing or not a tar.
    """
    with storage.open_read(path) as file:
        items, sidecars, missing_from = _scan(path, file, endings)
    shard = os.path.basename(path)
    notes = [sidecars.get(_stem(name), {}) for name, _, _ in items]
    label = [
        note.get("cls") or note.get("json") or note.get("txt") or _folder(name)
        for note, (name, _, _) in zip(notes, items, strict=True)
    ]
    if missing_from is not None:
        items.append((CUT_KEY, missing_from, _BLOCK))
        label.append(None)
        notes.append({})
    return Records.from_columns(
        key=[f"{shard}/{name}" for name, _, _ in items],
        path=[path] * len(items),
        offset=[offset for _, offset, _ in items],
        size=[size for _, _, size in items],
        label=label,
        tags=[note.get("tags") for note in notes],
    )


def is_cut(records: Records) -> bool:
    """Whether ``index_tar`` found that the tar is cut short."""
    return len(records) > 0 and records[-1].key.endswith(f"/{CUT_KEY}")


def _scan(
    path: str, file: IO[bytes], endings: tuple[str, ...]
) -> tuple[list[tuple[str, int, int]], dict[str, dict[str, Any]], int | None]:
    """Return the items (name, offset, size), what their sidecars say by stem, and the file's length if it is cut."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    items: list[tuple[str, int, int]] = []
    sidecars: dict[str, dict[str, Any]] = {}
    if length == 0:
        return items, sidecars, length
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - it holds nothing but the file of our caller
    except _DAMAGE:
        raise UserError(f"{path} is not a tar; a compressed one must be decompressed first") from None
    for member in _members(tar, length):
        name = member.name.removeprefix("./")
        if not member.isreg():
            continue
        if name.endswith(_SIDECARS) and member.size <= _SIDECAR_BYTES:
            _note(sidecars.setdefault(_stem(name), {}), name, _content(file, member))
        elif name.lower().endswith(endings):
            items.append((name, member.offset_data, min(member.size, length)))
    file.seek(min(max(tar.offset, 0), length))
    ended = file.read(_BLOCK) == bytes(_BLOCK)
    return items, sidecars, None if ended else length


def _members(tar: tarfile.TarFile, length: int) -> Iterator[tarfile.TarInfo]:
    """All members up to the end or to the first damage; ``tar.offset`` then says where that was."""
    try:
        while tar.offset <= length and (member := tar.next()) is not None and member.size >= 0:
            yield member
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
    except _DAMAGE:
        pass  # cut inside a member's data, or sizes that none has: no end mark follows, which the caller looks for


def _content(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _note(note: dict[str, Any], name: str, content: bytes) -> None:
    """Add what one sidecar says about its item to ``note``; an unreadable sidecar says nothing."""
    text = content.decode(errors="replace").strip()
    if name.endswith(".cls"):
        note["cls"] = text
    elif name.endswith(".txt"):
        note["txt"] = text
    else:
        try:
            said = json.loads(text)
        except ValueError:
            return
        if isinstance(said, dict):
            if said.get("label") is not None:
                note["json"] = str(said["label"])
            if isinstance(said.get("tags"), list):
                note["tags"] = [str(tag) for tag in said["tags"]]


def _stem(name: str) -> str:
    """``a/b.c/0001.seg.png`` -> ``a/b.c/0001``: what the members of one WebDataset sample have in common."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}"


def _folder(name: str) -> str | None:
    return os.path.basename(os.path.dirname(name)) or None
