"""Segments: a part of a video is named in its path as a W3C media fragment, ``video.mp4#t=12.5,20`` (seconds)."""

import math
import re

import numpy as np

from bsssl.errors import UserError

_SECONDS = r"[0-9]+(?:\.[0-9]+)?"
_FRAGMENT = re.compile(rf"#t=({_SECONDS})?(?:,({_SECONDS}))?\Z")


def with_segment(path: str, start: float | None, end: float | None) -> str:
    """``path`` with the fragment for ``start`` to ``end``, in seconds; None is the video's own start or end.

    ``split_segment`` gives exactly the same numbers back; without either there is no fragment. UserError when the
    numbers are no segment, or when ``path`` names one already.
    """
    if start is None and end is None:
        return path
    if not _is_segment(start, end):
        raise UserError(f"{path}: no segment lies from {_text(start)} to {_text(end)}; give seconds, 0 <= start < end")
    if split_segment(path)[1:] != (None, None):
        raise UserError(f"{path} names a segment already; give it in the path or as start and end")
    return f"{path}#t={_text(start)}" + ("" if end is None else f",{_text(end)}")


def split_segment(path: str) -> tuple[str, float | None, float | None]:
    """Return the path of the file, and the segment's start and end in seconds (None: the video's own).

    Never an error: what is no valid segment (``#t=20,12``, ``take#t=1.mp4``) is part of the file's name.
    """
    match = _FRAGMENT.search(path)
    if match is None:
        return path, None, None
    start, end = (None if text is None else float(text) for text in match.groups())
    if (start is None and end is None) or not _is_segment(start, end):
        return path, None, None
    return path[: match.start()], start, end


def _is_segment(start: float | None, end: float | None) -> bool:
    first = 0.0 if start is None else start
    return first >= 0 and math.isfinite(first) and (end is None or (end > first and math.isfinite(end)))


def _text(seconds: float | None) -> str:
    return "" if seconds is None else decimal(abs(seconds) if seconds == 0 else seconds)


def decimal(number: float) -> str:
    """Return the shortest decimal number, without an exponent, that is read as exactly ``number``."""
    return np.format_float_positional(number, trim="-")
