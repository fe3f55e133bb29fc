"""Choosing settings for data that was looked at, and for the machine, by the conventions of the project's recipes."""

import math
from dataclasses import dataclass
from statistics import median

from bsssl import data
from bsssl.errors import UserError
from bsssl.recipes.own.looking import Findings

HOLDOUT = 0.2
"""share of the labels that is held out for the test, where there is no test set"""
_LABELS = 10
"""labels that are kept of each class, where there is nothing without a label"""
_LARGE_GPU = 12
"""GB of memory: a GPU with less gets batches of half the size"""


@dataclass(frozen=True)
class Device:
    """Where the recipe will run."""

    cores: int
    gpu: str | None = None
    gigabytes: float = 0.0
    """memory of the GPU"""

    def __str__(self) -> str:
        """Return the words for it in a sentence."""
        return f"{self.cores} CPU cores" if self.gpu is None else f"one GPU ({self.gpu}, {self.gigabytes:.0f} GB)"


@dataclass(frozen=True)
class Base:
    """A recipe of the project that a config builds on."""

    name: str
    passes: int
    """how often pre-training sees each selected sample"""
    least: int
    most: int
    """samples of pre-training: as many as the recipe has at least, and no more than such a machine does in a while"""
    batch_size: int
    workers: int


_BASES = {
    ("pictures", False): Base("image/pretrained", passes=24, least=60_000, most=240_000, batch_size=64, workers=2),
    ("pictures", True): Base("image/own_folder", passes=50, least=500_000, most=5_000_000, batch_size=128, workers=4),
    ("videos", False): Base("video/pretrained", passes=24, least=60_000, most=120_000, batch_size=32, workers=4),
    ("videos", True): Base("video/own_folder", passes=10, least=100_000, most=1_000_000, batch_size=32, workers=8),
}
"""the recipes, by what the items are and whether there is a GPU"""
_SIZE = 64
"""pixels: side of the largest pictures that a student sees on a CPU"""
_CLIP = (8, 4)
"""frames and stride in the recipes for videos"""


@dataclass(frozen=True)
class Choices:
    """What the config says."""

    base: Base
    labels_per_class: int | None
    """the labels of each class that are kept; None keeps all"""
    pool_size: int
    top_k: int
    top_p: int
    samples: int
    """the length of pre-training"""
    warmup: int
    batch_size: int
    workers: int
    size: int | None
    """side of what the student sees; None where its weights say it"""
    stride: int | None
    """the stride of clips; None for that of the base"""
    max_failure_rate: float | None
    """the share of unreadable items that is allowed; None for the default"""


def choose(findings: Findings, device: Device) -> Choices:
    """Return settings for data and machine.

    Raises:
        UserError: There is nothing that could be the pool.
    """
    base, classes = _BASES[findings.kind, device.gpu is not None], len(findings.train.counts)
    counts = [*findings.train.counts.values()]
    trained = counts if findings.test is not None else [count - data.held_out(count, share=HOLDOUT) for count in counts]
    labels = None if findings.unlabeled else max(1, min(_LABELS, min(trained) // 2))
    pool = findings.unlabeled or sum(trained) - classes * (labels or 0)
    if not pool:
        raise UserError(f"there is no pool; name {findings.kind} without a label by --pool")
    # As the recipes advise: half the pool's items per class.
    top_k = max(1, _rounded(pool / classes / 2))
    samples = _rounded(min(max(base.passes * top_k * classes, base.least), base.most))
    sides = [extent.side for part in findings.parts for extent in part.extents]
    frames = [extent.frames for part in findings.parts for extent in part.extents]
    rate = max(len(part.unreadable) / part.opened for part in findings.parts)
    is_small = device.gpu is not None and device.gigabytes < _LARGE_GPU
    return Choices(
        base=base,
        labels_per_class=labels,
        pool_size=pool,
        top_k=top_k,
        top_p=2 if classes < 400 else 4 if classes < 1000 else 10,  # as own folders, Kinetics and ImageNet have it
        samples=samples,
        warmup=_rounded(samples / 20),
        batch_size=base.batch_size // 2 if is_small else base.batch_size,
        workers=min(base.workers, device.cores),
        size=None if device.gpu is not None or findings.videos else max(8, min(_SIZE, round(median(sides)))),
        stride=_stride(median(frames)) if findings.videos else None,
        max_failure_rate=min(1.0, max(0.05, math.ceil(200 * rate) / 100)) if rate else None,
    )


def _stride(frames: float) -> int | None:
    """Return the stride with which a clip of the base fits into so many frames; None for the base's own."""
    length, stride = _CLIP
    return None if frames >= length * stride else max(1, int(frames // length))


def _rounded(number: float) -> int:
    """Return a number to two digits."""
    return int(float(f"{number:.1e}"))
