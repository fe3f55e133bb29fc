"""A network by name, and what it costs."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import timm
import torch
from pydantic import ValidationError, validate_call
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bsssl.registry import MODELS, UserError, choices

TIMM = "timm/"


@dataclass(frozen=True)
class Profile:
    """What a network costs."""

    parameters: int
    """learnable numbers, those of the classifier included"""
    multiply_adds: int
    """of the convolutions and matrix products, for one input"""


def build_model(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """The network called ``name``, freshly initialised from torch's global random state.

    ``name`` is one of ``MODELS``, with ``options`` as its factory declares them, or ``timm/<model>`` with any keyword
    argument of that timm model. The network maps a float batch (B, 3, H, W), or (B, 3, T, H, W) for video, to logits
    (B, num_classes). An unknown name or option, or an impossible value, is a UserError that lists the valid ones.
    """
    if name.startswith(TIMM):
        return _build_timm(name, num_classes, options)
    factory = _factory(name)
    try:
        return validate_call(factory)(num_classes=num_classes, **options)
    except ValidationError as error:
        raise UserError(f"model '{name}': {_explain(error, factory)}") from None


def profile(name: str, *, num_classes: int, input_shape: Sequence[int], **options: Any) -> Profile:
    """Exact parameters and multiply-adds of ``build_model(name, ...)``, without allocating the network.

    ``input_shape`` is one input's shape without the batch dimension: (3, H, W), or (3, T, H, W) for video. Batch
    normalisation, pooling and activations are not counted, as in torchvision's published figures; fvcore's
    ``FlopCountAnalysis`` has the same numbers under ``conv`` and ``linear`` but cannot trace a network without memory.
    """
    with torch.device("meta"):
        model = build_model(name, num_classes=num_classes, **options).eval().requires_grad_(False)
        batch = torch.empty(1, *input_shape)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(batch)
    except (RuntimeError, AssertionError, ValueError) as error:
        shape = "x".join(map(str, input_shape))
        raise UserError(f"model '{name}' cannot take inputs of {shape} ({_one_line(error)}); change the crop") from None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Profile(parameters=parameters, multiply_adds=counter.get_total_flops() // 2)


def _factory(name: str) -> Callable[..., nn.Module]:
    if name not in MODELS and timm.is_model(name.partition(".")[0]):
        raise UserError(f"unknown model '{name}': timm's is called '{TIMM}{name}'; ours: {', '.join(MODELS.names())}")
    factory: Callable[..., nn.Module] = MODELS.get(name)
    return factory


def _build_timm(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    architecture = name.removeprefix(TIMM)
    if not timm.is_model(architecture.partition(".")[0]):
        near = ", ".join(TIMM + match for match in get_close_matches(architecture, timm.list_models(), n=3))
        raise UserError(f"unknown timm model '{name}': nearest: {near or 'none'}; timm.list_models() lists them all")
    try:
        model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=num_classes, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"model '{name}' cannot be made with options {options}: {_one_line(error)}") from None
    return model


def _explain(error: ValidationError, factory: Callable[..., nn.Module]) -> str:
    """Everything wrong with a factory's arguments, in one line."""
    valid = [argument for argument in inspect.signature(factory).parameters if argument != "num_classes"]
    problems = []
    for problem in error.errors(include_url=False):
        option = ".".join(map(str, problem["loc"]))
        if problem["type"] == "unexpected_keyword_argument":
            problems.append(f"unknown option '{option}': {choices(option, valid)}")
        else:
            problems.append(f"{option}={problem['input']!r}: {problem['msg']}")
    return "; ".join(problems)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
