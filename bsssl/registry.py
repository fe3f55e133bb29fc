"""The two registries of the project, and the one exception that users are meant to read.

A model or a dataset is added by decorating its factory; configs then select it by name::

    @MODELS.register("my_net")
    def my_net(*, num_classes: int) -> nn.Module: ...
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from fvcore.common.registry import Registry as _Registry


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong, where, and how to mend it."""


def choices(given: str, valid: Iterable[str], *, most: int = 40) -> str:
    """The end of an error line about an unknown name: the nearest match, then the valid names."""
    names = sorted(valid)
    near = get_close_matches(given, names, n=1)
    listed = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
    return (f"did you mean '{near[0]}'? " if near else "") + f"valid: {listed}"


class Registry(_Registry):
    """fvcore's registry with explicit names and an error that lists the valid ones."""

    def register(self, name: str) -> Any:
        """Decorate a factory to make it known as ``name``."""

        def decorate(factory: Any) -> Any:
            self._do_register(name, factory)
            return factory

        return decorate

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(name for name, _ in self)

    def get(self, name: str) -> Any:
        """The factory called ``name``; UserError that lists the valid names if there is none."""
        if name not in self:
            raise UserError(f"unknown {self._name} '{name}': {choices(name, self.names())}")
        return super().get(name)


MODELS = Registry("model")
MODELS.__doc__ = """Factories ``(*, num_classes: int, **options) -> nn.Module`` that map a float batch
(B, 3, H, W), or (B, 3, T, H, W) for video, to logits (B, num_classes)."""

DATASETS = Registry("dataset")
DATASETS.__doc__ = """Factories ``(*, path: str, **options) -> Source`` (see ``bsssl.data.sources``): where
the records of a labeled set, a test set or a pool come from."""
