"""Videos made on the spot whose every frame carries its number, to be read back after lossy coding."""

import contextlib
import os
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder tells of itself at length

BITS = 8
RATE = 25
TICKS = 12_800  # per second: of all time stamps given to encoders
_NOBODY = 65534


def draw_number(number: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 (height, width, 3): the bits of ``number`` in white and black on top, their complement below, and red,
    green and blue bars between them, so that a turned picture or swapped channels are seen."""
    columns = np.arange(width) * BITS // width
    bits = (number >> columns) & 1
    bars = np.eye(3)[np.arange(width) * 3 // width]
    rows = np.stack([np.repeat(bits[:, None], 3, axis=1), bars, np.repeat(1 - bits[:, None], 3, axis=1)])
    return (rows[np.arange(height) * 3 // height] * 255).astype(np.uint8)


def read_number(picture: np.ndarray) -> int:
    """The number that ``draw_number`` drew; AssertionError when the picture is not upright, or not in these colours."""
    height, width, _ = picture.shape
    light = picture.astype(int)
    across = [int((column + 0.5) * width / BITS) for column in range(BITS)]
    above, below = (light[int(part * height / 6), across].mean(axis=1) > 127 for part in (1, 5))
    assert (above != below).all(), "not a drawn number, or turned"
    middle = light[height // 2, [int((bar + 0.5) * width / 3) for bar in range(3)]]
    assert (middle.argmax(axis=1) == [0, 1, 2]).all(), f"colours are {middle.tolist()}"
    return int((above << np.arange(BITS)).sum())


def read_numbers(pictures: np.ndarray) -> list[int]:
    """The numbers in pictures (N, H, W, 3)."""
    assert pictures.dtype == np.uint8
    return [read_number(picture) for picture in pictures]


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 48,
    width: int = 64,
    height: int = 48,
    pixels: str = "yuv420p",
    seconds: Sequence[float] | None = None,
    audio: bool = False,
    options: Mapping[str, str] | None = None,
    noise: int = 0,
    muxer: Mapping[str, str] | None = None,
    rate: int = RATE,
) -> Path:
    """Write frames 0, 1, ... by an encoder of PyAV's (``codec`` with its ``options``) to the container that the suffix
    of ``path`` says (with the muxer's options), and return the path.

    ``seconds`` are the times of the frames, ``rate`` a second if not given; ``noise`` is its amplitude in grey levels,
    which makes a frame cost as much to decode as a filmed one.
    """
    generator = np.random.default_rng(0)
    with path.open("wb") as file, av.open(file, "w", options=dict(muxer or {})) as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if seconds is not None:
            stream.codec_context.time_base = Fraction(1, TICKS)
        sound = container.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48_000) if audio else None
        with _without_privileges():
            for number in range(frames):
                picture = draw_number(number, width=width, height=height)
                if noise:
                    picture = np.clip(picture + generator.integers(-noise, noise + 1, picture.shape), 0, 255)
                frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24").reformat(format=pixels)
                if seconds is None:
                    frame.pts, frame.time_base = number, Fraction(1, rate)
                else:
                    frame.pts, frame.time_base = round(seconds[number] * TICKS), Fraction(1, TICKS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if sound is not None:
            _write_silence(container, sound, frames / rate)
    return path


@contextlib.contextmanager
def _without_privileges() -> Iterator[None]:
    """Inside, this process is not root.

    As root SVT-AV1 makes its threads and ours those of real time, before which nothing else runs; two such processes
    wait for each other for ever.
    """
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def remux(source: Path, path: Path, change: Callable[[int, av.Packet], bytes | None], *, later: int = 0) -> Path:
    """Copy the video's packets to another file, in which their content is what ``change`` makes of the packet and its
    place (None: what it was), and they are shown ``later`` time units later (earlier if negative)."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for place, packet in enumerate(packet for packet in old.demux(stream) if packet.size):
            changed = change(place, packet)
            packet_now = packet if changed is None else av.Packet(changed)
            packet_now.pts, packet_now.dts = packet.pts + later, packet.dts + later
            packet_now.time_base, packet_now.is_keyframe = packet.time_base, packet.is_keyframe
            packet_now.stream = copy
            new.mux(packet_now)
    return path


def turn(content: bytes, degrees: int) -> bytes:
    """An MP4 file that asks to be shown turned clockwise by 90, 180 or 270 degrees."""
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    start = content.index(b"tkhd") + 44  # name, version, two times, number, reserved, length, reserved, layers, volume
    return content[:start] + matrix + content[start + len(matrix) :]


def write_audio(path: Path) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=48_000), 1.0)
    return path


def _write_silence(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    size = 960
    for start in range(0, int(seconds * 48_000), size):
        frame = av.AudioFrame.from_ndarray(np.zeros((2, size), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_frames(
    folder: Path, numbers: Sequence[int] = range(12), *, name: str = "img_{:05d}.png", size: tuple[int, int] = (64, 48)
) -> Path:
    """Write a folder of frames, one picture for each number, which is drawn into it, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture = draw_number(number % 2**BITS, width=size[0], height=size[1])
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


def pack_folder(folder: Path, path: Path, *, names: Sequence[str] | None = None, **options: Any) -> Path:
    """Write the files below ``folder``, or those of these ``names``, to a tar at ``path``, and return that."""
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    with tarfile.open(path, "w", **options) as tar:
        for name in found if names is None else names:
            tar.add(folder / name, name)
    return path
