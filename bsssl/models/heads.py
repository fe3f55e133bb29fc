"""The classifier of a network: the layer that turns features into one logit per class."""

from torch import nn

from bsssl.errors import UserError


def classifier(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d | nn.Conv3d]:
    """Return the classifier's name inside ``model``, and the layer: timm's own answer, else the last linear layer.

    A 1x1 convolution counts as linear, and so does a 1x1x1 one that ends a video network without linear layers (S3D).

    Raises:
        UserError: There is no classifier, or there are several, as in distilled transformers.
    """
    find = getattr(model, "get_classifier", None)
    layer = find() if callable(find) else _last_linear(model)
    names = [name for name, module in model.named_modules() if module is layer]
    if len(names) != 1 or not isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
        raise UserError(f"{type(model).__name__} has no single linear classifier; choose a model that ends in one")
    return names[0], layer


def _last_linear(model: nn.Module) -> nn.Module | None:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if linear:
        return linear[-1]
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    return convolutions[-1] if convolutions and convolutions[-1].kernel_size == (1, 1, 1) else None
