"""How a network sees pictures and videos, in words."""

from collections.abc import Sequence

from bsssl.config import LabeledData


def preprocessing(data: LabeledData) -> str:
    """Return how items are seen in testing and for features, in one line."""
    transforms = data.transforms.for_testing()
    size, resize = transforms["size"], transforms["resize"]
    crops = 1 if data.clips is None else data.clips.test_crops
    squares = "centre crop" if crops == 1 else f"{crops} crops"
    cut = "whole pictures" if resize is None else f"short side {resize}, {squares}"
    way = f", {transforms['interpolation']}" if "interpolation" in transforms else ""
    colours = f"mean {numbers(transforms['mean'])}, std {numbers(transforms['std'])}"
    clips = ""
    if data.clips is not None:
        clips = f"{data.clips.test_clips} clips of {data.clips.as_text()}, "
    return f"{clips}{cut} to {size}x{size}{way}, {colours}"


def numbers(values: Sequence[float]) -> str:
    """Return numbers as text, parted by blanks."""
    return " ".join(f"{value:g}" for value in values)
