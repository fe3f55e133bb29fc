"""How the network of a stage sees items: a part of the settings of every stage that has a network."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self, override

from bsssl import data
from bsssl.config import Clips, LabeledData, Model, Purpose, Section, Transforms
from bsssl.data.decoding.pictures import MAX_PIXELS
from bsssl.pipeline.record import read_record


class ClipView(Section):
    """How a video becomes clips."""

    frames: int
    stride: int
    reader: str
    reader_options: dict[str, Any] = {}
    fps: float | None = None
    count: int | None
    """clips per video; None in training, where there is one at random"""
    crops: int = 1
    """squares of each"""
    stride_jitter: int = 0

    def of_network(self) -> dict[str, Any]:
        """Return what of it a network is made for, as its description says it."""
        return {"frames": self.frames, "stride": self.stride, **({} if self.fps is None else {"fps": self.fps})}


class TestTransforms(Section):
    """How a picture becomes an input when scoring and testing."""

    __test__ = False  # pytest takes the class for a test otherwise

    size: int
    resize: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def transform(self, place: float = 0.5) -> data.Transform:
        """Return what makes the input, uint8 (..., 3, size, size), of a picture or of the frames of a clip.

        ``place``: where along the longer side it is cut out, from 0 to 1.
        """
        return data.test_transform(size=self.size, resize=self.resize, interpolation=self.interpolation, place=place)


class Seen(Section, ABC):
    """What training, scoring and testing have in common."""

    max_pixels: int
    clips: ClipView | None = None

    @abstractmethod
    def for_testing(self) -> TestTransforms:
        """Return how pictures are seen when scoring and testing."""

    def clip_options(self, deadline: float | None) -> dict[str, Any] | None:
        """Return the clips as the data room wants them; ``deadline`` is for the reading of a video, in seconds."""
        return None if self.clips is None else {**self.clips.model_dump(exclude={"crops"}), "deadline": deadline}

    def testing(self, test_clips: Mapping[str, int]) -> dict[str, Any]:
        """Return what a description of the network says besides its transforms, and frames and stride of clips.

        ``test_clips``: the count of clips of a video in a test, and of crops, where this is how items are seen in
        training.
        """
        if self.clips is None:
            return {"max_pixels": self.max_pixels}
        kept = self.clips.model_dump(include={"reader", "reader_options"})
        views = test_clips if self.clips.count is None else {"count": self.clips.count}
        return {"max_pixels": self.max_pixels, "clips": {**kept, **views}}


class TrainView(Seen):
    """How items are seen in training."""

    transforms: Transforms

    @override
    def for_testing(self) -> TestTransforms:
        return TestTransforms(**self.transforms.for_testing())

    @classmethod
    def of(cls, model: Model, settings: LabeledData) -> Self:
        """Return how ``model`` sees the data of these ``settings`` in training."""
        return cls(transforms=model.view_of(settings).transforms, **_common(model, settings, "train"))

    def views(self, *, randaugment: int | None, deadline: float | None) -> data.Views:
        """Return the views of items in training; ``randaugment`` is the magnitude of RandAugment, if it is on."""
        transforms = self.transforms
        transform = data.train_transform(
            size=transforms.size,
            crop=transforms.train_crop,
            hflip=transforms.flip,
            randaugment_ops=2 if randaugment is not None else 0,
            randaugment_magnitude=randaugment or 0,
            **transforms.crop_options(),
        )
        return data.make_views(transform, max_pixels=self.max_pixels, clips=self.clip_options(deadline))


class TestView(Seen):
    """How items are seen in scoring and testing."""

    __test__ = False

    transforms: TestTransforms

    @override
    def for_testing(self) -> TestTransforms:
        return self.transforms

    @classmethod
    def of(cls, model: Model, settings: LabeledData, purpose: Purpose) -> Self:
        """Return how ``model`` sees the data of these ``settings`` in scoring or testing."""
        transforms = TestTransforms(**model.view_of(settings).transforms.for_testing())
        return cls(transforms=transforms, **_common(model, settings, purpose))

    def views(self, *, deadline: float | None) -> data.Views:
        """Return the views of items in scoring or testing."""
        clips, crops = self.clip_options(deadline), 1 if self.clips is None else self.clips.crops
        places = [0.5] if crops == 1 else [number / (crops - 1) for number in range(crops)]
        transform, *also = map(self.transforms.transform, places)
        if clips is not None:
            clips["also"] = also
        return data.make_views(transform, max_pixels=self.max_pixels, clips=clips)


def _common(model: Model, settings: LabeledData, purpose: Purpose) -> dict[str, Any]:
    clips = model.view_of(settings).clips_for(purpose)
    if clips is not None:
        clips.pop("deadline")  # it decides nothing
    return {"max_pixels": settings.max_pixels, "clips": clips}


def described_test_view(
    transforms: Mapping[str, Any], clips: Mapping[str, Any], testing: Mapping[str, Any]
) -> TestView:
    """Return how a network sees items when it is tested, by what its weights say.

    Args:
        transforms: How it sees pictures, in keys of ``data.transforms``.
        clips: How it sees videos, in keys of ``data.clips``; nothing for pictures.
        testing: What ``Seen.testing`` returned, or nothing for weights of another tool.

    Raises:
        ValueError: The size is missing, or the values are none or do not go together.
    """
    if "size" not in transforms:
        raise ValueError("the size of the pictures is missing")
    default = Clips()
    own = {"stride": default.stride, "reader": default.reader, "count": default.test_clips}
    videos = {**own, **testing.get("clips", {}), **clips}
    return TestView(
        transforms=TestTransforms(**Transforms(**transforms).for_testing()),
        max_pixels=testing.get("max_pixels", MAX_PIXELS),
        clips=ClipView(**videos) if clips else None,
    )


def recorded_settings(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the settings of the finished stage with a network in ``folder``; None if none has finished.

    Settings of a record of format 1 come with ``seen`` as it is now.
    """
    record = read_record(folder)
    if isinstance(record, dict):
        settings = dict(record["settings"])
        return record["stage"], {"seen": earlier_view(settings), **settings}
    return None if record is None else (record.stage, dict(record.settings))


