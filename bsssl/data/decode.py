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
_PNG_GREY, _PNG_RGB = 0, 2
# torchvision is to drop its decoders one day (0.29 says so); Pillow then reads everything, more slowly.
_decode_jpeg = getattr(torchvision.io, "decode_jpeg", None)
_decode_png = getattr(torchvision.io, "decode_png", None)
# What Pillow's readers raise on damaged files, besides the exceptions of its own.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, OverflowError, zlib.error)


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
        _check_size(*_jpeg_size(data), max_pixels, max_aspect)
        return _by_torchvision(_decode_jpeg, data, apply_exif_orientation=True)
    if _decode_png is not None and _is_plain_png(data):
        width, height = struct.unpack_from(">II", data, 16)
        _check_size(width, height, max_pixels, max_aspect)
        return _by_torchvision(_decode_png, data)
    return _by_pillow(data, max_pixels, max_aspect)


def _check_size(width: int, height: int, max_pixels: int, max_aspect: float) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"picture of {width} x {height} pixels")
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are more than the limit of {max_pixels}")
    if max(width, height) > max_aspect * min(width, height):
        raise DecodeError(f"{width} x {height} pixels: one side is more than {max_aspect:g} times the other")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height from a JPEG's frame header, without decoding."""
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            raise DecodeError("damaged JPEG header")
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill byte, or a marker without a length
            position += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise DecodeError("JPEG is cut short in its header")


def _is_plain_png(data: bytes) -> bool:
    """Whether this is a PNG that torchvision reads as we want: grey or RGB, 8 bits at most, not transparent."""
    return (
        data.startswith(b"\x89PNG\r\n\x1a\n")
        and len(data) > 33
        and data[24] <= 8
        and data[25] in (_PNG_GREY, _PNG_RGB)
        and b"tRNS" not in data[: max(data.find(b"IDAT"), 0)]
        and b"eXIf" not in data
    )


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
                _check_size(*image.size, max_pixels, max_aspect)
                return _to_tensor(image)
        except Image.UnidentifiedImageError:
            raise DecodeError("not a picture, or of an unknown kind") from None
        except Image.DecompressionBombError:
            raise DecodeError(f"more pixels than Pillow's limit of {2 * (Image.MAX_IMAGE_PIXELS or 0)}") from None
        except _DAMAGE as error:
            raise DecodeError(f"{error}" or type(error).__name__) from None


def _to_tensor(image: Image.Image) -> Tensor:
    image = ImageOps.exif_transpose(image)
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
