"""What the benchmarks of scoring and training share: photographs to read, sides that take turns, the report."""

import ctypes
import io
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from bsssl.runtime.device import Compute

HEIGHT, WIDTH, QUALITY = 375, 500, 92  # 70 to 100 kB once compressed
DISTINCT = 24
CLASSES = 10


@torch.inference_mode()
def timm_inference(network: nn.Module, loader: Any, *, compute: Compute, top: int) -> int:
    """Run the loop of timm's ``inference.py`` over its own loader; return how many pictures there were."""
    outputs, indices = [], []
    for pixels, _ in loader:
        if compute.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with compute.autocast():
            output = network(pixels)
        output, index = output.softmax(-1).topk(top)
        indices.append(index.cpu().numpy())
        outputs.append(output.float().cpu().numpy())
    return sum(map(len, outputs))


def write_photos(folder: str, count: int, *, seed: int = 0) -> None:
    """Write ``count`` JPEGs into ten sub-folders: detail at every scale as in photographs, and a camera's noise.

    After the first ``DISTINCT`` they are copies: what decoding costs depends on the detail, not on which picture it is.
    """
    generator = torch.Generator().manual_seed(seed)
    paths = [Path(folder, f"class{number % CLASSES}", f"{number:05d}.jpg") for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= DISTINCT:
            shutil.copyfile(paths[number % DISTINCT], path)
            continue
        pixels = photo(generator).permute(1, 2, 0).numpy()
        with io.BytesIO() as jpeg:
            Image.fromarray(pixels).save(jpeg, "JPEG", quality=QUALITY)
            path.write_bytes(jpeg.getvalue())


def photo(generator: torch.Generator) -> Tensor:
    """A picture whose contrast falls with the scale as that of photographs does: uint8 (3, HEIGHT, WIDTH)."""
    picture = torch.zeros(1, 3, HEIGHT, WIDTH)
    for octave in range(1, 9):
        cells = 2**octave
        noise = torch.randn(1, 3, cells, cells, generator=generator)
        picture += functional.interpolate(noise, (HEIGHT, WIDTH), mode="bilinear") * cells**-0.6
    picture = 45 * (picture - picture.mean()) / picture.std() + 120
    return (picture + 12 * torch.randn(picture.shape, generator=generator)).clamp(0, 255).byte()[0]


def make_compute(device: str, *, precision: str | None, channels_last: bool) -> Compute:
    """``device`` is auto, cpu or cuda; the precision is by default bfloat16 on a GPU, float32 on the CPU."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    precision = precision or ("bfloat16" if kind == "cuda" else "float32")
    return Compute(device=torch.device(kind), precision=precision, channels_last=channels_last)


@dataclass(frozen=True)
class Rates:
    """How much one side does per second of the clock, and per second of CPU time, its workers' included."""

    wall: float = 0.0
    cpu: float = 0.0


def alternate(
    sides: dict[str, Callable[[], int]], *, rounds: int, device: torch.device, unit: str = "images"
) -> dict[str, list[Rates]]:
    """Each side's rates, one per round: every side runs once per round, so that all meet the same disturbances.

    A side does its work, ends its workers and returns how much of it there was. A round before the first warms up and
    does not count; every other round goes through the sides backwards, so that none always follows the same one. On
    the CPU, rates per second of CPU time hardly change when others use the cores too.
    """
    rates: dict[str, list[Rates]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides) if number % 2 else reversed(sides):
            start, cpu_start = time.perf_counter(), _cpu_seconds()
            done = sides[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            rate = Rates(done / (time.perf_counter() - start), done / (_cpu_seconds() - cpu_start))
            if number:
                rates[name].append(rate)
            label = f"round {number}" if number else "warm-up"
            print(f"  {label} {name:22} {rate.wall:9.1f} {unit}/s {rate.cpu:9.1f} per CPU second", flush=True)
    return rates


def best(rates: list[Rates]) -> Rates:
    """The fastest round, by the clock and by CPU time."""
    return Rates(max(rate.wall for rate in rates), max(rate.cpu for rate in rates))


def median(rates: list[Rates]) -> Rates:
    """The middle of all rounds, by the clock and by CPU time."""
    return Rates(statistics.median(rate.wall for rate in rates), statistics.median(rate.cpu for rate in rates))


def median_ratio(ours: list[Rates], peer: list[Rates]) -> Rates:
    """The middle of the ratios of each round, whose sides ran one right after the other."""
    rounds = list(zip(ours, peer, strict=True))
    return median([Rates(mine.wall / theirs.wall, mine.cpu / theirs.cpu) for mine, theirs in rounds])


def _cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    return sum(os.times()[:4])


def use_cores(count: int | None) -> None:
    """Confine this process and its workers to ``count`` cores, with as many threads for torch; None: as it is."""
    if count is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
        torch.set_num_threads(count)


def keep_memory() -> None:
    """Have glibc keep what is freed, on all sides.

    Left alone, it gives the memory of a step's activations back to the system or not by chance, turn for turn, and what
    fetching it again costs is more than what separates the sides.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((-3, 2**25), (-1, 2**31 - 1)):  # M_MMAP_THRESHOLD, which has a limit; M_TRIM_THRESHOLD
            libc.mallopt(parameter, value)


def report(*, ours: dict[str, float], peers: dict[str, float], ratios: dict[str, float], **facts: Any) -> None:
    """The table for people, then the JSON object as the last line; a ratio is ours over the peer."""
    for title, numbers in (("ours", ours), ("peers", peers), ("ratio", ratios)):
        for name, value in numbers.items():
            print(f"  {title:6} {name:32} {value:9.{3 if title == 'ratio' else 1}f}")
    rounded = {
        title: {name: round(value, 3) for name, value in numbers.items()}
        for title, numbers in (("ours", ours), ("peers", peers), ("ratios", ratios))
    }
    print(json.dumps({**rounded, "machine": machine(), **facts}))


def machine() -> str:
    """This machine in words."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    simd = torch.backends.cpu.get_cpu_capability()
    used = len(os.sched_getaffinity(0))
    cores = f"{os.cpu_count()} {platform.machine()} cores ({simd}, {used} used)"
    return f"{cores}, {gpu}, torch {torch.__version__}"
