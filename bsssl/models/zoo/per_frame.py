"""Networks for images that see videos: one frame of a clip after the other, whose scores are averaged."""

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

PER_FRAME = "per_frame"
"""the option of any network for images that has it see clips"""


class _FrameAverage:
    """What comes before the ``forward`` of a network for images."""

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits (B, num_classes) of clips (B, 3, T, H, W).

        Their softmax is the mean of the softmax of the frames, and their log-sum-exp the mean of that of the frames:
        the confidence and the energy of a clip are averages alike.
        """
        batch, _, frames, _, _ = clips.shape
        see_images: Any = super()
        logits = see_images.forward(clips.transpose(1, 2).flatten(0, 1)).float().unflatten(0, (batch, frames))
        energies = logits.logsumexp(2, keepdim=True)
        mean: Tensor = (logits - energies).logsumexp(1) - math.log(frames) + energies.mean(1)
        return mean

    def __reduce__(self) -> tuple[Callable[..., nn.Module], tuple[type[nn.Module]], dict[str, Any]]:
        """Return what copies are made of, here or in another process, where its class is yet to be derived."""
        _, kind = type(self).__bases__
        return _empty, (kind,), self.__dict__


@functools.cache
def _class(kind: Any) -> type[nn.Module]:
    """Return the class of the networks that are of ``kind`` otherwise."""
    return type(f"PerFrame{kind.__name__}", (_FrameAverage, kind), {})


def _empty(kind: Any) -> nn.Module:
    """Return such a network, which lacks what pickle is to put into it."""
    derived = _class(kind)
    return derived.__new__(derived)


def average_frames(network: nn.Module) -> nn.Module:
    """Return the ``network`` for images, which from now on sees clips, see ``_FrameAverage``.

    It stays what it is otherwise: its class is derived from what it was, and the names of its parts, and so its files
    of weights, are those of the network for images.
    """
    kind: Any = type(network)  # to mypy classes of modules are not hashable
    network.__class__ = _class(kind)
    return network
