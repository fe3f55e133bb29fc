"""Parts of a network that do not train."""

from collections.abc import Iterable, Sequence

from torch import nn

from bsssl.errors import UserError, choices


def freeze(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Take the parts of ``model`` called ``names`` out of training: their parameters get no gradients any more.

    Running statistics stay too where a training keeps the modules in eval mode. (``timm.utils.freeze`` keeps those of
    networks for images alone, by other modules with less state, and leaves dropout on.)

    Args:
        model: The network, which is changed.
        names: Modules, which stand for all that is in them, and parameters, by their names in ``model``.

    Returns:
        The modules among ``names``.

    Raises:
        UserError: There is no such part, or nothing is left to train.
    """
    modules = {name: module for name, module in model.named_modules() if name and module.state_dict()}
    parts: dict[str, nn.Module | nn.Parameter] = {**modules, **dict(model.named_parameters())}
    for name in names:
        if name not in parts:
            raise UserError(f"freeze: {type(model).__name__} has no part '{name}': {_instead_of(name, parts)}")
        parts[name].requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze: no part of {type(model).__name__} is left to train; leave out one of the names")
    return [name for name in names if name in modules]


def _instead_of(name: str, parts: Iterable[str]) -> str:
    """Return the end of the error line about the unknown ``name``: what there is beside it."""
    outer = name
    while outer and outer not in parts:
        outer = outer.rpartition(".")[0]
    return choices(name, [part for part in parts if part.rpartition(".")[0] == outer])
