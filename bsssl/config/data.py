"""The data: where items come from, how they are seen, what is labeled and what is the pool; and the networks."""

import re
import unicodedata
from typing import Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator
from typing_extensions import Annotated, Self, override  # noqa: UP035 - with the rest of pydantic's

from bsssl.config.section import Section, known_to, without
from bsssl.registry import AUGMENTATIONS, VIDEO_READERS

Purpose = Literal["train", "score", "test"]


class Source(Section):
    """Where images or videos come from."""

    dataset: str
    """folder, manifest, tars, parquet, cub, digits, of videos kinetics, ucf101, hmdb51, moving_digits; any of
    DATASETS"""
    path: str
    """folder, manifest file, tar (a glob or a {000..099} range names many), or a URL of any of these"""
    options: dict[str, Any] = {}
    """further arguments of the dataset"""


class Transforms(Section):
    """How a decoded image, or every frame of a clip alike, becomes the network's input. The paper leaves augmentation
    open; these are our defaults."""

    size: int = Field(224, ge=1, le=16_384)
    """side of the square input, pixels"""
    test_resize: Annotated[int, Field(ge=1, le=16_384)] | Literal["whole"] | None = None
    """short side before the centre crop when scoring and testing, pixels; whole: the whole picture becomes the square;
    default: size / 0.875 with random_resized and short_side, else whole"""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """how pictures are resized"""
    train_crop: Annotated[str, known_to(AUGMENTATIONS)] = "random_resized"
    """random_resized for photographs; short_side (resized to a short side within `short_side`, then a random square)
    is the usual one for video; padded (shift by up to `padding`) for small ones; affine (turn, shear, shift and
    scale a little) for signs and digits; none; any of AUGMENTATIONS"""
    train_crop_options: dict[str, Any] = {}
    """further arguments of an augmentation that a plugin brings"""
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
        if isinstance(self.test_resize, int) and self.test_resize < self.size:
            problems.append(f"test_resize ({self.test_resize}) is below size ({self.size}); the crop would not fit")
        if self.train_crop == "padded" and self.padding >= self.size:
            problems.append(f"padding ({self.padding}) must be below size ({self.size})")
        if self.short_side is not None and not self.size <= self.short_side[0] <= self.short_side[1]:
            problems.append(f"short_side {list(self.short_side)} must rise and start at size ({self.size}) or above")
        for name in sorted(self.train_crop_options.keys() & type(self).model_fields.keys()):
            problems.append(f"train_crop_options.{name}: set {name} itself, beside train_crop")
        if min(self.std) <= 0:
            problems.append(f"std {self.std} must be above 0")
        return without(problems, self)

    def crop_options(self) -> dict[str, Any]:
        """Return the options of ``train_crop``: the keys of its own, and ``train_crop_options``."""
        own = {"random_resized": ["min_scale"], "short_side": ["short_side"], "padded": ["padding"]}
        keys = [*own.get(self.train_crop, []), *(["interpolation"] if self.interpolation != "bilinear" else [])]
        return {name: getattr(self, name) for name in keys} | self.train_crop_options

    def for_training(self) -> dict[str, Any]:
        """Return what decides how a picture is seen in training."""
        fields = type(self).model_fields
        off = {name for name in ("train_crop_options", "interpolation") if getattr(self, name) == fields[name].default}
        return self.model_dump(exclude=off)

    def for_testing(self) -> dict[str, Any]:
        """Return what decides how a picture is seen when scoring and testing, with the resize that follows."""
        resize = self.test_resize
        if resize is None and self.train_crop in ("random_resized", "short_side"):
            resize = round(self.size / 0.875)
        seen = {"size": self.size, "resize": None if resize == "whole" else resize, "mean": self.mean, "std": self.std}
        return seen if self.interpolation == "bilinear" else {**seen, "interpolation": self.interpolation}

    def changed(self, keys: dict[str, Any]) -> "Transforms":
        """Return the transforms with other values of some keys, and those that follow from the size anew.

        Values that make no difference change nothing.

        Raises:
            ValidationError: The values do not go together.
        """
        kept = self.model_dump(exclude={"test_resize", "short_side"} if "size" in keys else set())
        changed = Transforms.model_validate({**kept, **keys})
        alike = self == changed.model_copy(update={"test_resize": self.test_resize})
        return self if alike and self.for_testing() == changed.for_testing() else changed


