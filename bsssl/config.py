"""The whole configuration: every key with its type, its bounds, its default and what it means.

A config is a YAML file, on top of the files it names with ``_BASE_``, with ``key.sub=value`` overrides on top of that.
Everything that is wrong with it is reported at once, each line with the key's path and what is valid there.
``bsssl options`` prints this page as a table.
"""

import io
import itertools
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, TypeVar, get_args

import yaml
from fvcore.common.config import CfgNode
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator
from pydantic.functional_validators import BeforeValidator
from typing_extensions import Annotated, Self  # noqa: UP035 - typing has Self from Python 3.11 on

from bsssl.registry import UserError

Purpose = Literal["train", "score", "test"]
TRAIN_STAGES = ("weak", "teacher", "pretrain", "finetune", "baseline", "ceiling")  # in the order of the recipe


class Length(BaseModel):
    """How long something lasts, in one unit; written ``30 epochs``, ``5000 steps`` or ``1_000_000_000 samples``."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    amount: float = Field(ge=0)
    unit: Literal["samples", "steps", "epochs"]

    def steps(self, *, batch_size: int, rows: int) -> int:
        """The same length in optimiser steps, rounded to the nearest; at least 1 unless the length is 0."""
        if self.amount == 0:
            return 0
        per_unit = {"samples": 1 / batch_size, "steps": 1.0, "epochs": rows / batch_size}[self.unit]
        return max(1, round(self.amount * per_unit))

    def in_samples(self, batch_size: int) -> "Length":
        """A length in samples or steps as samples."""
        return Length(amount=self.amount * (batch_size if self.unit == "steps" else 1), unit="samples")

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}" if self.amount != int(self.amount) else f"{int(self.amount)} {self.unit}"


def _parse_length(value: Any) -> Any:
    if isinstance(value, Length):
        return value
    match = re.fullmatch(r"\s*([\d_]*\.?\d+(?:e\d+)?)\s*(samples?|steps?|epochs?)\s*", str(value))
    if not match:
        raise ValueError(f"'{value}' is not a length; write for example '30 epochs', '5000 steps' or '1e9 samples'")
    return Length(amount=float(match[1].replace("_", "")), unit=match[2].rstrip("s") + "s")


LengthField = Annotated[Length, BeforeValidator(_parse_length), PlainSerializer(str)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


S = TypeVar("S", bound=Section)


def _without(problems: list[str], section: S) -> S:
    """``section``, a validator's answer, unless there are problems: each becomes a line of the error."""
    if problems:
        raise ValueError("\n".join(problems))
    return section


class Source(Section):
    """Where images or videos come from."""

    dataset: str
    """folder, manifest, tars, cub, digits, of videos kinetics, ucf101, hmdb51, moving_digits; any of DATASETS"""
    path: str
    """folder, manifest file, tar (a glob or a {000..099} range names many), or a URL of any of these"""
    options: dict[str, Any] = {}
    """further arguments of the dataset"""


