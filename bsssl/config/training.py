"""The trainings: what they have in common, and the paper's settings of each."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Annotated, Self  # noqa: UP035 - with the rest of pydantic's

from bsssl.config.data import Source
from bsssl.config.section import Length, LengthField, Section, known_to, without
from bsssl.errors import UserError, choices
from bsssl.registry import LOSSES, OPTIMIZERS, SCHEDULES, Registry

TRAIN_STAGES = ("weak", "teacher", "pretrain", "finetune", "baseline", "ceiling")  # in the order of the recipe
REFERENCE_BATCH = 256
"""Learning rates are given per so many samples (Goyal et al. 2017, and the paper's settings)."""

LossName = Annotated[str, known_to(LOSSES)]
OptimizerName = Annotated[str, known_to(OPTIMIZERS)]
ScheduleName = Annotated[str, known_to(SCHEDULES)]
Part = Literal["loss", "optimizer", "schedule"]
_PARTS: dict[Part, Registry] = {"loss": LOSSES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
_KEYS: dict[Part, dict[str, tuple[str, ...]]] = {
    "loss": {"cross_entropy": ("label_smoothing", "gce", "elr", "elr_beta", "logit_adjustment")},
    "optimizer": {"sgd": ("momentum", "nesterov"), "adamw": ("momentum",)},
    "schedule": {"step": ("gamma", "intervals"), "cosine": (), "constant": ()},
}
"""The parts of the project, and which keys of the section are their options."""


class Train(Section):
    """One training stage. Rates are per 256 samples of batch: the full rate is base_lr * batch_size / 256."""

    length: LengthField
    """how long to train; 0 epochs takes the initial weights as they are"""
    batch_size: int = Field(1536, ge=1, le=1_000_000)
    """samples per optimiser step over all processes (paper: 64 GPUs x 24)"""
    accumulate: int = Field(1, ge=1, le=1_000_000)
    """split each process's share of a batch into so many passes, to save memory"""
    init_from: str | None = None
    """a stage of this run, or a checkpoint file; its classifier is replaced when the classes differ"""
    freeze: list[str] = []
    """parts of the network that do not train, by the names of their modules, such as [conv1, bn1, layer1] or
    [patch_embed, blocks.0]: their weights and statistics stay as they are, their dropout is off"""
    optimizer: OptimizerName = "sgd"
    """sgd (with momentum) or adamw; any of OPTIMIZERS"""
    optimizer_options: dict[str, Any] = {}
    """options of an optimizer of a plugin"""
    base_lr: float = Field(gt=0)
    """learning rate per 256 samples"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD's momentum, AdamW's first beta"""
    nesterov: bool = False
    """Nesterov's form of SGD's momentum"""
    weight_decay: float = Field(1e-4, ge=0)
    """of every parameter, norms and biases included unless `decay_norms` is false"""
    decay_norms: bool = True
    """false: no weight decay on norms and biases (He et al. 2019, arXiv 1812.01187), nor on what else a network of timm
    exempts, such as the embeddings of positions"""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """for fine-tuning, such as 0.75: factor from the rate of each layer to that of the layer before it, the last one's
    being the full rate (Clark et al. 2020, arXiv 2003.10555; Bao et al. 2022, arXiv 2106.08254). Layers are timm's own
    for its networks, else the blocks in their order"""
    schedule: ScheduleName = "step"
    """of the rate: step (drops by `gamma` after each of `intervals`), cosine (to zero) or constant; any of SCHEDULES"""
    schedule_options: dict[str, Any] = {}
    """options of a schedule of a plugin"""
    gamma: float = Field(0.1, gt=0, le=1)
    """step: factor of each drop"""
    intervals: int = Field(4, ge=1)
    """step: number of equal intervals, one more than there are drops"""
    warmup: LengthField = Length(amount=0, unit="epochs")
    """linear warm-up to the full rate"""
    warmup_from: float | None = Field(None, ge=0)
    """rate that warm-up starts at (not scaled with the batch); default: base_lr, as in the paper"""
    clip_norm: float | None = Field(None, gt=0)
    """clip the gradient's norm"""
    randaugment: int | None = Field(None, ge=0, le=30)
    """magnitude of RandAugment (two operations per image), after data.transforms; off when not given"""
    loss: LossName = "cross_entropy"
    """cross_entropy, with `label_smoothing`, `gce`, `elr` and `logit_adjustment`; symmetric_kl, half the sum of both KL
    divergences, for soft targets (Cui et al. 2021, arXiv 2103.05959); any of LOSSES"""
    loss_options: dict[str, Any] = {}
    """options of symmetric_kl or of a loss of a plugin"""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """share of each target that is spread over all classes"""
    mixup: float = Field(0.0, ge=0)
    """alpha of mixup; 0 is off"""
    cutmix: float = Field(0.0, ge=0)
    """alpha of CutMix; 0 is off. With mixup too, each batch takes one of the two"""
    gce: float = Field(0.0, ge=0, le=1)
    """q of generalised cross-entropy, for noisy targets (Zhang and Sabuncu 2018, arXiv 1805.07836: 0.7): 0 is plain
    cross-entropy, 1 the absolute error"""
    elr: float = Field(0.0, ge=0)
    """weight of early-learning regularisation, for noisy targets (Liu et al. 2020, arXiv 2007.00151: 3); 0 is off. It
    remembers a prediction per row of the training set: 4 bytes x rows x classes of memory and of every checkpoint"""
    elr_beta: float = Field(0.7, ge=0, lt=1)
    """elr: share that stays of the remembered prediction when its row comes again"""
    logit_adjustment: float = Field(0.0, ge=0)
    """tau of logit adjustment, for long-tailed labels (Menon et al. 2021, arXiv 2007.07314: 1); 0 is off. In the loss,
    tau x the logarithm of each class's share of the stage's targets is added to its logit"""
    average_decay: float | None = Field(None, gt=0, lt=1)
    """keep an exponential moving average of the weights with this decay, and use it as the result"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.batch_size % self.accumulate:
            problems.append(f"accumulate ({self.accumulate}) must divide batch_size ({self.batch_size})")
        if self.nesterov and not self.momentum:
            problems.append("nesterov needs momentum; set it above 0")
        if self.elr and (self.mixup or self.cutmix):
            problems.append("elr remembers a prediction per sample, which mixup and cutmix blend; set it or these to 0")
        warmup, length = self.warmup, self.length
        if warmup.unit != length.unit and "epochs" not in (warmup.unit, length.unit):
            warmup, length = (part.in_samples(self.batch_size) for part in (warmup, length))
        if warmup.unit == length.unit and warmup.amount > length.amount > 0:
            problems.append(f"warmup ({self.warmup}) is longer than length ({self.length}); shorten it")
        problems += [problem for part in _KEYS for problem in self._misplaced(part)]
        return without(problems, self)

    def _misplaced(self, part: Part) -> list[str]:
        """Return what is wrong with where the options of a part are given."""
        name, options, parts = getattr(self, part), getattr(self, f"{part}_options"), _KEYS[part]
        if name in parts:
            listed = ", ".join(parts[name]) or "it has none"
            return [f"{part}_options: options of {name} are keys beside it ({listed}); move them"] if options else []
        fields = type(self).model_fields
        others = dict.fromkeys(key for keys in parts.values() for key in keys)
        return [
            f"{key} is no option of {part} '{name}'; take it out, and give options of {name} as {part}_options"
            for key in others
            if getattr(self, key) != fields[key].default
        ]

    @property
    def untested(self) -> str | None:
        """Why the network has nothing to be tested on; None where it has the classes of the test set."""
        return None

    def options_of(self, part: Part) -> dict[str, Any]:
        """Return the options of the loss, the optimiser or the schedule, wherever they are given."""
        keys = _KEYS[part].get(getattr(self, part), ())
        options: dict[str, Any] = getattr(self, f"{part}_options")
        return {key: getattr(self, key) for key in keys} | options

    def check_parts(self, section: str) -> None:
        """Refuse options that the loss, the optimiser and the schedule, which are imported, do not have.

        Raises:
            UserError: An option is unknown or missing; the message begins with ``section``.
        """
        for part, registry in _PARTS.items():
            try:
                registry.check(getattr(self, part), self.options_of(part))
            except UserError as error:
                raise UserError(f"{section}.{part}: {error}") from None

    @property
    def full_lr(self) -> float:
        """The learning rate after warm-up, before the schedule lowers it."""
        return self.base_lr * self.batch_size / REFERENCE_BATCH


class Supervised(Train):
    """Training on labels from scratch: teacher, baseline, ceiling. The paper does not give these; ours are the usual
    ones for ImageNet: 90 epochs, three drops, five epochs of warm-up."""

    length: LengthField = Length(amount=90, unit="epochs")
    base_lr: float = Field(0.1, gt=0)
    warmup: LengthField = Length(amount=5, unit="epochs")


class FcOnly(Section):
    """Multinomial logistic regression on the standardised inputs of a fixed network's classifier. The paper, which has
    it in its transfer alone, does not say how it regularises; here C is chosen on a part of the labels, then all of
    them are used."""

    c_values: list[float] = Field([1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 10, 100], min_length=1)
    """inverse strengths of regularisation to choose from, as scikit-learn's C (times the sum of the losses, against
    half the squared norm of the weights)"""
    holdout: float = Field(0.2, gt=0, lt=1)
    """share of the labels of each class that chooses C"""
    max_iterations: int = Field(2000, ge=1)
    """of L-BFGS, for each value of C"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rising = all(low < high for low, high in itertools.pairwise([0.0, *self.c_values]))
        return without([] if rising else [f"c_values {self.c_values} must be above 0 and rise"], self)


class ZeroShot(Section):
    """A classifier made of the names of the classes, by a network that was trained on pictures and texts (Radford et
    al. 2021, arXiv 2103.00020). Labels, where there are some, set its temperature alone (Guo et al. 2017, arXiv
    1706.04599), so that its scores are as sure as they are right; without them it is the network's own."""

    templates: list[str] = Field(
        [
            "a photo of a {}.",
            "a photo of the {}.",
            "a bad photo of a {}.",
            "a close-up photo of a {}.",
            "a cropped photo of a {}.",
            "a photo of the large {}.",
            "a photo of the small {}.",
        ],
        min_length=1,
    )
    """prompts, whose embeddings are averaged; {} stands for the class"""
    names: dict[str, str] = {}
    """class -> what prompts call it, such as {n02119789: kit fox}; default: the name of the class, with blanks for _
    and -"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [
            f"templates: '{template}' has no {{}}, which stands for the class; add it"
            for template in self.templates
            if "{}" not in template
        ]
        return without(problems, self)

    def called(self, classes: Sequence[str]) -> list[str]:
        """Return what prompts call each of the ``classes``.

        Raises:
            UserError: Another class is given a name, or prompts would call a class nothing, or two classes the same.
        """
        for name in self.names:
            if name not in classes:
                raise UserError(f"teacher.zeroshot.names: there is no class '{name}': {choices(name, classes)}")
        called = [self.names.get(name, re.sub("[_-]+", " ", name)).strip() for name in classes]
        for number, one in enumerate(called):
            if not one:
                raise UserError(
                    f"teacher.zeroshot.names: prompts have no name for class '{classes[number]}'; give it one"
                )
            if (first := called.index(one)) < number:
                raise UserError(
                    f"teacher.zeroshot.names: prompts call classes '{classes[first]}' and '{classes[number]}' both "
                    f"'{one}'; give one of them another name"
                )
        return called


class Teacher(Supervised):
    """Training of the teacher on the labels."""

    mode: Literal["scratch", "finetune", "probe", "zeroshot"] | None = None
    """scratch: from random weights; finetune: all of the network, from pre-trained weights; probe: pre-trained features
    stay as they are, and logistic regression on them is the classifier; zeroshot: the names of the classes are the
    classifier, by a network of open_clip; default: whichever of the first two the network is given weights for"""
    probe: FcOnly = FcOnly()
    """settings of mode: probe; those of the training play no part then"""
    zeroshot: ZeroShot = ZeroShot()
    """settings of mode: zeroshot, likewise"""


class Tags(Section):
    """Which classes hashtags mean. They are compared without regard to case, `#`, blanks, `_`, `-` and `.`; accents
    count."""

    file: str | None = None
    """tags by sample (CSV, JSONL or Parquet; columns `key` and `tags`, in CSV joined by ;), instead of the sources'
    own; held in memory"""
    classes: Literal["tags", "targets"] = "tags"
    """tags: a label space of their own; targets: the classes of data.train, and the result is evaluated"""
    map: dict[str, str] | str | None = None
    """tag -> class, inline or a file (YAML, or CSV, JSONL, Parquet with columns `tag` and `class`); other tags are left
    out, but for those that are a target's name. Default: with `tags` every tag is a class, with `targets` the names"""
    spelling: dict[str, str] | str = {}
    """plural and spelling variants: variant -> tag, inline or a file (as `map`, columns `tag` and `spelling`); applied
    once, before `map`"""
    min_samples: int = Field(10, ge=0)
    """classes with fewer samples are left out and listed with `tags`, refused with `targets`; 0 tolerates targets
    without samples"""


class WeakTraining(Train):
    """Training on samples with hashtags. The paper does not give the settings; the defaults are those of the student's
    pre-training."""

    resample: float = Field(0.5, ge=0, le=1)
    """samples are drawn in proportion to 1 / frequency of their rarest class to this power: 0.5 is the square root
    (Mahajan et al. 2018), 0 draws all alike, 1 evens the classes out"""
    length: LengthField = Length(amount=1e9, unit="samples")
    base_lr: float = Field(0.1, gt=0)
    gamma: float = Field(0.5, gt=0, le=1)
    intervals: int = Field(13, ge=1)
    warmup: LengthField = Length(amount=5e6, unit="samples")


class Weak(WeakTraining):
    """Pre-training of the teacher's network on samples with hashtags."""

    sources: list[Source] = Field(min_length=1)
    """samples with tags: manifests with a column `tags`, tars with `tags` in their .json, or any with `tags.file`"""
    tags: Tags = Tags()

    @property
    def untested(self) -> str | None:
        """Why the network has nothing to be tested on; None where it has the classes of the test set."""
        if self.tags.classes == "targets":
            return None
        return "weak has classes of its own, which data.test has not; set weak.tags.classes=targets"


class Pretrain(Train):
    """Student pre-training on the selection. Defaults: the paper's (1 billion samples, 13 halvings)."""

    length: LengthField = Length(amount=1e9, unit="samples")
    base_lr: float = Field(0.1, gt=0)
    gamma: float = Field(0.5, gt=0, le=1)
    intervals: int = Field(13, ge=1)
    warmup: LengthField = Length(amount=5e6, unit="samples")
    targets: Literal["per_pair", "multi", "soft", "live"] = "per_pair"
    """what a sample with several classes contributes (open in the paper): one example per (sample, class) pair; one
    example whose target spreads evenly over its classes; the teacher's scores for its P classes as the target; or live,
    what the teacher says of the very crop that the student sees, be it mixed (Beyer et al. 2022, arXiv 2106.05237)"""
    temperature: float = Field(1.0, gt=0)
    """soft, live: scores (live: those of each teacher) are raised to 1 / temperature and renormalised"""
    soft_views: int | None = Field(None, ge=1)
    """soft: so many random views of each sample are all that the student sees, one an epoch, and the teacher's P scores
    of each view, computed beforehand, are the targets, in the place of those of the whole picture (Shen and Xing 2021,
    arXiv 2112.01528; Wu et al. 2022, arXiv 2207.10666). 8 x P bytes a view on disk"""
    with_labels: bool = False
    """the labeled items are a part of the training set too (Cui et al. 2021, arXiv 2103.05959)"""

    @model_validator(mode="after")
    def _views_are_soft(self) -> Self:
        alone = self.soft_views is not None and self.targets != "soft"
        return without(["soft_views needs targets: soft; set it, or leave soft_views out"] if alone else [], self)


class Finetune(Train):
    """Student fine-tuning on the true labels. Defaults: the paper's (30 epochs, three drops)."""

    length: LengthField = Length(amount=30, unit="epochs")
    base_lr: float = Field(0.00025, gt=0)
    init_from: str | None = "pretrain"
    targets: Literal["labels", "live"] = "labels"
    """the labels; or live, what the teacher says of the very crop that the student sees"""
    temperature: float = Field(1.0, gt=0)
    """live: the scores of each teacher are raised to 1 / temperature and renormalised"""


def check_warmup(section: str, settings: Train, *, steps: int, warmup_steps: int) -> None:
    """Refuse a warm-up of the stage set by ``section`` that is longer than the stage, both in optimiser steps.

    Raises:
        UserError: It is longer.
    """
    if warmup_steps > steps > 0:
        raise UserError(
            f"{section}.warmup ({settings.warmup}, {warmup_steps} steps) is longer than {section}.length "
            f"({settings.length}, {steps} steps); shorten it"
        )
