"""Reading clips beside PyTorchVideo's own data path, in the same run.

    python benchmarks/video.py

On generated videos (10 seconds, 340x256, 30 frames per second, H.264), from files to normalised float clips of 112x112
in one process, frames two apart (PyTorchVideo takes as many from the same stretch, nearly so far apart):

- ten clips of 8 and of 32 frames, evenly spread: what testing reads. PyTorchVideo's sampler is its
  ``constant_clips_per_video``, which decodes every clip on its own. ``--keyint`` says how far apart keyframes are.
- one random clip of 8 frames: what training reads; with a keyframe every ``--keyint`` frames, and every 30.
- what settings cost, beside the ten clips of 8 frames as they are: by the clock (``fps``, half the videos' own with a
  stride of 1, the same frames), three squares of each (a rate of clips, not of squares), the readers decord and
  torchcodec, and the same videos as folders of JPEGs, with one worker and with two.
- two worker processes against one, for the ten clips of 8 frames.
- memory of a process that reads one random clip after another.
- segments of a video of ``--minutes``: opening it and reading a clip of 8 frames, when its frames were listed before,
  and when not.

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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from timing import Rates, alternate, median, median_ratio, photo, report
from torch.utils.data import SequentialSampler

from bsssl import data
from bsssl.data.datasets.frames import FrameFolders
from bsssl.data.datasets.sources import Folder
from bsssl.data.decoding.readers import open_video

HEIGHT, WIDTH, FRAMES, RATE = 256, 340, 300, 30
SIZE, SHORT_SIDE, STRIDE, TEST_CLIPS = 112, 128, 2, 10
DISTINCT = 8
SHORT_KEYINT = 30
JPEG_QUALITY = 90
LONG_HEIGHT, LONG_WIDTH, SEGMENTS = 120, 160, 20
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


def _write_video(
    path: Path, *, seed: int, keyint: int, height: int = HEIGHT, width: int = WIDTH, frames: int = FRAMES
) -> None:
    picture = photo(torch.Generator().manual_seed(seed)).permute(1, 2, 0).numpy().astype(np.int16)
    room = np.array(picture.shape[:2]) - (height, width)
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": str(keyint), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            turn = 2 * np.pi * number / FRAMES
            top, left = (room * (0.5 + 0.5 * np.array([np.sin(turn), np.cos(turn)]))).astype(int)
            noise = generator.integers(-6, 7, (height, width, 1))
            frame = picture[top : top + height, left : left + width] + noise
            shown = av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(shown))
        container.mux(stream.encode())


def _remux(path: Path, other: Path) -> None:
    """Copy a video into another container, as it is."""
    with av.open(str(path)) as old, av.open(str(other), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)


def write_frames(videos: str, folder: str) -> None:
    """Write the frames of each video of ``videos`` to ``folder``, as JPEGs."""
    for path in sorted(Path(videos).rglob("*.mp4")):
        frames = Path(folder, path.parent.name, path.stem)
        frames.mkdir(parents=True)
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                frame.to_image().save(frames / f"{number:05d}.jpg", quality=JPEG_QUALITY)


def our_clips(folder: str, *, frames: int, test: bool, **how: Any) -> data.ItemDataset:
    """The videos of a folder, as our stages read them."""
    transform = (
        data.test_transform(size=SIZE, resize=SHORT_SIDE)
        if test
        else data.train_transform(size=SIZE, crop="short_side", short_side=(128, 160))
    )
    clips = {"frames": frames, "stride": STRIDE, "count": TEST_CLIPS if test else None}
    views = data.ClipViews(transform, **{**clips, **how})
    return data.ItemDataset(Folder(path=folder, extensions="videos").records(), views=views)


def our_frames(folder: str, *, frames: int) -> data.ItemDataset:
    """Folders of frames, as our stages read them in testing."""
    transform = data.test_transform(size=SIZE, resize=SHORT_SIDE)
    views = data.ClipViews(transform, frames=frames, stride=STRIDE, count=TEST_CLIPS)
    return data.ItemDataset(FrameFolders(path=folder, fps=RATE).records(), views=views)


def settings_of_ours(videos: str, frames: str) -> dict[str, Callable[[], int]]:
    """Turns that read ten clips of 8 frames, each with another setting."""
    crops = [data.test_transform(size=SIZE, resize=SHORT_SIDE, place=place) for place in (0, 1)]
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "fps": {"fps": RATE / STRIDE, "stride": 1},
        "three_crops": {"also": crops},
        "reader_decord": {"reader": "decord"},
        "reader_torchcodec": {"reader": "torchcodec"},
    }
    turns = {
        name: read_ours(our_clips(videos, frames=8, test=True, **how), test=True, squares=1 + len(how.get("also", ())))
        for name, how in ways.items()
    }
    folders = our_frames(frames, frames=8)
    turns["frame_folders"] = read_ours(folders, test=True)
    return turns | {f"frame_folders_workers_{count}": read_ours(folders, test=True, workers=count) for count in (1, 2)}


def read_ours(dataset: data.ItemDataset, *, test: bool, workers: int = 0, squares: int = 1) -> Callable[[], int]:
    """A turn that reads every video and returns the number of clips, each of so many ``squares``."""
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
        return clips // squares

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


def segments(path: Path, caches: str) -> dict[str, float]:
    """Milliseconds, the median, for a clip of a segment of a long video, its frames listed before or not."""
    os.environ["XDG_CACHE_HOME"] = caches
    took: dict[str, list[float]] = {"unlisted": [], "listed": []}
    with open_video(str(path)) as video:
        starts = np.linspace(0, video.num_frames - 8 * STRIDE, SEGMENTS).astype(int)
    for start in starts.tolist():
        shutil.rmtree(caches, ignore_errors=True)
        for times in took.values():
            begun = time.perf_counter()
            with open_video(str(path)) as video:
                video.get(range(start, start + 8 * STRIDE, STRIDE))
            times.append(time.perf_counter() - begun)
    return {name: 1000 * float(np.median(times)) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--keyint", type=int, default=250, help="frames between keyframes; 250 is x264's default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-videos", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=30, help="of the long video")
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
        write_frames(usual, f"{folder}/frames")
        sides = settings_of_ours(usual, f"{folder}/frames")
        rates |= alternate(sides, rounds=args.rounds, device=torch.device("cpu"), unit="clips")
        used = memory(our_clips(short, frames=8, test=False), args.memory_videos)
        size, length = {"height": LONG_HEIGHT, "width": LONG_WIDTH}, {"frames": 60 * RATE * args.minutes}
        long, other = Path(folder, "long.mp4"), Path(folder, "long.mkv")
        _write_video(long, seed=0, keyint=args.keyint, **size, **length)
        _remux(long, other)
        took = {path.suffix[1:]: segments(path, f"{folder}/caches") for path in (long, other)}
    summarise(rates, list(cases), settings_of=list(sides), memory_mib=used, segment_ms=took, settings=vars(args))


def summarise(rates: dict[str, list[Rates]], cases: list[str], *, settings_of: list[str], **facts: object) -> None:
    """The report: clips per second by the clock."""
    ours = {name: median(rates[f"{name}_ours"]).wall for name in cases}
    ours |= {name: median(rates[name]).wall for name in ("workers_1", "workers_2")}
    peers, ratios = {}, {"two_workers": median_ratio(rates["workers_2"], rates["workers_1"]).wall}
    for name in settings_of:
        ours[name] = median(rates[name]).wall
        ratios[f"{name}_over_plain"] = median_ratio(rates[name], rates["plain"]).wall
    for name in cases:
        for decoder in ("pyav", "decord"):
            peers[f"{name}_{decoder}"] = median(rates[f"{name}_{decoder}"]).wall
            ratios[f"{name}_{decoder}"] = median_ratio(rates[f"{name}_ours"], rates[f"{name}_{decoder}"]).wall
    report(ours=ours, peers=peers, ratios=ratios, **facts)


if __name__ == "__main__":
    main()
