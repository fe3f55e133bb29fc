"""What the checkpoints of a transfer are: which network, which file, and how it sees its data."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bsssl import storage
from bsssl.config import Checkpoint, LabeledData, Model
from bsssl.errors import UserError
from bsssl.models import CONFIG, LOCAL, WEIGHTS, named_weights, saved_facts
from bsssl.recipes.pretrained import resolved, seeing
from bsssl.stages.seen import recorded_settings, recorded_test_view


@dataclass(frozen=True)
class Origin:
    """A checkpoint of one seed."""

    model: Model
    """with how it sees the data of the transfer"""
    path: str | None
    """its file of weights; None for weights with a name and for scratch"""
    transforms: Mapping[str, Any] = field(default_factory=dict)
    """how it was made to see pictures, in keys of ``data.transforms``; empty where its folder does not say"""


@dataclass(frozen=True)
class _Description:
    """What the folder of a file of weights says of them."""

    transforms: Mapping[str, Any] = field(default_factory=dict)
    """how the network was made to see pictures, in keys of ``data.transforms``"""
    clips: Mapping[str, Any] = field(default_factory=dict)
    """how it was made to see videos, in keys of ``data.clips``"""
    model: Model | None = None
    """the network, or None where the file itself says that better"""
    frames: int | None = None
    """``frames`` of the network in the config of its run"""


def origin(name: str, checkpoint: Checkpoint, data: LabeledData, *, seed: int) -> Origin:
    """Return what ``checkpoint``, called ``name`` in the config, is for ``seed``, and how it sees ``data``.

    What the config says of the network comes first, then what ``data`` has otherwise than by default, then what the
    weights say. A path that does not exist is taken as it is when the config says which model it is of, so that a plan
    needs no files.

    Raises:
        UserError: The network cannot be told, or it cannot see the data as the config says.
    """
    key, path = f"checkpoints.{name}", checkpoint.init_from
    if path is None:
        assert checkpoint.model is not None  # the config sees to it
        return Origin(resolved(f"{key}.model", checkpoint.model, data, data_first=True), None)
    path = path.replace("{seed}", str(seed))
    if os.path.isdir(path):
        path = os.path.join(path, WEIGHTS)
        if not os.path.exists(path):
            raise UserError(f"{key}: there is no {path}; give the folder of a trained stage, or run that stage first")
    model = checkpoint.model
    try:
        described = _described(path)
    except UserError as error:
        if model is None:
            raise UserError(f"{key}: {error}") from None
        described = _Description()  # a config.json of something else
    model = _network(key, path, described) if model is None else model
    if described.transforms:
        # An identity of old has no frames where they are those of the data.
        own = {} if data.clips is None else described.clips
        clips = {name: value for name, value in own.items() if value != getattr(data.clips, name)}
        model = seeing(f"{key}.model", model, data, transforms=described.transforms, clips=clips, data_first=True)
    return Origin(resolved(f"{key}.model", model, data, data_first=True), path, described.transforms)


def _network(key: str, path: str, described: _Description) -> Model:
    """Return the network of the weights ``path``, which the config at ``key`` does not name."""
    if not storage.exists(path):
        raise UserError(f"{key}: there is no {path}; run the stage that leaves it first, or correct the path")
    if facts := saved_facts(path):
        return Model(name=facts["model"], options=facts.get("options", {}), frames=described.frames)
    if described.model is None:
        raise UserError(f"{key}: {path} does not say which network it is of; add {key}.model.name=...")
    return described.model


def _described(path: str) -> _Description:
    """Return what is known of the weights ``path`` by the record of the stage that left them, or by ``config.json``.

    Raises:
        UserError: The ``config.json`` is not one of a network.
    """
    if storage.is_remote(path):
        return _Description()
    folder = Path(path).parent
    recorded = recorded_settings(folder)
    if recorded is not None and "seen" in recorded[1]:
        stage, settings = recorded
        seen = recorded_test_view(stage, settings, folder.parent)
        pictures = seen.transforms.model_dump(exclude={"resize"})
        return _Description(
            transforms={**pictures, "test_resize": seen.transforms.resize or "whole"},
            clips={} if seen.clips is None else seen.clips.of_network(),
            frames=settings["model"].get("frames"),
        )
    if os.path.basename(path) == WEIGHTS and (folder / CONFIG).exists():
        named = named_weights(f"{LOCAL}{folder}")
        network = Model(name=named.network, options=dict(named.options))
        return _Description(transforms=named.transforms, clips=named.clips, model=network)
    return _Description()
