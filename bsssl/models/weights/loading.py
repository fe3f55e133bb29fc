"""Weights from a file into a network, whoever wrote the file. Nothing here unpickles code.

Layouts understood, local or remote, as safetensors or as PyTorch's own format:

- the final weights of this project, whose metadata names the network and its classes (``save_model``);
- a torchvision state dict;
- a timm state dict, or a checkpoint of timm's training script;
- the original release of semi-supervised and semi-weakly supervised ImageNet models, torchvision's names throughout;
- a state dict or a hub checkpoint of PyTorchVideo;
- R(2+1)D as the PyTorch port of VMZ saves it, and IG-65M's weights converted to that: torchvision's names, the paper's
  planes.

Wrappers (``state_dict``, ``model``, ...) and prefixes (``module.``, ``_orig_mod.``, ...) around them are taken off.
"""

import argparse
import json
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import safetensors
import torch
from torch import Tensor, nn

from bsssl import storage
from bsssl.errors import UserError
from bsssl.models.heads import classifier
from bsssl.runtime.console import logger

_WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "model_state", "model", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# R(2+1)D's names in torchvision and VMZ, and PyTorchVideo's; the classifier is renamed as everywhere.
_R2PLUS1D = {
    r"^stem\.0\.": "blocks.0.conv.conv_xy.",
    r"^stem\.1\.": "blocks.0.conv.norm.",
    r"^stem\.3\.": "blocks.0.conv.conv_t.",
    r"^stem\.4\.": "blocks.0.norm.",
    r"^layer(\d+)\.(\d+)\.": r"blocks.\1.res_blocks.\2.",
    r"\.downsample\.0\.": ".branch1_conv.",
    r"\.downsample\.1\.": ".branch1_norm.",
    r"\.conv1\.": ".branch2.conv_a.",
    r"\.conv2\.": ".branch2.conv_b.",
    r"\.conv_([ab])\.0\.0\.": r".conv_\1.conv_xy.",
    r"\.conv_([ab])\.0\.1\.": r".conv_\1.norm.",
    r"\.conv_([ab])\.0\.3\.": r".conv_\1.conv_t.",
    r"\.conv_([ab])\.1\.": r".norm_\1.",
}
# Of batch normalisation; old files lack it, and nothing depends on it.
_COUNTER = ".num_batches_tracked"
_HEADS = ("fc", "classifier", "head", "head.fc", "last_linear")


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds."""

    state: dict[str, Tensor]
    """tensors by name, on the CPU, without wrappers"""
    metadata: dict[str, Any] = field(default_factory=dict)
    """of this project's final weights: ``model``, ``classes`` and what else was saved with them; else empty"""


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


def read_checkpoint(path: str) -> Checkpoint:
    """Read a file of weights in any of the layouts above.

    UserError when it is missing, damaged, holds no tensors, or holds objects other than tensors and plain values.
    """
    try:
        with storage.open_read(path) as file:
            start = file.read(9)
        local = fsspec.open_local(f"simplecache::{path}") if storage.is_remote(path) else path
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give the path of a file of weights") from None
    if start[8:] == b"{":
        return _read_safetensors(local, path)
    return Checkpoint(state=_unwrap(_read_torch(local, path), path))


def has_classes(model: nn.Module, path: str, classes: Sequence[str]) -> bool:
    """Whether the classifier in the file at ``path``, of ``model``'s architecture, is for ``classes``.

    The names decide where the file has names, else their number. UserError as of ``read_checkpoint``.
    """
    found = read_checkpoint(path)
    theirs = found.metadata.get("classes")
    if theirs is not None:
        return list(theirs) == list(classes)
    expected = model.state_dict()
    head, _ = classifier(model)
    weight = _rename(found.state, expected, head).get(f"{head}.weight")
    return weight is None or len(weight) == len(classes)


def load_weights(
    model: nn.Module,
    source: str | Mapping[str, Tensor],
    *,
    new_head: bool = False,
    classes: Sequence[str] | None = None,
    origin: str = "the given state dict",
) -> LoadReport:
    """Copy the weights of a file (path or URL) or of a state dict into ``model``.

    Every tensor must find its place: a file of another network is a UserError, and ``model`` is then unchanged. With
    ``new_head`` the classifier alone stays as initialised, for other classes than the file's; without it a different
    number of classes, or other names than ``classes`` where the file has names, is a UserError. ``origin`` is what
    messages call a source that is not a path.
    """
    if isinstance(source, str):
        origin, found = source, read_checkpoint(source)
    else:
        found = Checkpoint(_unwrap(source, origin))
    expected = model.state_dict()
    head, _ = classifier(model)
    state = _rename(found.state, expected, head)
    dropped: tuple[str, ...] = ()
    if new_head:
        dropped = tuple(name for name in state if name.startswith(f"{head}."))
        state = {name: value for name, value in state.items() if name not in dropped}
    else:
        _check_classes(origin, found.metadata.get("classes"), classes)
    missing = tuple(name for name in expected if name not in state)
    absent = [
        name for name in missing if not name.endswith(_COUNTER) and not (new_head and name.startswith(f"{head}."))
    ]
    file_model = found.metadata.get("model") or _recognise(state)
    _check_architecture(origin, state, expected, absent, head=head, file_model=file_model)
    model.load_state_dict(state, strict=False)
    matched = tuple(name for name in expected if name in state)
    counters = sum(name.endswith(_COUNTER) for name in missing)
    afresh = f"; the classifier '{head}' starts afresh" if new_head else ""
    # Of files of our own there is nothing to doubt unless a part of them is left out.
    level = logging.DEBUG if found.metadata and not new_head else logging.INFO
    logger.log(level, f"{origin}: {len(matched)} of {len(expected) - counters} tensors matched{afresh}")
    return LoadReport(matched=matched, missing=missing, unexpected=dropped, metadata=found.metadata)


