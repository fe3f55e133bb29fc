"""A trained network with all that is needed to use it."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network: what exporters are given."""

    network: nn.Module
    """maps a normalised float batch (B, *input_shape) to logits (B, number of classes)"""
    name: str
    """of the architecture, see ``build_model``"""
    options: dict[str, Any]
    """of the architecture"""
    classes: list[str]
    """in the order of the logits"""
    input_shape: tuple[int, ...]
    """of one input: (3, H, W), or (3, T, H, W) for video"""
    mean: tuple[float, ...]
    """subtracted from pixel values in 0..1, per channel"""
    std: tuple[float, ...]
    """by which these are then divided, per channel"""