class Clips(Section):
    """How a video becomes clips. Unless `fps` is set frames are counted, not timed: a clip is the same frames in every
    tool, but lasts twice as long where the video has half as many frames a second."""

    frames: int = Field(8, ge=1)
    """frames of a clip (the paper: 8 and 32)"""
    stride: int = Field(2, ge=1)
    """from one frame of a clip to the next, in frames of the video"""
    fps: float | None = Field(None, gt=0, le=1000)
    """frames per second that videos are seen with: those of any rate, or of a varying one, then last alike. Frames of
    the video are passed over, or come more than once; `stride` counts what is seen. 30 is what most weights for
    Kinetics were trained with"""
    stride_jitter: int = Field(0, ge=0)
    """training: the stride varies at random by up to so much"""
    test_clips: int = Field(10, ge=1)
    """clips per video in testing, evenly spread; their softmax scores are averaged"""
    test_crops: int = Field(1, ge=1, le=10)
    """squares cut out of each of these, evenly spread along the longer side, 3 in the test of SlowFast (Feichtenhofer
    et al. 2019, arXiv 1812.03982); their scores are averaged too"""
    score_clips: int = Field(1, ge=1)
    """clips per video in scoring the pool, likewise"""
    reader: Annotated[str, known_to(VIDEO_READERS)] = "av"
    """what reads the videos: av, decord, torchcodec; any of VIDEO_READERS"""
    reader_options: dict[str, Any] = {}
    """further arguments of the reader"""
    deadline: float = Field(60.0, gt=0)
    """a video that takes longer to read counts as unreadable, seconds"""

    def for_testing(self) -> dict[str, int]:
        """Return how many clips a test takes of a video, and how many squares of each where there are several."""
        return {"count": self.test_clips, **({} if self.test_crops == 1 else {"crops": self.test_crops})}

    def as_text(self) -> str:
        """Return how long a clip is, as in "8 frames, stride 2"."""
        rate = "" if self.fps is None else f" at {self.fps:g} frames per second"
        return f"{self.frames} frames, stride {self.stride}{rate}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.stride_jitter >= self.stride:
            problems.append(f"stride_jitter ({self.stride_jitter}) must be below stride ({self.stride})")
        return without(problems, self)


def _is_one(test: Any) -> str:
    """Return which of its two forms the key `test` has."""
    keys = test.keys() if isinstance(test, dict) else {"dataset"}
    return SEVERAL if keys and not {"dataset", "path", "options"} & set(keys) else ONE


ONE, SEVERAL = "<one>", "<several>"
Tests = Annotated[
    Annotated[Source, Tag(ONE)] | Annotated[dict[str, Source], Tag(SEVERAL)],
    Discriminator(_is_one),
]


def tests_of(test: Source | dict[str, Source] | None, train: Source | None) -> dict[str, Source]:
    """Return the test sets by the name of what the data stage makes of them.

    That is ``test``, or ``test-NAME`` of several, or ``test-holdout`` of what is held out of ``train``; nothing where
    there is neither.
    """
    if test is None:
        return {} if train is None else {"test-holdout": train}
    return {"test": test} if isinstance(test, Source) else {f"test-{name}": one for name, one in test.items()}


