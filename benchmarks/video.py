"""Reading clips beside PyTorchVideo's own data path, in the same run.

    python benchmarks/video.py

On generated videos (10 seconds, 340x256, 30 frames per second, H.264), from files to normalised float clips of 112x112
in one process, frames two apart (PyTorchVideo takes as many from the same stretch, nearly so far apart):

- ten clips of 8 and of 32 frames, evenly spread: what testing reads. PyTorchVideo's sampler is its
  ``constant_clips_per_video``, which decodes every clip on its own. ``--keyint`` says how far apart keyframes are.
- one random clip of 8 frames: what training reads; with a keyframe every ``--keyint`` frames, and every 30.
- two worker processes against one, for the ten clips of 8 frames.
- memory of a process that reads one random clip after another.

PyTorchVideo reads with PyAV, its default, and a second figure is for decord; both decode with as many threads as there
are cores, ours with one, since workers use the others. ``functional_tensor``, which its transforms
import and torchvision no longer has, is put in its place first. The last line is one JSON object; a ratio is ours over
the peer, above 1 means faster.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from timing import Rates, alternate, median, median_ratio, photo, report
from torch.utils.data import SequentialSampler

from bsssl import data
from bsssl.data.datasets.sources import Folder

HEIGHT, WIDTH, FRAMES, RATE = 256, 340, 300, 30
SIZE, SHORT_SIDE, STRIDE, TEST_CLIPS = 112, 128, 2, 10
DISTINCT = 8
SHORT_KEYINT = 30
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


def write_videos(folder: str, count: int, *, keyint: int) -> None:
    """Write ``count`` videos: the camera pans over a photograph, with noise of its own in every frame.

    After the first ``DISTINCT`` they are copies.
    """
    paths = [Path(folder, f"class{number % 2}", f"{number:04d}.mp4") for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= DISTINCT:
            shutil.copyfile(paths[number % DISTINCT], path)
        else:
            _write_video(path, seed=number, keyint=keyint)


def _write_video(path: Path, *, seed: int, keyint: int) -> None:
    picture = photo(torch.Generator().manual_seed(seed)).permute(1, 2, 0).numpy().astype(np.int16)
    room = np.array(picture.shape[:2]) - (HEIGHT, WIDTH)
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": str(keyint), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(FRAMES):
            turn = 2 * np.pi * number / FRAMES
            top, left = (room * (0.5 + 0.5 * np.array([np.sin(turn), np.cos(turn)]))).astype(int)
            noise = generator.integers(-6, 7, (HEIGHT, WIDTH, 1))
            frame = picture[top : top + HEIGHT, left : left + WIDTH] + noise
            shown = av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(shown))
        container.mux(stream.encode())


def our_clips(folder: str, *, frames: int, test: bool) -> data.ItemDataset:
    """The videos of a folder, as our stages read them."""
    transform = (
        data.test_transform(size=SIZE, resize=SHORT_SIDE)
        if test
        else data.train_transform(size=SIZE, crop="short_side", short_side=(128, 160))
    )
    views = data.ClipViews(transform, frames=frames, stride=STRIDE, count=TEST_CLIPS if test else None)
    return data.ItemDataset(Folder(path=folder, extensions="videos").records(), views=views)


def read_ours(dataset: data.ItemDataset, *, test: bool, workers: int = 0) -> Callable[[], int]:
    """A turn that reads every video and returns the number of clips."""
    normalize = data.Normalize(mean=MEAN, std=STD)

    def turn() -> int:
        batches: Any = (
            data.EvalBatches(len(dataset), batch_size=1)
            if test
            else data.TrainBatches(len(dataset), batch_size=1, num_batches=len(dataset))
        )
        clips = 0
        for batch in data.make_loader(dataset, batches, workers=workers):
            clips += len(normalize(batch["input"]))
        return clips

    return turn


def read_theirs(folder: str, *, frames: int, test: bool, decoder: str) -> Callable[[], int]:
    """The same by PyTorchVideo's ``LabeledVideoDataset`` with the transforms of its examples."""
    sys.modules.setdefault(
        "torchvision.transforms.functional_tensor", importlib.import_module("torchvision.transforms._functional_tensor")
    )
    from pytorchvideo import transforms
    from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
    from torchvision.transforms import CenterCrop, Compose, Lambda, RandomCrop, RandomHorizontalFlip

    crop = (
        [transforms.ShortSideScale(SHORT_SIDE), CenterCrop(SIZE)]
        if test
        else [transforms.RandomShortSideScale(128, 160), RandomCrop(SIZE), RandomHorizontalFlip()]
    )
    steps = [transforms.UniformTemporalSubsample(frames), Lambda(lambda clip: clip / 255)]
    transform = transforms.ApplyTransformToKey(
        key="video", transform=Compose([*steps, transforms.Normalize(MEAN, STD), *crop])
    )
    paths = sorted(str(path) for path in Path(folder).rglob("*.mp4"))
    duration = frames * STRIDE / RATE
    sampler = ("constant_clips_per_video", duration, TEST_CLIPS) if test else ("random", duration)

    def turn() -> int:
        dataset = LabeledVideoDataset(
            [(path, {"label": 0}) for path in paths],
            make_clip_sampler(*sampler),
            video_sampler=SequentialSampler,
            transform=transform,
            decode_audio=False,
            decoder=decoder,
        )
        return sum(clip["video"].shape[1] == frames for clip in dataset)

    return turn


