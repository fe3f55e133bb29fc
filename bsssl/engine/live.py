"""Live targets: what a frozen teacher says of the very inputs that the student sees (Beyer et al. 2022, 2106.05237)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class LiveTeacher(nn.Module):
    """A frozen teacher that looks at a student's inputs with its own eyes: at its size, with its mean and std.

    Args:
        network: Maps the teacher's inputs, float (B, 3, H, W) or (B, 3, T, H, W), to logits (B, classes).
        size: The side of the teacher's inputs, in pixels; those of the student are resized to it.
        interpolation: How they are resized.
        student: Mean and std of the student's inputs, per channel, of pixel values in 0..1.
        teacher: Mean and std of the teacher's.
        temperature: The teacher's logits are divided by it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        size: int,
        interpolation: str,
        student: tuple[Sequence[float], Sequence[float]],
        teacher: tuple[Sequence[float], Sequence[float]],
        temperature: float,
    ) -> None:
        super().__init__()
        self._network = network.eval().requires_grad_(False)
        self._size, self._interpolation, self._temperature = size, interpolation, temperature
        (mean, std), (wanted_mean, wanted_std) = (map(torch.tensor, colours) for colours in (student, teacher))
        self.register_buffer("scale", std / wanted_std, persistent=False)
        self.register_buffer("shift", (mean - wanted_mean) / wanted_std, persistent=False)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the teacher's softmax scores of the student's inputs: float32 (B, classes)."""
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        logits = self._network(self._resized(inputs) * self.scale.view(shape) + self.shift.view(shape))
        scores: Tensor = (logits.float() / self._temperature).softmax(1)
        return scores

    def _resized(self, inputs: Tensor) -> Tensor:
        if inputs.shape[-1] == self._size:
            return inputs
        planes = inputs.flatten(1, -3)  # channels and frames alike, as each is resized by itself
        size = (self._size, self._size)
        resized = functional.interpolate(planes, size=size, mode=self._interpolation, antialias=True)
        return resized.reshape(*inputs.shape[:-2], *size)


class MeanOf(nn.ModuleList):
    """The mean of what several teachers say."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean of the teachers' scores: float32 (B, classes)."""
        return torch.stack([teacher(inputs) for teacher in self]).mean(0)
