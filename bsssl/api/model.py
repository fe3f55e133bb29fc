"""A trained network: it predicts, gives features, and is written for other programs."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bsssl.config import Clips, System
from bsssl.config import Model as ModelSection

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from bsssl.api.predictor import Predictor
    from bsssl.stages.computing import Execution
    from bsssl.stages.seen import ClipView, TestView

AnyPath = str | os.PathLike[str]
AnyImage: TypeAlias = "AnyPath | Image.Image | npt.NDArray[np.uint8] | Tensor"
Images: TypeAlias = "AnyImage | Iterable[AnyImage]"


class Prediction(NamedTuple):
    """What a network says of a picture or a video."""

    path: str | None
    """where it is; None for a picture in memory"""
    classes: tuple[str, ...]
    """the most probable ones, best first"""
    probabilities: tuple[float, ...]
    """the probabilities of these classes"""


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
    """A trained network, see ``load``."""

    origin: str
    """where it was loaded from: a folder, or a name of weights"""
    folder: Path | None
    """the folder; None for weights with a name"""
    name: str
    """the architecture"""
    options: dict[str, Any]
    """the options of the architecture"""
    classes: list[str]
    """in the order of the network's outputs"""
    network: "nn.Module"
    """maps a normalised float batch to logits; in eval mode"""
    preprocessing: Preprocessing
    precision: str
    """the precision of the forward pass, as in the stage's own test"""
    _seen: "TestView" = field(repr=False)
    _section: ModelSection = field(repr=False)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self._input_shape))
        return f"Model({self.name!r}, {len(self.classes)} classes, inputs {shape}, from {self.origin!r})"

    def predict(self, images: Images, *, top: int = 3, batch_size: int = 64, workers: int = 2) -> list[Prediction]:
        """Return the most probable classes of every image, in order.

        Args:
            images: One image, or any number of them: paths or URLs of pictures, for a network of videos of videos; of
                folders, tars and manifests of such; or in memory, Pillow's pictures, uint8 arrays (height, width, 3) or
                uint8 tensors (3, height, width). They are read as they are needed.
            top: How many classes of each.
            batch_size: Inputs that the network sees at a time.
            workers: Processes that read and decode files.

        Raises:
            UserError: An image cannot be read, or what the network says is no number.
        """
        from bsssl.api.predictor import best_classes

        predictions: list[Prediction] = []
        for names, probabilities in self._probabilities(images, batch_size=batch_size, workers=workers):
            best = best_classes(probabilities, top)
            scores = np.take_along_axis(probabilities, best, axis=1)
            for name, row, values in zip(names, best.tolist(), scores.tolist(), strict=True):
                predictions.append(Prediction(name, tuple(self.classes[index] for index in row), tuple(values)))
        return predictions

    def predict_probabilities(
        self, images: Images, *, batch_size: int = 64, workers: int = 2
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every class for every image, float32 (images, classes); see ``predict``."""
        parts = [part for _, part in self._probabilities(images, batch_size=batch_size, workers=workers)]
        return np.concatenate([np.zeros((0, len(self.classes)), np.float32), *parts])

    def features(self, images: Images, *, batch_size: int = 64, workers: int = 2) -> npt.NDArray[np.float32]:
        """Return what the network computes of every image before its classifier, float32 (images, D); see ``predict``.

        Where the classifier sees a map or several tokens, their mean counts; so does the mean over the clips of a
        video.
        """
        from bsssl.models import classifier
        from bsssl.runtime.device import torch_as_it_was

        with torch_as_it_was(self._device):
            predictor = self._predictor(batch_size=batch_size, workers=workers)
            parts = [predictor.features(chunk) for chunk in predictor.chunks(images)]
        return np.concatenate([np.zeros((0, classifier(self.network)[1].weight.shape[1]), np.float32), *parts])

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
        from bsssl.models import CARD, Preprocessing, TrainedNetwork
        from bsssl.registry import EXPORTERS

        clips = self.preprocessing.clips
        card = None if self.folder is None else self.folder / CARD
        network = TrainedNetwork(
            network=self.network,
            name=self.name,
            options=self.options,
            classes=self.classes,
            preprocessing=Preprocessing(
                **self._seen.transforms.model_dump(),
                **({} if clips is None else clips.of_network()),
            ),
            examples=Examples(self._seen, [os.fspath(picture) for picture in check]),
            card=card.read_text(encoding="utf-8") if card is not None and card.exists() else None,
        )
        difference: float | None = EXPORTERS.build(format, options, model=network, path=os.fspath(path))
        return difference

    def _probabilities(
        self, images: Images, *, batch_size: int, workers: int
    ) -> "Iterator[tuple[list[str | None], npt.NDArray[np.float32]]]":
        """Yield the names and the probabilities of some images at a time."""
        from bsssl.runtime.device import torch_as_it_was

        with torch_as_it_was(self._device):
            predictor = self._predictor(batch_size=batch_size, workers=workers)
            for chunk in predictor.chunks(images):
                for said in predictor.said(chunk):
                    yield [chunk.names[row] for row in said.index], said.probabilities

    def _predictor(self, *, batch_size: int, workers: int) -> "Predictor":
        from bsssl.api.predictor import Predictor

        return Predictor(self.network, self._seen, self.precision, self._execution(batch_size, workers))

    def _execution(self, batch_size: int, workers: int, *, max_failure_rate: float = 0.0) -> "Execution":
        from bsssl.stages.computing import Execution

        return Execution(
            system=System(device=self._device, workers=workers),
            batch=batch_size,
            deadline=None if self._seen.clips is None else Clips().deadline,
            max_failure_rate=max_failure_rate,
        )

    @property
    def _device(self) -> Literal["cpu", "cuda"]:
        return "cpu" if next(self.network.parameters()).device.type == "cpu" else "cuda"

    @property
    def _input_shape(self) -> tuple[int, ...]:
        side, clips = self.preprocessing.size, self.preprocessing.clips
        return (3, side, side) if clips is None else (3, clips.frames, side, side)
