"""Networks of transformers for videos: VideoMAE (arXiv 2203.12602), TimeSformer (2102.05095), ViViT (2103.15691).

transformers is an extra, and takes a while to import: nothing here imports it before such a network is asked for.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bsssl.errors import UserError, choices
from bsssl.models.zoo.layered import Layered

KINDS = {
    "TimesformerForVideoClassification": "timesformer",
    "VideoMAEForVideoClassification": "videomae",
    "VivitForVideoClassification": "vivit",
}
"""the architectures, and the ``model_type`` of each in a ``config.json``"""
_UNDECAYED = ("cls_token", "position_embeddings", "time_embeddings")


class VideoClassifier(Layered):
    """A network of transformers, whose class is the other base, from (B, 3, T, H, W) float to logits (B, num_classes).

    The names of its tensors are those of transformers.
    """

    block_names = re.compile(r"\w+\.(?:encoder\.)?layers?\.(\d+)\.")
    top_names = re.compile(r"classifier\.|fc_norm\.|\w+\.layernorm\.")
    classifier: nn.Linear

    def forward(self, clips: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of clips (B, 3, T, H, W)."""
        logits: Tensor = super().forward(pixel_values=clips.transpose(1, 2)).logits
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the classifier, as timm's networks do."""
        return self.classifier

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that are not to decay, as timm's networks do."""
        return {name for name, _ in self.named_parameters() if name.endswith(_UNDECAYED)}


def import_transformers() -> Any:
    """Return the module ``transformers``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UserError("networks of transformers need the package: pip install 'bsssl[transformers]'") from None
    return transformers


def create_transformers(
    architecture: str, *, num_classes: int, img_size: int | None = None, **options: Any
) -> VideoClassifier:
    """Return the network of transformers of an architecture, freshly initialised.

    Args:
        architecture: One of ``KINDS``.
        num_classes: The number of classes.
        img_size: The side of the pictures, where it is not the architecture's own; transformers' ``image_size``.
        **options: Of its configuration.

    Raises:
        UserError: It has no such option.
        ValueError: A value is impossible.
    """
    known = default_options(architecture)
    for name in options:
        if name not in known:
            raise UserError(f"model 'transformers/{architecture}' has no option '{name}': {choices(name, [*known])}")
    settings = _by_its_names(options if img_size is None else {**options, "img_size": img_size})
    try:
        config = import_transformers().AutoConfig.for_model(KINDS[architecture], **settings, num_labels=num_classes)
        _refuse_unseen_frames(config)
        model: VideoClassifier = _class(architecture)(config)
    except Exception as error:  # the package has exceptions of its own
        raise ValueError(str(error)) from None
    return model


def _refuse_unseen_frames(config: Any) -> None:
    """Refuse frames that fill no whole patch in time, as the network would leave them out."""
    tubelet = getattr(config, "tubelet_size", 1)  # ViViT has one for each dimension
    length = tubelet if isinstance(tubelet, int) else tubelet[0]
    if config.num_frames % length:
        raise ValueError(f"num_frames is {config.num_frames}, no multiple of the {length} frames of a patch")


def default_options(architecture: str) -> dict[str, Any]:
    """Return the options of an architecture, with their defaults."""
    transformers = import_transformers()
    shared = transformers.PretrainedConfig().to_dict()
    config = transformers.AutoConfig.for_model(KINDS[architecture]).to_dict()
    return {name: value for name, value in config.items() if name not in shared}


def transformers_config(architecture: str, options: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return what transformers wants in the ``config.json`` of a network of its own.

    Args:
        architecture: One of ``KINDS``.
        options: Of the network.
        classes: Their names, in the order of the logits.
    """
    return {
        "architectures": [architecture],
        "model_type": KINDS[architecture],
        **_by_its_names(options),
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }


def _by_its_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` as the configuration calls them."""
    return {"image_size" if name == "img_size" else name: value for name, value in options.items()}


@functools.cache
def _class(architecture: str) -> type:
    """Return the class of the networks of an architecture, which is made when it is asked for."""
    return type(architecture, (VideoClassifier, getattr(import_transformers(), architecture)), {})


def __getattr__(name: str) -> type:
    """Return the class called ``name``: so a pickled network finds its class in another process."""
    if name not in KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _class(name)
