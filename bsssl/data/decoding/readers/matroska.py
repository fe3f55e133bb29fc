"""How long a Matroska or WebM file says it is: FFmpeg reads one that is cut short as if it ended there."""

_HEADER, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


def stated_size(start: bytes) -> int:
    """Bytes that a file has by its own account, given its first ones; 0 if it is no Matroska or does not say.

    Such a file is a short header and a segment, in which all else is, each an EBML element: its name, of four bytes
    here, the length of its content, and the content. Live streams do not know the length of the segment.
    """
    end = 0
    for name in (_HEADER, _SEGMENT):
        if start[end : end + len(name)] != name:
            return 0
        place = end + len(name)
        length = _number(start[place : place + 8])
        if length is None:
            return 0
        end = place + _width(start[place]) + length
    return end


def _width(first: int) -> int:
    """Bytes of an EBML number, of which there are one more than zeros before the highest bit set in the ``first``."""
    return 9 - first.bit_length()


def _number(content: bytes) -> int | None:
    """Return the EBML number at the start of the ``content``.

    The number with all bits set stands for unknown: None.
    """
    if not content or not content[0] or len(content) < (width := _width(content[0])):
        return None
    most = (1 << 7 * width) - 1  # the bit that ends the zeros is none of the number's
    number = int.from_bytes(content[:width], "big") & most
    return None if number == most else number
