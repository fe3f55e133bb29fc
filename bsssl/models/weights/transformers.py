"""Weights of transformers' networks for videos: what their names stand for.

A name is ``transformers/`` and

- ``local-dir:<folder>``, where ``save_pretrained`` left the network and its image or video processor;
- ``hf-hub:<user>/<repository>``, such a folder on the Hugging Face Hub.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bsssl.errors import UserError
from bsssl.models.weights.files import weights_file
from bsssl.models.weights.hosted import HUB, HUB_FILES, LOCAL, Named, fetching, folder_path, mending, read_description
from bsssl.models.zoo.transformers import KINDS, default_options, import_transformers

TRANSFORMERS = "transformers/"
_CONFIG = "config.json"
_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
"""the files that say how a network sees frames, the first that is there first"""
_RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the ways to resize that are known here"""
_NO_NAME = "LABEL_"
"""the beginning of the names of classes that nobody has named"""
_REMEDY = "give a folder where save_pretrained left a network and its image processor"


def transformers_weights(name: str) -> Named:
    """Return what the weights are that ``name``, without ``transformers/``, stands for.

    Raises:
        UserError: There are no such weights, or they are of no network for videos that is known here.
    """
    full = f"{TRANSFORMERS}{name}"
    if not name.startswith((LOCAL, HUB)):
        raise UserError(f"unknown weights '{full}': give {full.partition('/')[0]}/{LOCAL}FOLDER or .../{HUB}USER/NAME")
    content = _content(name, _CONFIG)
    kind = content.get("model_type") if isinstance(content, dict) else None
    architecture = next((one for one, own in KINDS.items() if own == kind), None)
    if architecture is None:
        raise UserError(f"{full} is of the kind '{kind}'; networks for videos here are of {', '.join(KINDS.values())}")
    with mending(f"{full}: its {_CONFIG} describes no network", _REMEDY):
        config = import_transformers().AutoConfig.for_model(**content)
        own = config.to_dict()
        options = {key: own[key] for key, usual in default_options(architecture).items() if own[key] != usual}
        classes = tuple(str(config.id2label[number]) for number in range(config.num_labels))
    trained = architecture in (config.architectures or ())
    return Named(
        name=full,
        network=f"{TRANSFORMERS}{architecture}",
        load=functools.partial(_load, name, architecture),
        options=options,
        transforms=_transforms(name, architecture),
        clips={"frames": config.num_frames},
        classes=classes if trained and not all(one.startswith(_NO_NAME) for one in classes) else None,
        num_classes=len(classes) if trained else 0,
        fixed_size=KINDS[architecture] != "timesformer",  # which stretches its positions
    )


def local_transformers_weights(name: str) -> str | None:
    """Return the file on this machine that the weights called ``name``, without ``transformers/``, are read from."""
    return weights_file(folder_path(name)) if name.startswith(LOCAL) else None


def _transforms(name: str, architecture: str) -> dict[str, Any]:
    """Return how the network sees frames, in keys of ``data.transforms``.

    Raises:
        UserError: There is no word of it, or it is not a way that is known here.
    """
    kind = "VivitImageProcessor" if KINDS[architecture] == "vivit" else "VideoMAEImageProcessor"
    content = _content(name, *_PROCESSORS)
    with mending(f"{TRANSFORMERS}{name}: its {_PROCESSORS[0]} is none", _REMEDY), _quietly():
        seen = getattr(import_transformers(), kind).from_dict(content).to_dict()
        side = seen["crop_size"] if seen["do_center_crop"] else seen["size"]
        resize = "whole" if seen["size"] == side else seen["size"].get("shortest_edge")
        interpolation = _RESAMPLING.get(int(seen["resample"]))
        if not (seen["do_resize"] and resize and interpolation and side.get("height", 0) == side.get("width")):
            raise UserError(f"{TRANSFORMERS}{name} sees frames in a way that no network here does; choose another")
        return {"size": side["height"], "test_resize": resize, "interpolation": interpolation, **_colours(seen)}


def _colours(seen: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return mean and std of pixel values in 0..1, where a processor has those of values that it scaled and moved."""
    scale = 255 * (seen["rescale_factor"] if seen["do_rescale"] else 1)
    offset = 1 if seen.get("offset") else 0
    mean, std = (seen["image_mean"], seen["image_std"]) if seen["do_normalize"] else ([0] * 3, [1] * 3)
    return {
        "mean": tuple(round((one + offset) / scale, 9) for one in mean),
        "std": tuple(round(one / scale, 9) for one in std),
    }


def _content(name: str, *files: str) -> Any:
    """Return the content of the first of ``files`` that there is, JSON.

    Raises:
        UserError: There is none, or it is damaged.
    """
    if name.startswith(HUB):
        return _hub_content(name.removeprefix(HUB), *files)
    paths = [os.path.join(folder_path(name), file) for file in files]
    with mending(f"{TRANSFORMERS}{name}: cannot read {files[0]}", _REMEDY):
        return read_description(next(filter(os.path.exists, paths), paths[0]))


@functools.lru_cache
def _hub_content(repository: str, *files: str) -> Any:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    file, *others = files
    with fetching(f"{TRANSFORMERS}{HUB}{repository}", _hub_remedy(repository)):
        try:
            return read_description(hf_hub_download(repository, file))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) or not others:  # the former where there is no connection
                raise
    return _hub_content(repository, *others)


def _load(name: str, architecture: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the tensors of the network, without those that the weights do not have.

    transformers reads the file: it knows what its tensors were called in earlier versions.
    """
    network = getattr(import_transformers(), architecture)
    if name.startswith(HUB):
        source = name.removeprefix(HUB)
        reading = fetching(f"{TRANSFORMERS}{name}", _hub_remedy(source))
    else:
        source = folder_path(name)
        reading = mending(f"cannot load {TRANSFORMERS}{name}", _REMEDY)
    with reading, _quietly():
        model, report = network.from_pretrained(source, output_loading_info=True)
    return {key: value for key, value in model.state_dict().items() if key not in report["missing_keys"]}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Inside, transformers tells of errors alone."""
    logging = import_transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _hub_remedy(repository: str) -> str:
    url = HUB_FILES.format(repository, _CONFIG)
    files = f"{_PROCESSORS[0]} and model.safetensors"
    return f"fetch {url}, {files} beside it into a folder, and name that {TRANSFORMERS}{LOCAL}FOLDER"
