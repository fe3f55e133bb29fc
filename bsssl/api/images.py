"""Pictures and videos that a program hands to a network: paths, or pictures in memory."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bsssl.data.decoding.pictures import DecodeError, to_tensor
from bsssl.errors import UserError


def several(images: Any) -> Iterable[Any]:
    """Return ``images``, or a list of it where that is a single one."""
    is_one = is_path(images) or isinstance(images, Image.Image) or getattr(images, "ndim", None) == 3
    return [images] if is_one else images


def is_path(image: Any) -> bool:
    """Return whether an image is given by its path or URL."""
    return isinstance(image, str | os.PathLike)


def pixels_of(image: Any, index: int) -> Tensor:
    """Return a picture in memory as uint8 (3, height, width); ``index`` is its number, for messages.

    Raises:
        UserError: It is no picture, or none of a supported kind.
    """
    if isinstance(image, Image.Image):
        try:
            return to_tensor(ImageOps.exif_transpose(image))
        except (DecodeError, OSError) as error:  # Pillow reads a file when its pixels are asked for
            raise UserError(f"image {index} cannot be read: {error}") from None
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return image.cpu()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    is_array = isinstance(image, np.ndarray | Tensor)
    given = f"{image.dtype} {tuple(image.shape)}" if is_array else type(image).__name__
    raise UserError(
        f"image {index}: give a path, a Pillow picture, a uint8 array (height, width, 3) or a uint8 tensor (3, height, "
        f"width), not {given}"
    )
