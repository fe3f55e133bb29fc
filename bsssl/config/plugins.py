"""Plugins: modules outside the project whose import registers parts in ``bsssl.registry``."""

import importlib
from collections.abc import Sequence
from functools import cache
from importlib import metadata

from bsssl.errors import UserError

GROUP = "bsssl.plugins"
_loaded: list[str] = []


def load_plugins(names: Sequence[str]) -> None:
    """Import the modules ``names`` and those that installed packages announce as entry points of ``bsssl.plugins``.

    Raises:
        UserError: A module does not import, or registers a name that is taken.
    """
    _load_entry_points()
    for name in names:
        if name in _loaded:
            continue
        _import(name, f"plugin '{name}'", "check `plugins`, and that the module is installed or on PYTHONPATH")
        _loaded.append(name)


def loaded_plugins() -> tuple[str, ...]:
    """Return the names given to ``load_plugins`` so far, for processes of our own to import the same."""
    return tuple(_loaded)


@cache
def _load_entry_points() -> None:
    for entry in metadata.entry_points(group=GROUP):
        package = entry.dist.name if entry.dist is not None else "an unknown package"
        remedy = f"mend or remove the package {package}, which announces it"
        _import(entry.module, f"plugin '{entry.value}' (entry point {entry.name})", remedy)


def _import(module: str, what: str, remedy: str) -> None:
    try:
        importlib.import_module(module)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        text = " ".join(str(error).split())
        raise UserError(f"{what} cannot be imported; {remedy}: {type(error).__name__}: {text}") from error
