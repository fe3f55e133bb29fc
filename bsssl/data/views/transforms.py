"""Image transforms: from a decoded picture of any size to a uint8 tensor of one size, and to floats on the device."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from bsssl.errors import UserError
from bsssl.registry import AUGMENTATIONS

Transform = Callable[[Tensor], Tensor]
Interpolation = Literal["bilinear", "bicubic"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def train_transform(
    *,
    size: int,
    crop: str = "random_resized",
    hflip: bool = True,
    randaugment_ops: int = 0,
    randaugment_magnitude: int = 9,
    **options: Any,
) -> Transform:
    """Return a random transform from uint8 (3, H, W) to uint8 (3, size, size), drawing from torch's default generator.

    The frames of a clip, uint8 (T, 3, H, W), are all transformed alike.

    Args:
        size: Side of the square, in pixels.
        crop: The name of an augmentation of ``AUGMENTATIONS``.
        hflip: Whether one in two is mirrored.
        randaugment_ops: How many operations of RandAugment follow.
        randaugment_magnitude: How strong they are.
        options: Further arguments of the augmentation.

    Raises:
        UserError: The augmentation or an option is unknown, or a value impossible.
    """
    AUGMENTATIONS.check(crop, options)
    augmentation: Transform = AUGMENTATIONS.build(crop, options, size=size, flip=hflip)
    if not randaugment_ops:
        return augmentation
    return _Chain([augmentation, v2.RandAugment(num_ops=randaugment_ops, magnitude=randaugment_magnitude)])


@AUGMENTATIONS.register("random_resized")
def random_resized(
    *, size: int, flip: bool, min_scale: float = 0.08, interpolation: Interpolation = "bilinear"
) -> Transform:
    """Return a crop of a share of at least ``min_scale`` of the picture, 3:4 to 4:3 in shape, resized."""
    mode = v2.InterpolationMode(interpolation)
    return _flipped(v2.RandomResizedCrop(size, scale=(min_scale, 1.0), interpolation=mode, antialias=True), flip)


@AUGMENTATIONS.register("short_side")
def short_side(
    *, size: int, flip: bool, short_side: tuple[int, int] | None = None, interpolation: Interpolation = "bilinear"
) -> Transform:
    """Return a resize to a short side within ``short_side`` pixels, then a square from anywhere.

    By default 8/7 to 10/7 of ``size``, the 128 to 160 for 112 of Simonyan and Zisserman's 256 to 320 for 224.
    """
    sides = short_side or (round(size * 8 / 7), round(size * 10 / 7))
    return _flipped(_ShortSideCrop(size, sides, interpolation), flip)


@AUGMENTATIONS.register("padded")
def padded(*, size: int, flip: bool, padding: int = 4, interpolation: Interpolation = "bilinear") -> Transform:
    """Return a resize to the square, padded by reflection by ``padding`` pixels and cropped; for small pictures."""
    if not 0 <= padding < size:
        raise UserError(f"padding={padding} must be from 0 to size - 1 = {size - 1}")
    return _Chain([_Resize(size, interpolation), _PaddedCrop(size, padding, flip)])


@AUGMENTATIONS.register("affine")
def affine(*, size: int, flip: bool, interpolation: Interpolation = "bilinear") -> Transform:
    """Return a resize to the square, turned by up to 10 degrees, sheared by up to 5, shifted by up to 5 %, and scaled.

    The scale is up to 10 %; meant for signs and digits.
    """
    return _flipped(_Chain([_Resize(size, interpolation), _Affine(size)]), flip)


@AUGMENTATIONS.register("none")
def none(*, size: int, flip: bool, interpolation: Interpolation = "bilinear") -> Transform:
    """Return a resize to the square, whatever the shape."""
    resize = _Resize(size, interpolation)
    return _Chain([resize, _PaddedCrop(size, 0, flip)]) if flip else resize


def _flipped(transform: Transform, flip: bool) -> Transform:
    return _Chain([transform, v2.RandomHorizontalFlip()]) if flip else transform


def test_transform(
    *, size: int, resize: int | None = None, interpolation: Interpolation = "bilinear", place: float = 0.5
) -> Transform:
    """Return the transform for testing and scoring, from uint8 (3, H, W) to uint8 (3, size, size); frames likewise.

    The short side is resized to ``resize`` and the centre cropped, or a square that is elsewhere along the long side:
    from 0, the left or the top, to 1. Without ``resize``, for small pictures, the whole is resized to (size, size).
    """
    if resize is None:
        return _Resize(size, interpolation)
    if resize < size:
        raise UserError(f"resize={resize} is less than size={size}; the crop would not fit")
    return _Crop(size, resize, interpolation, place)


class Normalize(nn.Module):
    """uint8 to normalised float32 on whatever device the input is: (x / 255 - mean) / std for each channel.

    Takes (B, C, H, W) or (B, C, T, H, W); ``mean`` and ``std`` have one value per channel, or one for all.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the normalised batch, in the memory format of ``pixels``."""
        shape = [1, -1] + [1] * (pixels.ndim - 2)
        return pixels.float().sub_(self.mean.view(shape)).div_(self.std.view(shape))


class _Chain:
    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = steps

    def __call__(self, image: Tensor) -> Tensor:
        for step in self.steps:
            image = step(image)
        return image


class _Resize:
    """Resize to a square unless the picture is that already."""

    def __init__(self, size: int, interpolation: Interpolation) -> None:
        self._size, self._mode = size, v2.InterpolationMode(interpolation)

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[-2:] == (self._size, self._size):
            return image
        resized: Tensor = F.resize(image, [self._size, self._size], interpolation=self._mode, antialias=True)
        return resized


class _ShortSideCrop:
    """Resize the short side to a random length, cut a square from anywhere."""

    def __init__(self, size: int, short_side: tuple[int, int], interpolation: Interpolation) -> None:
        self._size, self._low, self._high = size, *short_side
        self._mode = v2.InterpolationMode(interpolation)

    def __call__(self, image: Tensor) -> Tensor:
        # The square is cut out of the original first: what is not kept need not be resized.
        height, width = image.shape[-2:]
        side = self._size * min(height, width) / float(torch.empty(()).uniform_(self._low, self._high))
        cut = max(1, round(side))
        top, left = (int(torch.randint(length - cut + 1, ())) for length in (height, width))
        size = [self._size, self._size]
        square: Tensor = F.resized_crop(image, top, left, cut, cut, size, interpolation=self._mode, antialias=True)
        return square


class _Crop:
    """Resize the short side, cut out a square: of the short side the middle, of the long side what is at ``place``."""

    def __init__(self, size: int, resize: int, interpolation: Interpolation, place: float) -> None:
        self._size, self._resize, self._mode = size, resize, v2.InterpolationMode(interpolation)
        self._place = place

    def __call__(self, image: Tensor) -> Tensor:
        if min(image.shape[-2:]) != self._resize:
            image = F.resize(image, [self._resize], interpolation=self._mode, antialias=True)
        if image.shape[-2:] == (self._size, self._size):
            return image
        height, width = image.shape[-2:]
        across, down = (self._place, 0.5) if width > height else (0.5, self._place)
        top, left = round(down * (height - self._size)), round(across * (width - self._size))
        square: Tensor = F.crop(image, top, left, self._size, self._size)
        return square


class _Affine:
    """Turn, shear, shift and scale a square picture about its middle by one bilinear look-up.

    Does what ``v2.RandomAffine`` does, but for shifts of a part of a pixel, which that rounds to whole ones. The places
    of the pixels are computed once: for small pictures this takes less than half the time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        line = torch.linspace(1 - size, size - 1, size) / size  # from edge to edge of the picture is from -1 to 1
        down, across = torch.meshgrid(line, line, indexing="ij")
        self._places = torch.stack([across, down, torch.ones_like(down)], dim=-1).view(-1, 3)

    def __call__(self, image: Tensor) -> Tensor:
        angle, shift_x, shift_y, scale, shear = (2 * torch.rand(5) - 1).tolist()
        turn, lean, zoom = math.radians(10 * angle), math.tan(math.radians(5 * shear)), 1 + 0.1 * scale
        sine, cosine = math.sin(turn) / zoom, math.cos(turn) / zoom
        # Where each pixel comes from, so the inverse of: shear, scale and turn, then shift by up to 5 % of the width.
        xx, xy, yx, yy = cosine - sine * lean, sine + cosine * lean, -sine, cosine
        left, up = 0.1 * shift_x, 0.1 * shift_y
        inverse = torch.tensor([[xx, yx], [xy, yy], [-xx * left - xy * up, -yx * left - yy * up]])
        frames = image.view(-1, *image.shape[-3:])
        sources = (self._places @ inverse).view(1, self._size, self._size, 2).expand(len(frames), -1, -1, -1)
        moved = nn.functional.grid_sample(frames.float(), sources, align_corners=False)
        return moved.round_().to(image.dtype).view(image.shape)


class _PaddedCrop:
    """Pad a square picture by reflection, crop it back to its size, flip it: all of it by two table look-ups.

    Does what ``v2.RandomCrop(padding_mode="reflect")`` and ``v2.RandomHorizontalFlip`` do; those take three times as
    long as decoding a 32x32 JPEG.
    """

    def __init__(self, size: int, padding: int, hflip: bool) -> None:
        self._size, self._padding, self._hflip = size, padding, hflip
        row = torch.arange(-padding, size + padding).abs()
        self._rows = torch.minimum(row, 2 * (size - 1) - row)

    def __call__(self, image: Tensor) -> Tensor:
        top, left = torch.randint(2 * self._padding + 1, (2,)).tolist()
        rows, columns = self._rows[top : top + self._size], self._rows[left : left + self._size]
        if self._hflip and torch.rand(()) < 0.5:
            columns = columns.flip(0)
        return image.index_select(-2, rows).index_select(-1, columns)