class Transforms(Section):
    """How a decoded image, or every frame of a clip alike, becomes the network's input. The paper leaves augmentation
    open; these are our defaults."""

    size: int = Field(224, ge=1)
    """side of the square input, pixels"""
    test_resize: int | None = Field(None, ge=1)
    """short side before the centre crop when scoring and testing, pixels; default: size / 0.875 with
    random_resized and short_side, else the whole picture becomes the square"""
    train_crop: Literal["random_resized", "short_side", "padded", "affine", "none"] = "random_resized"
    """random_resized for photographs; short_side (resized to a short side within `short_side`, then a random square)
    is the usual one for video; padded (shift by up to `padding`) for small ones; affine (turn, shear, shift and
    scale a little) for signs and digits; none"""
    min_scale: float = Field(0.08, gt=0, le=1)
    """smallest share of the picture that random_resized keeps"""
    short_side: tuple[int, int] | None = None
    """least and greatest short side of train_crop: short_side, pixels; default: 8/7 and 10/7 of size"""
    padding: int = Field(4, ge=1)
    """how far `padded` shifts, pixels"""
    flip: bool = True
    """mirror half of the training images"""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """per channel, of pixel values in 0..1"""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """per channel, of pixel values in 0..1"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.test_resize is not None and self.test_resize < self.size:
            problems.append(f"test_resize ({self.test_resize}) is below size ({self.size}); the crop would not fit")
        if self.train_crop == "padded" and self.padding >= self.size:
            problems.append(f"padding ({self.padding}) must be below size ({self.size})")
        if self.short_side is not None and not self.size <= self.short_side[0] <= self.short_side[1]:
            problems.append(f"short_side {list(self.short_side)} must rise and start at size ({self.size}) or above")
        if min(self.std) <= 0:
            problems.append(f"std {self.std} must be above 0")
        return _without(problems, self)

    def for_testing(self) -> dict[str, Any]:
        """What decides how a picture is seen when scoring and testing, with the resize that follows from the rest."""
        resize = self.test_resize
        if resize is None and self.train_crop in ("random_resized", "short_side"):
            resize = round(self.size / 0.875)
        return {"size": self.size, "resize": resize, "mean": self.mean, "std": self.std}


class Clips(Section):
    """How a video becomes clips. Frames are counted, not timed: a clip is the same frames in every tool."""

    frames: int = Field(8, ge=1)
    """frames of a clip (the paper: 8 and 32)"""
    stride: int = Field(2, ge=1)
    """from one frame of a clip to the next, in frames of the video"""
    stride_jitter: int = Field(0, ge=0)
    """training: the stride varies at random by up to so much"""
    test_clips: int = Field(10, ge=1)
    """clips per video in testing, evenly spread; their softmax scores are averaged"""
    score_clips: int = Field(1, ge=1)
    """clips per video in scoring the pool, likewise"""
    reader: Literal["av", "decord", "torchcodec"] = "av"
    """what reads the videos"""
    deadline: float = Field(60.0, gt=0)
    """a video that takes longer to read counts as unreadable, seconds"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.stride_jitter >= self.stride:
            problems.append(f"stride_jitter ({self.stride_jitter}) must be below stride ({self.stride})")
        return _without(problems, self)


class LabeledData(Section):
    """Labels and test set, and how items are seen."""

    train: Source
    """labeled items: their classes are the classes"""
    test: Source
    """held-out labeled items, used for evaluation alone"""
    num_classes: int | None = Field(None, ge=2)
    """how many classes there are; checked against the data, and lets --plan work before the data is there"""
    labels_per_class: int | None = Field(None, ge=1)
    """keep only so many labels of each class of `train`, chosen by the seed; all when not given"""
    imbalance: float = Field(1.0, ge=1)
    """with labels_per_class, to try out long tails: labels kept of the first class over those of the last (by name);
    they fall geometrically from labels_per_class, rounded, to 1 at least (Cui et al. 2019, arXiv 1901.05555)"""
    max_failure_rate: float = Field(0.01, ge=0, le=1)
    """share of unreadable items that is tolerated when training and scoring; they are listed in either case"""
    max_missing_rate: float = Field(0.0, ge=0, le=1)
    """share of unreadable test items that is tolerated; they are listed, and count as wrong"""
    max_pixels: int = Field(178_956_970, ge=1)
    """larger pictures, and videos of such, are refused undecoded (decompression bombs)"""
    transforms: Transforms = Transforms()
    clips: Clips | None = None
    """when given, the items are videos"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        lost = self.imbalance > 1 and not self.labels_per_class
        return _without(["imbalance needs labels_per_class; set it, or leave imbalance out"] if lost else [], self)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input of a network: channels, frames of a clip, height, width."""
        side = self.transforms.size
        return (3, side, side) if self.clips is None else (3, self.clips.frames, side, side)

    def clips_for(self, purpose: Purpose) -> dict[str, Any] | None:
        """How clips are cut for training, scoring or testing; None for images."""
        if self.clips is None:
            return None
        common = self.clips.model_dump(include={"frames", "stride", "reader", "deadline"})
        count = {"train": None, "score": self.clips.score_clips, "test": self.clips.test_clips}[purpose]
        return {**common, "count": count, "stride_jitter": self.clips.stride_jitter if purpose == "train" else 0}

    def preprocessing(self, purpose: Purpose) -> dict[str, Any]:
        """What decides how items are seen in training, scoring or testing."""
        transforms = self.transforms.model_dump() if purpose == "train" else self.transforms.for_testing()
        seen = {"transforms": transforms, "max_pixels": self.max_pixels}
        clips = self.clips_for(purpose)
        return seen if clips is None else {**seen, "clips": {**clips, "deadline": None}}  # decides nothing

    def sources(self) -> list[Source]:
        """All that is read."""
        return [self.train, self.test]


