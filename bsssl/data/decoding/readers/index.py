"""The frames of a video by its packets, and a cache of such lists: to read all packets of a long video takes a second.

Segments of one long video are items of their own, each of which opens it.
"""

import os
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


def index_place(video: str) -> str | None:
    """Return where the list of a file is kept, by what the file is now and who lists it; None if it is not there."""
    import av

    try:
        facts = os.stat(video)
    except OSError:
        return None
    known_by = [os.path.abspath(video), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, av.__version__, _VERSION]
    return os.path.join(storage.cache_folder(), "frames", f"{storage.fingerprint(known_by)}.npz")


def read_index(place: str) -> FrameIndex | None:
    """Return the list that is kept at ``place``; None if there is none, or it is damaged."""
    try:
        with np.load(place, allow_pickle=False) as arrays:
            return FrameIndex(**{field.name: arrays[field.name] for field in fields(FrameIndex)})
    except Exception:  # zipfile, zlib and NumPy raise almost anything on damaged files
        return None


def keep_index(place: str, index: FrameIndex) -> None:
    """Keep the list of a file, if it is a long one, for whoever opens the file next."""
    if index.packets < _WORTH_KEEPING:
        return
    try:
        with storage.atomic_write(place) as file:
            np.savez_compressed(file, **vars(index))
    except (UserError, OSError):
        pass  # it saves time, no more: on some machines there is no place for it
