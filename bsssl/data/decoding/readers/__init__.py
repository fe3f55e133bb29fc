"""Readers of videos: frames by number, from a file or its bytes, by one of several libraries."""

from bsssl.data.decoding.pictures import MAX_PIXELS
from bsssl.data.decoding.readers.base import Clock, VideoReader
from bsssl.data.decoding.readers.helper import HelperReader, check_helper
from bsssl.data.decoding.readers.pyav import PyavReader
from bsssl.errors import UserError, choices

BACKENDS: tuple[str, ...] = ("av", "decord", "torchcodec")


def check_backend(backend: str) -> None:
    """UserError for an unknown backend, or one that is not installed or does not work."""
    if backend == "torchvision":
        raise UserError(
            f"video reader 'torchvision': torchvision reads no videos any more; valid: {', '.join(BACKENDS)}"
        )
    if backend not in BACKENDS:
        raise UserError(f"unknown video reader '{backend}': {choices(backend, BACKENDS)}")
    try:
        import av  # noqa: F401 - the others need it too, to list frames
    except ImportError as error:
        raise UserError(f"cannot import PyAV, which reads videos ({error}); pip install av") from None
    if backend != "av":
        check_helper(backend)


def open_video(
    source: str | bytes, *, backend: str = "av", deadline: float = 60.0, max_pixels: int = MAX_PIXELS
) -> VideoReader:
    """Open a video for reading single frames of it.

    Short distances between keyframes make random clips cheap, more than the choice of a library does.

    Args:
        source: the path of a local file, or its content.
        backend: one of ``BACKENDS``: "av" (see ``PyavReader``), which is right on most files; "decord" or "torchcodec"
            (see ``HelperReader``), which are optional and decode in a process beside this one.
        deadline: seconds that opening and reading may take together.
        max_pixels: videos with larger pictures are refused.

    Raises:
        DecodeError: for anything that is the file's fault, with the reason in one line.
        UserError: for an unknown backend, or one that is not installed or does not work.
    """
    if backend == "av":
        return PyavReader(source, Clock(deadline), max_pixels=max_pixels)
    return HelperReader(source, backend, Clock(deadline), max_pixels=max_pixels)


__all__ = ["BACKENDS", "VideoReader", "check_backend", "open_video"]