class LabeledData(Section):
    """Labels and test set, and how items are seen."""

    train: Source | None = None
    """labeled items: their classes are the classes. Those without a label (none, empty or -1) join the pool"""
    test: Tests | None = None
    """held-out labeled items, used for evaluation alone; several test sets by name, each with figures of its own:
    {plain: {dataset: folder, path: ...}, blurred: {dataset: folder, path: ...}}"""
    holdout: float | None = Field(None, gt=0, lt=1)
    """without a test set: the share of the labeled items of each class that is held out as one, by the seed"""
    num_classes: int | None = Field(None, ge=2)
    """how many classes there are; checked against the data, and lets --plan work before the data is there"""
    merge_lookalikes: bool = False
    """classes whose names differ in case, blanks or what cannot be seen alone are one, under the name that most of its
    items have"""
    labels_per_class: int | None = Field(None, ge=1, le=2**32)
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
        problems = self._label_problems()
        if self.imbalance > 1 and not self.labels_per_class:
            problems.append("imbalance needs labels_per_class; set it, or leave imbalance out")
        if self.test is None and self.holdout is None and self.train is not None:
            problems.append("there is no test set: set test, or holdout to the share of the labels to hold out as one")
        if self.test is not None and self.holdout is not None:
            problems.append("holdout is for data without a test set; take out test or holdout")
        for name in self.test if isinstance(self.test, dict) else []:
            if not re.fullmatch(r"[\w+-]+", name):
                problems.append(f"test: '{name}' names files too: use letters, digits, _, + and - alone")
        return without(problems, self)

    def _label_problems(self) -> list[str]:
        """Return what is wrong with where the classes and the labels come from."""
        return [] if self.train is not None else ["train is missing; name the labeled items"]

    @property
    def tests(self) -> dict[str, Source]:
        """The test sets by the name of what the data stage makes of them: ``test``, or ``test-NAME`` of several."""
        return tests_of(self.test, self.train)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input of a network: channels, frames of a clip, height, width."""
        side = self.transforms.size
        return (3, side, side) if self.clips is None else (3, self.clips.frames, side, side)

    def clips_for(self, purpose: Purpose) -> dict[str, Any] | None:
        """Return how clips are cut for training, scoring or testing; None for images."""
        if self.clips is None:
            return None
        later = {name for name in ("fps", "reader_options") if getattr(self.clips, name)}  # than the others
        common = self.clips.model_dump(include={"frames", "stride", "reader", "deadline", *later})
        if purpose == "train":
            return {**common, "count": None, "stride_jitter": self.clips.stride_jitter}
        views = self.clips.for_testing() if purpose == "test" else {"count": self.clips.score_clips}
        return {**common, **views, "stride_jitter": 0}

    def preprocessing(self, purpose: Purpose) -> dict[str, Any]:
        """Return what decides how items are seen in training, scoring or testing."""
        transforms = self.transforms.for_training() if purpose == "train" else self.transforms.for_testing()
        seen = {"transforms": transforms, "max_pixels": self.max_pixels}
        clips = self.clips_for(purpose)
        return seen if clips is None else {**seen, "clips": {**clips, "deadline": None}}  # decides nothing

    def sources(self) -> list[Source]:
        """Return everything that is read."""
        sources = [*([] if self.train is None else [self.train]), *self.tests.values()]
        return list({id(source): source for source in sources}.values())


class Data(LabeledData):
    """Labels, pool and test set."""

    classes: list[str] | None = Field(None, min_length=2)
    """the names of the classes, for a pool without one label: there is no `train`, the teacher is one that needs none
    (teacher.mode: zeroshot, score.given), and the student that is pre-trained on the selection is the result"""
    pool: list[Source] = []
    """unlabeled items; labels that are there are never read by training or selection"""
    rest_in_pool: bool = True
    """with labels_per_class: the items whose labels were dropped join the pool"""
    pool_overlap: Literal["refuse", "exclude", "allow"] = "refuse"
    """what to do when the pool holds a labeled or a test item: the same path (of videos: parts that overlap in time) or
    the same content under any name (of a video only if it has the same segment, or none)"""
    duplicates: Literal["remove", "allow"] = "remove"
    """what to do with items of the pool that have the same content: remove has the first of them alone selected, allow
    all of them, where select.near_duplicates is keep too; they are listed in either case"""
    verify: Literal["headers", "decode", "off"] = "headers"
    """what is looked at of every item before anything is trained: headers opens each picture or video, decode decodes
    it whole, off leaves it at reading the bytes; what fails is listed, and too many of it end the run"""
    near_duplicates: Literal["off", "hash", "features"] = "hash"
    """whether near copies are looked for in the pool, re-encoded, resized or a little changed: hash compares perceptual
    hashes of what the teacher sees, features what the teacher makes of it. Those of labeled and test items are left
    out of the selection, unless pool_overlap is allow; what is done about those of each other,
    select.near_duplicates says"""
    near_cosine: float = Field(0.95, gt=0, le=1)
    """with near_duplicates=features: the cosine from which the features of two items are those of near copies"""
    pool_fraction: float = Field(1.0, gt=0, le=1)
    """share of the pool that is used, chosen by the seed; a larger share holds all items of a smaller one"""
    shard_size: int = Field(10_000, ge=1)
    """items per pool shard, for folders and manifests; a tar is always one shard"""

    @field_validator("verify", "near_duplicates", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return "off" if value is False else value  # as YAML reads it

    @field_validator("classes")
    @classmethod
    def _tidy(cls, classes: list[str] | None) -> list[str] | None:
        return None if classes is None else [unicodedata.normalize("NFC", name.strip()) for name in classes]

    @override
    def _label_problems(self) -> list[str]:
        if self.classes is None:
            missing = "train is missing; name the labeled items or, for a pool without one label, the classes"
            return [missing] if self.train is None else []
        if self.train is not None:
            return ["the classes are those of train; take out classes or train"]
        about_labels = {"holdout": self.holdout, "labels_per_class": self.labels_per_class}
        problems = [
            f"{key} is about labels, of which there are none; take it out" for key, on in about_labels.items() if on
        ]
        if "" in self.classes:
            problems.append("classes: a name is empty; give each class a name")
        twice = [name for number, name in enumerate(self.classes) if name in self.classes[:number]]
        if twice:
            problems.append(f"classes: '{twice[0]}' is there twice; give each class a name of its own")
        if self.num_classes not in (None, len(self.classes)):
            problems.append(
                f"num_classes ({self.num_classes}) is not that of classes ({len(self.classes)}); take it out"
            )
        return problems

    @override
    def sources(self) -> list[Source]:
        """Return everything that is read."""
        return [*super().sources(), *self.pool]


D = TypeVar("D", bound=LabeledData)


class NetworkTransforms(Section):
    """What of `data.transforms` is otherwise for one network. What is not given is as its weights say, where they say
    so, else as in `data.transforms`."""

    size: int | None = Field(None, ge=1, le=16_384)
    """side of the square input, pixels"""
    test_resize: Annotated[int, Field(ge=1, le=16_384)] | Literal["whole"] | None = None
    """short side before the centre crop when scoring and testing, pixels, or whole"""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """how pictures are resized"""
    mean: tuple[float, float, float] | None = None
    """per channel, of pixel values in 0..1"""
    std: tuple[float, float, float] | None = None
    """per channel, of pixel values in 0..1"""
    train_crop: Annotated[str, known_to(AUGMENTATIONS)] | None = None
    """random_resized, short_side, padded, affine, none; any of AUGMENTATIONS"""
    min_scale: float | None = Field(None, gt=0, le=1)
    """smallest share of the picture that random_resized keeps"""

    def given(self) -> dict[str, Any]:
        """Return the keys that have a value."""
        return self.model_dump(exclude_none=True)


_OF_CLIPS = ("frames", "stride", "fps")
"""the keys of a network that are about clips"""
_PER_FRAME = "per_frame"
"""the option of a network that is about clips"""


class Model(Section):
    """A network, what it starts from, and how it sees pictures and videos where it is not as `data` says."""

    name: str
    """a name registered in MODELS; timm/<name>, torchvision/<name>, open_clip/<name>, of videos pytorchvideo/<name> and
    transformers/<class>; or a folder with config.json and weights, local-dir:<folder> or hf-hub:<user>/<repository>, of
    a CLIP open_clip/local-dir:<folder> or open_clip/hf-hub:<user>/<repository>, of transformers' networks for videos
    likewise. A name of timm or open_clip with a tag, and a folder, mean certain weights"""
    options: dict[str, Any] = {}
    """further arguments of the model, e.g. width. per_frame: true has any network for images see videos: it scores each
    frame of a clip, and the softmax scores are averaged"""
    pretrained: bool = False
    """start from the library's default weights of the network"""
    weights: str | None = None
    """weights to start from: timm/<name>.<tag>, torchvision/<Network>_Weights.<member>, pytorchvideo/<name>,
    open_clip/<name>.<tag>, local-dir:<folder>, hf-hub:<user>/<repository>, transformers/ and either of these, the
    released weights of the original work by their names in timm, or a file (of several sets of weights in it, FILE#KEY
    chooses one); a stage's init_from comes first"""
    transforms: NetworkTransforms | None = None
    """how this network sees pictures, where it is not as its weights say or, if they do not, as data.transforms"""
    frames: int | None = Field(None, ge=1)
    """frames of the clips that this network sees, instead of data.clips.frames"""
    stride: int | None = Field(None, ge=1)
    """from one frame to the next of these clips, instead of data.clips.stride"""
    fps: float | None = Field(None, gt=0, le=1000)
    """frames per second that this network sees, instead of data.clips.fps"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.pretrained and self.weights is not None:
            problems.append("pretrained and weights are two origins; give one of them")
        if "num_classes" in self.options:
            problems.append("options.num_classes: the data says how many classes there are; take it out")
        if not isinstance(self.options.get(_PER_FRAME, False), bool):
            problems.append(f"options.{_PER_FRAME} is true or false, not {self.options[_PER_FRAME]!r}")
        return without(problems, self)

    @property
    def is_pretrained(self) -> bool:
        """Whether the network starts from weights."""
        means_weights = re.match(r"((open_clip|transformers)/)?(local-dir|hf-hub):|(timm|open_clip)/.+\..", self.name)
        return self.pretrained or self.weights is not None or means_weights is not None

    @property
    def is_clip(self) -> bool:
        """Whether the network is one of open_clip, whose weights know classes by their names."""
        return self.name.startswith("open_clip/")

    def without_view(self) -> "Model":
        """Return the network without what ``view_of`` says of it."""
        return self.model_copy(update={"transforms": None, "stride": None, "fps": None})

    def view_of(self, data: D) -> D:
        """Return ``data`` as this network sees it.

        Raises:
            ValidationError: Values of ``transforms`` do not go together.
        """
        update: dict[str, Any] = {}
        if self.transforms is not None:
            update["transforms"] = data.transforms.changed(self.transforms.given())
        clips = {key: value for key in _OF_CLIPS if (value := getattr(self, key)) is not None}
        if clips and data.clips is not None:
            jitter = min(data.clips.stride_jitter, clips.get("stride", data.clips.stride) - 1)
            update["clips"] = data.clips.model_copy(update={**clips, "stride_jitter": jitter})
        return data.model_copy(update=update) if update else data

    def problems(self, key: str, data: LabeledData) -> list[str]:
        """Return what is wrong with how this network, at ``key`` of the config, would see ``data``.

        How it sees pictures may depend on its weights: see ``misfits``.
        """
        given = [name for name in _OF_CLIPS if getattr(self, name) is not None]
        given += [f"options.{_PER_FRAME}"] if self.options.get(_PER_FRAME) else []
        return [f"{key}.{name} is for videos; set data.clips, or leave it out" for name in given if data.clips is None]

    def misfits(self, key: str, data: LabeledData) -> list[str]:
        """Return which values of ``transforms``, with those of the weights, do not go together."""
        try:
            self.view_of(data)
        except ValidationError as error:
            messages = [one["msg"].removeprefix("Value error, ") for one in error.errors()]
            return [f"{key}.transforms: {line}" for message in messages for line in message.splitlines()]
        return []
