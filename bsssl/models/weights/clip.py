"""Weights of open_clip: what their names stand for, and what they make of the names of classes.

A name is ``open_clip/`` and

- ``<architecture>.<tag>``, one of ``open_clip.list_pretrained()``;
- ``local-dir:<folder>``, with ``open_clip_config.json`` and the weights, as open_clip writes it;
- ``hf-hub:<user>/<repository>``, such a folder on the Hugging Face Hub.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bsssl.errors import UserError, choices
from bsssl.models.weights.files import FILES, local_copy, weights_file
from bsssl.models.weights.hosted import (
    HUB,
    HUB_FILES,
    LOCAL,
    Named,
    described,
    fetching,
    folder_path,
    mending,
    read_description,
)
from bsssl.models.zoo.clip import UNNAMED, import_open_clip

OPEN_CLIP = "open_clip/"
_CONFIG = "open_clip_config.json"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", *FILES)


def means_weights(name: str) -> bool:
    """Return whether ``name``, without ``open_clip/``, is that of weights, not of an architecture."""
    return "." in name or name.startswith((LOCAL, HUB))


def clip_weights(name: str) -> Named:
    """Return what the weights are that ``name``, without ``open_clip/``, stands for.

    Raises:
        UserError: There are no such weights; the message lists the nearest names.
    """
    return _folder(name) if name.startswith((LOCAL, HUB)) else _tagged(name)


def local_clip_weights(name: str) -> str | None:
    """Return the file on this machine that the weights called ``name``, without ``open_clip/``, are read from."""
    return weights_file(folder_path(name), _FILES) if name.startswith(LOCAL) else None


@dataclass(frozen=True)
class ClassTexts:
    """The classes as a CLIP understands their names."""

    embeddings: Tensor
    """float32 (C, D), each of length 1"""
    scale: float
    """the factor of the cosines between pictures and classes with which the CLIP was trained"""


def class_texts(
    weights: str,
    *,
    network: str,
    options: Mapping[str, Any],
    names: Sequence[str],
    templates: Sequence[str],
    device: torch.device,
) -> ClassTexts:
    """Return the embeddings of classes: each is the mean of those of its prompts (section 3.1.4 of the paper).

    Args:
        weights: The name of the weights, or a file of a whole CLIP.
        network: The name of the network, see ``build_model``, for a file.
        options: Of the network.
        names: What the classes are called in prompts.
        templates: The prompts; ``{}`` stands for the name.
        device: Where to compute.

    Raises:
        UserError: The weights are unknown or cannot be fetched, or are those of no CLIP.
    """
    source, model = _whole(weights, network, options)
    with mending(f"{weights}: cannot load its tokenizer", "pip install transformers, and connect to the internet once"):
        tokenizer = import_open_clip().get_tokenizer(source)
    prompts = [functools.partial(template.replace, "{}") for template in templates]
    with torch.inference_mode():
        embeddings = import_open_clip().build_zero_shot_classifier(
            model.to(device).eval(), tokenizer, names, prompts, device=device
        )
    return ClassTexts(embeddings.T.float().cpu(), float(model.logit_scale.detach().exp()))


def _tagged(name: str) -> Named:
    open_clip = import_open_clip()
    architecture, _, tag = name.partition(".")
    if architecture not in open_clip.list_models():
        raise UserError(f"unknown weights 'open_clip/{name}': {choices(architecture, open_clip.list_models())}")
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        tags = [f"{OPEN_CLIP}{architecture}.{one}" for one in open_clip.list_pretrained_tags_by_model(architecture)]
        raise UserError(f"unknown weights 'open_clip/{name}': {choices(f'{OPEN_CLIP}{name}', tags)}")
    return _named(name, f"{OPEN_CLIP}{architecture}", open_clip.get_model_config(architecture), config)


def _folder(name: str) -> Named:
    full = f"{OPEN_CLIP}{name}"
    if name.startswith(LOCAL):
        with mending(f"{full}: cannot read {_CONFIG}", "give a folder that open_clip wrote"):
            content = read_description(os.path.join(folder_path(name), _CONFIG))
    else:
        content = _hub_config(name.removeprefix(HUB))
    with mending(f"{full}: its {_CONFIG} describes no network", "give a folder that open_clip wrote"):
        config, seen = content["model_cfg"], content.get("preprocess_cfg", {})
        options = {key: config[key] for key in ("embed_dim", "vision_cfg")}
    return _named(name, f"{OPEN_CLIP}{UNNAMED}", config, seen, options)


@functools.lru_cache
def _hub_config(repository: str) -> Any:
    from huggingface_hub import hf_hub_download

    with fetching(f"{OPEN_CLIP}{HUB}{repository}", _hub_remedy(repository)):
        return read_description(hf_hub_download(repository, _CONFIG))


def _named(
    name: str,
    network: str,
    config: Mapping[str, Any],
    seen: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> Named:
    """Return the description of weights.

    Args:
        name: The name of the weights, without ``open_clip/``.
        network: The name of their network.
        config: The architecture.
        seen: How pictures are prepared, in open_clip's words.
        options: Of the network.

    Raises:
        UserError: The network does not see squares, or sees padded pictures.
    """
    open_clip = import_open_clip()
    if seen.get("resize_mode") == "longest":
        raise UserError(f"{OPEN_CLIP}{name} sees padded pictures, which no network here does; choose another")
    size = seen.get("size") or config["vision_cfg"].get("image_size", 224)
    quick = {"quick_gelu": True} if seen.get("quick_gelu") or config.get("quick_gelu") else {}
    as_timm = {
        "input_size": (3, size, size) if isinstance(size, int) else (3, *size),
        "crop_pct": 1.0,
        "crop_mode": "squash" if seen.get("resize_mode") == "squash" else "center",
        "interpolation": seen.get("interpolation", "bicubic"),
        "mean": seen.get("mean", open_clip.OPENAI_DATASET_MEAN),
        "std": seen.get("std", open_clip.OPENAI_DATASET_STD),
        "fixed_input_size": True,
        "num_classes": 0,
    }
    return Named(
        name=f"{OPEN_CLIP}{name}",
        network=network,
        load=functools.partial(_load_tower, f"{OPEN_CLIP}{name}"),
        options={**(options or {}), **quick},
        **described(as_timm),
    )


def _load_tower(name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the tensors of the tower that sees pictures."""
    state = _whole(name, "", options)[1].state_dict()
    return {key: value for key, value in state.items() if key.startswith("visual.")}


