"""Whether a Matroska or WebM file is whole: FFmpeg reads one that is cut short or damaged as if it ended there."""

from dataclasses import dataclass
from typing import IO

_HEADER, _SEGMENT, _CLUSTER = (bytes.fromhex(name) for name in ("1a45dfa3", "18538067", "1f43b675"))
_LONGEST = 12  # bytes of a name and a length
_ANYWHERE = ("ec", "bf")  # room that is left free, checksums
_WITHIN = {
    _SEGMENT: {
        *map(bytes.fromhex, ("114d9b74", "1549a966", "1654ae6b", "1f43b675", "1c53bb6b", "1941a469", "1043a770")),
        *map(bytes.fromhex, ("1254c367", *_ANYWHERE)),
    },
    _CLUSTER: {*map(bytes.fromhex, ("e7", "a3", "a0", "ab", "a7", "af", "5854", *_ANYWHERE))},
}
"""the elements that the large ones are made of: a segment, and the clusters of frames in it"""


@dataclass(frozen=True)
class _Element:
    """A part of a file: its name, the length of its content, and the content."""

    name: bytes
    start: int
    """of its content"""
    end: int | None
    """None where the file does not say: live streams do not know the length of the segment, nor of clusters"""


def stated_size(start: bytes) -> int:
    """Bytes that a file has by its own account, given its first ones; 0 if it is no Matroska or does not say.

    Such a file is a short header and a segment, in which all else is, each an EBML element.
    """
    end = 0
    for name in (_HEADER, _SEGMENT):
        element = _element(start[end : end + _LONGEST], end)
        if element is None or element.name != name or element.end is None:
            return 0
        end = element.end
    return end


def broken_at(file: IO[bytes]) -> int:
    """Return the place in a whole file from which on its elements are none; 0 if there is none, or it is no Matroska.

    What follows an element that does not state its length is not looked at.
    """
    header = _element_at(file, 0)
    if header is None or header.name != _HEADER or header.end is None:
        return 0
    segment = _element_at(file, header.end)
    return 0 if segment is None or segment.name != _SEGMENT else _broken_within(file, segment)


def _broken_within(file: IO[bytes], whole: _Element) -> int:
    place = whole.start
    while whole.end is not None and place < whole.end:
        part = _element_at(file, place)
        if part is None or part.name not in _WITHIN[whole.name]:
            return place
        if part.end is None:
            return 0
        if part.end > whole.end:
            return place
        if part.name == _CLUSTER and (broken := _broken_within(file, part)):
            return broken
        place = part.end
    return 0


def _element_at(file: IO[bytes], place: int) -> _Element | None:
    file.seek(place)
    return _element(file.read(_LONGEST), place)


def _element(head: bytes, place: int) -> _Element | None:
    """Return the element at a place in a file, given its first bytes; None if it is none."""
    width = _width(head[0]) if head else 0
    if not 1 <= width <= 4 or len(head) <= width:
        return None
    length_width = _width(head[width])
    length = head[width : width + length_width]
    if length_width > 8 or len(length) < length_width:
        return None
    most = (1 << 7 * length_width) - 1  # the bit that ends the zeros is none of the number's
    number = int.from_bytes(length, "big") & most
    start = place + width + length_width
    return _Element(head[:width], start, None if number == most else start + number)


def _width(first: int) -> int:
    """Bytes of an EBML number, of which there are one more than zeros before the highest bit set in the ``first``."""
    return 9 - first.bit_length()
