"""Small pictures of items for people to look at, as WebP; that of a video is a short animation."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bsssl.data.decoding.pictures import DecodeError, open_image, to_tensor
from bsssl.data.decoding.readers import open_video
from bsssl.data.records import Record, whole_file
from bsssl.data.segments import split_segment
from bsssl.data.views.views import frame_range
from bsssl.errors import UserError

_QUALITY = 55
_TINY = 32  # pixels: smaller pictures are kept without loss
_FRAMES, _SECONDS = 8, 2.0  # of an animation, from the middle of the video
_FRAME_MS = 200


class Unreadable(Exception):
    """An item is gone or cannot be decoded; the message is the reason."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Whatever is wrong with the item that is read inside becomes an Unreadable."""
    try:
        yield
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    except (DecodeError, UserError) as error:
        raise Unreadable(str(error)) from None


def video_of(record: Record) -> str | bytes:
    """Return what ``open_video`` opens of an item: its file if it is a whole one of this machine, else its bytes."""
    return whole_file(record.path, record.offset, record.size) or record.read()


@dataclass(frozen=True)
class Thumbnailer:
    """Makes a small picture of an item: WebP, of at most ``side`` x ``side`` pixels."""

    clips: tuple[str, Mapping[str, Any]] | None = None
    """the name of the reader of videos and its options; None where items are pictures"""
    side: int = 96
    deadline: float = 10.0
    """seconds after which reading a video is given up"""

    def __call__(self, record: Record) -> bytes:
        """Return the small picture of an item.

        Raises:
            Unreadable: The item is gone, or cannot be decoded.
        """
        with reading():
            if self.clips is not None:
                return self._encoded([*self._frames(record, *self.clips)])
            return self._encoded([to_tensor(open_image(record.read(), about=self.side)).movedim(0, -1).numpy()])

    def _frames(self, record: Record, reader: str, options: Mapping[str, Any]) -> np.ndarray:
        """Return some frames from the middle of a video, uint8 (T, H, W, 3)."""
        with open_video(video_of(record), backend=reader, options=options, deadline=self.deadline) as video:
            seconds = video.seconds()
            first, after = frame_range(seconds, split_segment(record.path)[1:])
            distance = np.abs(seconds[first:after] - (seconds[first] + seconds[after - 1]) / 2)
            near = first + np.flatnonzero(distance <= max(_SECONDS / 2, distance.min()))
            places = np.linspace(0, len(near) - 1, min(_FRAMES, len(near))).astype(int)
            return video.get(near[places].tolist())

    def _encoded(self, pictures: list[np.ndarray]) -> bytes:
        images = [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in pictures]
        for image in images:
            image.thumbnail((self.side, self.side))
        file = io.BytesIO()
        first, *others = images
        animation = {"save_all": True, "append_images": others, "duration": _FRAME_MS, "loop": 0} if others else {}
        first.save(file, "WEBP", quality=_QUALITY, method=2, lossless=max(first.size) <= _TINY, **animation)
        return file.getvalue()
