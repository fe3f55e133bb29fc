"""Near copies: what of planted ones each method finds, what else it takes for copies, and what it costs.

    python benchmarks/near_duplicates.py planted --pictures photos/ --network resnet18
    python benchmarks/near_duplicates.py between --pictures cifar10/train --test cifar10/test --sheet pairs.png
    python benchmarks/near_duplicates.py search --items 1e6 --width 512
    python benchmarks/near_duplicates.py cost --pictures photos/ --network resnet18

``planted`` makes of some of the pictures copies: re-encoded, of half the size, cropped, mirrored, brighter, blurred.
For each method and distance it prints the share of each sort of copy that is as near to its original, and how many of
all pictures are as near to another one, which is no copy unless the pictures hold some. Methods: ``pHash``, of 256
bits (ImageHash); the same or that of the mirror image, which is what the program compares; ``PDQ`` where ``pdqhash``
is installed; with ``--network`` the cosine of the features of a network of timm, at 128 pixels, with its own weights
or those of ``--weights FILE``.

``between`` counts the test pictures that have a near copy in train, and draws the pairs on a sheet, the nearest first.
``search`` groups random hashes, or features of ``--width``, one in ten of which is a near copy, on ``--cores``.
``cost`` times the parts of scoring, on one core.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from timing import use_cores

from bsssl import data
from bsssl.data.datasets.sources import Folder
from bsssl.data.decoding.pictures import decode_image
from bsssl.data.views.looks import look
from bsssl.engine.near import Features, Looks, Search, import_faiss, sampled

SEEN = 224  # pixels of the short side at most, as a teacher sees them
BITS = (16, 24, 31, 40, 48, 64, 72)
COSINES = (0.98, 0.95, 0.9, 0.85, 0.8)


def encoded(image: Image.Image, quality: int = 92) -> bytes:
    """Return the picture as a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Return the picture without ``share`` of each side, at its former size."""
    width, height = image.size
    left, top = width * share / 2, height * share / 2
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, width - left, height - top))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "cropped 5 %": lambda image: cropped(image, 0.05),
    "cropped 20 %": lambda image: cropped(image, 0.2),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 100)),
}


def copies(image: Image.Image) -> Iterator[bytes]:
    """Yield the picture re-encoded, then each of ``CHANGES``."""
    yield encoded(image, 50)
    yield from (encoded(change(image)) for change in CHANGES.values())


def seen(content: bytes) -> torch.Tensor:
    """Return a picture as a teacher sees it: the centre, at most ``SEEN`` pixels wide and high."""
    pixels = decode_image(content)
    side = min(SEEN, *pixels.shape[1:])
    inputs: torch.Tensor = data.test_transform(size=side, resize=side)(pixels)
    return inputs


def phash(content: bytes) -> bytes:
    """Return the look of a picture."""
    return look([seen(content)])


def pdq(content: bytes) -> bytes:
    """Return PDQ's hash of a picture."""
    import pdqhash

    bits, _ = pdqhash.compute(np.ascontiguousarray(seen(content).movedim(0, -1).numpy()))
    return np.packbits(bits.astype(bool)).tobytes()


