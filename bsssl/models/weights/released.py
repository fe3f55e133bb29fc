"""The released weights of the original work, by the names under which timm hosts them.

Trained on YFCC100M (``fb_ssl_yfcc100m``, semi-supervised) or on 940 million hashtag images (``fb_swsl_ig1b``,
semi-weakly supervised), both fine-tuned on ImageNet-1k: 1,000 classes. Licence: CC-BY-NC 4.0, for non-commercial use
only.

The semi-weakly supervised ``resnext101_32x16d`` was saved wrongly when it was released: it measures about 83.3 % where
the paper has 84.8 %.
"""

from collections.abc import Mapping

import timm
from torch import Tensor, nn

from bsssl.errors import UserError, choices
from bsssl.models.weights.loading import LoadReport, load_weights
from bsssl.runtime.console import logger

LICENCE = "CC-BY-NC 4.0: non-commercial use only (https://creativecommons.org/licenses/by-nc/4.0/)"
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
_SAVED_WRONGLY = "resnext101_32x16d.fb_swsl_ig1b_ft_in1k"


def load_released(model: nn.Module, name: str, *, new_head: bool = False) -> LoadReport:
    """Fill ``model``, of the architecture that ``name`` begins with, from the released weights called ``name``.

    timm downloads them into its cache.

    Args:
        model: The network.
        name: One of ``RELEASED``.
        new_head: Leave the classifier as initialised: needed unless the classes are ImageNet's 1,000.

    Raises:
        UserError: The name is unknown, the download fails, or ``model`` is of another architecture.
    """
    if name not in RELEASED:
        raise UserError(f"unknown released weights '{name}': {choices(name, RELEASED)}")
    logger.warning(f"{name}: released under {LICENCE}")
    if name == _SAVED_WRONGLY:
        logger.warning(f"{name}: saved wrongly when released; it measures about 83.3 % top-1, not the paper's 84.8 %")
    return load_weights(model, _download(name), new_head=new_head, origin=name)


def _download(name: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # each of the libraries between here and the server has exceptions of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"could not download released weights '{name}' ({reason}); connect to the internet, or fetch the file "
            "elsewhere and give its path as init_from"
        ) from None
    return state
