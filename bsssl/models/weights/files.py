"""Files of weights: those of this project are written here, those of many tools are read, and none runs code.

Layouts that are read, local or remote, as safetensors or as PyTorch's own format:

- the final weights of this project, whose header names the network and its classes (``save_model``);
- a state dict of torchvision, timm or PyTorchVideo;
- the original release of semi-supervised and semi-weakly supervised ImageNet models, torchvision's names throughout;
- R(2+1)D as the PyTorch port of VMZ saves it, and IG-65M's weights converted to that: torchvision's names, the paper's
  planes;
- SlowOnly and I3D of mmaction2, and C2D, I3D, Slow and SlowFast of PySlowFast, for PyTorchVideo's networks;
- any of these inside what a training script keeps: wrappers, averaged weights beside the last ones, a network as a part
  of a larger module (Lightning, MoCo, VISSL, OpenMMLab), see ``find_part``.
"""

import argparse
import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import safetensors.torch
import torch
from torch import Tensor

from bsssl import storage
from bsssl.errors import UserError

WEIGHTS = "model.safetensors"
"""the file of weights in the folder of a trained stage"""
FILES = (WEIGHTS, "pytorch_model.bin", "model.pth")
"""what the file of weights in a folder may be called, the first that is there first"""


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds."""

    state: dict[str, Tensor]
    """tensors on the CPU by name, of what lies deeper in a file by the keys on the way to it, joined by dots"""
    metadata: dict[str, Any] = field(default_factory=dict)
    """``model``, ``classes`` and the other facts that ``save_model`` wrote; empty for files of other tools"""
    configuration: str = ""
    """what PySlowFast notes of a training beside its weights, YAML"""


def save_model(path: str, state_dict: Mapping[str, Tensor], *, name: str, classes: list[str], **facts: Any) -> None:
    """Write final weights as safetensors whose header says which network and which classes they are of.

    Equal weights and facts make equal files.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    metadata = {key: json.dumps(value) for key, value in {"model": name, "classes": classes, **facts}.items()}
    with storage.atomic_write(path) as file:
        file.write(_with_metadata(safetensors.torch.save(tensors), metadata))


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file with entries in its header, by name: the library keeps them in no fixed order.

    The file begins with the length of its header, 8 bytes, then the header, JSON padded with blanks.
    """
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def saved_facts(path: str) -> dict[str, Any]:
    """Return ``model``, ``classes`` and the other facts that ``save_model`` wrote; nothing for files of other tools.

    Only the beginning of the file, local or remote, is read.

    Raises:
        UserError: The file does not exist.
    """
    with storage.open_read(path) as file:
        start = file.read(9)
        if not _is_safetensors(start):
            return {}
        try:
            header = storage.parse_json(start[8:] + file.read(int.from_bytes(start[:8], "little") - 1))
            return _facts(header.get("__metadata__", {}))
        except (ValueError, OverflowError, MemoryError):
            return {}  # whoever loads the weights is told of the damage


def weights_file(path: str, names: Sequence[str] = FILES) -> str:
    """Return the file of weights in the folder ``path``, the first of ``names``, or ``path`` itself where that is none.

    Raises:
        UserError: The folder has no such file.
    """
    if storage.is_remote(path) or not os.path.isdir(path):
        return path
    there = [name for name in names if os.path.exists(os.path.join(path, name))]
    if not there:
        raise UserError(f"{path} has no {names[0]}; give a folder with one, or a file of weights")
    return os.path.join(path, there[0])


def file_and_key(path: str) -> tuple[str, str]:
    """Return the file of weights that ``path`` names, and the key of one of several sets in it, or an empty one.

    A path that exists is itself; of another what follows the last ``#`` is the key.

    Raises:
        UserError: The path is that of a folder without a file of weights.
    """
    file, _, key = path.rpartition("#")
    return (weights_file(path), "") if not file or storage.exists(path) else (weights_file(file), key)


def local_copy(path: str) -> str:
    """Return a file on this machine with the content of ``path``: ``path`` itself, or a copy of what lies elsewhere."""
    local: str = fsspec.open_local(f"simplecache::{path}") if storage.is_remote(path) else path
    return local


def read_checkpoint(path: str) -> Checkpoint:
    """Read a file of weights in any of the layouts above.

    Raises:
        UserError: The file is missing, damaged, holds no tensors, or holds objects other than tensors and plain values.
    """
    try:
        with storage.open_read(path) as file:
            start = file.read(9)
        local = local_copy(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give the path of a file of weights") from None
    if _is_safetensors(start):
        return _read_safetensors(local, path)
    content = _read_torch(local, path)
    noted = content.get("cfg") if isinstance(content, Mapping) else None
    return Checkpoint(flatten(content, path), configuration=noted if isinstance(noted, str) else "")


def flatten(content: Any, origin: str) -> dict[str, Tensor]:
    """Return all tensors of ``content``, however deep, by the keys on the way to them, joined by dots.

    Raises:
        UserError: There are none; the message calls the content ``origin``.
    """
    state = dict(_tensors(content, ""))
    if not state:
        raise UserError(f"{origin} has no weights by name; save them with torch.save(model.state_dict(), path)")
    return state


def _tensors(content: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{place}{key}", value
        else:
            yield from _tensors(value, f"{place}{key}.")


def _is_safetensors(start: bytes) -> bool:
    """Return whether a file begins with the length of its header, 8 bytes, and then the header, which is JSON."""
    return start[8:] == b"{"


def _facts(metadata: Any) -> dict[str, Any]:
    """Return what ``save_model`` has noted; ValueError where something else stands in its place."""
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are no texts by name")
    if not {"model", "classes"} <= metadata.keys():
        return {}  # a file of another tool
    facts = {key: storage.parse_json(value) for key, value in metadata.items() if isinstance(value, str)}
    classes, options = facts.get("classes"), facts.get("options", {})
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in [*classes, facts.get("model")]):
        raise ValueError("it does not say which network and which classes it is of")
    if not isinstance(options, dict):
        raise ValueError("the options of its network are none")
    return facts


def _read_safetensors(local: str, path: str) -> Checkpoint:
    try:
        with safetensors.safe_open(local, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            facts = _facts(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not state:
        raise _damaged(path, ValueError("it holds no tensors"))
    return Checkpoint(state, facts)


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
