"""What it costs to look at the bytes of every item before anything is trained: beside reading them, and b2sum.

    python benchmarks/contents.py --files 4000 --hashes 1000000 10000000

Writes a folder of JPEGs of some 90 kB and one of 2 kB, then reads each, from the page cache, in turn: by a loop that
does nothing else, by coreutils' b2sum, and by the contents stage (``data.read_contents``) with data.verify off, headers
and decode. Then finds the copies among so many hashes, of which 1 % are copies, each number in its own process, with
the memory that it takes above what the imports take. The last line is one JSON object.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import machine, photo

from bsssl.data import Records, find_copies, make_check, read_contents

SIDES = {"90 kB": None, "2 kB": (64, 48)}
BLOCK = 10_000


def write_files(folder: Path, count: int, size: tuple[int, int] | None) -> list[str]:
    """JPEGs of photographs, or of these made smaller: a few pictures, each file with bytes of its own at its end."""
    generator = torch.Generator().manual_seed(0)
    contents = []
    for _ in range(8):
        file, image = io.BytesIO(), Image.fromarray(photo(generator).permute(1, 2, 0).numpy())
        (image if size is None else image.resize(size)).save(file, "JPEG", quality=92)
        contents.append(file.getvalue())
    folder.mkdir()
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(contents[number % 8] + number.to_bytes(8, "little"))
    return [str(path) for path in paths]


def read_loop(paths: list[str]) -> None:
    """Each file, and nothing else."""
    for path in paths:
        with open(path, "rb") as file:
            file.read()


def b2sum(paths: list[str]) -> None:
    """The hash of each by coreutils, in one process."""
    subprocess.run(
        ["xargs", "b2sum", "-l", "128"], input=" ".join(paths).encode(), stdout=subprocess.DEVNULL, check=True
    )


def ours(verify: str) -> Callable[[list[str]], None]:
    """What the contents stage does with a shard."""
    check = make_check(verify, max_pixels=10**9, reading=None)

    def read(paths: list[str]) -> None:
        tables = list(read_contents(Records.from_columns(key=paths, path=paths), check=check))
        assert not any(table["reason"].null_count < len(table) for table in tables)

    return read


def rates(paths: list[str], rounds: int) -> dict[str, float]:
    """Files per second of each way, the best of so many rounds in turn."""
    ways = {"read loop": read_loop, "b2sum": b2sum, **{verify: ours(verify) for verify in ("off", "headers", "decode")}}
    best = dict.fromkeys(ways, 0.0)
    read_loop(paths)
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way(paths)
            best[name] = max(best[name], len(paths) / (time.perf_counter() - started))
    return {name: round(rate, 1) for name, rate in best.items()}


def copies(count: int) -> dict[str, Any]:
    """The rate and the memory of finding the copies among so many hashes."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Memory() as memory:
        pairs = sum(map(len, find_copies(_hashes(count), total=count, firsts=[0, BLOCK, 2 * BLOCK], folder=folder)))
    seconds = time.perf_counter() - started
    return {"per_second": round(count / seconds), "mib": round(memory.most, 1), "copies": pairs}


def _hashes(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    for start in range(0, count, BLOCK):
        words = generator.integers(0, 2**64, (BLOCK, 2), np.uint64)
        words[: BLOCK // 100] = generator.integers(0, count // 500, (BLOCK // 100, 1), np.uint64)
        words[: BLOCK // 100] *= np.uint64(0x9E3779B97F4A7C15)  # which spreads them
        yield np.arange(start, start + BLOCK, dtype=np.uint64), words


class Memory(threading.Thread):
    """The most memory that this process has, above what it had at first, MiB, looked at all the time."""

    def __enter__(self) -> "Memory":
        self.first, self.most, self.is_over = self._now(), 0.0, threading.Event()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.join()

    def run(self) -> None:
        while not self.is_over.wait(0.01):
            self.most = max(self.most, self._now() - self.first)

    def _now(self) -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000, help="of each size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hashes", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--only-copies", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.only_copies:
        print(json.dumps(copies(parsed.only_copies)))
        return
    found: dict[str, Any] = {"files_per_second": {}, "copies": {}, "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIDES.items():
            paths = write_files(Path(folder) / name.replace(" ", ""), parsed.files, size)
            found["files_per_second"][name] = rates(paths, parsed.rounds)
            print(
                f"{name}: ", ", ".join(f"{way} {rate:,.0f}/s" for way, rate in found["files_per_second"][name].items())
            )
    for count in parsed.hashes:
        done = subprocess.run(
            [sys.executable, __file__, "--only-copies", str(count)], capture_output=True, text=True, check=True
        )
        found["copies"][count] = json.loads(done.stdout)
        print(f"{count:,} hashes: {found['copies'][count]}")
    of_all = found["files_per_second"]
    found["ratios"] = {
        f"{size}, {peer}": round(of_all[size]["headers"] / of_all[size][peer], 2)
        for size in of_all
        for peer in ("read loop", "b2sum")
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