class Data(LabeledData):
    """Labels, pool and test set."""

    pool: list[Source] = []
    """unlabeled items; labels that are there are never read by training or selection"""
    rest_in_pool: bool = True
    """with labels_per_class: the items whose labels were dropped join the pool"""
    pool_overlap: Literal["refuse", "exclude", "allow"] = "refuse"
    """what to do when the pool holds a labeled or a test item: the same path (of videos: parts that overlap in time) or
    the same content (a copy of a video under another name is known only if it has the same segment, or none)"""
    pool_fraction: float = Field(1.0, gt=0, le=1)
    """share of the pool that is used, chosen by the seed; a larger share holds all items of a smaller one"""
    shard_size: int = Field(10_000, ge=1)
    """items per pool shard, for folders and manifests; a tar is always one shard"""

    def sources(self) -> list[Source]:
        """All that is read."""
        return [*super().sources(), *self.pool]


D = TypeVar("D", bound=LabeledData)


class Model(Section):
    """A network."""

    name: str
    """a name registered in MODELS, or timm/<any timm name>; for video torchvision/<name>, pytorchvideo/<name> too"""
    options: dict[str, Any] = {}
    """further arguments of the model, e.g. width"""
    weights: str | None = None
    """released weights to start from, by name (see `bsssl.models.released`); a stage's init_from comes first"""
    frames: int | None = Field(None, ge=1)
    """frames of the clips that this network sees, instead of data.clips.frames"""

    def view_of(self, data: D) -> D:
        """``data`` as this network sees it."""
        if self.frames is None or data.clips is None:
            return data
        return data.model_copy(update={"clips": data.clips.model_copy(update={"frames": self.frames})})


class Models(Section):
    """The two networks of the recipe."""

    teacher: Model
    student: Model


class Train(Section):
    """One training stage. Rates are per 256 samples of batch: the rate used is base_lr * batch_size / 256."""

    length: LengthField
    """how long to train; 0 epochs takes the initial weights as they are"""
    batch_size: int = Field(1536, ge=1)
    """samples per optimiser step over all processes (paper: 64 GPUs x 24)"""
    accumulate: int = Field(1, ge=1)
    """split each process's share of a batch into so many passes, to save memory"""
    init_from: str | None = None
    """a stage of this run, or a checkpoint file; its classifier is replaced when the classes differ"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw"""
    base_lr: float = Field(gt=0)
    """learning rate per 256 samples"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD's momentum, AdamW's first beta"""
    nesterov: bool = False
    """Nesterov's form of SGD's momentum"""
    weight_decay: float = Field(1e-4, ge=0)
    """of every parameter"""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """of the rate: step (drops by `gamma` after each of `intervals`), cosine (to zero) or constant"""
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
        return _without(problems, self)


class Supervised(Train):
    """Training on labels from scratch: teacher, baseline, ceiling. The paper does not give these; ours are the usual
    ones for ImageNet: 90 epochs, three drops, five epochs of warm-up."""

    length: LengthField = Length(amount=90, unit="epochs")
    base_lr: float = Field(0.1, gt=0)
    warmup: LengthField = Length(amount=5, unit="epochs")


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


