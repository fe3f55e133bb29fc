"""Weights by name: what timm, torchvision and PyTorchVideo host, and folders that say themselves what they hold.

A name is one of

- ``timm/<architecture>.<tag>``, one of ``timm.list_pretrained()``; the released weights of the original work are among
  them and may be called by that part alone, see ``RELEASED``;
- ``torchvision/<Network>_Weights.<member>``, as torchvision calls its weights, with or without ``torchvision/``;
- ``pytorchvideo/<network of its hub>``, trained on Kinetics-400;
- ``open_clip/<architecture>.<tag>``, or a folder of open_clip's, see ``bsssl.models.weights.clip``;
- ``transformers/`` and a folder of that library's, see ``bsssl.models.weights.transformers``;
- ``local-dir:<folder>``, with ``config.json`` and ``model.safetensors``, as timm and this project write them;
- ``hf-hub:<user>/<repository>``, such a folder on the Hugging Face Hub.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor

from bsssl.errors import UserError, choices
from bsssl.models.weights.clip import OPEN_CLIP, clip_weights, local_clip_weights, means_weights
from bsssl.models.weights.files import file_and_key, read_checkpoint, weights_file
from bsssl.models.weights.folder import TESTING
from bsssl.models.weights.hosted import HUB, HUB_FILES, LOCAL, Named, described, fetching, folder_path, read_description
from bsssl.models.weights.transformers import TRANSFORMERS, local_transformers_weights, transformers_weights
from bsssl.models.zoo.per_frame import PER_FRAME
from bsssl.models.zoo.transformers import KINDS
from bsssl.models.zoo.video import load_pytorchvideo
from bsssl.runtime.console import logger

CONFIG = "config.json"
"""the file of a folder that says which network its weights are of, and how that sees pictures"""
RELEASED = tuple(
    f"{architecture}.{training}_ft_in1k"
    for architecture in (
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "resnext101_32x4d",
        "resnext101_32x8d",
        "resnext101_32x16d",
    )
    for training in ("fb_ssl_yfcc100m", "fb_swsl_ig1b")
)
"""the weights of the original work: trained on YFCC100M (semi-supervised) or on 940 million hashtag images (semi-weakly
supervised), both fine-tuned on ImageNet-1k"""
_SAVED_WRONGLY = "resnext101_32x16d.fb_swsl_ig1b_ft_in1k"
_TORCHVISION = re.compile(r"(?:torchvision/)?(\w+_Weights\.\w+)")


def named_weights(name: str) -> Named:
    """Return what the weights called ``name`` are; none but the description of a folder on the Hub is fetched.

    Raises:
        UserError: There are no such weights; the message lists the nearest names.
    """
    if name in RELEASED:
        return _timm(name)
    finders: dict[str, Callable[[str], Named]]
    finders = {"timm/": _timm, "pytorchvideo/": _pytorchvideo, LOCAL: _local, HUB: _hub}
    finders |= {OPEN_CLIP: clip_weights, TRANSFORMERS: transformers_weights}
    for prefix, find in finders.items():
        if name.startswith(prefix):
            return find(name.removeprefix(prefix))
    if match := _TORCHVISION.fullmatch(name):
        return _torchvision(match[1])
    raise UserError(
        f"unknown weights '{name}': {choices(name, RELEASED)}; or give timm/ARCHITECTURE.TAG, "
        "torchvision/NETWORK_Weights.MEMBER, pytorchvideo/NETWORK, open_clip/ARCHITECTURE.TAG, local-dir:FOLDER, "
        "hf-hub:USER/REPOSITORY, transformers/ and one of the last two, or the path of a file"
    )


def is_named(name: str) -> bool:
    """Return whether ``name`` has the form of a name of weights; else it is the path of a file."""
    prefixes = ("timm/", "torchvision/", "pytorchvideo/", OPEN_CLIP, TRANSFORMERS, LOCAL, HUB)
    return name in RELEASED or name.startswith(prefixes) or bool(_TORCHVISION.fullmatch(name))


def local_weights(name: str) -> str | None:
    """Return the file on this machine, or the URL, that the weights called ``name`` are read from, if it is known."""
    if name.startswith(LOCAL):
        return weights_file(folder_path(name))
    if name.startswith(OPEN_CLIP):
        return local_clip_weights(name.removeprefix(OPEN_CLIP))
    if name.startswith(TRANSFORMERS):
        return local_transformers_weights(name.removeprefix(TRANSFORMERS))
    return None if is_named(name) else file_and_key(name)[0]


def implied_weights(network: str, *, pretrained: bool) -> str | None:
    """Return the name of the weights that the name of a network means.

    That is so for names of timm and of open_clip with a tag, and for folders, of transformers too. ``pretrained`` asks
    for the library's default weights.

    Raises:
        UserError: ``pretrained`` is asked for and there are no weights of the network.
    """
    library, slash, architecture = network.partition("/")
    if network.startswith((LOCAL, HUB)) or (library == "timm" and "." in architecture):
        return network
    if network.startswith(OPEN_CLIP) and means_weights(architecture):
        return network
    if network.startswith(TRANSFORMERS) and architecture.startswith((LOCAL, HUB)):
        return network
    if not pretrained:
        return None
    if library == "timm" and slash and timm.is_model(architecture):
        tag = timm.get_pretrained_cfg(architecture)
        if tag is not None and tag.has_weights:
            return f"timm/{architecture}.{tag.tag}" if tag.tag else network
    elif library == "pytorchvideo":
        return network
    else:
        architecture = network.removeprefix("torchvision/")
        if architecture in torchvision.models.list_models() and network != "r2plus1d_18":  # ours has the paper's planes
            weights = torchvision.models.get_model_weights(architecture).DEFAULT
            return f"torchvision/{weights}"
    raise UserError(f"there are no pre-trained weights of '{network}'; name some as weights, or leave pretrained out")


def load_named(name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the tensors of the weights called ``name``, of a network with ``options``; say what they are.

    Raises:
        UserError: They are unknown or cannot be fetched.
    """
    weights = named_weights(name)
    licence = f"licence {weights.licence}" if weights.licence else "no licence stated"
    logger.info("%s: %s", weights.name, licence)
    if name.endswith(_SAVED_WRONGLY):
        logger.warning(f"{name}: saved wrongly when released; it measures about 83.3 % top-1, not the paper's 84.8 %")
    return weights.load({key: value for key, value in options.items() if key != PER_FRAME})