def _read_safetensors(local: str, path: str) -> Checkpoint:
    try:
        with safetensors.safe_open(local, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    if not state:
        raise _damaged(path, ValueError("it holds no tensors"))
    ours = "model" in metadata and "classes" in metadata
    try:
        return Checkpoint(state, {key: json.loads(value) for key, value in metadata.items()} if ours else {})
    except ValueError as error:
        raise _damaged(path, error) from None


def _read_torch(local: str, path: str) -> Any:
    try:
        # timm's training script keeps its command line in the file: a namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(local, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"unsupported global:? (?:global )?(\S+)", str(error), re.IGNORECASE):
            raise UserError(
                f"{path} holds Python objects besides weights ({refused[1]}), which could run code and are not loaded; "
                "where it was made, save the weights alone: torch.save(model.state_dict(), path)"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # damage anywhere in a pickle can raise anything
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> UserError:
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
    return UserError(
        f"{path} is damaged or not a file of weights ({reason.splitlines()[0][:120]}); fetch it again, or "
        "delete it and run the stage that makes it"
    )


def _unwrap(content: Any, origin: str) -> dict[str, Tensor]:
    """The tensors by name, from inside whatever wrapper they are in."""
    while isinstance(content, Mapping):
        wrapped = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapped is None:
            break
        content = wrapped
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {str(name): value for name, value in entries if isinstance(value, Tensor)}
    if not state:
        raise UserError(
            f"{origin} has no weights by name, at its top or under {', '.join(_WRAPPERS)}; "
            "save them with torch.save(model.state_dict(), path)"
        )
    return state


def _rename(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """``state`` with the names that its tensors have in this network, as far as they are known."""
    return _rename_head(_rename_r2plus1d(_strip_prefixes(state, expected), expected), expected, head)


def _strip_prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without the prefixes that wrappers of a network put before every name."""
    names = list(state)
    foreign = [prefix for prefix in _PREFIXES if not any(name.startswith(prefix) for name in expected)]
    while prefix := next((prefix for prefix in foreign if all(name.startswith(prefix) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _rename_r2plus1d(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` of a torchvision or VMZ network with PyTorchVideo's names, if those are the ones of this network."""
    if "stem.0.weight" not in state or "blocks.0.conv.conv_xy.weight" not in expected:
        return state
    renamed = {}
    for name, value in state.items():
        for theirs, ours in _R2PLUS1D.items():
            name = re.sub(theirs, ours, name)
        renamed[name] = value
    return renamed


def _rename_head(state: dict[str, Tensor], expected: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """``state`` with its classifier under the name it has in this network."""
    if f"{head}.weight" in state:
        return state
    names = [name for name in _HEADS if f"{name}.weight" in state and f"{name}.weight" not in expected]
    if len(names) != 1:
        return state
    old = f"{names[0]}."
    return {f"{head}.{name[len(old) :]}" if name.startswith(old) else name: value for name, value in state.items()}


def _check_classes(origin: str, theirs: Sequence[str] | None, ours: Sequence[str] | None) -> None:
    if theirs is None or ours is None or list(theirs) == list(ours):
        return
    if len(theirs) != len(ours):
        difference = f"has {len(theirs)} classes and the data {len(ours)}"
    else:
        number = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        difference = f"has '{theirs[number]}' as class {number} and the data '{ours[number]}'"
    raise UserError(f"{origin} {difference}; use the same class list, or start with a new classifier (new_head)")


def _recognise(state: Mapping[str, Tensor]) -> str | None:
    """torchvision's ``r2plus1d_18``, from here with our names: it has 230 planes between where the paper has 288."""
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
    """UserError unless each tensor of ``state`` has its place and shape, and ``absent`` is empty."""
    misshapen = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    extra = [name for name in state if name not in expected]
    if not (misshapen or extra or absent):
        return
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


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
