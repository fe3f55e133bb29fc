import contextlib
import io
import re
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from bsssl.data.decoding import pictures, plugins
from bsssl.data.decoding.pictures import DecodeError, decode_image
from bsssl.data.endings import PICTURES_EXTRA

plugins.register_heif()  # for writing; the plugin of JPEG XL writes too once it is imported
plugins.register_jxl()


def assert_close(tensor, expected, tolerance):
    assert tensor.dtype == torch.uint8 and tensor.shape == (3, *expected.shape[:2])
    difference = np.abs(tensor.permute(1, 2, 0).numpy().astype(int) - expected.astype(int))
    assert difference.max() <= tolerance


def _grey(smooth):
    return np.repeat(smooth[:, :, :1], 3, axis=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_rgb(smooth, encode, kind):
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    assert_close(decode_image(encode(Image.fromarray(smooth), kind, **options)), smooth, 6 if kind == "JPEG" else 0)


LOSSLESS = {
    "JPEG2000": {},
    "JXL": {"lossless": True},
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    **{kind: {} for kind in ("TGA", "QOI", "PCX", "DIB")},
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_newer_and_older_kinds(smooth, encode, kind):
    data = encode(Image.fromarray(smooth), kind, **LOSSLESS[kind])
    assert_close(decode_image(data), smooth, 3 if kind == "AVIF" else 0)
    with pytest.raises(DecodeError, match=r"64 x 48 pixels are more than the limit of 3071"):
        decode_image(data, max_pixels=64 * 48 - 1)
    with pytest.raises(DecodeError):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF", "JPEG2000"])
def test_newer_kinds_as_others(smooth, encode, kind):
    options = LOSSLESS[kind] if kind != "HEIF" else {"quality": -1}
    assert_close(decode_image(encode(Image.fromarray(smooth[:, :, 0]), kind, **options)), _grey(smooth), 3)
    clear = Image.new("RGBA", (16, 16), (100, 100, 100, 0))
    assert_close(decode_image(encode(clear, kind, **options)), np.full((16, 16, 3), 255), 1)
    if kind != "AVIF":  # which Pillow writes with 8 bits
        deep = np.full((16, 16), 50 * 257, np.uint16)
        assert_close(decode_image(encode(Image.fromarray(deep), kind, **options)), np.full((16, 16, 3), 50), 1)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_newer_kinds_are_turned_upright_and_show_their_first_picture(smooth, encode, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(smooth)
    turned = encode(image, kind, exif=exif.tobytes(), **LOSSLESS[kind])
    assert_close(decode_image(turned), np.rot90(smooth, -1), 3)
    several = encode(image, kind, save_all=True, append_images=[Image.new("RGB", image.size)], **LOSSLESS[kind])
    assert_close(decode_image(several), smooth, 6)


def test_jpeg_xl_says_itself_how_it_is_turned_but_for_a_wrapped_jpeg(smooth, encode, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(smooth)
    assert_close(decode_image(encode(image, "JXL", lossless=True, exif=exif.tobytes())), smooth, 0)
    image.save(tmp_path / "x.jpg", quality=95, subsampling=0, exif=exif)
    with Image.open(tmp_path / "x.jpg") as jpeg:
        wrapped = encode(jpeg, "JXL")
    assert_close(decode_image(wrapped), np.rot90(smooth, -1), 6)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (48, 48), (512, 256), (300, 200), (257, 1001), (900, 30), (1920, 1080)])
def test_size_of_jpeg_xl(encode, size, boxed):
    data = encode(Image.new("RGB", size), "JXL", use_container=boxed)
    assert plugins.jxl_size(data) == size
    with pytest.raises(DecodeError, match="pixels are more than the limit"):
        decode_image(data, max_pixels=0)


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_without_the_package(encode, kind, monkeypatch):
    data = encode(Image.new("RGB", (8, 8)), kind)
    for register in (plugins.register_heif, plugins.register_jxl):
        register.cache_clear()
    for package in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DecodeError, match=f"a picture that needs a package .*{re.escape(PICTURES_EXTRA)}"):
        decode_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_grey(smooth, encode, kind):
    grey = encode(Image.fromarray(smooth[:, :, 0]), kind)
    assert_close(decode_image(grey), _grey(smooth), 6 if kind == "JPEG" else 0)


def test_one_bit(smooth, encode):
    black = smooth[:, :, :1] > 100
    expected = np.repeat(np.where(black, 255, 0), 3, axis=2)
    assert_close(decode_image(encode(Image.fromarray(black[:, :, 0]))), expected, 0)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(smooth, encode, kind):
    # Pillow writes CMYK JPEGs inverted, with Adobe's marker, as photo editors do.
    assert_close(decode_image(encode(Image.fromarray(smooth).convert("CMYK"), kind)), smooth, 12)


def test_ycck(smooth, encode):
    data = bytearray(encode(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95))
    adobe = data.index(b"Adobe")
    data[adobe + 11] = 2  # the first three channels are to be taken for luma and chroma
    decoded = decode_image(bytes(data)).permute(1, 2, 0).numpy()
    expected = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
    assert np.abs(decoded.astype(int) - expected).max() <= 6


def test_palette(smooth, encode):
    image = Image.fromarray(smooth).quantize(64)
    assert_close(decode_image(encode(image)), np.asarray(image.convert("RGB")), 0)


def test_palette_with_transparency(encode):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.putpixel((0, 0), 0)
    expected = np.full((4, 4, 3), (200, 10, 20))
    expected[0, 0] = 255
    assert_close(decode_image(encode(image, transparency=0)), expected, 0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_transparent_colour(encode, mode):
    image = Image.new(mode, (4, 4), 60 if mode == "L" else (60, 60, 60))
    image.putpixel((1, 0), 0 if mode == "L" else (0, 0, 0))
    expected = np.full((4, 4, 3), 60)
    expected[0, 1] = 255
    assert_close(decode_image(encode(image, transparency=0 if mode == "L" else (0, 0, 0))), expected, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_over_white(encode, mode, kind):
    image = Image.new("RGBA", (4, 4), (100, 100, 100, 255))
    image.putpixel((0, 0), (100, 100, 100, 0))
    image.putpixel((1, 0), (100, 100, 100, 102))
    expected = np.full((4, 4, 3), 100)
    expected[0, 0], expected[0, 1] = 255, round(100 * 0.4 + 255 * 0.6)
    assert_close(
        decode_image(encode(image.convert(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))), expected, 1
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(smooth, encode, kind):
    deep = smooth[:, :, 0].astype(np.uint16) * 257
    assert_close(decode_image(encode(Image.fromarray(deep), kind)), _grey(smooth), 0)


def test_16_bit_rgb_png(smooth):
    deep = (smooth.astype(np.uint16) * 257).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in deep)

    assert_close(decode_image(_png(64, 48, 16, zlib.compress(lines))), smooth, 1)


def _png(width, height, depth, packed):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("damage", ["none", "short", "long", "filter", "no end", "trailing", "garbage"])
def test_png_with_right_checksums_and_wrong_pixels(smooth, damage):
    """Such files crash torchvision's decoder, which takes the whole worker with it."""
    lines = b"".join(b"\0" + line.tobytes() for line in smooth)
    packed = {
        "none": zlib.compress(lines),
        "short": zlib.compress(lines[:-100]),
        "long": zlib.compress(lines + bytes(100)),
        "filter": zlib.compress(b"\x09" + lines[1:]),
        "no end": zlib.compress(lines)[:-10],
        "trailing": zlib.compress(lines) + b"more",
        "garbage": bytes(100),
    }[damage]
    if damage in ("none", "long", "trailing"):
        assert_close(decode_image(_png(64, 48, 8, packed)), smooth, 0)
    else:
        with pytest.raises(DecodeError):
            decode_image(_png(64, 48, 8, packed))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 2])
def test_exif_rotation(smooth, encode, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {1: smooth, 2: smooth[:, ::-1], 3: smooth[::-1, ::-1], 6: np.rot90(smooth, 3), 8: np.rot90(smooth)}
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(smooth), kind, exif=exif, **options)
    assert_close(decode_image(data), upright[orientation], 6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(encode, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert_close(decode_image(data), np.asarray(frames[0]), 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_truncated(encode, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(DecodeError) as error:
        decode_image(data[: int(len(data) * share)])
    assert str(error.value) and "\n" not in str(error.value)


def test_truncated_progressive_jpeg(smooth, encode):
    data = encode(Image.fromarray(smooth), "JPEG", progressive=True)
    for cut in range(1, len(data) - 1, 37):
        with pytest.raises(DecodeError):
            decode_image(data[:cut])


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"<html>404</html>", b"\x89PNG\r\n\x1a\n", bytes(1000)]
)
def test_not_a_picture(data):
    with pytest.raises(DecodeError, match="empty file" if not data else ""):
        decode_image(data)


def test_damage_anywhere_is_a_decode_error_or_a_picture(smooth, encode):
    """Whatever bytes are wrong, no other exception escapes."""
    generator = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        data = encode(Image.fromarray(smooth), kind)
        for _ in range(60):
            damaged = bytearray(data)
            for place in generator.integers(0, min(len(data), 600), 6):
                damaged[place] = generator.integers(256)
            with contextlib.suppress(DecodeError):
                assert decode_image(bytes(damaged), max_pixels=10**6).shape[0] == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_bomb_is_refused_by_its_header(encode, kind, monkeypatch):
    data = encode(Image.new("L", (3000, 2000)), kind)
    for name in ("_decode_jpeg", "to_tensor"):
        monkeypatch.setattr(pictures, name, lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(DecodeError, match="3000 x 2000 pixels are more than the limit of 5000000"):
        decode_image(data, max_pixels=5_000_000)


def test_bomb_beyond_pillows_limit(encode):
    data = bytearray(encode(Image.new("P", (8, 8))))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(DecodeError, match="limit"):
        decode_image(bytes(data))


def test_absurd_shape(encode):
    for kind in ("JPEG", "PNG", "GIF"):
        data = encode(Image.new("RGB", (2000, 4)), kind)
        with pytest.raises(DecodeError, match="2000 x 4 pixels: one side is more than 100 times"):
            decode_image(data)
        assert decode_image(data, max_aspect=500).shape == (3, 4, 2000)


def test_without_torchvisions_decoder(smooth, encode, monkeypatch):
    monkeypatch.setattr(pictures, "_decode_jpeg", None)
    assert_close(decode_image(encode(Image.fromarray(smooth), "JPEG", quality=95, subsampling=0)), smooth, 6)
    assert_close(decode_image(encode(Image.fromarray(smooth), "PNG")), smooth, 0)
