"""The two registries of the project.

A model or a dataset is added by decorating its factory; configs then select it by name::

    @MODELS.register("my_net")
    def my_net(*, num_classes: int) -> nn.Module: ...
"""

from typing import Any

from fvcore.common.registry import Registry as _Registry

from bsssl.errors import UserError, choices


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
DATASETS.__doc__ = """Factories ``(*, path: str, **options) -> Source`` (see ``bsssl.data.datasets.sources``): where
the records of a labeled set, a test set or a pool come from."""
