"""Weights into a network, from a file of whichever tool or from a state dict."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bsssl import storage
from bsssl.errors import UserError, choices
from bsssl.models.heads import classifier
from bsssl.models.weights.files import FILES, Checkpoint, file_and_key, flatten, read_checkpoint
from bsssl.models.weights.hosted import LOCAL
from bsssl.models.weights.named import CONFIG, named_weights
from bsssl.models.weights.names import MMACTION, PYSLOWFAST, Part, find_part
from bsssl.models.zoo.video import SlowFast
from bsssl.runtime.console import logger

_TWO_ORDERS = 11  # names of classes that are numbers: as text, 10 comes before 2
# Batch normalisation counts its batches; old files lack the counters, and nothing depends on them.
_COUNTER = ".num_batches_tracked"
# Networks of other libraries that no network here is, by a part of a name of theirs.
_NOT_HERE = {
    ".conv_s.weight": "mmaction2's R(2+1)D, which has 83 planes in its stem and a pool behind it",
    "slow_path.": "mmaction2's SlowFast, whose pathways join without normalisation",
}


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors, each by its name in the network."""

    matched: tuple[str, ...]
    """copied into the network"""
    missing: tuple[str, ...]
    """left as initialised: a new classifier, and counters that old files lack"""
    unexpected: tuple[str, ...]
    """in the file but not used: the classifier that was replaced"""
    metadata: dict[str, Any]
    """see ``Checkpoint.metadata``"""


def has_classes(model: nn.Module, path: str, classes: Sequence[str]) -> bool:
    """Return whether the file at ``path``, of ``model``'s architecture, has a classifier for ``classes``.

    The names decide where the file, or the ``config.json`` of its folder, has names, else their number.

    Raises:
        UserError: The file cannot be read, see ``read_checkpoint``.
    """
    checkpoint, place = _read(path)
    theirs = checkpoint.metadata.get("classes") or _described_classes(file_and_key(path)[0])
    if theirs is not None:
        return list(theirs) == list(classes)
    head, _ = classifier(model)
    weight = find_part(checkpoint.state, model.state_dict(), head, place=place).state.get(f"{head}.weight")
    return weight is not None and len(weight) == len(classes)


def load_weights(
    model: nn.Module,
    source: str | Mapping[str, Any],
    *,
    new_head: bool = False,
    classes: Sequence[str] | None = None,
    origin: str = "the given state dict",
) -> LoadReport:
    """Copy the weights of a file or of a state dict into ``model``, in which every tensor must find its place.

    Args:
        model: The network.
        source: The path or URL of the file, or the state dict. Of a file with several sets of weights the averaged ones
            are taken, unless the path ends in ``#`` and the key of another.
        new_head: Leave the classifier as initialised, for other classes than the file's.
        classes: The names of the network's classes, compared with the file's where the file has names.
        origin: What messages call a source that is not a path.

    Raises:
        UserError: The file is of another network or, without ``new_head``, of other classes; ``model`` is unchanged.
    """
    place = ""
    if isinstance(source, str):
        origin, (checkpoint, place) = source, _read(source)
    else:
        checkpoint = Checkpoint(flatten(source, origin))
    expected = model.state_dict()
    head, _ = classifier(model)
    part = find_part(checkpoint.state, expected, head, place=place)
    state = part.state
    dropped: tuple[str, ...] = ()
    if new_head:
        dropped = tuple(name for name in state if name.startswith(f"{head}."))
        state = {name: value for name, value in state.items() if name not in dropped}
    else:
        _check_classes(origin, checkpoint.metadata.get("classes"), classes)
    missing = tuple(name for name in expected if name not in state)
    absent = [
        name for name in missing if not name.endswith(_COUNTER) and not (new_head and name.startswith(f"{head}."))
    ]
    file_model = checkpoint.metadata.get("model") or _recognise(state)
    _check_architecture(origin, state, expected, absent, head=head, file_model=file_model)
    _check_types(origin, state, expected)
    _check_strides(origin, model, part, checkpoint.configuration)
    model.load_state_dict(state, strict=False)
    matched = tuple(name for name in expected if name in state)
    counters = sum(name.endswith(_COUNTER) for name in missing)
    afresh = f"; the classifier '{head}' starts afresh" if new_head else ""
    # There is nothing to doubt about a file of this project unless a part of it is left out.
    level = logging.DEBUG if checkpoint.metadata and not new_head else logging.INFO
    logger.log(level, f"{origin}: {len(matched)} of {len(expected) - counters} tensors matched{afresh}")
    if part.alternatives:
        taken, *others = (f"'{place.rstrip('.')}'" for place in (part.place, *part.alternatives))
        logger.warning(f"{origin}: took {taken}; {', '.join(others)} would do too: choose with PATH#KEY")
    return LoadReport(matched=matched, missing=missing, unexpected=dropped, metadata=checkpoint.metadata)


def _read(path: str) -> tuple[Checkpoint, str]:
    """Return what the file holds that ``path`` names, and the place in it that ``path`` chooses, if it does."""
    file, place = file_and_key(path)
    checkpoint = read_checkpoint(file)
    if place and not any(f".{place}." in f".{name}" for name in checkpoint.state):
        keys = dict.fromkeys(name.partition(".")[0] for name in checkpoint.state)
        raise UserError(f"{file} has no weights under '{place}': {choices(place, list(keys))}")
    return checkpoint, place


