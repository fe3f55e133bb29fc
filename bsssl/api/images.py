"""Pictures and videos that a program hands to a network."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bsssl import data
from bsssl.data.decoding.pictures import DecodeError, to_tensor
from bsssl.errors import UserError
from bsssl.stages.seen import TestView


def samples_of(image: Any, index: int, seen: TestView, views: data.Views) -> list[dict[str, Any]]:
    """Return the samples of an image at a path or in memory, see ``bsssl.data.ItemDataset``.

    Raises:
        UserError: It cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        samples = data.ItemDataset(data.Records.from_columns(key=[path], path=[path]), views=views)[0]
        if isinstance(samples[-1], data.Failure):
            raise UserError(f"image {index} cannot be read: {samples[-1].reason}")
        return [{**sample, "index": index} for sample in samples if isinstance(sample, dict)]
    if seen.clips is not None:
        raise UserError(f"image {index}: the network is for videos; give their paths")
    transforms = seen.transforms
    transform = data.test_transform(
        size=transforms.size, resize=transforms.resize, interpolation=transforms.interpolation
    )
    return [{"input": transform(_pixels(image, index)), "target": -1, "index": index, "view": 0}]


def _pixels(image: Any, index: int) -> Tensor:
    """Return a picture in memory as uint8 (3, height, width).

    Raises:
        UserError: It is no picture, or none of a supported kind.
    """
    if isinstance(image, Image.Image):
        try:
            return to_tensor(ImageOps.exif_transpose(image))
        except (DecodeError, OSError) as error:  # Pillow reads a file when its pixels are asked for
            raise UserError(f"image {index} cannot be read: {error}") from None
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        shape = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(
            f"image {index}: give a path, a Pillow picture or a uint8 array (height, width, 3), not {shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
