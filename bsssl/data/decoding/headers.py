"""What a file says of itself: its format and its size, read without decoding a picture."""

from dataclasses import dataclass

import numpy as np

from bsssl.data.decoding.pictures import MAX_PIXELS, decode_image, read_header
from bsssl.data.decoding.readers import open_pictures
from bsssl.data.decoding.readers.base import Clock
from bsssl.data.decoding.readers.pyav import PyavReader


@dataclass(frozen=True)
class Header:
    """The format and the size of a picture or a video."""

    format: str
    """such as JPEG or mov,mp4"""
    width: int
    height: int
    seconds: float | None = None
    """how long a video lasts"""
    rate: float | None = None
    """its frames per second"""


def picture_header(content: bytes, *, max_pixels: int = MAX_PIXELS, decode: bool = False) -> Header:
    """Return what a picture says of itself.

    Args:
        content: The content of the file.
        max_pixels: The most pixels.
        decode: Whether to decode the picture too, which finds damage behind the header.

    Raises:
        DecodeError: It is no picture that can be used.
    """
    header = Header(*read_header(content, max_pixels=max_pixels))
    if decode:
        decode_image(content, max_pixels=max_pixels)
    return header


def video_header(
    content: bytes, *, deadline: float = 60.0, max_pixels: int = MAX_PIXELS, decode: bool = False
) -> Header:
    """Return what a video says of itself, its packets read but none decoded.

    Args:
        content: The content of the file.
        deadline: Seconds after which reading it is given up.
        max_pixels: The most pixels of a frame.
        decode: Whether to decode every frame too.

    Raises:
        DecodeError: It is no video that can be used.
        UserError: PyAV is not installed.
    """
    clock = Clock(deadline)
    pictures = open_pictures(content, clock, max_pixels=max_pixels)
    with PyavReader(content, clock, max_pixels=max_pixels) if pictures is None else pictures as video:
        times = video.seconds()
        if decode:
            video.get(range(video.num_frames), each=lambda pictures: pictures[:, :1, :1])
        step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        return Header(
            video.kind, *video.size, seconds=float(times[-1]) + step, rate=round(1 / step, 3) if step > 0 else None
        )
