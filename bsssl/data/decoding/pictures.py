"""From a file's bytes to a picture: uint8 (3, height, width), red, green, blue."""

import contextlib
import io
import struct
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torchvision.io
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode

from bsssl.data.decoding import plugins
from bsssl.data.endings import PICTURES_EXTRA

MAX_PIXELS = 178_956_970  # Pillow's own limit, above which it refuses whatever we say; 540 MB once decoded
MAX_ASPECT = 100.0
_JPEG = b"\xff\xd8"  # how one begins
# JPEGs alone: torchvision 0.29 crashes the process on most damaged PNGs. It is to drop its decoders one day (0.29 says
# so); Pillow then reads everything, more slowly.
_decode_jpeg = getattr(torchvision.io, "decode_jpeg", None)
# Pillow warns of big pictures and odd metadata; the limits here decide. (Once: around every picture it takes a third as
# long as decoding a small one.)
warnings.filterwarnings("ignore", module=r"PIL\.")


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
    if _decode_jpeg is not None and data.startswith(_JPEG):
        check_size(*_jpeg_size(data), max_pixels, max_aspect)
        return _by_torchvision(_decode_jpeg, data)
    return _by_pillow(data, max_pixels, max_aspect)


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """Return the format, width and height of a picture as its file has it, without decoding a pixel.

    Raises:
        DecodeError: What ``decode_image`` refuses by the header alone.
    """
    if not data:
        raise DecodeError("empty file")
    if _decode_jpeg is not None and data.startswith(_JPEG):
        size = _jpeg_size(data)  # a tenth of the time that Pillow takes to open one
        check_size(*size, max_pixels, MAX_ASPECT)
        return ("JPEG", *size)
    with opened(data, max_pixels=max_pixels) as image:
        return (image.format or "unknown", *image.size)


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


def _by_torchvision(decode: Callable[..., Tensor], data: bytes) -> Tensor:
    content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        return decode(content, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as error:  # "decode_jpeg, /build/decode_jpeg.cpp:171, Image is incomplete or truncated"
        raise DecodeError(str(error).splitlines()[0].rsplit(", ", 1)[-1]) from None


def _by_pillow(data: bytes, max_pixels: int, max_aspect: float) -> Tensor:
    return to_tensor(open_image(data, max_pixels=max_pixels, max_aspect=max_aspect))


def open_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT, about: int | None = None
) -> Image.Image:
    """Return a picture as Pillow decodes it, upright; what is refused is what ``decode_image`` refuses.

    Args:
        data: The content of the file.
        max_pixels: The most pixels.
        max_aspect: The longest side over the shortest.
        about: A length of the sides that will do: JPEGs are then decoded at a fraction of their size, no smaller.
    """
    with opened(data, max_pixels=max_pixels, max_aspect=max_aspect) as image:
        if about is not None:
            image.draft("RGB", (about, about))
        # JPEG XL says itself how it is turned, unless it is the wrapping of a JPEG, and is decoded so.
        if image.format != "JXL" or getattr(image, "jpeg", False):
            ImageOps.exif_transpose(image, in_place=True)  # loads it, and copies nothing that is upright
        image.load()
    return image


@contextlib.contextmanager
def opened(data: bytes, *, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT) -> Iterator[Image.Image]:
    """Yield a picture of which Pillow has read the header; what it raises on the file becomes a DecodeError.

    Args:
        data: The content of the file.
        max_pixels: The most pixels.
        max_aspect: The longest side over the shortest.
    """
    try:
        _prepare(data, max_pixels, max_aspect)
        with Image.open(io.BytesIO(data)) as image:
            check_size(*image.size, max_pixels, max_aspect)
            yield image
    except (DecodeError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DecodeError("not a picture, or of an unknown kind") from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise DecodeError(" ".join(str(error).split()) or type(error).__name__) from None


def _prepare(data: bytes, max_pixels: int, max_aspect: float) -> None:
    """Have Pillow read what it needs a package for; DecodeError without the package."""
    try:
        if plugins.needs_heif(data):
            plugins.register_heif()
        elif plugins.needs_jxl(data):
            check_size(*plugins.jxl_size(data), max_pixels, max_aspect)
            plugins.register_jxl()
    except ImportError as error:
        raise DecodeError(f"a picture that needs a package ({error}): {PICTURES_EXTRA}") from None


def to_tensor(image: Image.Image) -> Tensor:
    """Return the pixels of a picture that Pillow holds as those of ``decode_image``, whatever its EXIF tag says.

    Raises:
        DecodeError: The picture is of a kind that is not supported.
    """
    if image.mode in ("F", "LAB"):
        raise DecodeError(f"pictures of kind {image.mode} are not supported")
    if image.mode.startswith("I"):
        pixels = _scale_16_bits(np.asarray(image))
        return torch.from_numpy(pixels).expand(3, -1, -1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "L":
        return torch.from_numpy(np.array(image)).expand(3, -1, -1)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _scale_16_bits(pixels: np.ndarray) -> np.ndarray:
    """0..65535 to 0..255, rounded; Pillow's own conversion would clip."""
    wide = pixels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise DecodeError("32-bit pictures are not supported")
    return ((wide + 128) // 257).astype(np.uint8)
