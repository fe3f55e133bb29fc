"""What every reader of videos offers."""

import itertools
import operator
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import numpy as np
from typing_extensions import Self

from bsssl.data.decoding.pictures import DecodeError

_AT_A_TIME = 16  # frames


class Clock:
    """Seconds that may be spent on one video, counted only within ``with clock``.

    A hanging decoder would otherwise hang the run.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._left, self._end = seconds, 0.0

    def __enter__(self) -> None:
        self._end = time.monotonic() + self._left

    def __exit__(self, *_: object) -> None:
        self._left = self._end - time.monotonic()

    def left(self) -> float:
        """Seconds that remain; DecodeError when none do."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> DecodeError:
        """Return what to raise when the time is over."""
        return DecodeError(f"decoding took longer than {self.seconds:g} s")


class VideoReader(ABC):
    """The frames of one open video, by number; ``with`` closes it.

    All that the file can cause is a DecodeError with a reason of one line.
    """

    num_frames: int
    """that are shown, numbered in the order in which they are"""

    @abstractmethod
    def seconds(self) -> np.ndarray:
        """When each frame is shown, from the first one on: float64 (num_frames,)."""

    def get(self, indices: Sequence[int], each: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """Return the frames with these numbers: uint8 (len(indices), height, width, 3), red, green, blue, upright.

        In any order and as often as given; each is decoded once, in one pass. IndexError for numbers out of range.
        What ``each`` makes of some of them at a time, (n, height, width, 3), if given, takes their place, so that large
        ones need not all be kept.
        """
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(operator.index(index), []).append(place)
        if not places:
            raise ValueError("no frames asked for")
        wanted = sorted(places)
        if wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise IndexError(f"frames {wanted[0]} to {wanted[-1]} of a video of {self.num_frames}")
        found: np.ndarray | None = None
        stream = self._pictures(wanted)
        while some := list(itertools.islice(stream, _AT_A_TIME)):
            pictures = np.stack([picture for _, picture in some])
            if each is not None:
                pictures = each(pictures)
            if found is None:
                found = np.empty((len(indices), *pictures.shape[1:]), np.uint8)
            for (index, _), picture in zip(some, pictures, strict=True):
                found[places.pop(index)] = picture
        assert found is not None and not places
        return found

    @abstractmethod
    def _pictures(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Each of the ``indices`` (ascending, distinct) with its picture, uint8 (height, width, 3), in any order."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file and the decoder; a second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
