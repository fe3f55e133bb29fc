"""What the weights that a network starts from say of it: its architecture, and how it sees pictures and videos."""

from typing import Any

from bsssl.config import Model, NetworkTransforms
from bsssl.errors import UserError
from bsssl.models import HUB, LOCAL, OPEN_CLIP, Named, implied_weights, is_named, named_weights


def resolved(key: str, model: Model) -> Model:
    """Return ``model`` with what its weights say made explicit; what the config says comes first.

    Args:
        key: Where the config has the network, for messages.
        model: The network.

    Raises:
        UserError: There are no such weights, or the network cannot see pictures of the size that the config gives.
    """
    try:
        implied = _named(implied_weights(model.name, pretrained=model.pretrained))
        weights = _named(model.weights) or implied
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if weights is None:
        return model
    name, options = model.name, model.options
    if implied is not None and name.startswith((LOCAL, HUB, OPEN_CLIP)):
        name, options = implied.network, {**implied.options, **options}
    elif weights.network == name:
        options = {**weights.options, **options}
    given = {} if model.transforms is None else model.transforms.given()
    size = given.get("size")
    if weights.fixed_size and size not in (None, weights.transforms["size"]) and "img_size" not in options:
        raise UserError(
            f"{key}.transforms.size: {weights.network} takes pictures of {weights.transforms['size']} alone; leave it "
            f"out, or set {key}.options.img_size={size} too"
        )
    update: dict[str, Any] = {
        "name": name,
        "options": options,
        "pretrained": False,
        "weights": model.weights or weights.name,
        "transforms": NetworkTransforms(**{**_at_size(dict(weights.transforms), size), **given}),
        **{name: value for name, value in weights.clips.items() if getattr(model, name) is None},
    }
    return model.model_copy(update=update)


def _named(weights: str | None) -> Named | None:
    """Return the weights of that name; None for a file and for none."""
    return named_weights(weights) if weights is not None and is_named(weights) else None


def _at_size(transforms: dict[str, Any], size: int | None) -> dict[str, Any]:
    """Return ``transforms`` for another size, with the same share of the picture in its centre."""
    if size is not None and isinstance(resize := transforms.get("test_resize"), int):
        transforms["test_resize"] = round(resize * size / transforms["size"])
    return transforms
