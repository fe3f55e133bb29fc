"""Videos whose frames are pictures, each in a file of its own."""

import contextlib
from collections.abc import Iterator

import numpy as np
from typing_extensions import override

from bsssl.data.decoding.pictures import MAX_PIXELS, DecodeError, decode_image, read_header
from bsssl.data.decoding.readers.base import Clock, VideoReader
from bsssl.data.frames import pictures_of, shown


class FramesReader(VideoReader):
    """Opens a folder of frames, or the content of one: see ``bsssl.data.frames``.

    Pictures are decoded, and turned upright, as single ones are. Pictures of two sizes are refused: in a content all
    are looked at when it is opened, in a folder the first and those that are asked for, as no others are read.
    """

    kind = "frames"
    """what it is called beside the containers of PyAV's reader"""

    def __init__(self, source: str | bytes, clock: Clock, *, max_pixels: int = MAX_PIXELS) -> None:
        self._clock, self._max_pixels = clock, max_pixels
        with clock, _reasons():
            self._files = pictures_of(source)
        self.num_frames = len(self._files.names)
        self.size = self._stated_size(self._content(0), 0)
        self._upright: tuple[int, ...] | None = None
        for index in range(1, self.num_frames if isinstance(source, bytes) else 0):
            self._check(index, self._stated_size(self._content(index), index), self.size)

    @override
    def seconds(self) -> np.ndarray:
        return np.arange(self.num_frames) / self._files.fps

    @override
    def close(self) -> None:
        pass  # files are closed once they are read

    @override
    def _pictures(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            yield index, self._picture(index)

    def _picture(self, index: int) -> np.ndarray:
        """uint8 (height, width, 3), upright."""
        content = self._content(index)
        self._check(index, self._stated_size(content, index), self.size)
        with self._clock, _reasons(self._files.names[index]):
            picture = decode_image(content, max_pixels=self._max_pixels).movedim(0, -1).numpy()
        if self._upright is None:
            self._upright = picture.shape
        self._check(index, picture.shape, self._upright)
        return picture

    def _content(self, index: int) -> bytes:
        with self._clock, _reasons():
            self._clock.left()
            return self._files.read(self._files.names[index])

    def _stated_size(self, content: bytes, index: int) -> tuple[int, int]:
        """Width and height as the file of a picture states them."""
        with _reasons(self._files.names[index]):
            _, width, height = read_header(content, max_pixels=self._max_pixels)
            return width, height

    def _check(self, index: int, size: tuple[int, ...], first: tuple[int, ...]) -> None:
        if size != first:
            sizes = " and ".join(" x ".join(map(str, sides[:2])) for sides in (first, size))
            raise DecodeError(f"pictures of two sizes, {sizes} at {shown(self._files.names[index])}")


@contextlib.contextmanager
def _reasons(name: str | None = None) -> Iterator[None]:
    """Turn what is wrong with the files into DecodeErrors, which say so of the picture ``name``, if it is given."""
    try:
        yield
    except OSError as error:
        raise DecodeError(shown(f"{error.filename}: {error.strerror}" if error.filename else str(error))) from None
    except DecodeError as error:
        raise DecodeError(str(error) if name is None else f"{shown(name)}: {error}") from None
