"""Whether an item is a picture, or a video, that can be used: told from its bytes, without making a sample of it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bsssl.data.decoding.pictures import decode_image, read_header
from bsssl.data.decoding.readers import open_video
from bsssl.data.frames import holds_pictures
from bsssl.data.records import Record, whole_file
from bsssl.data.segments import split_segment
from bsssl.data.views.views import frame_range

Check = Callable[[Record, bytes], object]
"""Called with an item and its content; DecodeError, with the reason, for what cannot be used."""


def make_check(verify: str, *, max_pixels: int, reading: Mapping[str, Any] | None) -> Check | None:
    """Return what ``data.verify`` asks for: to open an item (``headers``), to decode it whole (``decode``), or nothing.

    Args:
        verify: ``headers``, ``decode`` or ``off``.
        max_pixels: Larger pictures, and videos of such, are refused.
        reading: Of videos, how ``open_video`` reads them; None for pictures.
    """
    if verify == "off":
        return None
    if reading is not None:
        return _video_check(reading, max_pixels=max_pixels, whole=verify == "decode")
    check: Callable[..., object] = decode_image if verify == "decode" else read_header
    return lambda _, content: check(content, max_pixels=max_pixels)


def _video_check(reading: Mapping[str, Any], *, max_pixels: int, whole: bool) -> Check:
    def check(record: Record, content: bytes) -> None:
        segment = split_segment(record.path)[1:]
        # Of a long file the frames need not be listed again for each segment; of a folder the content has all pictures.
        file = None if holds_pictures(content) else whole_file(record.path, record.offset, record.size)
        with open_video(file or content, max_pixels=max_pixels, **reading) as video:
            first, end = frame_range(video.seconds(), segment) if segment != (None, None) else (0, video.num_frames)
            if whole:
                video.get(range(first, end), _first_pixel)

    return check


def _first_pixel(pictures: np.ndarray) -> np.ndarray:
    """Return next to nothing of some frames, which need not all be kept."""
    return pictures[:, :1, :1]
