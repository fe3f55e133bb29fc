"""What the weights that a network starts from say of it: its architecture, and how it sees pictures and videos."""

from collections.abc import Mapping
from typing import Any

from bsssl.config import LabeledData, Model, NetworkTransforms, validated
from bsssl.errors import UserError
from bsssl.models import HUB, LOCAL, OPEN_CLIP, TRANSFORMERS, Named, implied_weights, is_named, named_weights
from bsssl.models.zoo.per_frame import PER_FRAME


def resolved(key: str, model: Model, data: LabeledData, *, data_first: bool = False) -> Model:
    """Return ``model`` with what its weights say made explicit; what the config says of the network comes first.

    Args:
        key: Where the config has the network, for messages.
        model: The network.
        data: The data that it sees.
        data_first: See ``seeing``.

    Raises:
        UserError: There are no such weights, or the network cannot see pictures as the config says.
    """
    try:
        implied = _named(implied_weights(model.name, pretrained=model.pretrained))
        weights = _named(model.weights) or implied
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if weights is None:
        return _fitting(key, model, data)
    name, options = model.name, model.options
    if implied is not None and name.startswith((LOCAL, HUB, OPEN_CLIP, TRANSFORMERS)):
        name, options = implied.network, {**_options(implied, data), **options}
    elif weights.network == name:
        options = {**_options(weights, data), **options}
    update = {"name": name, "options": options, "pretrained": False, "weights": model.weights or weights.name}
    found = seeing(
        key,
        model.model_copy(update=update),
        data,
        transforms=weights.transforms,
        clips=weights.clips,
        data_first=data_first,
    )
    size = found.view_of(data).transforms.size
    side = weights.transforms["size"] if weights.fixed_size else size
    if size != side and "img_size" not in options:
        raise UserError(
            f"{key}: {weights.network} takes pictures of {side}x{side} alone, not of {size}x{size}; set "
            f"{key}.transforms.size={side}, or {key}.options.img_size={size} too"
        )
    return found


def _options(weights: Named, data: LabeledData) -> dict[str, Any]:
    """Return the options of the network that weights are of; where there are no clips, it sees single pictures."""
    return {name: value for name, value in weights.options.items() if name != PER_FRAME or data.clips is not None}


def seeing(
    key: str,
    model: Model,
    data: LabeledData,
    *,
    transforms: Mapping[str, Any],
    clips: Mapping[str, Any],
    data_first: bool = False,
) -> Model:
    """Return ``model`` seeing as its weights say; what the config says of the network comes first.

    Args:
        key: Where the config has the network, for messages.
        model: The network.
        data: The data that it sees.
        transforms: How its weights see pictures, in keys of ``data.transforms``.
        clips: How they see videos, in keys of ``data.clips``.
        data_first: Whether what ``data`` has otherwise than by default comes before what the weights say too.

    Raises:
        UserError: The values do not go together.
    """
    given = {} if model.transforms is None else model.transforms.given()
    if data_first:
        of_networks = {*NetworkTransforms.model_fields}
        given = {**data.transforms.model_dump(include=of_networks, exclude_defaults=True), **given}
        said = {} if data.clips is None else data.clips.model_dump(exclude_defaults=True)
        clips = {name: value for name, value in clips.items() if name not in said}
    sees = {**_at_size(dict(transforms), given.get("size")), **given}
    if data_first:  # a size that is given, though it be the same, would have the short side of the crops follow from it
        sees = {name: value for name, value in sees.items() if value != getattr(data.transforms, name)}
    update: dict[str, Any] = {
        "transforms": validated(NetworkTransforms, sees, what=f"{key}: how its weights see pictures"),
        **{name: value for name, value in clips.items() if getattr(model, name) is None},
    }
    return _fitting(key, model.model_copy(update=update), data)


def _fitting(key: str, model: Model, data: LabeledData) -> Model:
    """Return ``model``, whose values go together; UserError where they do not."""
    if problems := model.misfits(key, data):
        raise UserError("; ".join(problems))
    return model


def _named(weights: str | None) -> Named | None:
    """Return the weights of that name; None for a file and for none."""
    return named_weights(weights) if weights is not None and is_named(weights) else None


def _at_size(transforms: dict[str, Any], size: int | None) -> dict[str, Any]:
    """Return ``transforms`` for another size, with the same share of the picture in its centre."""
    if size is not None and isinstance(resize := transforms.get("test_resize"), int):
        transforms["test_resize"] = round(resize * size / transforms["size"])
    return transforms