def _timm(name: str) -> Named:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise UserError(f"unknown weights 'timm/{name}': {choices(architecture, timm.list_models())}")
    known = [full for full in timm.list_pretrained(f"{architecture}*") if full.partition(".")[0] == architecture]
    if name not in known:
        nearest = ", ".join(f"timm/{full}" for full in known) or "none"
        raise UserError(f"unknown weights 'timm/{name}': timm's weights of {architecture} are {nearest}")
    config = timm.get_pretrained_cfg(name)
    assert config is not None  # it is listed
    remedy = "give the file: teacher.init_from=FILE or models.student.weights=FILE, for example"
    if config.hf_hub_id:
        remedy = f"fetch {HUB_FILES.format(config.hf_hub_id, 'model.safetensors')} elsewhere and {remedy}"
    elif config.url:
        remedy = f"fetch {config.url} elsewhere and {remedy}"
    return Named(
        name=f"timm/{name}",
        network=f"timm/{architecture}",
        load=functools.partial(_create_timm, name, remedy=remedy),
        **described(config.to_dict()),
        licence=config.license,
    )


def _create_timm(name: str, options: Mapping[str, Any], *, remedy: str) -> Mapping[str, Tensor]:
    with fetching(name, remedy):
        state: Mapping[str, Tensor] = timm.create_model(name, pretrained=True, **options).state_dict()
    return state


