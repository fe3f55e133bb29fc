"""Selected samples copied into shuffled tars of their own, for a student that reads them from one end to the other.

Output ``n`` has the samples n * S to (n + 1) * S - 1 of a shuffled list of all selected samples, each once, however
many classes it was selected for: a WebDataset tar, complete or absent, then its index, whose presence means that the
tar is done. When all are, ``selection.parquet`` repeats the selection with the places in the tars instead of the pool.
"""

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.data.frames import FRAMES_EXTENSION, holds_pictures
from bsssl.data.members import add_member
from bsssl.data.records import Record, Records
from bsssl.data.segments import split_segment, with_segment
from bsssl.errors import UserError
from bsssl.runtime.threads import map_ahead
from bsssl.selection import Selected, read_selection
from bsssl.storage.arrow import ARROW_ERRORS, read_parquet_file, refusing_damage

_READERS = 16  # at a time: from a network's file system nearly all of reading is waiting
_IDENTITY, _SIZE = b"bsssl", b"bsssl.size"


@dataclass(frozen=True)
class TarPlan:
    """Which samples go into which tar."""

    selected: Selected
    rows: np.ndarray
    """of the selection, one per distinct sample in shuffled order: int64 (samples,)"""
    sample: np.ndarray
    """place of each row's sample in that order: int64 (pairs,)"""
    per_tar: int

    @property
    def num_tars(self) -> int:
        """How many tars there will be."""
        return -(-len(self.rows) // self.per_tar)


def plan_tars(selection: str, *, per_tar: int, seed: int) -> TarPlan:
    """Shuffle the distinct samples of the selection file ``selection`` into tars of ``per_tar``; a function of both."""
    selected = read_selection(selection)
    places = selected.shard.to_numpy().astype(np.int64) << 40 | selected.position.to_numpy()
    _, first, inverse = np.unique(places, return_index=True, return_inverse=True)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(first))
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.arange(len(order))
    return TarPlan(selected=selected, rows=first[order], sample=place_of[inverse], per_tar=per_tar)


def tar_path(folder: str, number: int) -> str:
    """Return the path of the tar ``number`` in ``folder``."""
    return storage.join(folder, f"{number:06d}.tar")


def is_written(folder: str, number: int, *, identity: str) -> bool:
    """Whether the tar ``number`` is there, of the selection with this ``identity``."""
    index = _index_path(folder, number)
    if not (storage.exists(index) and storage.exists(tar_path(folder, number))):
        return False
    with storage.open_read(index) as file:
        try:
            facts = pq.read_schema(file).metadata or {}
        except ARROW_ERRORS:
            return False
    size = str(os.path.getsize(tar_path(folder, number))).encode()
    return facts.get(_IDENTITY) == identity.encode() and facts.get(_SIZE, size) == size  # earlier ones do not say


def write_tar(plan: TarPlan, number: int, *, folder: str, identity: str) -> None:
    """Write the tar ``number`` of ``plan`` and its index; UserError when a sample cannot be read any more.

    Each sample is a member with its bytes and one with JSON: its key in the pool and the classes and scores that it was
    selected with.
    """
    numbers = range(number * plan.per_tar, min((number + 1) * plan.per_tar, len(plan.rows)))
    records = Records.unlabeled(plan.selected.table.take(plan.rows[numbers.start : numbers.stop]))
    notes = _notes(plan, numbers)
    contents = map_ahead(_content, records, threads=_READERS)
    offsets, sizes = [], []
    Path(_index_path(folder, number)).unlink(missing_ok=True)  # another selection's must not vouch for this tar
    with storage.atomic_write(tar_path(folder, number)) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for sample, record, content in zip(numbers, records, contents, strict=True):
            name = f"{sample:09d}"
            add_member(tar, f"{name}.json", json.dumps({"key": record.key, **notes[sample]}).encode())
            ending = _ending(record, content)
            offsets.append(add_member(tar, f"{name}{ending or '.bin'}", content))
            sizes.append(len(content))
    index = pa.table({"offset": pa.array(offsets, pa.int64()), "size": pa.array(sizes, pa.int64())})
    with storage.atomic_write(_index_path(folder, number)) as file:
        facts = {_IDENTITY: identity.encode(), _SIZE: str(os.path.getsize(tar_path(folder, number))).encode()}
        pq.write_table(index.replace_schema_metadata(facts), file)


def write_places(plan: TarPlan, *, folder: str, path: str) -> None:
    """Write the selection file ``path`` with the samples' places in the tars, whose paths are relative to it."""
    tables = [_read_index(folder, number) for number in range(plan.num_tars)]
    places = pa.concat_tables(tables).take(pa.array(plan.sample))
    table = plan.selected.table
    tars = [os.path.basename(tar_path(folder, number)) for number in (plan.sample // plan.per_tar).tolist()]
    segments = (split_segment(place)[1:] for place in table["path"].to_pylist())
    paths = [with_segment(tar, *segment) for tar, segment in zip(tars, segments, strict=True)]
    for name, values in (("path", pa.array(paths)), ("offset", places["offset"]), ("size", places["size"])):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    Selected(table.cast(plan.selected.table.schema)).write(path)


def _notes(plan: TarPlan, numbers: range) -> dict[int, dict[str, list[float]]]:
    """Classes and scores that each of the samples was selected with."""
    found: dict[int, dict[str, list[float]]] = {number: {"classes": [], "scores": []} for number in numbers}
    mine = np.flatnonzero((plan.sample >= numbers.start) & (plan.sample < numbers.stop))
    classes, scores = (column.take(mine).to_pylist() for column in (plan.selected.class_index, plan.selected.score))
    for sample, index, score in zip(plan.sample[mine].tolist(), classes, scores, strict=True):
        found[sample]["classes"].append(index)
        found[sample]["scores"].append(round(score, 6))
    return found


def _content(record: Record) -> bytes:
    """Return the bytes of a selected sample; UserError when they cannot be read."""
    try:
        return record.read()
    except OSError as error:
        raise UserError(
            f"the selected sample {record.key} cannot be read any more ({error}); bring it back, or score again"
        ) from None


def _ending(record: Record, content: bytes) -> str:
    """Return how the name of an item ends, which tells the kind of file; that of a member of a tar ends its key."""
    if holds_pictures(content):
        return f".{FRAMES_EXTENSION}"
    path = split_segment(record.path)[0]
    name = split_segment(record.key)[0] if path.endswith(".tar") else path
    return os.path.splitext(name)[1].lower()


def _index_path(folder: str, number: int) -> str:
    return storage.join(folder, f"{number:06d}.index.parquet")


def _read_index(folder: str, number: int) -> pa.Table:
    path = _index_path(folder, number)
    with refusing_damage(path, what="is damaged", remedy="delete it and run `bsssl materialise` again"):
        return read_parquet_file(path).replace_schema_metadata()
