"""What the checkpoints of a transfer are: which network, which file, and how it saw its data."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsssl import storage
from bsssl.config import Checkpoint, Model
from bsssl.errors import UserError
from bsssl.models import WEIGHTS, saved_facts
from bsssl.recipes.pretrained import resolved
from bsssl.stages.seen import recorded_settings


@dataclass(frozen=True)
class Origin:
    """A checkpoint of one seed."""

    model: Model
    path: str | None
    """its file of weights; None for released weights and for scratch"""
    transforms: dict[str, Any]
    """those that the stage which left it was trained with; empty where that is unknown"""


def origin(name: str, checkpoint: Checkpoint, *, seed: int) -> Origin:
    """Return what ``checkpoint``, called ``name`` in the config, is for ``seed``.

    A path that does not exist is taken as it is when the config says which model it is of, so that a plan needs no
    files. UserError when the network cannot be told.
    """
    key, path = f"checkpoints.{name}", checkpoint.init_from
    if path is None:
        assert checkpoint.model is not None  # the config sees to it
        return Origin(resolved(f"{key}.model", checkpoint.model), None, {})
    path = path.replace("{seed}", str(seed))
    if os.path.isdir(path):
        path = os.path.join(path, WEIGHTS)
        if not os.path.exists(path):
            raise UserError(f"{key}: there is no {path}; give the folder of a trained stage, or run that stage first")
    if checkpoint.model is not None:
        return Origin(resolved(f"{key}.model", checkpoint.model), path, _trained_with(path))
    if not storage.exists(path):
        raise UserError(f"{key}: there is no {path}; run the stage that leaves it first, or correct the path")
    facts = saved_facts(path)
    if not facts:
        raise UserError(f"{key}: {path} does not say which network it is of; add {key}.model.name=...")
    frames = _settings(path).get("model", {}).get("frames")
    model = Model(name=facts["model"], options=facts.get("options", {}), frames=frames)
    return Origin(model, path, _trained_with(path))


def _trained_with(path: str) -> dict[str, Any]:
    transforms: dict[str, Any] = _settings(path).get("seen", {}).get("transforms", {})
    return transforms


def _settings(path: str) -> dict[str, Any]:
    """Return the settings of the stage that left the weights ``path``; nothing where that is unknown."""
    recorded = None if storage.is_remote(path) else recorded_settings(Path(path).parent)
    return {} if recorded is None else recorded[1]