def _torchvision(name: str) -> Named:
    try:
        weights = torchvision.models.get_weight(name)
    except (ValueError, KeyError):
        enum = name.partition(".")[0]
        networks = [*torchvision.models.list_models(torchvision.models)]
        networks += torchvision.models.list_models(torchvision.models.video)
        kinds = {torchvision.models.get_model_weights(network) for network in networks}
        known = [f"torchvision/{member}" for kind in kinds for member in kind]
        mine = [full for full in known if full.partition("/")[2].partition(".")[0] == enum] or known
        raise UserError(f"unknown weights 'torchvision/{name}': {choices(f'torchvision/{name}', mine)}") from None
    seen, meta = weights.transforms(), weights.meta
    place = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    remedy = f"fetch {weights.url} elsewhere and put it at {place}"
    names = torchvision.models.list_models()
    network = next(one for one in names if torchvision.models.get_model_weights(one) is type(weights))
    return Named(
        name=f"torchvision/{name}",
        network=f"torchvision/{network}",
        load=functools.partial(_load_torchvision, weights, remedy=remedy),
        transforms={
            "size": seen.crop_size[0],
            "test_resize": seen.resize_size[0],
            "interpolation": seen.interpolation.value,
            "mean": tuple(seen.mean),
            "std": tuple(seen.std),
        },
        clips=_clips(meta.get("_docs", "")),
        classes=tuple(meta["categories"]) if meta.get("categories") else None,
        num_classes=len(meta["categories"]) if meta.get("categories") else None,
        licence=meta.get("license"),
    )


def _clips(description: str) -> dict[str, Any]:
    """Return the clips for which torchvision states a video network's accuracy, of videos of 30 frames a second."""
    facts = {key: int(value) for key, value in re.findall(r"(clip_len|frame_rate)=(\d+)", description)}
    if "clip_len" not in facts:
        return {}
    return {"frames": facts["clip_len"], "stride": max(1, round(30 / facts.get("frame_rate", 30)))}


def _load_torchvision(weights: Any, options: Mapping[str, Any], *, remedy: str) -> Mapping[str, Tensor]:
    with fetching(str(weights), remedy):
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False)
    return state


# Frames and stride of PyTorchVideo's model zoo, and the side and the short side of its pictures: the sizes for which
# its networks are built.
_PYTORCHVIDEO = {
    "c2d_r50": (8, 8, 256, 256),
    "csn_r101": (32, 2, 256, 256),
    "efficient_x3d_s": (13, 6, 160, 182),
    "efficient_x3d_xs": (4, 12, 160, 182),
    "i3d_r50": (8, 8, 256, 256),
    "mvit_base_16x4": (16, 4, 224, 256),
    "mvit_base_32x3": (32, 3, 224, 256),
    "r2plus1d_r50": (16, 4, 256, 256),
    "slow_r50": (8, 8, 256, 256),
    "slowfast_16x8_r101_50_50": (64, 2, 256, 256),
    "slowfast_r101": (32, 2, 256, 256),
    "slowfast_r50": (32, 2, 256, 256),
    "x3d_l": (16, 5, 312, 356),
    "x3d_m": (16, 5, 224, 256),
    "x3d_s": (13, 6, 160, 182),
    "x3d_xs": (4, 12, 160, 182),
}


def _pytorchvideo(name: str) -> Named:
    if name not in _PYTORCHVIDEO:
        raise UserError(f"unknown weights 'pytorchvideo/{name}': {choices(name, list(_PYTORCHVIDEO))}")
    frames, stride, size, resize = _PYTORCHVIDEO[name]
    return Named(
        name=f"pytorchvideo/{name}",
        network=f"pytorchvideo/{name}",
        load=functools.partial(_load_pytorchvideo, name),
        transforms={
            "size": size,
            "test_resize": resize,
            "interpolation": "bilinear",
            "mean": (0.45, 0.45, 0.45),
            "std": (0.225, 0.225, 0.225),
        },
        clips={"frames": frames, "stride": stride},
        num_classes=400,
        licence="apache-2.0",
    )


