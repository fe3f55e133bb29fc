"""A network by name, and what it costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bsssl.errors import UserError
from bsssl.models.zoo.clip import create_open_clip, has_open_clip, open_clip_names
from bsssl.models.zoo.per_frame import PER_FRAME, average_frames
from bsssl.models.zoo.transformers import KINDS, create_transformers
from bsssl.models.zoo.video import create_pytorchvideo, pytorchvideo_names
from bsssl.registry import MODELS


@dataclass(frozen=True)
class _Library:
    """Where networks come from that are called ``<library>/<name>`` here."""

    names: Callable[[], list[str]]
    has: Callable[[str], bool]
    create: Callable[..., nn.Module]
    """``(name, *, num_classes, **options)`` -> the network, freshly initialised"""
    listing: str
    """the Python expression that lists the names"""
    loads: str | None = None
    """the option that would fetch weights, which are loaded apart here"""


def _torchvision_names() -> list[str]:
    """Return torchvision's classifiers of images and of videos."""
    images, videos = torchvision.models, torchvision.models.video
    return [*images.list_models(images), *images.list_models(videos)]


_LIBRARIES = {
    "timm": _Library(
        names=timm.list_models,
        has=timm.is_model,  # names with a tag, and deprecated ones, too
        create=partial(timm.create_model, pretrained=False),
        loads="pretrained",
        listing="timm.list_models()",
    ),
    "torchvision": _Library(
        names=_torchvision_names,
        has=lambda name: name in _torchvision_names(),
        create=partial(torchvision.models.get_model, weights=None),
        loads="weights",
        listing="torchvision.models.list_models()",
    ),
    "pytorchvideo": _Library(
        names=pytorchvideo_names,
        has=lambda name: name in pytorchvideo_names(),
        create=create_pytorchvideo,
        listing="dir(pytorchvideo.models.hub)",
    ),
    "open_clip": _Library(
        names=open_clip_names, has=has_open_clip, create=create_open_clip, listing="open_clip.list_models()"
    ),
    "transformers": _Library(
        names=lambda: [*KINDS],
        has=lambda name: name in KINDS,
        create=create_transformers,
        listing="bsssl.models.zoo.transformers.KINDS",
    ),
}


@dataclass(frozen=True)
class Profile:
    """What a network costs."""

    parameters: int
    """learnable numbers, those of the classifier included"""
    multiply_adds: int
    """those of the convolutions and matrix products, for one input"""


def build_model(name: str, *, num_classes: int, per_frame: bool = False, **options: Any) -> nn.Module:
    """Return the network called ``name``, freshly initialised from torch's global random state.

    The network maps a float batch (B, 3, H, W), or (B, 3, T, H, W) for video, to logits (B, num_classes).

    Args:
        name: One of ``MODELS``; or ``timm/<model>``, ``torchvision/<model>``, ``pytorchvideo/<model of its hub>``,
            ``open_clip/<model>`` or ``transformers/<class of a video classifier>``.
        num_classes: The number of classes.
        per_frame: Whether a network for images is to see clips, whose frames it scores one by one; the softmax scores
            are averaged.
        **options: What the factory of that name declares; of another library's model any of its keyword arguments.

    Raises:
        UserError: The name or an option is unknown, or a value is impossible; the message lists what is valid.
    """
    if num_classes < 1:
        raise UserError(f"model '{name}': num_classes={num_classes} is below 1; give the number of classes")
    network = _build(name, num_classes, options)
    return average_frames(network) if per_frame else network


def _build(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    library, slash, architecture = name.partition("/")
    if slash and library in _LIBRARIES:
        return _build_from(library, architecture, num_classes, options)
    _hint_at_libraries(name)
    try:
        model: nn.Module = MODELS.build(name, options, num_classes=num_classes)
    except (RuntimeError, MemoryError, OverflowError) as error:  # numbers that no memory holds
        raise _cannot_be_made(name, options, error) from None
    return model


def profile(name: str, *, num_classes: int, input_shape: Sequence[int], **options: Any) -> Profile:
    """Return the exact parameters and multiply-adds of ``build_model(name, ...)``, without running the network.

    Batch normalisation, pooling and activations are not counted, as in torchvision's published figures; fvcore's
    ``FlopCountAnalysis`` has the same numbers under ``conv`` and ``linear`` but cannot trace a network without memory.

    Args:
        name: See ``build_model``.
        num_classes: The number of classes.
        input_shape: The shape of one input without the batch dimension: (3, H, W), or (3, T, H, W) for video.
        **options: See ``build_model``.

    Raises:
        UserError: The network cannot be made, takes no inputs of that shape, or does not give a logit for each class.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = build_model(name, num_classes=num_classes, **options).eval().requires_grad_(False)
        batch = torch.empty(1, *input_shape)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = model(batch)
    except (ArithmeticError, LookupError, TypeError) as error:  # strides of 0, or of what is no number
        raise _cannot_be_made(name, options, error) from None
    except (RuntimeError, AssertionError, ValueError) as error:
        shape = "x".join(map(str, input_shape))
        remedy = "set another transforms.size" + (" or number of frames" if len(input_shape) == 4 else "")
        if isinstance(error, AssertionError):  # of a transformer, which is made for one size
            size = "image_size" if name.startswith("torchvision/") else "img_size"
            remedy += f", or options.{size}={input_shape[-1]}"
        if len(input_shape) == 3:
            other = "videos, set data.clips"
        elif options.get(PER_FRAME):
            other = f"videos, leave out options.{PER_FRAME}"
        else:
            other = (
                f"images, set options.{PER_FRAME}=true, which averages the scores of frames, or leave out data.clips"
            )
        remedy += f"; if it is a network for {other}"
        raise UserError(f"model '{name}' cannot take inputs of {shape} ({_one_line(error)}); {remedy}") from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        given = "x".join(map(str, logits.shape)) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"model '{name}' gives {given} for an input, not a vector of {num_classes} logits; choose a classifier"
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Profile(parameters=parameters, multiply_adds=counter.get_total_flops() // 2)


def _hint_at_libraries(name: str) -> None:
    """Refuse the bare name of another library's network."""
    if name in MODELS:
        return
    for library, source in _LIBRARIES.items():
        if source.has(name):
            ours = ", ".join(MODELS.names())
            raise UserError(f"unknown model '{name}': {library}'s is called '{library}/{name}'; ours: {ours}")


def _build_from(library: str, architecture: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    name, source = f"{library}/{architecture}", _LIBRARIES[library]
    if not source.has(architecture):
        near = ", ".join(f"{library}/{match}" for match in get_close_matches(architecture, source.names(), n=3))
        raise UserError(f"unknown {library} model '{name}': nearest: {near or 'none'}; {source.listing} lists them all")
    if source.loads in options:
        raise UserError(
            f"model '{name}' is built without weights: take {source.loads} out of its options, and set {source.loads} "
            "beside them"
        )
    try:
        return source.create(architecture, num_classes=num_classes, **options)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, AssertionError, LookupError, AttributeError) as error:
        raise _cannot_be_made(name, options, error) from None


def _cannot_be_made(name: str, options: dict[str, Any], error: Exception) -> UserError:
    return UserError(f"model '{name}' cannot be made with options {options}: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
