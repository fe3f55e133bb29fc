"""What a name of weights stands for, and how what goes wrong in fetching them is told."""

import contextlib
import logging
import math
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from bsssl import storage
from bsssl.errors import UserError

LOCAL, HUB = "local-dir:", "hf-hub:"
HUB_FILES = "https://huggingface.co/{}/resolve/main/{}"


@dataclass(frozen=True)
class Named:
    """Weights that a name stands for. They are fetched when they are asked for."""

    name: str
    """in full"""
    network: str
    """the name of their network, see ``build_model``"""
    load: Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
    """given the options of the network, returns the tensors by name, or raises UserError with the way to mend it"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the network"""
    transforms: Mapping[str, Any] = field(default_factory=dict)
    """how the network was made to see pictures, in keys of ``data.transforms``; empty where that is unknown"""
    clips: Mapping[str, Any] = field(default_factory=dict)
    """how it was made to see videos, in keys of ``data.clips``"""
    testing: Mapping[str, Any] = field(default_factory=dict)
    """what else decides a test of the network; empty for weights that this project did not train"""
    classes: tuple[str, ...] | None = None
    """the names of the classes, where they are known"""
    num_classes: int | None = None
    """how many classes there are; 0 for weights without a classifier"""
    licence: str | None = None
    """as the host states it"""
    fixed_size: bool = False
    """whether the network takes pictures of one size alone"""


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a ``pretrained_cfg`` of timm says, as arguments of ``Named``.

    Raises:
        UserError: The network does not see squares.
    """
    transforms = {}
    if config.get("input_size"):
        height, width = config["input_size"][-2:]
        if height != width:
            raise UserError(
                f"the network takes pictures of {height}x{width}; networks here see squares: choose another"
            )
        squashed = config.get("crop_mode") == "squash"
        transforms = {
            "size": height,
            "test_resize": "whole" if squashed else math.floor(height / (config.get("crop_pct") or 0.875)),
            "interpolation": "bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        }
    colours = {key: tuple(config[key]) for key in ("mean", "std") if config.get(key)}
    return {
        "transforms": {**transforms, **colours},
        "num_classes": config.get("num_classes"),
        "fixed_size": bool(config.get("fixed_input_size") and config.get("input_size")),
    }


def class_names(number: int) -> list[str]:
    """Return names for so many classes, of weights that name none: as timm and transformers have them.

    Those are ImageNet's where it has a set of as many classes, and else LABEL_0, LABEL_1, ...
    """
    subset = infer_imagenet_subset({"num_classes": number})
    if subset is None:
        return [f"LABEL_{index}" for index in range(number)]
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(number)]


def folder_path(name: str) -> str:
    """Return the path of the folder that ``name``, with or without ``local-dir:``, stands for."""
    return os.path.expanduser(name.removeprefix(LOCAL))


def read_description(path: str) -> Any:
    """Return the value in a JSON file on this machine; OSError or ValueError where there is none."""
    with open(path, encoding="utf-8") as file:
        return storage.parse_json(file.read())


@contextlib.contextmanager
def fetching(name: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a UserError: each of the libraries on the way has exceptions of its own."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it warns at each of its many tries
    try:
        with mending(f"could not fetch {name}", f"connect to the internet, or {remedy}"):
            yield
    finally:
        hub.setLevel(level)


@contextlib.contextmanager
def mending(problem: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a UserError that says ``problem``, why, and the ``remedy``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = textwrap.shorten(first, 160, placeholder=" ...")
        raise UserError(f"{problem} ({reason}); {remedy}") from None