def _described_classes(file: str) -> Sequence[str] | None:
    """Return the names of the classes of a network as the ``config.json`` beside its file of weights has them."""
    folder, name = os.path.split(file)
    if storage.is_remote(file) or name not in FILES or not os.path.exists(os.path.join(folder, CONFIG)):
        return None
    try:
        return named_weights(f"{LOCAL}{folder}").classes
    except UserError:  # the description of something else
        return None


def _check_classes(origin: str, theirs: Sequence[str] | None, ours: Sequence[str] | None) -> None:
    if theirs is None and ours is not None and sum(map(str.isdecimal, ours)) >= _TWO_ORDERS:
        logger.warning(
            "%s does not name its classes: its outputs are taken for the classes in the order %s, ..., %s",
            *(origin, ", ".join(ours[:4]), ours[-1]),
        )
    if theirs is None or ours is None or list(theirs) == list(ours):
        return
    if len(theirs) != len(ours):
        difference = f"has {len(theirs)} classes and the data {len(ours)}"
    else:
        number = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        difference = f"has '{theirs[number]}' as class {number} and the data '{ours[number]}'"
    raise UserError(f"{origin} {difference}; use the same class list, or start with a new classifier (new_head)")


def _recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of torchvision's ``r2plus1d_18``, which has 230 planes between where the paper has 288."""
    weight = state.get("blocks.2.res_blocks.0.branch2.conv_b.conv_xy.weight")
    return "torchvision/r2plus1d_18" if weight is not None and len(weight) == 230 else None


def _check_architecture(
    origin: str,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    absent: Sequence[str],
    *,
    head: str,
    file_model: str | None,
) -> None:
    """Refuse a ``state`` with a tensor that has no place or another shape, or that lacks those in ``absent``."""
    misshapen = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    extra = [name for name in state if name not in expected]
    if not (misshapen or extra or absent):
        return
    if other := next((what for mark, what in _NOT_HERE.items() if any(mark in name for name in state)), None):
        raise UserError(f"{origin} is of {other}: no network here is the same; give another file")
    if not (extra or absent) and all(name.startswith(f"{head}.") for name in misshapen):
        raise UserError(
            f"{origin} has {len(state[misshapen[0]])} classes and the network {len(expected[misshapen[0]])}; "
            "use the same class list, or start with a new classifier (new_head)"
        )
    if misshapen:
        first = f"'{misshapen[0]}' is {_shape(state[misshapen[0]])} there and {_shape(expected[misshapen[0]])} here"
    elif absent:
        first = f"'{absent[0]}' is not in it"
    else:
        first = f"'{extra[0]}' has no place in the network"
    matching = len(state) - len(misshapen) - len(extra)
    named = f"model '{file_model}'" if file_model else "the model it was saved from"
    raise UserError(
        f"{origin} is of another architecture: {matching} of its {len(state)} tensors match the network's "
        f"{len(expected)}, first difference: {first}; configure {named} with its options, or give another file"
    )


def _check_types(origin: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a ``state`` whose weights were made whole numbers: without their scales they are others."""
    for name, value in state.items():
        if expected[name].is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(
                f"{origin}: '{name}' holds whole numbers ({kind}), as of a quantised network; give the weights from "
                "before they were quantised"
            )


def _check_strides(origin: str, model: nn.Module, part: Part, configuration: str) -> None:
    """Refuse the weights of a network with the tensors of ``model`` but other strides, as far as these are known.

    Args:
        origin: What messages call the file.
        model: The network.
        part: Its tensors in the file.
        configuration: See ``Checkpoint.configuration``.
    """
    if part.library == MMACTION:
        stem: Any = model.get_submodule("blocks.0")
        # SlowOnly sees all frames; I3D, which alone has a kernel in time here, one of 2 and of these one of 2.
        expected = 1 if part.state["blocks.0.conv.weight"].shape[2] == 1 else 2
        if (stem.conv.stride[0], stem.pool.stride[0]) != (expected, expected):
            raise UserError(
                f"{origin}: the stem of mmaction2's network has strides of {expected} in time; set the options of the "
                f"network to {{stem_conv_stride: [{expected}, 2, 2], stem_pool_stride: [{expected}, 2, 2]}}"
            )
    elif part.library == PYSLOWFAST and not configuration:
        logger.info(f"{origin}: strides and pools, which it does not tell, are taken for the network's")
    elif part.library == PYSLOWFAST:
        if re.search(r"^ +ARCH: \w+_nopool$", configuration, re.MULTILINE):
            raise UserError(f"{origin} lacks a pool that the network has (its ARCH ends in _nopool); give another file")
        ratio = re.search(r"^ +ALPHA: (\d+)$", configuration, re.MULTILINE)
        if isinstance(model, SlowFast) and ratio and int(ratio[1]) != model.ratio:
            raise UserError(
                f"{origin}: its slow pathway sees one frame of {ratio[1]}, the network's one of {model.ratio}; set the "
                f"options of the network to {{slowfast_fusion_conv_stride: [{ratio[1]}, 1, 1]}}"
            )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