def _load_pytorchvideo(name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    place = os.path.join(torch.hub.get_dir(), "checkpoints")
    with fetching(f"pytorchvideo/{name}", f"fetch the file elsewhere and put it into {place}"):
        return load_pytorchvideo(name)


def _local(folder: str) -> Named:
    path = os.path.join(folder_path(folder), CONFIG)
    try:
        content = read_description(path)
    except OSError:
        raise UserError(
            f"{LOCAL}{folder}: there is no {path}; give a folder that timm or this project wrote, or name the network "
            "and give the file of weights as weights"
        ) from None
    except ValueError as error:
        raise UserError(f"{LOCAL}{folder}: {path} is not JSON ({error}); write the folder again") from None
    return _folder(f"{LOCAL}{folder}", content, fetch=lambda: weights_file(folder_path(folder)))


@functools.lru_cache
def _hub(repository: str) -> Named:
    from huggingface_hub import hf_hub_download

    name = f"{HUB}{repository}"
    remedy = (
        f"fetch {HUB_FILES.format(repository, CONFIG)} and model.safetensors beside it into a folder, and name that "
        f"{LOCAL}FOLDER"
    )
    with fetching(name, remedy):
        content = read_description(hf_hub_download(repository, CONFIG))

    def fetch() -> str:
        with fetching(name, remedy):
            path: str = hf_hub_download(repository, "model.safetensors")
        return path

    return _folder(name, content, fetch=fetch)


def _folder(name: str, content: Any, *, fetch: Callable[[], str]) -> Named:
    """Return what a folder holds whose ``config.json`` has this ``content``; ``fetch`` returns its file of weights."""
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        if isinstance(content, dict) and content.get("model_type") in KINDS.values():
            raise UserError(f"{name} is a network of transformers: call it {TRANSFORMERS}{name}")
        raise UserError(
            f"{name}: its {CONFIG} names no architecture; give a folder that timm or this project wrote, or name the "
            "network and give the file of weights as weights"
        )
    architecture, library = content["architecture"], content.get("library_name", "timm")
    network = architecture if library == "bsssl" else f"{library}/{architecture}"
    if library == "timm" and not timm.is_model(architecture):
        raise UserError(f"{name}: timm has no '{architecture}': {choices(architecture, timm.list_models())}")

    def load(options: Mapping[str, Any]) -> Mapping[str, Tensor]:
        state = read_checkpoint(fetch()).state
        if library != "timm" or "img_size" not in options:
            return state
        # What depends on the size, such as the places of a transformer's patches, timm adapts.
        given = {"state_dict": state, "num_classes": content.get("num_classes", 1000)}
        model = timm.create_model(
            architecture, pretrained=True, pretrained_cfg_overlay=given, num_classes=given["num_classes"], **options
        )
        adapted: Mapping[str, Tensor] = model.state_dict()
        return adapted

    try:
        pretrained = content.get("pretrained_cfg", content)
        classes = content.get("label_names")
        if isinstance(classes, dict):
            classes = list(classes.values())
        options = {key: value for key, value in content.get("model_args", {}).items() if key != "num_classes"}
        return Named(
            name=name,
            network=network,
            load=load,
            options=options | ({PER_FRAME: True} if content.get(PER_FRAME) else {}),
            **{
                **described(pretrained),
                "num_classes": content.get("num_classes"),
                "classes": None if classes is None else tuple(classes),
            },
            clips=dict(content.get("clips", {})),
            testing=dict(content.get(TESTING, {})),
            licence=pretrained.get("license"),
        )
    except (TypeError, ValueError, AttributeError) as error:  # written by whatever tool, or by hand
        raise UserError(f"{name}: its {CONFIG} is not as timm writes it ({error}); write the folder again") from None