class Weak(Train):
    """Pre-training of the teacher's network on samples with hashtags. The paper does not give the settings; the
    defaults are those of the student's pre-training."""

    sources: list[Source] = Field(min_length=1)
    """samples with tags: manifests with a column `tags`, tars with `tags` in their .json, or any with `tags.file`"""
    tags: Tags = Tags()
    resample: float = Field(0.5, ge=0, le=1)
    """samples are drawn in proportion to 1 / frequency of their rarest class to this power: 0.5 is the square root
    (Mahajan et al. 2018), 0 draws all alike, 1 evens the classes out"""
    length: LengthField = Length(amount=1e9, unit="samples")
    base_lr: float = Field(0.1, gt=0)
    gamma: float = Field(0.5, gt=0, le=1)
    intervals: int = Field(13, ge=1)
    warmup: LengthField = Length(amount=5e6, unit="samples")

    @property
    def is_tested(self) -> bool:
        """Whether the network has the classes of the test set."""
        return self.tags.classes == "targets"


class Pretrain(Train):
    """Student pre-training on the selection. Defaults: the paper's (1 billion samples, 13 halvings)."""

    length: LengthField = Length(amount=1e9, unit="samples")
    base_lr: float = Field(0.1, gt=0)
    gamma: float = Field(0.5, gt=0, le=1)
    intervals: int = Field(13, ge=1)
    warmup: LengthField = Length(amount=5e6, unit="samples")
    targets: Literal["per_pair", "multi", "soft"] = "per_pair"
    """what a sample with several classes contributes (open in the paper): one example per (sample, class) pair; one
    example whose target spreads evenly over its classes; or the teacher's scores for its P classes as the target"""
    temperature: float = Field(1.0, gt=0)
    """soft: scores are raised to 1 / temperature and renormalised"""


class Finetune(Train):
    """Student fine-tuning on the true labels. Defaults: the paper's (30 epochs, three drops)."""

    length: LengthField = Length(amount=30, unit="epochs")
    base_lr: float = Field(0.00025, gt=0)
    init_from: str | None = "pretrain"


class Score(Section):
    """Running the teacher over the pool."""

    top_p: int = Field(10, ge=1)
    """P: classes kept per sample"""
    batch_size: int = Field(256, ge=1)
    """samples per forward pass and process, of videos clips; at least those of one video"""