class Network:
    """The features of a network, of length 1."""

    def __init__(self, name: str, weights: str | None) -> None:
        import timm

        origin = {"pretrained": True} if weights is None else {"checkpoint_path": weights}
        self._network = timm.create_model(name.removeprefix("timm/"), **origin).eval()
        self._network.reset_classifier(0)
        mean, std = (torch.tensor(self._network.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
        self._mean, self._std = mean, std

    @torch.inference_mode()
    def __call__(self, contents: list[bytes], *, side: int = 128) -> np.ndarray:
        """Return float32 (N, D)."""
        transform, features = data.test_transform(size=side, resize=side), []
        for start in range(0, len(contents), 32):
            pixels = torch.stack([transform(decode_image(one)) for one in contents[start : start + 32]])
            features.append(self._network((pixels / 255 - self._mean) / self._std))
        joined: np.ndarray = torch.nn.functional.normalize(torch.cat(features)).numpy()
        return joined


def bits_between(hashes: np.ndarray, others: np.ndarray, *, mirrored: bool = False) -> np.ndarray:
    """Return how many bits differ, int (N, M)."""
    ones = [np.unpackbits(part, axis=1).astype(np.float32) * 2 - 1 for part in (hashes, others)]
    differ = (256 - ones[0] @ ones[1].T) / 2
    return np.minimum(differ, bits_between(data.mirrored(hashes), others)) if mirrored else differ


def planted(args: argparse.Namespace) -> None:
    """Print recall and false positives."""
    contents = [record.read() for record in islice(iter(Folder(path=args.pictures).records()), None, None, args.every)]
    changed = [[*copies(Image.open(io.BytesIO(content)).convert("RGB"))] for content in contents[: args.planted]]
    methods: dict[str, Callable[[list[bytes]], np.ndarray]] = {}
    hashing = {"pHash": phash, "pHash, mirrored too": phash}
    try:
        import pdqhash  # noqa: F401  # only whether it is there

        hashing["PDQ"] = pdq
    except ImportError:
        print("pdqhash is not installed: without PDQ")
    for name, make in hashing.items():
        methods[name] = lambda all_of, make=make: np.array([np.frombuffer(make(one), np.uint8) for one in all_of])
    if args.network:
        methods["features"] = Network(args.network, args.weights)
    print(f"{len(contents)} pictures, copies of {len(changed)}")
    print("| method | at most | re-encoded |", " | ".join(CHANGES), "| other pictures |")
    for name, make in methods.items():
        is_hash = name != "features"
        between = (lambda one, other: 1 - one @ other.T) if not is_hash else bits_between
        options = {"mirrored": True} if "mirrored" in name else {}
        base = make(contents)
        apart = between(base, base, **options)
        np.fill_diagonal(apart, np.inf)
        nearest = apart.min(axis=1)
        parts = [make([*one]) for one in zip(*changed, strict=True)]
        own = [
            np.array([between(one[None], other[None], **options)[0, 0] for one, other in zip(base, part, strict=False)])
            for part in parts
        ]
        if not is_hash:
            projected(base, parts)
        for limit in BITS if is_hash else [1 - cosine for cosine in COSINES]:
            shown = f"{limit} bits" if is_hash else f"cosine {1 - limit:.2f}"
            shares = " | ".join(f"{100 * (part <= limit + 1e-9).mean():.0f}" for part in own)
            print(f"| {name} | {shown} | {shares} | {(nearest <= limit + 1e-9).sum()} |", flush=True)


def projected(base: np.ndarray, changed: list[np.ndarray]) -> None:
    """Print what the program's search finds of features, at the cosine that it has by default."""
    leaders, known = (Features(base, count=len(base), cosine=0.95) for _ in range(2))
    known.add(base)
    shares = " | ".join(f"{100 * (known.nearest(part).number >= 0).mean():.0f}" for part in changed)
    print(f"| features, as the program does it | cosine 0.95 | {shares} | {(leaders.join(base).number >= 0).sum()} |")


def between(args: argparse.Namespace) -> None:
    """Print how many test pictures have a near copy in train."""
    faiss, sets = import_faiss(), {}
    for name, folder in (("train", args.pictures), ("test", args.test)):
        records = Folder(path=folder).records()
        sets[name] = records, np.array([np.frombuffer(phash(record.read()), np.uint8) for record in records])
    (train, theirs), (test, ours) = sets["train"], sets["test"]
    index = faiss.IndexBinaryFlat(256)
    index.add(theirs)
    distances, numbers = np.full(len(ours), 256), np.zeros(len(ours), np.int64)
    for asked in (ours, data.mirrored(ours)):
        found = index.search(np.ascontiguousarray(asked), 1)
        better = found[0][:, 0] < distances
        distances[better], numbers[better] = found[0][better, 0], found[1][better, 0]
    for limit in BITS:
        print(f"at most {limit} bits: {(distances <= limit).sum()} of {len(test)} test pictures", flush=True)
    if args.sheet:
        order = np.argsort(distances, kind="stable")[: args.pairs]
        sheet = Image.new("RGB", (20 * 72, -(-len(order) // 20) * 40), "white")
        for place, row in enumerate(order.tolist()):
            for side, record in enumerate((test[row], train[int(numbers[row])])):
                image = Image.open(io.BytesIO(record.read())).convert("RGB").resize((32, 32))
                sheet.paste(image, (place % 20 * 72 + 33 * side, place // 20 * 40))
        sheet.save(args.sheet)
        print(f"{args.sheet}: {len(order)} pairs, the last at {distances[order[-1]]} bits")


def search(args: argparse.Namespace) -> None:
    """Print the seconds and the memory of grouping random items, one in ten of which is a near copy of another."""
    items, generator = int(args.items), np.random.default_rng(0)
    made = _features(generator, items, args.width) if args.width else generator.integers(0, 256, (items, 32), np.uint8)
    copied = 1 + 2 * np.sort(generator.choice((items - 1) // 2, items // 10, replace=False))  # none of another copy
    made[copied] = made[copied - 1]
    if args.width:
        made[copied] += generator.normal(0, 0.1 / np.sqrt(args.width), (len(copied), args.width))  # a cosine of 0.995
    else:
        made[copied, 0] ^= 255  # eight bits apart
    before, began, worked = _memory(), time.perf_counter(), time.process_time()
    leaders: Search = Looks()
    if args.width:
        every = max(1, items // sampled(items)) if sampled(items) else 1
        leaders = Features(made[::every], count=items, cosine=0.95)
    near = 0
    for start in range(0, items, 10_000):
        near += int((leaders.join(made[start : start + 10_000]).number >= 0).sum())
    what = f"features of width {args.width}" if args.width else "hashes"
    print(
        f"{items} {what}, {len(copied)} copies, {near} near to another: "
        f"{time.perf_counter() - began:.0f} s, {time.process_time() - worked:.0f} s of CPU time, "
        f"{(_memory() - before) * 1e6 / items:.0f} bytes for each"
    )


def _features(generator: np.random.Generator, items: int, width: int) -> np.ndarray:
    """Return features, float16 (N, W): a tenth as many things, of which each item is one more or less."""
    things = generator.normal(0, 1 / np.sqrt(width), (items // 10, width)).astype(np.float32)
    made = np.empty((items, width), np.float16)
    for start in range(0, items, 100_000):
        rows = generator.integers(0, len(things), min(100_000, items - start))
        made[start : start + len(rows)] = things[rows] + generator.normal(0, 0.6 / np.sqrt(width), (len(rows), width))
    return made


def cost(args: argparse.Namespace) -> None:
    """Print the CPU time of a look beside those of decoding and of the network, for each picture."""
    contents = [record.read() for record in islice(iter(Folder(path=args.pictures).records()), 500)]
    transform = data.test_transform(size=SEEN, resize=256)
    times = {"decoding and resizing to 224": 0.0, "the look of that": 0.0}
    phash(contents[0])  # imports
    for content in contents:
        marks = [time.process_time()]
        inputs = transform(decode_image(content))
        marks.append(time.process_time())
        look([inputs])
        marks.append(time.process_time())
        for name, passed in zip(times, np.diff(marks).tolist(), strict=True):
            times[name] += passed
    if args.network:
        network, began = Network(args.network, args.weights), time.process_time()
        network(contents[:64], side=SEEN)
        times["decoding and the network"] = (time.process_time() - began) * len(contents) / 64
    for name, seconds in times.items():
        print(f"{name}: {1000 * seconds / len(contents):.2f} ms")


def _memory() -> float:
    """Return the most memory that the process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["planted", "between", "search", "cost"])
    parser.add_argument("--pictures", help="a folder of pictures; of `between` those of train")
    parser.add_argument("--every", type=int, default=1, help="take one picture of so many")
    parser.add_argument("--planted", type=int, default=500, help="pictures that are copied")
    parser.add_argument("--network", help="an architecture of timm, for features")
    parser.add_argument("--weights", help="a file with its weights")
    parser.add_argument("--test", help="a folder of test pictures")
    parser.add_argument("--sheet", help="where to draw the nearest pairs")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--items", type=float, default=1e6)
    parser.add_argument("--width", type=int, help="of the features that `search` groups, instead of hashes")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    use_cores(1 if args.part == "cost" else args.cores)  # more than one wait for each other, which counts as work
    {"planted": planted, "between": between, "search": search, "cost": cost}[args.part](args)


if __name__ == "__main__":
    main()
