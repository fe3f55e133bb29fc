"""Near copies in the pool: the file that says which they are, and score files in which one of each group is left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.errors import UserError
from bsssl.selection.exclusions import without_rows
from bsssl.selection.rows import Array, UInt64, positions_of
from bsssl.selection.scores import ScoreFile

POOL_SET = "pool"
"""what ``set`` says of an item whose near one is in the pool"""
_PLACE = [("key", pa.string()), ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]
NEAR_SCHEMA = pa.schema(
    [
        *_PLACE,
        ("shard", pa.int32()),
        ("position", pa.int64()),
        ("set", pa.string()),
        *[(f"near_{name}", kind) for name, kind in _PLACE],
        ("near_shard", pa.int32()),
        ("near_position", pa.int64()),
        ("distance", pa.float32()),
    ]
)
"""The columns of a file of near copies."""
_MENDING = "delete it and run `bsssl select` again"


@dataclass(frozen=True)
class NearCopies:
    """Items of the pool that are near to an earlier one, or to a labeled or test item.

    Of those that are near to each other the first leads: all others are near to it, and ``near`` of their rows is it.
    """

    table: pa.Table
    """``NEAR_SCHEMA``; ``set`` is ``POOL_SET``, or the name of the set that holds the near one: its shard is then -1,
    its position the row in the manifest of the set"""

    @property
    def held(self) -> UInt64:
        """The items that are near to a labeled or test item: shard in the high word, position in the low one."""
        return np.unique(self._items(~self._in_pool(), ""))

    @property
    def groups(self) -> tuple[UInt64, UInt64]:
        """All items that have near copies in the pool, ascending as in ``held``, and the leader of each."""
        mask = self._in_pool()
        leaders = self._items(mask, "near_")
        items, first = np.unique(np.concatenate([self._items(mask, ""), leaders]), return_index=True)
        return items, np.concatenate([leaders, leaders])[first]

    def _in_pool(self) -> Array:
        return np.array([name == POOL_SET for name in self.table["set"].to_pylist()], bool)

    def _items(self, mask: Array, prefix: str) -> UInt64:
        shard, position = (self.table[f"{prefix}{name}"].to_numpy()[mask] for name in ("shard", "position"))
        return _packed(shard, position)


def read_near(path: str) -> NearCopies:
    """Read a file of near copies.

    Raises:
        UserError: The file is missing, damaged, or another one.
    """
    try:
        with storage.open_read(path) as file:
            table = pq.read_table(pa.BufferReader(file.read()))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); {_MENDING}") from None
    if not table.schema.equals(NEAR_SCHEMA) or any(table[name].null_count for name in ("shard", "position", "set")):
        raise UserError(f"{path} is not a file of near copies; {_MENDING}")
    return NearCopies(table)


@dataclass(frozen=True)
class Thinned:
    """Score files of which near copies are left out."""

    files: list[ScoreFile]
    held: int
    """items that are near to a labeled or test item, and left out of all classes"""
    copies: int
    """pairs of an item and a class that a better one of its group has kept"""


def thin(files: Sequence[ScoreFile], near: NearCopies, *, one_per_class: bool) -> Thinned:
    """Return the score files without the items that are near to a labeled or test item.

    With ``one_per_class`` each class has of the items that are near to each other the best one alone: the one with the
    highest score, and of equal ones the first of the pool. Memory is of the order of the near copies.
    """
    held = near.held
    files = [without_rows(file, items=_positions(held, file)) for file in files]
    if not one_per_class:
        return Thinned(files, len(held), 0)
    items, leaders = near.groups
    parts = [_rows_of(file, number, items) for number, file in enumerate(files)]
    place, classes, scores, number, positions = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    group = leaders[place]
    order = np.lexsort((items[place], scores, classes, group))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(group[order]) != 0) | (np.diff(classes[order]) != 0)
    worse = order[~first]
    pairs, where = classes[worse] << np.uint64(32) | positions[worse], number[worse]
    files = [without_rows(file, pairs=pairs[where == place]) for place, file in enumerate(files)]
    return Thinned(files, len(held), len(worse))


def _rows_of(file: ScoreFile, number: int, items: UInt64) -> tuple[Array, ...]:
    """Return the rows of ``items`` in a score file: place in ``items``, class, inverted score, ``number``, position."""
    start, end = np.searchsorted(items, _packed(np.array([file.number, file.number + 1]), np.zeros(2, np.int64)))
    if start == end:
        nothing = np.zeros(0, np.uint64)
        return np.zeros(0, np.int64), nothing, nothing, np.zeros(0, np.int64), nothing
    rows, wanted = file.rows(), items[start:end]
    owners = np.repeat(np.arange(len(file.offsets()) - 1, dtype=np.uint64), np.diff(file.offsets()))
    positions = positions_of(rows).astype(np.uint64)
    keys = positions | np.uint64(file.number) << np.uint64(32)
    found = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    here = np.flatnonzero(wanted[found] == keys)
    numbers = np.full(len(here), number)
    return start + found[here], owners[here], rows[here] >> np.uint64(32), numbers, positions[here]


def _positions(items: UInt64, file: ScoreFile) -> Array:
    """Return the positions of those of ``items``, ascending, that the shard of ``file`` holds."""
    start, end = np.searchsorted(items, _packed(np.array([file.number, file.number + 1]), np.zeros(2, np.int64)))
    return positions_of(items[start:end])


def _packed(shard: Array, position: Array) -> UInt64:
    return shard.astype(np.uint64) << np.uint64(32) | position.astype(np.uint64)