def memory(dataset: data.ItemDataset, videos: int) -> dict[str, float]:
    """MiB that this process has after a tenth of ``videos`` random clips, and after all."""
    seen = {}
    for number in range(1, videos + 1):
        dataset[number % len(dataset), number]
        if number in (videos // 10, videos):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[f"after_{number}_videos"] = pages * os.sysconf("SC_PAGESIZE") / 2**20
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--keyint", type=int, default=250, help="frames between keyframes; 250 is x264's default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-videos", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory(prefix="bsssl-video-") as folder:
        usual, short = f"{folder}/usual", f"{folder}/short"
        write_videos(usual, args.videos, keyint=args.keyint)
        write_videos(short, args.videos, keyint=SHORT_KEYINT)
        cases = {
            "ten_clips_of_8": (usual, 8, True),
            "ten_clips_of_32": (usual, 32, True),
            "random_clip": (usual, 8, False),
            f"random_clip_keyint_{SHORT_KEYINT}": (short, 8, False),
        }
        rates: dict[str, list[Rates]] = {}
        for name, (videos, frames, test) in cases.items():
            sides = {f"{name}_ours": read_ours(our_clips(videos, frames=frames, test=test), test=test)} | {
                f"{name}_{decoder}": read_theirs(videos, frames=frames, test=test, decoder=decoder)
                for decoder in ("pyav", "decord")
            }
            rates |= alternate(sides, rounds=args.rounds, device=torch.device("cpu"), unit="clips")
        dataset = our_clips(usual, frames=8, test=True)
        sides = {f"workers_{count}": read_ours(dataset, test=True, workers=count) for count in (1, 2)}
        rates |= alternate(sides, rounds=args.rounds, device=torch.device("cpu"), unit="clips")
        used = memory(our_clips(short, frames=8, test=False), args.memory_videos)
    summarise(rates, list(cases), memory_mib=used, settings=vars(args))


def summarise(rates: dict[str, list[Rates]], cases: list[str], **facts: object) -> None:
    """The report: clips per second by the clock."""
    ours = {name: median(rates[f"{name}_ours"]).wall for name in cases}
    ours |= {name: median(rates[name]).wall for name in ("workers_1", "workers_2")}
    peers, ratios = {}, {"two_workers": median_ratio(rates["workers_2"], rates["workers_1"]).wall}
    for name in cases:
        for decoder in ("pyav", "decord"):
            peers[f"{name}_{decoder}"] = median(rates[f"{name}_{decoder}"]).wall
            ratios[f"{name}_{decoder}"] = median_ratio(rates[f"{name}_ours"], rates[f"{name}_{decoder}"]).wall
    report(ours=ours, peers=peers, ratios=ratios, **facts)


if __name__ == "__main__":
    main()
