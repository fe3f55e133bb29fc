"""Networks of open_clip (Radford et al. 2021, arXiv 2103.00020): the tower that sees pictures, with a classifier.

open_clip is an extra, and takes a while to import: nothing here imports it before such a network is asked for.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsssl.errors import UserError
from bsssl.models.zoo.layered import Layered

UNNAMED = "CLIP"
"""the architecture whose options say everything, for weights whose own architecture has no name"""
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


class ClipClassifier(Layered):
    """A tower of CLIP that sees pictures and a linear classifier, from (B, 3, H, W) float to logits (B, num_classes).

    The classifier is given features of one length, as CLIP compares them; their mean square is 1, so that it can be
    trained as that of any network.
    """

    block_names = re.compile(r"visual\.(?:transformer\.resblocks\.|layer|trunk\.(?:blocks|stages)\.)(\d+)\.")
    top_names = re.compile(r"head|visual\.(?:ln_post|proj|attn_?pool|head|trunk\.(?:norm|head|attn_pool))")

    def __init__(self, visual: nn.Module, *, features: int, num_classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, 3, H, W)."""
        features = functional.normalize(self.visual(images), dim=-1)
        logits: Tensor = self.head(features * math.sqrt(self.head.in_features))
        return logits

    def compare_with(self, embeddings: Tensor, *, scale: float) -> None:
        """Make the logit of a class ``scale`` times the cosine between the picture and the class.

        Args:
            embeddings: What stands for each class, (num_classes, D), of length 1.
            scale: The factor.
        """
        with torch.no_grad():
            self.head.weight.copy_(embeddings * (scale / math.sqrt(self.head.in_features)))
            self.head.bias.zero_()

    def get_classifier(self) -> nn.Linear:
        """Return the classifier, as timm's networks do."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that are not to decay, as timm's networks do."""
        find = getattr(self.visual, "no_weight_decay", set)
        return {f"visual.{name}" for name in find()}


def import_open_clip() -> Any:
    """Return the module ``open_clip``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import open_clip
    except ImportError:
        raise UserError("networks of open_clip need the package: pip install 'bsssl[clip]'") from None
    return open_clip


def open_clip_names() -> list[str]:
    """Return the architectures of open_clip."""
    names: list[str] = import_open_clip().list_models()
    return names


def has_open_clip(name: str) -> bool:
    """Return whether there is such an architecture; never where open_clip is not installed."""
    try:
        return name == UNNAMED or name in open_clip_names()
    except UserError:
        return False


def create_open_clip(
    architecture: str,
    *,
    num_classes: int,
    img_size: int | None = None,
    quick_gelu: bool | None = None,
    embed_dim: int | None = None,
    vision_cfg: Mapping[str, Any] | None = None,
) -> ClipClassifier:
    """Return the tower of an architecture of open_clip that sees pictures, freshly initialised, with a classifier.

    Args:
        architecture: Its name in open_clip, or ``UNNAMED``.
        num_classes: The number of classes.
        img_size: The side of the pictures, where it is not the architecture's own.
        quick_gelu: Whether the activations are those of OpenAI's networks.
        embed_dim: The length of the features, as open_clip's files of architectures have it.
        vision_cfg: The tower, likewise.
    """
    open_clip = import_open_clip()
    given = {"quick_gelu": quick_gelu, "embed_dim": embed_dim, "vision_cfg": vision_cfg}
    config = {**(open_clip.get_model_config(architecture) or {}), **{k: v for k, v in given.items() if v is not None}}
    tower = {**config["vision_cfg"], "output_tokens": False, "timm_model_pretrained": False}
    if img_size is not None:
        tower["image_size"] = img_size
    # open_clip makes towers in pairs alone: the other one is as small as can be.
    pair = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=tower,
        text_cfg=_NO_TEXT,
        quick_gelu=config.get("quick_gelu", False),
    )
    return ClipClassifier(pair.visual, features=config["embed_dim"], num_classes=num_classes)
