"""A trained network with all that is needed to use it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class Preprocessing:
    """How a network sees a picture, or the frames of a video."""

    size: int
    """side of the square input, pixels"""
    resize: int | None
    """short side before the centre crop, pixels; None: the whole picture becomes the square"""
    interpolation: Literal["bilinear", "bicubic"]
    """how pictures are resized, with antialiasing, to whole pixel values"""
    mean: tuple[float, ...]
    """subtracted from pixel values in 0..1, per channel"""
    std: tuple[float, ...]
    """what the differences are then divided by, per channel"""
    frames: int | None = None
    """frames of a clip; None for pictures"""
    stride: int | None = None
    """from one frame of a clip to the next, in frames of the video; None for pictures"""
    fps: float | None = None
    """frames per second of which ``stride`` counts, instead of those of the video"""


@dataclass(frozen=True)
class Example:
    """A picture or a clip, before and after the preprocessing."""

    pixels: Tensor
    """uint8 (H, W, 3), or (T, H, W, 3) for video, of any size"""
    input: Tensor
    """what the network is given of it: float (3, size, size), or (3, T, size, size) for video"""


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network: what exporters are given."""

    network: nn.Module
    """maps a normalised float batch (B, *input_shape) to logits (B, number of classes)"""
    name: str
    """the name of the architecture, see ``build_model``"""
    options: dict[str, Any]
    """the options of the architecture"""
    classes: list[str]
    """in the order of the logits"""
    preprocessing: Preprocessing
    examples: Iterable[Example]
    """at least one, made as they are asked for: on them an export is compared with the network"""
    card: str | None = None
    """the model card, Markdown, where there is one"""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: (3, size, size), or (3, T, size, size) for video."""
        size, frames = self.preprocessing.size, self.preprocessing.frames
        return (3, size, size) if frames is None else (3, frames, size, size)

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from pixel values in 0..1, per channel."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What the differences are then divided by, per channel."""
        return self.preprocessing.std
