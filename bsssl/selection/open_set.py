"""The open set: which items of the pool are of no class, by a value of each, and score files without them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bsssl import storage
from bsssl.errors import UserError
from bsssl.selection.exclusions import without_items
from bsssl.selection.rows import Array, Float32
from bsssl.selection.scores import ScoreFile

FACTS = "open_set.json"
_MENDING = "delete it and run `bsssl select` again"


@dataclass(frozen=True)
class OpenSet:
    """Values of all items of a pool. What is below the threshold is foreign: of no class."""

    folder: Path
    """where the values of each shard are"""
    threshold: float
    foreign: int
    """how many items are below it"""

    def is_foreign(self, file: ScoreFile) -> Array:
        """Return which items of the shard of a score file are foreign, bool (num_records,).

        Raises:
            UserError: The values of the shard are missing or damaged.
        """
        path = str(values_path(self.folder, file.number))
        try:
            with storage.open_read(path) as opened:
                values = np.load(io.BytesIO(opened.read()), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); {_MENDING}") from None
        if values.shape != (file.num_records,):
            raise UserError(f"{path} does not have a value of each of {file.num_records} items; {_MENDING}")
        below: Array = values < np.float32(self.threshold)
        return below


def values_path(folder: Path, number: int) -> Path:
    """Return the file of the values of shard ``number``."""
    return folder / f"{number:06d}.npy"


def write_values(folder: Path, number: int, values: Float32) -> None:
    """Write the value of each item of a shard, float32 (N,); NaN where it has none, as it has no score."""
    with storage.atomic_write(str(values_path(folder, number))) as file:
        np.save(file, values.astype(np.float32))


def read_open_set(folder: Path) -> OpenSet:
    """Return the open set that a stage has left in ``folder``.

    Raises:
        UserError: It is missing or damaged.
    """
    path = str(folder / FACTS)
    facts = storage.read_json(path)
    try:
        return OpenSet(folder, float(facts["threshold"]), int(facts["foreign"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} has no threshold; {_MENDING}") from None


def without_foreign(files: Sequence[ScoreFile], open_set: OpenSet) -> list[ScoreFile]:
    """Return score files without the items that are foreign; memory is that of a shard, whatever their number."""
    return [without_items(file, open_set.is_foreign) for file in files]