class Select(Section):
    """Choosing what the student is pre-trained on."""

    top_k: int = Field(16_000, ge=1)
    """K: samples kept per class"""
    variant: Literal["balanced", "unbalanced", "random"] = "balanced"
    """balanced: the best K of each class; unbalanced: the best K x classes over all classes; random: any K of those
    that kept the class (the paper's comparisons)"""
    min_score: float = Field(0.0, ge=0, le=1)
    """for pools with samples of no class: the least score with which a sample is selected for a class; 0 is off. (A
    threshold on the energy would need all logits, and score files hold the softmax scores of P classes alone.)"""
    grow: bool = False
    """K grows from round to round: round r of R takes K r / R, rounded down, 1 at least (the curriculum of
    Cascante-Bonilla et al. 2020, arXiv 2001.06001)"""

    def top_k_of(self, number: int, *, rounds: int) -> int:
        """K of round ``number``, from 1 on."""
        return max(1, self.top_k * number // rounds) if self.grow else self.top_k


class Materialise(Section):
    """Copying the selected samples into shuffled tars, for a student that reads them from one end to the other."""

    samples_per_tar: int = Field(10_000, ge=1)
    """samples of each tar; one is read from end to end before the next"""


class System(Section):
    """How to compute. Of these, only `precision` counts as a change of the recipe."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one"""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the forward and backward pass (autocast)"""
    channels_last: bool = True
    """memory format of images: faster on recent GPUs and on CPUs (benchmarks/README.md)"""
    compile: bool = False
    """compile the network with torch.compile"""
    threads: int | None = Field(None, ge=1)
    """CPU threads per process; default: torch's own choice, on a CPU less those that the workers need. 1 is fastest for
    tiny networks and on busy machines"""
    workers: int = Field(2, ge=0)
    """data-loading processes per process"""
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    """how data-loading processes start; default: the platform's"""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """time between resumable checkpoints"""
    checkpoint_steps: int | None = Field(None, ge=1)
    """also save every so many optimiser steps"""


class StageResources(Section):
    """Where the jobs of one kind of stage differ from the rest of `launcher`."""

    gpus_per_node: int | None = Field(None, ge=0)
    """GPUs of each node"""
    cpus_per_node: int | None = Field(None, ge=1)
    """CPU cores of each node"""
    memory_gb: float | None = Field(None, gt=0)
    """memory of each node, GB"""
    minutes: int | None = Field(None, ge=1)
    """time limit"""
    partition: str | None = None
    """queue"""


class Launcher(Section):
    """Who starts the processes of a command given `--launch`. None of this changes a result."""

    kind: Literal["local", "slurm"] = "local"
    """local: processes on this machine, one stage after the other; slurm: a chain of jobs"""
    nodes: int = Field(1, ge=1)
    """of a training; other stages take one each"""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each node; a task of scoring and an evaluation take one"""
    processes_per_node: int | None = Field(None, ge=1)
    """of a training; default: one for each GPU, or one"""
    cpus_per_node: int | None = Field(None, ge=1)
    """CPU cores of each node, shared by its processes; default: the cluster's"""
    memory_gb: float | None = Field(None, gt=0)
    """memory of each node, GB; default: the cluster's"""
    minutes: int = Field(1440, ge=1)
    """time limit of a job; one that reaches it is queued again and goes on where it was"""
    array_tasks: int = Field(1, ge=1)
    """jobs that share the work of scoring, and of materialising; may change from one submission to the next"""
    array_parallelism: int = Field(256, ge=1)
    """how many of these run at once"""
    partition: str | None = None
    """queue; default: the cluster's"""
    account: str | None = None
    """whom the hours are charged to"""
    qos: str | None = None
    """quality of service"""
    constraint: str | None = None
    """features that the nodes must have"""
    sbatch: dict[str, Any] = {}
    """further arguments of sbatch, e.g. {exclude: n7, exclusive: true}"""
    setup: list[str] = []
    """lines of shell before a job's processes start"""
    stages: dict[
        Literal["data", "tags", "train", "score", "select", "materialise", "probe", "evaluate", "report"],
        StageResources,
    ] = {}
    """what jobs of one kind of stage have instead, e.g. {select: {partition: cpu, memory_gb: 64}}"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.kind == "local" and self.nodes > 1:
            problems.append(f"kind is local, which has one node, not {self.nodes}; set kind=slurm or nodes=1")
        cpus = self._training.cpus_per_node or self.cpus_per_node
        if cpus is not None and cpus < self.processes:
            problems.append(f"cpus_per_node ({cpus}) is below the {self.processes} processes of a training's node")
        return _without(problems, self)

    @property
    def processes(self) -> int:
        """Of a training, on each node."""
        gpus = self._training.gpus_per_node
        return self.processes_per_node or max(1, self.gpus_per_node if gpus is None else gpus)

    @property
    def _training(self) -> StageResources:
        return self.stages.get("train", StageResources())


class Experiment(Section):
    """What a recipe and a transfer have in common."""

    tool: ClassVar[str]
    """the script that runs all of it"""
    leaves: ClassVar[str]
    """the file with its table of results"""

    output_dir: str
    """the run's folder"""
    seed: int = Field(0, ge=0)
    """of everything random; stages of different seeds live side by side"""
    seeds: int = Field(1, ge=1)
    """how many seeds run, from `seed` on"""
    data: LabeledData
    system: System = System()
    launcher: Launcher = Launcher()

    def trainings(self) -> dict[str, Train]:
        """Every section of a training that may run, by its key."""
        raise NotImplementedError

    def eval_batch(self) -> int:
        """Views of items that a process tests at a time."""
        raise NotImplementedError

    def _problems(self) -> list[str]:
        """What is wrong with the whole."""
        if "://" not in self.output_dir:
            return []
        return [f"output_dir: {self.output_dir} is a URL; results go to a local or mounted folder"]


class Config(Experiment):
    """A recipe: data, two networks, and the settings of each stage."""

    tool = "run_recipe.py"
    leaves = "results.md"

    stage: (
        Literal["weak", "teacher", "score", "select", "materialise", "pretrain", "finetune", "baseline", "ceiling"]
        | None
    ) = None
    """the one stage that a single-stage command runs"""
    rounds: int = Field(1, ge=1)
    """in round 2 and later, the fine-tuned student of the round before is the teacher"""
    data: Data
    models: Models
    weak: Weak | None = None
    """pre-training of the teacher on hashtags, for teacher.init_from: weak; off when not given"""
    teacher: Supervised = Supervised()
    """training of the teacher on the labels"""
    baseline: Supervised = Supervised()
    """training of the student on the labels alone, for comparison"""
    ceiling: Supervised | None = None
    """training of the student with every label of `train`, for comparison; off when not given"""
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    score: Score = Score()
    select: Select = Select()
    materialise: Materialise | None = None
    """off when not given; worth it where the pool lies on slow or distant storage"""

    def trainings(self) -> dict[str, Train]:
        """See ``Experiment``."""
        sections = {section: getattr(self, section) for section in TRAIN_STAGES}
        return {section: settings for section, settings in sections.items() if settings is not None}

    def eval_batch(self) -> int:
        """See ``Experiment``."""
        return self.score.batch_size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        classes, problems = self.data.num_classes, self._problems()
        for role, model in (("teacher", self.models.teacher), ("student", self.models.student)):
            if model.frames is not None and self.data.clips is None:
                problems.append(f"models.{role}.frames is for videos; set data.clips, or leave it out")
        if classes is not None and self.score.top_p > classes:
            problems.append(f"score.top_p ({self.score.top_p}) is above data.num_classes ({classes}); lower it")
        if self.select.grow and self.rounds == 1:
            problems.append("select.grow is about several rounds; set rounds, or leave it out")
        if not self.data.pool and not (self.data.labels_per_class and self.data.rest_in_pool):
            problems.append("there is no pool: set data.pool, or data.labels_per_class with rest_in_pool")
        problems += self._weak_problems()
        for number, section in enumerate(TRAIN_STAGES):
            origin = getattr(getattr(self, section), "init_from", None)
            if origin in TRAIN_STAGES[number:]:
                earlier = ", ".join(TRAIN_STAGES[:number]) or "none"
                problems.append(
                    f"{section}.init_from: {origin} is not trained before {section}; give an earlier stage ({earlier}) "
                    "or a file"
                )
        return _without(problems, self)

    def _weak_problems(self) -> list[str]:
        students = [getattr(self, section) for section in TRAIN_STAGES[2:]]
        problems = [
            f"{section}.init_from: weak is for the teacher alone; the student never sees a tag"
            for section, settings in zip(TRAIN_STAGES[2:], students, strict=True)
            if settings is not None and settings.init_from == "weak"
        ]
        if self.weak is None and self.teacher.init_from == "weak":
            problems.append("teacher.init_from is weak, but there is no weak section; add weak.sources")
        if self.weak is not None and self.teacher.init_from != "weak":
            problems.append("weak is trained, but the teacher does not start from it; set teacher.init_from=weak")
        return problems


class Checkpoint(Section):
    """A network to transfer: trained weights, released ones (``model.weights``), or with a model alone from scratch.

    A path alone stands for ``init_from``.
    """

    init_from: str | None = None
    """the folder of a trained stage, e.g. outputs/quickstart/seed-{seed}/finetune, or a file of weights; {seed} stands
    for the seed"""
    model: Model | None = None
    """the network; may be left out where init_from names weights that a stage left"""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"init_from": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.init_from is None and self.model is None:
            problems.append("give init_from (the folder of a trained stage or a file of weights), model, or both")
        if self.init_from is not None and self.model is not None and self.model.weights is not None:
            problems.append("init_from and model.weights are two origins; give one of them")
        return _without(problems, self)


class FullFt(Train):
    """Fine-tuning of all layers, with a new classifier. The paper does not say how; these are common settings."""

    length: LengthField = Length(amount=100, unit="epochs")
    batch_size: int = Field(64, ge=1)
    base_lr: float = Field(0.04, gt=0)
    schedule: Literal["step", "cosine", "constant"] = "cosine"


class FcOnly(Section):
    """Multinomial logistic regression on the standardised inputs of a fixed network's classifier. The paper does not
    say how it regularises; here C is chosen on a part of `data.train`, then all of it is used."""

    c_values: list[float] = Field([1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 10, 100], min_length=1)
    """inverse strengths of regularisation to choose from, as scikit-learn's C (times the sum of the losses, against
    half the squared norm of the weights)"""
    holdout: float = Field(0.2, gt=0, lt=1)
    """share of each class of `data.train` that chooses C"""
    max_iterations: int = Field(2000, ge=1)
    """of L-BFGS, for each value of C"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rising = all(low < high for low, high in itertools.pairwise([0.0, *self.c_values]))
        return _without([] if rising else [f"c_values {self.c_values} must be above 0 and rise"], self)


class Transfer(Experiment):
    """Several checkpoints on another labeled set, each fine-tuned (full_ft) and as fixed features (fc_only)."""

    tool = "transfer_net.py"
    leaves = "transfer.md"

    checkpoints: dict[str, Checkpoint] = Field(min_length=1)
    """what is compared, by the names of the table's rows"""
    full_ft: FullFt | None = FullFt()
    """null turns it off"""
    fc_only: FcOnly | None = FcOnly()
    """null turns it off"""
    batch_size: int = Field(256, ge=1)
    """samples per forward pass and process in testing and for features, of videos clips; at least those of one video"""

    def trainings(self) -> dict[str, Train]:
        """See ``Experiment``."""
        return {} if self.full_ft is None else {"full_ft": self.full_ft}

    def eval_batch(self) -> int:
        """See ``Experiment``."""
        return self.batch_size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = self._problems()
        if self.full_ft is None and self.fc_only is None:
            problems.append("nothing to do: give full_ft, fc_only or both")
        if self.full_ft is not None and self.full_ft.init_from is not None:
            problems.append("full_ft.init_from: `checkpoints` says what to start from; leave it out")
        for name, checkpoint in self.checkpoints.items():
            if not re.fullmatch(r"[\w+-]+", name):
                problems.append(f"checkpoints: '{name}' names folders too: use letters, digits, _, + and - alone")
            if checkpoint.model is not None and checkpoint.model.frames is not None and self.data.clips is None:
                problems.append(f"checkpoints.{name}.model.frames is for videos; set data.clips, or leave it out")
        return _without(problems, self)


def load_config(path: str, overrides: list[str], schema: type[S] = Config) -> S:  # type: ignore[assignment]
    """Read ``path`` and the files it builds on, apply ``key.sub=value`` overrides, and check everything.

    Raises UserError with one line per problem.
    """
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [line for problem in error.errors() for line in _describe(problem, schema)]
        raise UserError(f"{path}: " + f"\n{path}: ".join(problems)) from None


def check_warmup(section: str, settings: Train, *, steps: int, warmup_steps: int) -> None:
    """UserError when the warm-up of the stage set by ``section`` is longer than the stage, both in optimiser steps."""
    if warmup_steps > steps > 0:
        raise UserError(
            f"{section}.warmup ({settings.warmup}, {warmup_steps} steps) is longer than {section}.length "
            f"({settings.length}, {steps} steps); shorten it"
        )


def options(schema: type[Experiment] = Config) -> Iterator[tuple[str, str, str, str]]:
    """Every key of the config: (path, type, default, what it means)."""
    yield from _options(schema, "")


def _read_yaml(path: str) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise UserError(f"no such config: {path}; the project's recipes are in projects/")
    try:
        values: dict[str, Any] = _ConfigFile.load_yaml_with_base(path)
    except RecursionError:
        raise UserError(f"{path}: its _BASE_ leads back to itself; remove one of the two") from None
    except FileNotFoundError as error:
        raise UserError(f"{path}: _BASE_ names a file that does not exist: {error.filename}") from None
    except (yaml.YAMLError, UnicodeDecodeError, AssertionError) as error:
        raise UserError(f"{path} is not a valid YAML config: {' '.join(str(error).split())}") from None
    return values


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class _ConfigFile(CfgNode):
    """fvcore's reader, given every alias written out: what is set in one of two places must not change the other."""

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        with open(filename, encoding="utf-8") as file:
            values = yaml.safe_load(file)
        if not isinstance(values, dict):
            raise UserError(f"{filename} is not a config: it must hold 'key: value' lines")
        return io.StringIO(yaml.dump(values, Dumper=_NoAliases, sort_keys=False))


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"'{override}' is not an override; write key=value, for example finetune.base_lr=0.001")
    *parents, last = key.strip().split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"'{override}': the value is not valid YAML; quote it") from None


