"""The description of a trained network: ``config.json`` beside its weights, in the layout of timm.

With it the folder is usable alone: a network of timm's by ``timm.create_model("local-dir:FOLDER")`` too, one of
transformers by its ``from_pretrained``, any network by ``local-dir:FOLDER`` in a config.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bsssl.models.zoo.per_frame import PER_FRAME
from bsssl.models.zoo.transformers import transformers_config

CARD = "README.md"
"""the model card, in the same folder"""
TESTING = "bsssl"
"""the key of what this project alone writes and reads: ``precision``, ``max_pixels`` and, of videos, ``clips`` with
``count``, ``reader`` and ``reader_options``"""


def describe(
    name: str,
    options: Mapping[str, Any],
    *,
    classes: Sequence[str],
    transforms: Mapping[str, Any],
    clips: Mapping[str, float] | None = None,
    testing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of ``config.json``.

    That a network sees clips frame by frame stands beside its options: to other programs it is a network for images.

    Args:
        name: The network, see ``build_model``.
        options: Of the network.
        classes: Their names, in the order of the logits.
        transforms: How the network sees pictures: ``size``, ``resize`` (of the short side before the centre crop, or
            None: the whole picture becomes the square), ``mean``, ``std`` and, where it is not bilinear,
            ``interpolation``.
        clips: Of videos, the ``frames`` and ``stride`` of a clip, and the ``fps`` where it has some.
        testing: What else decides a test of the network here, for which timm's layout has no place, see ``TESTING``.
    """
    library, slash, architecture = name.partition("/")
    if not slash:
        library, architecture = "bsssl", name
    if library == "timm":
        architecture = architecture.partition(".")[0]
    size, resize = transforms["size"], transforms["resize"]
    described = {
        "architecture": architecture,
        "num_classes": len(classes),
        "label_names": list(classes),
        "model_args": {key: value for key, value in options.items() if key != PER_FRAME},
        "library_name": library,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "interpolation": transforms.get("interpolation", "bilinear"),
            "crop_pct": 1.0 if resize is None else _share(size, resize),
            "crop_mode": "squash" if resize is None else "center",
            "mean": list(transforms["mean"]),
            "std": list(transforms["std"]),
            "num_classes": len(classes),
        },
    }
    if library == "transformers":
        described |= transformers_config(architecture, options, classes)
    further = {"clips": clips, TESTING: testing}
    described |= {PER_FRAME: True} if options.get(PER_FRAME) else {}
    return described | {key: dict(value) for key, value in further.items() if value is not None}


def _share(size: int, resize: int) -> float:
    """Return the share of the short side that the centre crop keeps: ``floor(size / share)`` is ``resize``."""
    share = size / resize
    while math.floor(size / share) < resize:
        share = math.nextafter(share, 0)
    return share