def recorded_test_view(stage: str, settings: Mapping[str, Any], run: Path) -> TestView:
    """Return how the network of a trained ``stage``, with these recorded settings, sees items when it is tested.

    Args:
        stage: The name of the stage.
        settings: Its settings, see ``recorded_settings``.
        run: The folder of its run, where its test says how many clips of a video it took.
    """
    seen = dict(settings["seen"])
    if "resize" not in seen["transforms"]:  # as in training
        seen["transforms"] = Transforms.model_validate(seen["transforms"]).for_testing()
    if seen["clips"] is not None:
        views = {} if seen["clips"]["count"] else _test_clips(stage, run)
        seen["clips"] = {**seen["clips"], **views, "stride_jitter": 0}
    return TestView.model_validate(seen)


def _test_clips(stage: str, run: Path) -> dict[str, int]:
    """Return how many clips of a video, and crops, a test of ``stage`` took in the folder of its run, or else the
    default."""
    for folder in (run / f"evaluate-{stage}", *sorted(run.glob(f"evaluate-{stage}.*"))):
        if (recorded := recorded_settings(folder)) is not None:
            clips = recorded[1]["seen"]["clips"]
            return {name: int(clips[name]) for name in ("count", "crops") if name in clips}
    return Clips().for_testing()


def earlier_view(settings: dict[str, Any]) -> dict[str, Any]:
    """Take what a record of format 1 says of how items were seen out of ``settings``, as ``Seen`` has it now."""
    clips = settings.pop("clips", None)
    if clips is not None:
        clips = {key: value for key, value in clips.items() if key != "deadline"}
    return {"transforms": settings.pop("transforms"), "max_pixels": settings.pop("max_pixels"), "clips": clips}
