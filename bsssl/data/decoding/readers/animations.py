"""Animated WebP, which PyAV's FFmpeg does not read as a video."""

import struct
from collections.abc import Iterator

import numpy as np
from typing_extensions import override

from bsssl.data.decoding.pictures import MAX_PIXELS, DecodeError, opened, to_tensor
from bsssl.data.decoding.readers.base import Clock, VideoReader
from bsssl.storage import read_whole

_HEADER = 8  # bytes of a chunk's name and size
_UNSTATED_MS = 100  # how long browsers show a frame that says 10 ms or less


class AnimationReader(VideoReader):
    """Opens an animated WebP, a path or its bytes, and lists its frames, of which none is decoded.

    They are decoded by Pillow from the first one on. Transparency is laid over white.
    """

    kind = "webp"
    """what it is called beside the containers of PyAV's reader"""

    def __init__(self, source: str | bytes, clock: Clock, *, max_pixels: int = MAX_PIXELS) -> None:
        self._clock, self._max_pixels = clock, max_pixels
        try:
            self._content = read_whole(source) if isinstance(source, str) else source
        except OSError as error:
            raise DecodeError(error.strerror or str(error)) from None
        durations = _durations(self._content)
        if not durations:
            raise DecodeError("a WebP of a single picture, not an animation")
        with opened(self._content, max_pixels=max_pixels) as image:
            self.size = image.size
            self.num_frames = getattr(image, "n_frames", 1)
        if self.num_frames != len(durations):
            raise DecodeError(f"damaged: {len(durations)} of {self.num_frames} frames are there")
        self._starts = np.cumsum([0, *durations[:-1]]) / 1000

    @override
    def seconds(self) -> np.ndarray:
        return self._starts

    @override
    def close(self) -> None:
        pass  # nothing is kept open

    @override
    def _pictures(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted = set(indices)
        with self._clock, opened(self._content, max_pixels=self._max_pixels) as image:
            for index in range(indices[-1] + 1):
                self._clock.left()
                image.seek(index)
                image.load()
                if index in wanted:
                    yield index, to_tensor(image).movedim(0, -1).numpy()


def is_webp(start: bytes) -> bool:
    """Return whether a file that starts so is WebP."""
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def _durations(content: bytes) -> list[int]:
    """Return how long each frame is shown, in milliseconds; nothing of a single picture.

    Raises:
        DecodeError: The file is cut short.
    """
    stated = _HEADER + struct.unpack_from("<I", content.ljust(_HEADER, b"\0"), 4)[0]
    if len(content) < stated:
        raise DecodeError(f"cut short: {len(content)} of {stated} bytes are there")
    durations, place = list[int](), 12
    while place + _HEADER <= len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        if name == b"ANMF":
            start = place + _HEADER + 12  # after the frame's place and size
            shown = int.from_bytes(content[start : start + 3], "little")
            durations.append(shown if shown > 10 else _UNSTATED_MS)
        place += _HEADER + size + size % 2
    return durations
