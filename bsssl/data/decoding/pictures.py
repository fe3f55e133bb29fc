"""From a file's bytes to a picture: uint8 (3, height, width), red, green, blue."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import torch
import torchvision.io
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode

MAX_PIXELS = 178_956_970  # Pillow's own limit, above which it refuses whatever we say; 540 MB once decoded
MAX_ASPECT = 100.0
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 33  # bytes of the start and the header chunk
_PNG_CHANNELS = {0: 1, 2: 3}  # colour type: grey, RGB
_PNG_LAST_FILTER = 4
# torchvision is to drop its decoders one day (0.29 says so); Pillow then reads everything, more slowly.
_decode_jpeg = getattr(torchvision.io, "decode_jpeg", None)
_decode_png = getattr(torchvision.io, "decode_png", None)


class DecodeError(Exception):
    """These bytes are not a picture that can be used; the message is the reason, for the ledger."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT) -> Tensor:
    """Decode any picture that Pillow can open to uint8 (3, height, width), turned upright as its EXIF tag says.

    Transparency is laid over white; 16 bits are scaled to 8; of an animation the first frame counts. DecodeError for
    what is empty, cut short, damaged or not a picture, and, judged by the header before any pixel is decoded, for more
    than ``max_pixels`` pixels or a long side over ``max_aspect`` times the short one.

    A JPEG that was cut and then closed with an end mark decodes with grey at the bottom in every decoder and cannot be
    told from a whole one.
    """
    if not data:
        raise DecodeError("empty file")
    if _decode_jpeg is not None and data.startswith(b"\xff\xd8"):
        check_size(*_jpeg_size(data), max_pixels, max_aspect)
        return _by_torchvision(_decode_jpeg, data, apply_exif_orientation=True)
    if _decode_png is not None and _sound_png(data, max_pixels, max_aspect):
        return _by_torchvision(_decode_png, data)
    return _by_pillow(data, max_pixels, max_aspect)


def check_size(width: int, height: int, max_pixels: int, max_aspect: float) -> None:
    """DecodeError for pictures without pixels, with more than ``max_pixels``, or with too long a side."""
    if width < 1 or height < 1:
        raise DecodeError(f"picture of {width} x {height} pixels")
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are more than the limit of {max_pixels}")
    if max(width, height) > max_aspect * min(width, height):
        raise DecodeError(f"{width} x {height} pixels: one side is more than {max_aspect:g} times the other")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height from a JPEG's frame header, without decoding."""
    position = 2
    while 0 <= (position := data.find(b"\xff", position)) <= len(data) - 9:  # stray bytes between segments are skipped
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill byte, or a marker without a length
            position += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise DecodeError("JPEG is cut short in its header")


def _sound_png(data: bytes, max_pixels: int, max_aspect: float) -> bool:
    """Whether this is a plain PNG (8-bit grey or RGB, not interlaced, no chunk but pixels) without any damage.

    torchvision 0.29 crashes the process on most damaged PNGs, so it is given only what cannot fail: every checksum
    right, and the pixels inflating to exactly their size. For small pictures this and torchvision take half the time
    of Pillow; whatever else a PNG can hold goes to Pillow.
    """
    if not data.startswith(_PNG_START) or len(data) < _PNG_HEADER:
        return False
    width, height, depth, colour, *rest = struct.unpack_from(">IIBBBBB", data, len(_PNG_START) + 8)
    if depth != 8 or colour not in _PNG_CHANNELS or any(rest):
        return False
    check_size(width, height, max_pixels, max_aspect)
    packed, position = bytearray(), len(_PNG_START)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        kind = data[position + 4 : position + 8]
        if end > len(data) or zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        if kind == b"IEND":
            return _inflates_to(packed, rows=height, row_bytes=1 + width * _PNG_CHANNELS[colour])
        if kind == b"IDAT":
            packed += data[position + 8 : end - 4]
        elif kind != b"IHDR" or position != len(_PNG_START):
            return False
        position = end
    return False


def _inflates_to(packed: bytes | bytearray, *, rows: int, row_bytes: int) -> bool:
    """Whether zlib data holds exactly ``rows`` rows, each opened by the number of a PNG filter."""
    inflater = zlib.decompressobj()
    try:
        pixels = inflater.decompress(packed, rows * row_bytes + 1)
    except zlib.error:
        return False
    return inflater.eof and len(pixels) == rows * row_bytes and max(pixels[::row_bytes]) <= _PNG_LAST_FILTER


def _by_torchvision(decode: Callable[..., Tensor], data: bytes, **options: bool) -> Tensor:
    try:
        return decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB, **options)
    except RuntimeError as error:  # "decode_jpeg, /build/decode_jpeg.cpp:171, Image is incomplete or truncated"
        raise DecodeError(str(error).splitlines()[0].rsplit(", ", 1)[-1]) from None


def _by_pillow(data: bytes, max_pixels: int, max_aspect: float) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of big pictures and odd metadata; the limits here decide
        try:
            with Image.open(io.BytesIO(data)) as image:
                check_size(*image.size, max_pixels, max_aspect)
                upright = ImageOps.exif_transpose(image)
        except (DecodeError, MemoryError):
            raise
        except Image.UnidentifiedImageError:
            raise DecodeError("not a picture, or of an unknown kind") from None
        except Exception as error:  # Pillow's readers raise almost anything on damaged files
            raise DecodeError(" ".join(str(error).split()) or type(error).__name__) from None
    return _to_tensor(upright)


def _to_tensor(image: Image.Image) -> Tensor:
    if image.mode in ("F", "LAB"):
        raise DecodeError(f"pictures of kind {image.mode} are not supported")
    if image.mode.startswith("I"):
        pixels = _scale_16_bits(np.asarray(image))
        return torch.from_numpy(pixels).expand(3, -1, -1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _scale_16_bits(pixels: np.ndarray) -> np.ndarray:
    """0..65535 to 0..255, rounded; Pillow's own conversion would clip."""
    wide = pixels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise DecodeError("32-bit pictures are not supported")
    return ((wide + 128) // 257).astype(np.uint8)
