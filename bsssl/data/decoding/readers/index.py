"""The frames of a video by its packets, and a cache of such lists: to read all packets of a long video takes a second.

Segments of one long video are items of their own, each of which opens it.
"""

import os
import zipfile
from dataclasses import dataclass, fields

import numpy as np

from bsssl import storage
from bsssl.errors import UserError

_VERSION = 1  # of the lists that are kept
_WORTH_KEEPING = 5000  # packets, which are read in a tenth of a second


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video, in the order in which they are shown."""

    seconds: np.ndarray
    """when each is shown, from the first one on: float64 (frames,)"""
    stamps: np.ndarray
    """its time stamp, by the clock of the file: int64 (frames,), or (0,) where frames can only be counted"""
    positions: np.ndarray
    """the place of its packet among all: int64, likewise"""
    keys: np.ndarray
    """of each keyframe, by time: time stamp, the place of its packet, and where to seek: int64 (keyframes, 3)"""
    packets: np.ndarray
    """how many there are: int64 ()"""

    @property
    def is_counted(self) -> bool:
        """Whether nothing but its number tells a frame from others."""
        return not len(self.stamps)

    @property
    def is_plain(self) -> bool:
        """Whether every keyframe is shown in the place where it is stored, and all that follow are shown after it."""
        if self.is_counted or len(self.stamps) != self.packets:
            return False
        return bool((np.searchsorted(self.stamps, self.keys[:, 0]) == self.keys[:, 1]).all())


def read_index(path: str) -> FrameIndex | None:
    """Return the list that was kept of a file; None if there is none, or the file has changed since."""
    try:
        with np.load(_place(path), allow_pickle=False) as kept:
            return FrameIndex(**{field.name: kept[field.name] for field in fields(FrameIndex)})
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):  # of a damaged one almost anything
        return None


def keep_index(path: str, index: FrameIndex) -> None:
    """Keep the list of a file, if it is a long one, for whoever opens the file next."""
    if index.packets < _WORTH_KEEPING:
        return
    try:
        with storage.atomic_write(_place(path)) as file:
            np.savez_compressed(file, **vars(index))
    except (UserError, OSError):
        pass  # it saves time, no more: on some machines there is no place for it


def _place(path: str) -> str:
    """Return where the list of a file is kept, by what the file is now."""
    facts = os.stat(path)
    known_by = [os.path.abspath(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, _VERSION]
    return os.path.join(storage.cache_folder(), "frames", f"{storage.fingerprint(known_by)}.npz")
