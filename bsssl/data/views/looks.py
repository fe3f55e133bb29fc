"""Looks: by what an item is known again that was re-encoded, resized or changed a little."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bsssl.errors import UserError

LOOK_BYTES = 32
NO_LOOK = bytes(LOOK_BYTES)
"""the look of what is of one colour, and so like everything that is"""
_SIDE = 16  # a bit for each of 16 x 16 frequencies
_SAMPLED = 4 * _SIDE  # what ImageHash resizes pictures to
_FRAMES = 4  # of a video
_FLAT = 4  # grey levels from the darkest to the brightest
_MIRRORED = np.packbits(np.tile(np.arange(_SIDE) % 2, _SIDE).astype(bool))


def look(views: Sequence[Tensor]) -> bytes:
    """Return the perceptual hash of an item from the views that a network sees of it.

    It is the pHash of a picture; of a video, that of some frames from all of its views, one below the other.

    Args:
        views: uint8 (3, H, W), or (3, T, H, W).

    Returns:
        ``LOOK_BYTES``, of which near copies have most bits in common, or ``NO_LOOK``.

    Raises:
        UserError: ImageHash is not installed.
    """
    pixels = views[0].movedim(0, -1)
    if pixels.ndim == 4:
        frames = torch.cat([view.movedim(0, -1) for view in views])
        pixels = frames[torch.linspace(0, len(frames) - 1, _FRAMES).round().long()].flatten(0, 1)
    image = Image.fromarray(pixels.contiguous().numpy())
    # A large picture is first made smaller by averaging, which is several times as fast.
    across, down = (max(1, side // _SAMPLED) for side in image.size)
    grey = image.reduce((across, down)).convert("L")
    low, high = grey.getextrema()
    if high - low < _FLAT:  # type: ignore[operator]  # of one band they are numbers
        return NO_LOOK
    return np.packbits(import_imagehash().phash(grey, hash_size=_SIDE).hash).tobytes()


def mirrored(looks: np.ndarray) -> np.ndarray:
    """Return the looks, uint8 (N, ``LOOK_BYTES``), that the mirror images have, but for a few bits.

    Every other frequency from left to right changes its sign, and a bit says which sign it is.
    """
    return looks ^ _MIRRORED


def import_imagehash() -> Any:
    """Return the module ``imagehash``.

    Processes that are forked later need not import it, and what it imports when it hashes, each on its own.

    Raises:
        UserError: It is not installed.
    """
    try:
        import imagehash
        import scipy.fftpack  # noqa: F401
    except ImportError:
        raise UserError(
            "data.near_duplicates: hash needs the package ImageHash: pip install ImageHash, or set it to off"
        ) from None
    return imagehash
