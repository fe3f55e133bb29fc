"""Kinds of pictures that Pillow reads with the help of a package, imported with the first picture of its kind."""

import functools
import struct

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_JXL, _JXL_BOX = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_JXL_SIDES = (9, 13, 18, 30)  # bits of a length
_JXL_RATIOS = ((1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height


def needs_heif(data: bytes) -> bool:
    """Return whether a file is HEIF with a picture as of phones; AVIF is HEIF too, but none of these."""
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return data[4:8] == b"ftyp" and any(brands[at : at + 4] in _HEIF_BRANDS for at in range(0, len(brands), 4))


def needs_jxl(data: bytes) -> bool:
    """Return whether a file is JPEG XL."""
    return data.startswith((_JXL, _JXL_BOX))


@functools.cache
def register_heif() -> None:
    """Have Pillow read HEIF.

    Raises:
        ImportError: The package is not installed.
    """
    import pillow_heif

    pillow_heif.register_heif_opener()
    pillow_heif.options.DECODE_THREADS = 1  # there are workers


@functools.cache
def register_jxl() -> None:
    """Have Pillow read JPEG XL.

    Raises:
        ImportError: The package is not installed.
    """
    from pillow_jxl import JpegXLImagePlugin

    JpegXLImagePlugin.DECODE_THREADS = 0  # there are workers


def jxl_size(data: bytes) -> tuple[int, int]:
    """Return width and height from the header of a JPEG XL, which its package decodes at once.

    Raises:
        ValueError: There is no such header.
    """
    bits = int.from_bytes(_jxl_stream(data)[2:14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side() -> int:
        return 8 * (take(5) + 1) if in_eights else take(_JXL_SIDES[take(2)]) + 1

    in_eights = take(1)
    height = side()
    ratio = take(3)
    if not ratio:
        return side(), height
    across, down = _JXL_RATIOS[ratio - 1]
    return height * across // down, height


def _jxl_stream(data: bytes) -> bytes:
    """Return the start of the picture itself, which may lie in a box among others."""
    if data.startswith(_JXL):
        return data[:16]
    place = 0
    while place + 16 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        start = place + (16 if size == 1 else 8)
        if kind in (b"jxlc", b"jxlp"):  # whole, or in numbered parts
            start += 4 * (kind == b"jxlp")
            return data[start : start + 16]
        size = int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else size
        if size < 8:
            break
        place += size
    raise ValueError("JPEG XL is cut short in its header")
