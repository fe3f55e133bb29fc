"""From pixels to probabilities in one module, which exports to programs that know nothing of preprocessing."""

import torch
from torch import SymInt, Tensor, nn

from bsssl.models.trained import Preprocessing


class FromPixels(nn.Module):
    """From uint8 pictures of any size, all of one, or clips, to probabilities (B, number of classes).

    Resizing is what torchvision does with bytes on the CPU, to the last bit: matrix products across and down, each
    rounded, whose weights follow from the size.

    Args:
        network: Maps normalised floats to logits.
        preprocessing: Of the pictures.
        channels_last: Whether pixels are (B, H, W, 3), or (B, T, H, W, 3) for video, instead of (B, 3, H, W), or
            (B, 3, T, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, *, channels_last: bool) -> None:
        super().__init__()
        self.network, self.seen, self.channels_last = network, preprocessing, channels_last
        shape = [-1, 1, 1] if preprocessing.frames is None else [-1, 1, 1, 1]
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(shape), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(shape), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probabilities of ``pixels``, float32."""
        if self.channels_last:
            pixels = pixels.movedim(-1, 1)
        height, width = pixels.shape[-2:]
        across, unit = self._weights(width, height)
        narrow = _rounded(pixels.double() @ across.T, unit)
        down, unit = self._weights(height, width)
        square = _rounded(down @ narrow, unit).float()
        probabilities: Tensor = self.network((square - self.mean) / self.std).softmax(1)
        return probabilities

    def _weights(self, length: int, other: int) -> tuple[Tensor, Tensor]:
        """Return the weights for a side of ``length`` pixels, see ``_resize_weights``; those of the crop alone."""
        size, resize = self.seen.size, self.seen.resize
        cubic = self.seen.interpolation == "bicubic"
        if resize is None:
            return _resize_weights(length, size, cubic=cubic)
        resized = torch.sym_max(resize, resize * length // other)
        spare = (resized - size) // 2
        first = spare + (resized - size) % 2 * (spare % 2)  # torchvision rounds halves to even numbers
        weights, unit = _resize_weights(length, resized, cubic=cubic)
        return weights.index_select(0, torch.arange(size) + first), unit


def _rounded(sums: Tensor, unit: Tensor) -> Tensor:
    return ((sums + unit / 2) / unit).floor().clamp(0, 255)


def _resize_weights(length: int, resized: int | SymInt, *, cubic: bool) -> tuple[Tensor, Tensor]:
    """Return the weights of ``length`` pixels in each of ``resized``, float64 (resized, length), and their unit.

    The weights are whole numbers; those of a pixel sum to about the unit. The filter is a triangle, or the cubic of
    Keys 1981 with a = -0.5, and stretched where the picture shrinks.
    """
    scale = torch.full((), length, dtype=torch.float64) / torch.full((), resized, dtype=torch.float64)
    stretch = scale.clamp(min=1)
    reach = stretch * (2 if cubic else 1)
    centres = scale * (torch.arange(resized, dtype=torch.float64).unsqueeze(1) + 0.5)
    places = torch.arange(length, dtype=torch.float64)
    inside = (places >= (centres - reach + 0.5).floor()) & (places < (centres + reach + 0.5).floor())
    distances = ((places - centres + 0.5) / stretch).abs()
    weights = torch.where(inside, _cubic(distances) if cubic else (1 - distances).clamp(min=0), 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    unit = _unit(weights.max())
    return weights.sign() * (weights.abs() * unit + 0.5).floor(), unit


def _unit(largest: Tensor) -> Tensor:
    """Return the power of 2, at most 2^22, by which PyTorch makes weights up to the ``largest`` fit into 16 bits."""
    powers = 2.0 ** torch.arange(1, 23, dtype=torch.float64)
    return torch.where(largest * powers < 32767.5, powers, 1.0).max()


def _cubic(distances: Tensor) -> Tensor:
    near = (1.5 * distances - 2.5) * distances * distances + 1
    far = -0.5 * (((distances - 5) * distances + 8) * distances - 4)
    return torch.where(distances < 1, near, torch.where(distances < 2, far, 0.0))
