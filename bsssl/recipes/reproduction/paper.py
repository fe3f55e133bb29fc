"""The tables and figures of the paper (Yalniz et al. 2019, arXiv 1905.00546) as data, and what tests its advice.

Top-1 accuracies in percent, on ImageNet unless said. Points of a figure were read off it, to about 0.1. What came after
the paper has a table too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Top1 = Mapping[str, Mapping[str, np.ndarray]]
"""top-1 per seed, float64 (seeds,), by the label of a point and the name of a figure"""


@dataclass(frozen=True)
class Advice:
    """One of the six recommendations that the paper ends with, and the comparison that tests it."""

    text: str
    compared: str
    """what ``difference`` compares, for the reader of the page"""
    difference: Callable[[Top1], np.ndarray]
    """above 0 where the advice helps: float64 (seeds,)"""
    points: tuple[str, ...] = ()
    """labels of the points that ``difference`` needs"""
    min_points: int = 1
    """how many points ``difference`` needs where ``points`` names none"""


@dataclass(frozen=True)
class Experiment:
    """One table or figure of the paper."""

    title: str
    figures: tuple[str, ...]
    """the columns: names in ``FIGURES``"""
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    """the rows of the paper: a label or, of a figure, a place on its axis, then accuracies; None where there is none"""
    axis: str = ""
    """what varies in a figure; empty for a table"""
    advice: Advice | None = None
    source: str = "the paper"
    """whose rows these are"""


WEAK = "weak pre-training"
FIGURES = {
    "teacher": "teacher",
    "supervised": "student, labels only",
    "pretrained": "pre-trained",
    "finetuned": "fine-tuned",
    "gain": "gain",
    "ceiling": "student, all labels",
    WEAK: WEAK,
}


def _over(worse: str) -> Callable[[Top1], np.ndarray]:
    """Return the difference of fine-tuned to another figure of the same point, averaged over the points."""
    return lambda top1: np.asarray(np.mean([point["finetuned"] - point[worse] for point in top1.values()], axis=0))


def _last_over_first(top1: Top1) -> np.ndarray:
    first, *_, last = top1.values()
    return last["finetuned"] - first["finetuned"]


def _between(better: str, worse: str) -> Callable[[Top1], np.ndarray]:
    return lambda top1: top1[better]["finetuned"] - top1[worse]["finetuned"]


SINCE = "since_2019"
BALANCED, UNBALANCED, RANDOM = "balanced, ranked", "unbalanced, ranked", "balanced, random"
WITHOUT_TAGS, WITH_TAGS = "teacher from labels alone", "teacher pre-trained on hashtags"

EXPERIMENTS: dict[str, Experiment] = {
    "students": Experiment(
        title="Students of several architectures",
        figures=("pretrained", "finetuned", "supervised", "gain"),
        header=("student", "pre-trained", "fine-tuned", "labels only", "gain"),
        rows=(
            ("ResNet-18", 68.7, 72.6, 70.6, 2.0),
            ("ResNet-50", 75.9, 79.1, 76.4, 2.7),
            ("ResNeXt-50 32x4", 76.7, 79.9, 77.6, 2.3),
            ("ResNeXt-101 32x4", 77.5, 80.8, 78.5, 2.3),
            ("ResNeXt-101 32x8", 78.1, 81.2, 79.1, 2.1),
            ("ResNeXt-101 32x16", 78.5, 81.2, 79.6, 1.6),
        ),
        advice=Advice(
            "Fine-tune the student, on true labels only.",
            "fine-tuned over pre-trained, mean over the students",
            _over("pretrained"),
        ),
    ),
    "teachers": Experiment(
        title="Capacity of the teacher",
        figures=("teacher", "finetuned", "gain"),
        header=("teacher", "its top-1", "ResNet-50 student", "gain"),
        rows=(
            ("ResNet-18", 70.6, 75.7, -0.7),
            ("ResNet-50", 76.4, 77.6, 1.2),
            ("ResNeXt-50 32x4", 77.6, 78.2, 1.8),
            ("ResNeXt-101 32x4", 78.5, 78.7, 2.3),
            ("ResNeXt-101 32x8", 79.1, 78.7, 2.3),
            ("ResNeXt-101 32x16", 79.6, 79.1, 2.7),
            ("ResNeXt-101 32x48", 79.8, 79.1, 2.7),
        ),
    ),
    "self_training": Experiment(
        title="Self-training: teacher and student of one architecture",
        figures=("supervised", "finetuned", "gain"),
        header=("teacher and student", "gain"),
        rows=(
            ("ResNet-18", 0.0),
            ("ResNet-50", 1.2),
            ("ResNeXt-50 32x4", 1.3),
            ("ResNeXt-101 32x4", 1.7),
            ("ResNeXt-101 32x8", 2.0),
            ("ResNeXt-101 32x16", 1.8),
        ),
        advice=Advice(
            "Use the teacher/student pipeline, even when both have the same architecture.",
            "fine-tuned student over the same network trained on the labels alone, mean over the architectures",
            _over("supervised"),
        ),
    ),
    "pool_size": Experiment(
        title="Size of the unlabeled pool",
        figures=("finetuned", "supervised"),
        header=("images, millions", "ResNet-50 student"),
        rows=((3.1, 73.8), (6.25, 75.3), (12.5, 76.6), (25, 78.0), (50, 78.5), (100, 79.1)),
        axis="images in the pool",
        advice=Advice(
            "A large unlabeled pool is the key.", "largest pool over smallest", _last_over_first, min_points=2
        ),
    ),
    "samples": Experiment(
        title="Length of the pre-training",
        figures=("finetuned", "supervised"),
        header=("images processed, billions", "ResNet-50 student"),
        rows=((0.1, 74.9), (0.25, 77.7), (0.5, 78.6), (1, 79.1), (2, 79.3), (4, 79.4)),
        axis="images processed in pre-training",
        advice=Advice(
            "Pre-train for many iterations.", "longest pre-training over shortest", _last_over_first, min_points=2
        ),
    ),
    "top_k": Experiment(
        title="K, samples kept per class",
        figures=("finetuned", "supervised"),
        header=("K, thousands", "ResNet-50 student"),
        rows=((1, 77.1), (2, 78.2), (4, 78.8), (8, 79.1), (16, 79.1), (32, 78.7), (64, 78.1)),
        axis="K",
    ),
    "top_p": Experiment(
        title="P, classes kept per sample",
        figures=("finetuned", "supervised"),
        header=("P", "what the paper says"),
        rows=(("any", "matters little"),),
        axis="P",
    ),
    "variants": Experiment(
        title="Ways to select",
        figures=("finetuned", "supervised", "gain"),
        header=("8 million images", "ResNet-50 student", "labels only"),
        rows=((BALANCED, 79.2, 76.4), (UNBALANCED, 78.4, 76.4), (RANDOM, 76.8, 76.4)),
        advice=Advice(
            "Balance the distribution of the inferred labels.",
            "the K best of each class over the best K x classes of all",
            _between(BALANCED, UNBALANCED),
            (BALANCED, UNBALANCED),
        ),
    ),
    "weak": Experiment(
        title="Weak supervision of the teacher",
        figures=("teacher", "finetuned", "gain"),
        header=("student", "semi-supervised", "semi-weakly supervised", "weakly supervised alone"),
        rows=(
            ("ResNet-50", 79.1, "80.9 (81.2 after two billion images)", 78.2),
            ("ResNeXt-101 32x4", 80.8, 83.4, 81.2),
            ("ResNeXt-101 32x8", 81.2, 84.3, 82.7),
            ("ResNeXt-101 32x16", 81.2, 84.8, 84.2),
        ),
        advice=Advice(
            "Pre-train the teacher with weak supervision (hashtags).",
            "student of a teacher with hashtags over that of one without",
            _between(WITH_TAGS, WITHOUT_TAGS),
            (WITH_TAGS, WITHOUT_TAGS),
        ),
    ),
    "videos": Experiment(
        title="Video: depth and length of clips",
        figures=("finetuned", "supervised", WEAK),
        header=("Kinetics, top-1 / top-5", "ours", "labels only", "weak pre-training"),
        rows=(
            ("R(2+1)D-18, 8 frames", "74.2 / 91.3", "64.8 / 84.5", "71.5 / 89.7"),
            ("R(2+1)D-18, 32 frames", "76.7 / 92.3", "69.3 / 87.7", "76.0 / 92.0"),
            ("R(2+1)D-34, 8 frames", "75.9 / 92.0", "67.0 / 85.8", "74.8 / 91.2"),
        ),
    ),
    "rounds": Experiment(
        title="Several rounds, the student of one the teacher of the next",
        figures=("finetuned", "gain"),
        header=("rounds", "what the paper says"),
        rows=(("1", "the only one it reports"),),
    ),
    SINCE: Experiment(
        title="The same pipeline since 2019",
        figures=("teacher", "supervised", "pretrained", "finetuned", "gain", "ceiling"),
        header=("labels and pool, student", "student, labels only", "with the pool"),
        rows=(
            ("paper, 2019: ImageNet and YFCC-100M, ResNet-50", 76.4, 79.1),
            ("Curriculum Labeling (arXiv 2001.06001): CIFAR-10, 4,000 labels, WRN-28-2", None, 94.9),
            ("SimCLRv2 (arXiv 2006.10029): 1 % of ImageNet's labels, ResNet-50", None, 73.9),
            ("SimCLRv2: 10 % of ImageNet's labels, ResNet-50", None, 77.5),
            ("SSLD (arXiv 2103.05959): ImageNet and ImageNet-22k, ResNet-50-vd", 79.1, 83.0),
            ("Beyer et al. (arXiv 2106.05237): ImageNet, consistent teacher, ResNet-50", None, 82.8),
            ("DHO (arXiv 2505.07675): 1 % of ImageNet's labels, CLIP teacher, ViT-B", None, 81.6),
        ),
        source="published",
    ),
}
