"""A network as the files of timm, torchvision and the Hugging Face Hub."""

import os
import re
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from bsssl import storage
from bsssl.errors import UserError
from bsssl.models.building import build_model
from bsssl.models.export.checking import ANY, check_network, leave, leave_folder, portable, workshop
from bsssl.models.trained import TrainedNetwork
from bsssl.models.weights.files import WEIGHTS, save_model
from bsssl.models.weights.folder import CARD, describe
from bsssl.models.weights.hosted import LOCAL, mending
from bsssl.models.weights.named import CONFIG, named_weights
from bsssl.models.zoo.per_frame import PER_FRAME, average_frames
from bsssl.registry import EXPORTERS

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@EXPORTERS.register("timm")
def timm_folder(model: TrainedNetwork, path: str) -> float:
    """Write the network as a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads.

    Args:
        model: The network: one of timm, or one of the same name and with the same weights.
        path: The folder to write.

    Returns:
        The largest difference of the probabilities of examples from the network's.

    Raises:
        UserError: The network is none of timm's.
    """
    name, options = _as_of(model, "timm")
    with workshop(model, "timm") as folder:
        difference = _write_folder(folder, name, options, model)
        leave_folder(folder, path)
    return difference


@EXPORTERS.register("torchvision")
def torchvision_file(model: TrainedNetwork, path: str) -> float:
    """Write the weights as torchvision loads them, and beside them the classes and the preprocessing.

    ``torchvision.models.get_model(ARCHITECTURE, num_classes=..., **model_args)`` makes the network whose
    ``load_state_dict`` takes ``torch.load(path)``; ``<path>.json`` says these three, the names of the classes and how
    pictures are seen.

    Args:
        model: The network: one of torchvision, or one of the same name and with the same weights.
        path: The file to write, usually called ``*.pth``.

    Returns:
        The largest difference of the probabilities of examples from the network's.

    Raises:
        UserError: The network is none of torchvision's.
    """
    name, options = _as_of(model, "torchvision")
    described = _described(name, options, model)
    with workshop(model, "torchvision") as folder:
        file = os.path.join(folder, "weights.pth")
        torch.save(portable(model.network).state_dict(), file)
        loaded = torchvision.models.get_model(
            described["architecture"], weights=None, num_classes=len(model.classes), **described["model_args"]
        )
        loaded.load_state_dict(torch.load(file, weights_only=True))
        difference = check_network(model, average_frames(loaded) if PER_FRAME in described else loaded)
        leave(file, path)
        storage.write_json(f"{path}.json", described)
    return difference


@EXPORTERS.register("hub-folder")
def hub_folder(model: TrainedNetwork, path: str) -> float:
    """Write the network as a folder for the Hugging Face Hub: config.json, model.safetensors and the model card.

    ``local-dir:FOLDER`` names it in a config, once it is on the Hub ``hf-hub:USER/REPOSITORY``; timm and transformers
    read networks of timm there.

    Args:
        model: The network.
        path: The folder to write.

    Returns:
        The largest difference of the probabilities of examples from the network's.

    Raises:
        UserError: The folder does not give the network back.
    """
    with workshop(model, "hub-folder") as folder:
        difference = _write_folder(folder, model.name, model.options, model)
        leave_folder(folder, path)
    return difference


@EXPORTERS.register("hub")
def hub(model: TrainedNetwork, path: str, *, private: bool = False) -> float:
    """Upload the network to the Hugging Face Hub, as the folder of ``hub-folder``.

    Args:
        model: The network.
        path: The repository, ``USER/REPOSITORY``, which is made if it is not there.
        private: Whether a repository that is made is seen by its owner alone.

    Returns:
        The largest difference of the probabilities of examples from the network's.

    Raises:
        UserError: The repository is not called so, or the Hub does not take the folder.
    """
    if not _REPOSITORY.fullmatch(path):
        raise UserError(f"'{path}' is no repository of the Hugging Face Hub; write --path USER/REPOSITORY")
    from huggingface_hub import HfApi

    with workshop(model, "hub") as folder:
        difference = _write_folder(folder, model.name, model.options, model)
        with mending(f"could not upload to {path}", "connect to the internet and log in by `hf auth login`"):
            api = HfApi()
            api.create_repo(path, private=private, exist_ok=True)
            api.upload_folder(repo_id=path, folder_path=folder, commit_message="Upload by bsssl")
    return difference


def _as_of(model: TrainedNetwork, library: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the network of the ``library`` whose weights are called as those of ``model``.

    Raises:
        UserError: There is none.
    """
    origin, _, architecture = model.name.rpartition("/")
    name = f"{library}/{architecture.partition('.')[0]}"
    options = {key: value for key, value in model.options.items() if origin == library or key == PER_FRAME}
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            twin = build_model(name, num_classes=len(model.classes), **options)
    except UserError:
        twin = None
    if twin is None or _shapes(twin) != _shapes(model.network):
        raise UserError(f"model '{model.name}' is none of {library}'s; {', '.join(ANY)} take any network")
    return name, options


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def _described(name: str, options: dict[str, Any], model: TrainedNetwork) -> dict[str, Any]:
    seen = model.preprocessing
    transforms = {key: getattr(seen, key) for key in ("size", "resize", "interpolation", "mean", "std")}
    said = {key: getattr(seen, key) for key in ("frames", "stride", "fps")}
    clips = {key: value for key, value in said.items() if value is not None} or None
    return describe(name, options, classes=model.classes, transforms=transforms, clips=clips)


def _write_folder(folder: str, name: str, options: dict[str, Any], model: TrainedNetwork) -> float:
    """Write the files of a folder and return the largest difference of what is loaded from it."""
    storage.write_json(os.path.join(folder, CONFIG), _described(name, options, model))
    state = portable(model.network).state_dict()
    save_model(os.path.join(folder, WEIGHTS), state, name=name, options=options, classes=model.classes)
    if model.card is not None:
        storage.write_text(os.path.join(folder, CARD), model.card)
    return check_network(model, _loaded(f"{LOCAL}{folder}"))


def _loaded(name: str) -> nn.Module:
    """Return the network of a folder: of timm's as timm loads it, of another as a config does that names it."""
    named = named_weights(name)
    if named.network.startswith("timm/"):
        network: nn.Module = timm.create_model(name, pretrained=True)
        return average_frames(network) if PER_FRAME in named.options else network
    network = build_model(named.network, num_classes=named.num_classes or 0, **named.options)
    network.load_state_dict(dict(named.load(named.options)))
    return network
