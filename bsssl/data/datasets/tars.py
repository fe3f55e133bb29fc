"""Indexes of tars: where each item's bytes lie, read from the headers alone."""

import json
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from bsssl import storage
from bsssl.data.endings import Endings, LeftOut, extension_of, is_hidden
from bsssl.data.members import TAR_DAMAGE
from bsssl.data.records import Records
from bsssl.errors import UserError
from bsssl.runtime.console import logger

CUT_KEY = "(end of the tar)"  # the member name of the record that stands for what a cut tar lacks
_BLOCK = tarfile.BLOCKSIZE  # a whole tar ends in blocks of zeros
_SIDECARS = (".cls", ".json", ".txt")
_SIDECAR_BYTES = 1 << 20


def index_tar(path: str, *, endings: Endings, name: str | None = None) -> tuple[Records, LeftOut]:
    """Return records of the wanted members of one tar, in the tar's order, and how many others there are.

    Members whose names have all up to their first dot in common are a sample of WebDataset, whose extension is all
    that follows that dot: one is the item, the one whose extension comes first among those that are wanted. Where no
    member has such an extension, as in ``trip.1.jpg`` and ``trip.2.jpg``, each that ends in one is an item. Of
    members with the same name the last is the item, as it is what unpacking the tar would leave. Hidden files and
    those of systems are none.

    An item's label is the content of the member ``.cls`` of its sample, else ``label`` in its ``.json``, else its
    ``.txt``, else the name of the folder it lies in, else null. ``tags`` come from the ``.json``. What such a file has
    with the very name of an item (``trip.1.cls``) comes before that of the sample.

    A tar that is cut short, or damaged in the middle, gives what comes before that and one more record, past the end
    of the file: reading it fails, which puts the cut in the ledger.

    Args:
        path: The tar.
        endings: Which members are wanted.
        name: What keys begin with, by default the name of the tar.

    Raises:
        UserError: The file is missing or not a tar.
    """
    left_out = LeftOut()
    with storage.open_read(path) as file:
        places, sidecars, missing_from = _scan(path, file, endings, left_out)
    items = [(member, *places[member]) for member in _items(list(places), endings, left_out)]
    shard = name or os.path.basename(path)
    notes = [sidecars.get(_key(member), {}) | sidecars.get(_stem(member), {}) for member, _, _ in items]
    label = [
        note.get("cls") or note.get("json") or note.get("txt") or _folder(member)
        for note, (member, _, _) in zip(notes, items, strict=True)
    ]
    if missing_from is not None:
        items.append((CUT_KEY, missing_from, _BLOCK))
        label.append(None)
        notes.append({})
    records = Records.from_columns(
        key=[f"{shard}/{member}" for member, _, _ in items],
        path=[path] * len(items),
        offset=[offset for _, offset, _ in items],
        size=[size for _, _, size in items],
        label=label,
        tags=[note.get("tags") for note in notes],
    )
    return records, left_out


def is_cut(records: Records) -> bool:
    """Whether ``index_tar`` found that the tar is cut short."""
    return len(records) > 0 and records[-1].key.endswith(f"/{CUT_KEY}")


class TarScan:
    """The files among the members of a tar, in order; hidden ones and those of systems are left out.

    Args:
        path: What to call the tar.
        file: The tar, of which the headers are read.
    """

    missing_from: int | None = None
    """where the tar is cut, once all members are taken; None if it is whole"""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self.length = file.seek(0, os.SEEK_END)

    def __iter__(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """Yield the name and the header of each file; UserError when it is not a tar."""
        self._file.seek(0)
        if self.length == 0:
            self.missing_from = 0
            return
        try:
            tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 - it holds nothing but our caller's file
        except TAR_DAMAGE:
            raise UserError(
                f"{self._path} is not a tar; check it, and let its name say how it is compressed, if it is"
            ) from None
        for member in _members(tar, self.length):
            name = member.name.removeprefix("./")
            if member.isreg() and not is_hidden(name):
                yield name, member
        self._file.seek(min(max(tar.offset, 0), self.length))
        self.missing_from = None if self._file.read(_BLOCK) == bytes(_BLOCK) else self.length


def _scan(
    path: str, file: IO[bytes], endings: Endings, left_out: LeftOut
) -> tuple[dict[str, tuple[int, int]], dict[str, dict[str, Any]], int | None]:
    """Return the wanted members (offset, size), what sidecars say by stem, and the file's length if it is cut."""
    places: dict[str, tuple[int, int]] = {}
    sidecars: dict[str, dict[str, Any]] = {}
    replaced = 0
    scan = TarScan(path, file)
    for name, member in scan:
        if name.lower().endswith(_SIDECARS) and member.size <= _SIDECAR_BYTES:
            _note(sidecars.setdefault(_stem(name), {}), name.lower(), _content(file, member))
        elif endings.match(name):
            replaced += places.pop(name, None) is not None
            places[name] = (member.offset_data, min(member.size, scan.length))
        else:
            left_out.add([name])
    if replaced:
        logger.info("%s: %d members come again by the same name; of each name the last is taken", path, replaced)
    return places, sidecars, scan.missing_from


def _items(names: list[str], endings: Endings, left_out: LeftOut) -> Iterator[str]:
    """Yield those of the wanted members that are items: one of each sample, where its extension says which."""
    ranks = [endings.rank(extension_of(name, whole=True)) for name in names]
    best: dict[str, int] = {}
    for name, rank in zip(names, ranks, strict=True):
        if rank is not None:
            best[_key(name)] = min(best.get(_key(name), rank), rank)
    for name, rank in zip(names, ranks, strict=True):
        if best.get(_key(name), rank) == rank:
            yield name
        else:
            left_out[extension_of(name, whole=True)] += 1


def _members(tar: tarfile.TarFile, length: int) -> Iterator[tarfile.TarInfo]:
    """All members up to the end or to the first damage; ``tar.offset`` then says where that was."""
    try:
        while tar.offset <= length and (member := tar.next()) is not None and member.size >= 0:
            yield member
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
    except TAR_DAMAGE:
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
            said = storage.parse_json(text)
        except ValueError:
            return
        if isinstance(said, dict):
            label = said.get("label")
            if label is not None and label == label:  # NaN is no label
                note["json"] = label if isinstance(label, str) else json.dumps(label)
            if isinstance(said.get("tags"), list):
                note["tags"] = [str(tag) for tag in said["tags"]]


def _key(name: str) -> str:
    """``a/b.c/0001.seg.png`` -> ``a/b.c/0001``: what the members of one WebDataset sample have in common."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}"


def _stem(name: str) -> str:
    """``a/b.c/0001.seg.png`` -> ``a/b.c/0001.seg``."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.rsplit('.', 1)[0]}"


def _folder(name: str) -> str | None:
    return os.path.basename(os.path.dirname(name)) or None
