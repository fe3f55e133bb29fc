"""Examples on which what is exported of a network is compared with it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bsssl import data
from bsssl.config import Clips
from bsssl.errors import UserError
from bsssl.models import Example
from bsssl.stages.seen import TestView


class Examples:
    """Pictures or clips as they are, and as a network sees them, made as they are asked for.

    Args:
        seen: How the network sees them.
        paths: Of pictures or, of a network for videos, of videos, whose middle is taken; without any, three pictures
            or clips are generated.
    """

    def __init__(self, seen: TestView, paths: Sequence[str]) -> None:
        clips = None if seen.clips is None else seen.clips.model_copy(update={"count": 1})
        self._seen, self._paths = seen.model_copy(update={"clips": clips}), paths

    def __iter__(self) -> Iterator[Example]:
        """Yield the examples; UserError for one that cannot be read."""
        for pixels in self._read() if self._paths else self._generated():
            yield Example(pixels=pixels.movedim(-3, -1).contiguous(), input=self._input(pixels))

    def _read(self) -> Iterator[Tensor]:
        """Yield the pixels of every path, uint8 (3, H, W) or (T, 3, H, W)."""
        seen = self._seen
        views = data.make_views(_unchanged, max_pixels=seen.max_pixels, clips=seen.clip_options(Clips().deadline))
        items = data.ItemDataset(data.Records.from_columns(key=self._paths, path=self._paths), views=views)
        for index in range(len(items)):
            sample = items[index][-1]
            if isinstance(sample, data.Failure):
                raise UserError(f"image {index} cannot be read: {sample.reason}")
            pixels: Tensor = sample["input"]
            yield pixels.movedim(0, -3)

    def _generated(self) -> Iterator[Tensor]:
        """Yield coarse and fine noise: larger than an input and wide, as large, and smaller and high."""
        size, clips = self._seen.transforms.size, self._seen.clips
        frames = () if clips is None else (clips.frames,)
        generator = torch.Generator().manual_seed(0)
        for height, width in ((2 * size + 1, 3 * size), (size, size), (size // 2 + 1, size + 2)):
            coarse = interpolate(torch.rand(1, 3, 5, 5, generator=generator), (height, width), mode="bilinear")[0]
            fine = torch.rand(*frames, 3, height, width, generator=generator)
            yield (255 * (0.8 * coarse + 0.2 * fine)).to(torch.uint8)

    def _input(self, pixels: Tensor) -> Tensor:
        """Return what the network is given of ``pixels``: float (3, size, size) or (3, T, size, size)."""
        seen = self._seen.transforms
        normalize = data.Normalize(mean=seen.mean, std=seen.std)
        normalised: Tensor = normalize(seen.transform()(pixels).movedim(-3, 0).unsqueeze(0))[0]
        return normalised


def _unchanged(pixels: Tensor) -> Tensor:
    return pixels
