"""Readers of videos: frames by number, from a file or its bytes, by one of several libraries."""

import contextlib
from collections.abc import Mapping
from typing import Any

from bsssl.data.decoding.pictures import MAX_PIXELS
from bsssl.data.decoding.readers.animations import AnimationReader, is_webp
from bsssl.data.decoding.readers.base import Clock, VideoReader
from bsssl.data.decoding.readers.frames import FramesReader
from bsssl.data.decoding.readers.helper import HelperReader, check_helper
from bsssl.data.decoding.readers.pyav import PyavReader, require_av
from bsssl.data.frames import holds_pictures, split_frames
from bsssl.registry import VIDEO_READERS
from bsssl.storage import open_file

_START = 512  # bytes, which tell what is made of pictures


@VIDEO_READERS.register("av")
def _av(source: str | bytes, *, deadline: float, max_pixels: int) -> VideoReader:
    return PyavReader(source, Clock(deadline), max_pixels=max_pixels)


@VIDEO_READERS.register("decord")
def _decord(source: str | bytes, *, deadline: float, max_pixels: int) -> VideoReader:
    return HelperReader(source, "decord", Clock(deadline), max_pixels=max_pixels)


@VIDEO_READERS.register("torchcodec")
def _torchcodec(source: str | bytes, *, deadline: float, max_pixels: int) -> VideoReader:
    return HelperReader(source, "torchcodec", Clock(deadline), max_pixels=max_pixels)


def check_backend(backend: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse a reader that is unknown, not installed or does not work, and options that it does not have.

    Raises:
        UserError: The reader or an option cannot be used.
    """
    VIDEO_READERS.check(backend, options or {})
    if VIDEO_READERS.get(backend) not in (_av, _decord, _torchcodec):
        return
    require_av()  # which lists frames for the others, too
    if backend != "av":
        check_helper(backend)


def open_video(
    source: str | bytes,
    *,
    backend: str = "av",
    options: Mapping[str, Any] | None = None,
    deadline: float = 60.0,
    max_pixels: int = MAX_PIXELS,
) -> VideoReader:
    """Open a video for reading single frames of it.

    Short distances between keyframes make random clips cheap, more than the choice of a library does. What is made of
    pictures, folders of frames and animated WebP, is read by Pillow and torchvision, whatever the backend.

    Args:
        source: The path of a local file, or of a folder of frames (``v1#fps=25``), or its content.
        backend: The name of a reader of ``VIDEO_READERS``: "av" (see ``PyavReader``), which is right on most files;
            "decord" or "torchcodec" (see ``HelperReader``), which are optional and decode in a process beside this one.
        options: Further arguments of the reader.
        deadline: Seconds that opening and reading may take together.
        max_pixels: Videos with larger pictures are refused.

    Raises:
        DecodeError: Anything that is the file's fault, with the reason in one line.
        UserError: The reader is unknown, not installed or does not work.
    """
    if (pictures := open_pictures(source, Clock(deadline), max_pixels=max_pixels)) is not None:
        return pictures
    reader: VideoReader = VIDEO_READERS.get(backend)(
        source, deadline=deadline, max_pixels=max_pixels, **(options or {})
    )
    return reader


def open_pictures(source: str | bytes, clock: Clock, *, max_pixels: int) -> FramesReader | AnimationReader | None:
    """Open a video that is made of pictures, see ``open_video``; None for others, and for what cannot be read."""
    if isinstance(source, str) and split_frames(source)[1] is not None:
        return FramesReader(source, clock, max_pixels=max_pixels)
    start = _start_of(source)
    if holds_pictures(start):
        return FramesReader(source, clock, max_pixels=max_pixels)
    return AnimationReader(source, clock, max_pixels=max_pixels) if is_webp(start) else None


def _start_of(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_START]
    with contextlib.suppress(OSError), open(source, "rb", opener=open_file) as file:
        return file.read(_START)
    return b""


__all__ = ["VideoReader", "check_backend", "open_pictures", "open_video"]
