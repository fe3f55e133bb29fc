"""A network that a stage has trained: it predicts, and is written for other programs."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from bsssl.config import Clips
from bsssl.config import Model as ModelSection
from bsssl.config.plugins import load_plugins
from bsssl.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn

    from bsssl.runtime.device import Compute
    from bsssl.stages.seen import ClipView, TestView

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Preprocessing:
    """How a network sees a picture, or the frames of a video, when it is tested."""

    size: int
    """side of the square input, pixels"""
    resize: int | None
    """short side before the centre crop, pixels; None: the whole picture becomes the square"""
    interpolation: str
    """how pictures are resized: bilinear or bicubic"""
    mean: tuple[float, ...]
    """subtracted from pixel values in 0..1, per channel"""
    std: tuple[float, ...]
    """by which these are then divided, per channel"""
    clips: "ClipView | None" = None
    """how clips are cut out of a video; None for pictures"""


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network that a stage has trained, see ``load``."""

    folder: Path
    """where it was loaded from"""
    name: str
    """the architecture"""
    options: dict[str, Any]
    """of the architecture"""
    classes: list[str]
    """in the order of the network's outputs"""
    network: "nn.Module"
    """maps a normalised float batch to logits; in eval mode"""
    preprocessing: Preprocessing
    precision: str
    """of the forward pass, as in the stage's own test"""
    _seen: "TestView" = field(repr=False)
    _section: ModelSection = field(repr=False)
    _compute: "Compute" = field(repr=False)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self._input_shape))
        return f"Model({self.name!r}, {len(self.classes)} classes, inputs {shape}, from {str(self.folder)!r})"

    def predict_probabilities(
        self, images: "Iterable[AnyPath | Image.Image | npt.NDArray[np.uint8]]", *, batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every class for every image, float32 (images, classes).

        Args:
            images: Paths or URLs of pictures, of a network for videos of videos; or in memory, Pillow's pictures or
                uint8 arrays (height, width, 3). They are read as the batches need them.
            batch_size: Inputs that the network sees at a time.

        Raises:
            UserError: An image cannot be read.
        """
        from bsssl.api.images import samples_of
        from bsssl.data import collate
        from bsssl.engine.predict import predict
        from bsssl.stages.computing import normalize

        views = self._seen.views(deadline=Clips().deadline)

        def batches() -> Iterator[dict[str, Any]]:
            waiting: list[list[Any]] = []
            for index, image in enumerate(images):
                waiting.append(samples_of(image, index, self._seen, views))
                if len(waiting) >= max(1, batch_size // views.count):
                    yield collate(waiting)
                    waiting = []
            if waiting:
                yield collate(waiting)

        to_floats = normalize(self._seen.transforms, self._compute)
        predictions = predict(self.network, batches(), normalize=to_floats, compute=self._compute)
        found = [prediction.probabilities for prediction in predictions]
        every = np.concatenate(found) if found else np.zeros((0, len(self.classes)), np.float32)
        mean: npt.NDArray[np.float32] = every.reshape(-1, views.count, len(self.classes)).mean(1)
        return mean

    def export(self, format: str, path: AnyPath, *, check: Iterable[AnyPath] = (), **options: Any) -> float | None:
        """Write the network for another program.

        Args:
            format: The name of an exporter, such as ``onnx``; ``bsssl options exporters`` lists them.
            path: The file or folder to write.
            check: Paths of pictures, of a network for videos of videos, on which what is written is compared with the
                network; without any, generated ones.
            options: The options of the exporter.

        Returns:
            The largest difference of a probability; None of an exporter that compares nothing.

        Raises:
            UserError: There is no such exporter or option, or the network cannot be exported by it.
        """
        from bsssl.api.examples import Examples
        from bsssl.models import Preprocessing, TrainedNetwork
        from bsssl.registry import EXPORTERS

        clips, card = self.preprocessing.clips, self.folder / "README.md"
        network = TrainedNetwork(
            network=self.network,
            name=self.name,
            options=self.options,
            classes=self.classes,
            preprocessing=Preprocessing(
                **self._seen.transforms.model_dump(),
                frames=None if clips is None else clips.frames,
                stride=None if clips is None else clips.stride,
            ),
            examples=Examples(self._seen, [os.fspath(picture) for picture in check]),
            card=card.read_text(encoding="utf-8") if card.exists() else None,
        )
        difference: float | None = EXPORTERS.build(format, options, model=network, path=os.fspath(path))
        return difference

    @property
    def _input_shape(self) -> tuple[int, ...]:
        side, clips = self.preprocessing.size, self.preprocessing.clips
        return (3, side, side) if clips is None else (3, clips.frames, side, side)


def load(folder: AnyPath, *, device: Literal["auto", "cpu", "cuda"] = "auto") -> Model:
    """Return the network that a trained stage left in ``folder``, such as ``outputs/quickstart/seed-0/finetune``.

    A network of a module of your own, which a config names under ``plugins``, is known once that module is imported.
    How many clips of a video are averaged is taken from the test of the stage, beside its folder; 10 where there is
    none.

    Args:
        folder: The folder of the stage.
        device: Where the network computes; ``auto`` is a GPU where there is one.

    Raises:
        UserError: The folder is none of a trained stage, or something in it is missing or damaged.
    """
    place = Path(folder)
    path = _weights_in(place)
    from bsssl.models import saved_facts
    from bsssl.runtime.device import make_compute, torch_as_it_was
    from bsssl.stages.computing import trained_model
    from bsssl.stages.seen import recorded_settings, recorded_test_view

    recorded = recorded_settings(place)
    if recorded is None:
        raise UserError(
            f"{place} has weights but no done.json, which says how the network sees images: the training is not "
            "finished or the file was deleted; run the stage again"
        )
    stage, settings = recorded
    load_plugins(())
    facts = saved_facts(str(path))
    if not facts:
        raise UserError(f"{path} does not say which network it is of: another tool wrote it, or it is damaged")
    try:
        section, precision = ModelSection.model_validate(settings["model"]), str(settings["precision"])
        seen = recorded_test_view(stage, settings, place.parent)
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{place / 'done.json'} is not the record of a training; run the stage again") from None
    section = section.model_copy(update={"name": facts["model"], "options": facts.get("options", {})})
    with torch_as_it_was(device):
        compute = make_compute(
            device=device, precision=precision, channels_last=True, compile=False, threads=None, workers=0
        )
        network = compute.place_model(trained_model(place, section, facts["classes"])).eval()
    transforms = seen.transforms
    return Model(
        folder=place,
        name=section.name,
        options=section.options,
        classes=list(facts["classes"]),
        network=network,
        preprocessing=Preprocessing(**transforms.model_dump(), clips=seen.clips),
        precision=precision,
        _seen=seen,
        _section=section,
        _compute=compute,
    )


def _weights_in(folder: Path) -> Path:
    """Return the file of weights in the folder of a trained stage.

    Raises:
        UserError: There is none.
    """
    from bsssl.models import WEIGHTS
    from bsssl.pipeline.record import BEGUN, read_record

    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; give that of a trained stage, e.g. outputs/try/seed-0/finetune")
    path = folder / WEIGHTS
    if not path.exists():
        record = read_record(folder)
        left = (record["digests"] if isinstance(record, dict) else record.digests) if record else ()
        if "weights" in left or (folder / BEGUN).exists():
            raise UserError(f"there is no {path}: the training is not finished or the file was deleted; run the stage")
        below = [path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{WEIGHTS}")]
        trained = sorted(str(place.relative_to(folder)) for place in below)
        hint = f"choose one of the folders in it: {', '.join(trained)}" if trained else "give that of a trained stage"
        raise UserError(f"{folder} is not the folder of a trained stage (there is no {WEIGHTS}); {hint}")
    return path