def _describe(problem: Any, schema: type[Section]) -> list[str]:
    """A line for each thing that is wrong."""
    path = ".".join(str(part) for part in problem["loc"])
    given = problem["input"]
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    if problem["type"] == "extra_forbidden":
        valid = sorted(_section_at(problem["loc"][:-1], schema).model_fields)
        near = get_close_matches(str(problem["loc"][-1]), valid, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return [f"unknown key '{path}': {hint}valid: {', '.join(valid)}"]
    if problem["type"] == "missing":
        return [f"'{path}' is missing; it must be given"]
    if problem["type"] == "list_type":
        return [f"{path} must be a list: write {path}='[{{dataset: folder, path: ...}}]'{shown}"]
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        first = next(iter(_section_at(problem["loc"], schema).model_fields))
        return [f"{path} has keys of its own: write for example {path}.{first}=... ; see `bsssl options`{shown}"]
    messages = problem["msg"].removeprefix("Value error, ").splitlines()
    return [f"{path}: {message}{shown}" if path else message for message in messages]


def _section_at(location: tuple[Any, ...], section: type[BaseModel]) -> type[BaseModel]:
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    inner = get_args(annotation)  # first of all: Python 3.10 takes list[...] for a class
    if inner:
        return next(filter(None, map(_section_in, inner)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _options(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is not None and not get_args(field.annotation):
            yield from _options(inner, f"{prefix}{name}.")
            continue
        kind = str(field.annotation) if get_args(field.annotation) else getattr(field.annotation, "__name__", "")
        kind = re.sub(r"typing\.|bsssl\.config\.|Literal|Optional", "", kind)
        default = "(required)" if field.is_required() else str(field.default)
        # A stage that only changes a default inherits what the key means.
        bases = [base for base in section.__mro__ if issubclass(base, BaseModel) and name in base.model_fields]
        meaning = next(filter(None, (base.model_fields[name].description for base in bases)), "")
        yield prefix + name, kind, default, " ".join(meaning.split())
        if inner is not None:  # a list of sections, or one that may be left out
            entry = {"list": "[]", "dict": ".NAME"}.get(kind.partition("[")[0], "")
            yield from _options(inner, f"{prefix}{name}{entry}.")