def _whole(weights: str, network: str, options: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what open_clip calls a whole CLIP, and the CLIP with its weights."""
    source, file = _source(weights, network)
    with mending(f"cannot load {weights} as a whole CLIP", "give weights that open_clip wrote"):
        model = import_open_clip().create_model(
            source,
            file,
            require_pretrained=True,
            force_image_size=options.get("img_size"),
            force_quick_gelu=options.get("quick_gelu", False),
        )
    return source, model


def _source(weights: str, network: str) -> tuple[str, str | None]:
    """Return what open_clip calls a CLIP, and the file of its weights where they do not lie beside its description."""
    name = weights.removeprefix(OPEN_CLIP)
    if name == weights:
        return network.removeprefix(OPEN_CLIP), local_copy(weights_file(weights))
    if name.startswith(LOCAL):
        return f"{LOCAL}{folder_path(name)}", None
    open_clip = import_open_clip()
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        with fetching(weights, _hub_remedy(repository)):
            open_clip.download_pretrained({"hf_hub": f"{repository}/"})
        return name, None
    architecture, _, tag = name.partition(".")
    hosted = open_clip.get_pretrained_cfg(architecture, tag)
    with fetching(weights, _remedy(hosted)):
        return architecture, open_clip.download_pretrained(hosted)


def _remedy(hosted: Mapping[str, Any]) -> str:
    """Return what to do where the weights of a tag cannot be fetched."""
    repository, file = os.path.split(hosted["hf_hub"])
    url = HUB_FILES.format(repository, file or _FILES[0]) if repository else hosted["url"]
    return f"fetch {url} elsewhere and give the file's path as weights"


def _hub_remedy(repository: str) -> str:
    url = HUB_FILES.format(repository, _CONFIG)
    return f"fetch {url} and {_FILES[0]} beside it into a folder, and name that {OPEN_CLIP}{LOCAL}FOLDER"
