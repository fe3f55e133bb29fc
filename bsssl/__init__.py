"""Billion-scale semi-supervised learning for images and video (Yalniz et al. 2019, arXiv 1905.00546).

From Python: ``Recipe``, ``load``, ``score`` and ``select``, see ``bsssl.api`` and docs/tutorial.md. They are imported
when they are first used, and torch not before there is something to compute.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bsssl.api import Model, Recipe, Results, UserError, load, score, select

__version__ = "0.1.0"
__all__ = ["Model", "Recipe", "Results", "UserError", "__version__", "load", "score", "select"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from bsssl import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
