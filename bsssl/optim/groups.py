"""Parameters in groups: those of one kind or layer with another decay or another rate than the rest."""

from collections.abc import Collection, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from bsssl.config.training import Train
from bsssl.errors import UserError

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
"""Parameters, or groups of them with settings of their own, as ``torch.optim`` takes them."""


def parameter_groups(settings: Train, model: nn.Module) -> Parameters:
    """Return the parameters of ``model``, in groups where ``settings`` treat some in another way than others.

    The ``lr_scale`` of a group is the factor of its rate.

    Raises:
        UserError: Each layer is to have its own rate, and the network has no layers that can be told apart.
    """
    if settings.decay_norms and settings.layer_decay is None:
        return model.parameters()
    # Transformers of timm name what besides is not to decay, such as the embeddings of positions.
    exempt: Collection[str] = () if settings.decay_norms else getattr(model, "no_weight_decay", tuple)()
    options: dict[str, Any] = {"weight_decay": settings.weight_decay, "no_weight_decay_list": exempt}
    groups: list[dict[str, Any]]
    if settings.layer_decay is None:
        groups = param_groups_weight_decay(model, **options)
    else:
        layered = model if hasattr(model, "group_matcher") else _layered(model)
        options["weight_decay_exclude_1d"] = not settings.decay_norms
        groups = param_groups_layer_decay(layered, layer_decay=settings.layer_decay, **options)
    return groups


def _layered(model: nn.Module) -> Any:
    """Return what timm asks a network for, with the layers of ``model``, which does not name them itself.

    A layer is a module of the network, in their order; of a mere row of modules, each of them is one. A module of norms
    or biases alone belongs to the layer before it, and a parameter of no module to the first.
    """
    layers: dict[str, int] = {}
    last = -1
    for name, module in _row(model):
        parameters = dict(module.named_parameters(name))
        last += any(parameter.ndim > 1 for parameter in parameters.values())
        layers |= dict.fromkeys(parameters, max(last, 0))
    if last < 1:
        raise UserError(
            f"layer_decay: {type(model).__name__} has no layers that can be told apart; leave it out, or give the "
            "network a method group_matcher, as timm's have"
        )
    return SimpleNamespace(
        named_parameters=model.named_parameters, group_matcher=lambda coarse: lambda name: layers.get(name, 0)
    )


def _row(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that ``module``, called ``name``, is a mere row of, by their names; else itself."""
    if name and type(module) not in (nn.Sequential, nn.ModuleList):
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _row(child, f"{name}.{child_name}" if name else child_name)
