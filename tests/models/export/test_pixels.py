"""The resizing inside of programs is that of the data room, to the last bit."""

import pytest
import torch
from torch import nn

from bsssl import data
from bsssl.models import Preprocessing
from bsssl.models.export.pixels import FromPixels
from tests.models.export.networks import COLOURS


class Kept(nn.Module):
    """A network that keeps what it is given."""

    def forward(self, inputs):
        self.inputs = inputs
        return inputs.flatten(1)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="resizes by other arithmetic")
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(16, None), (16, 16), (15, 19), (32, 64)])
def test_any_size_becomes_what_the_data_room_makes_of_it(size, resize, interpolation):
    transform = data.test_transform(size=size, resize=resize, interpolation=interpolation)
    seen = Preprocessing(size=size, resize=resize, interpolation=interpolation, **COLOURS)
    module = FromPixels(Kept(), seen, channels_last=False)
    generator = torch.Generator().manual_seed(0)
    for height, width in [(1, 1), (1, 3), (9, 4), (16, 16), (64, 77), (19, 20), (40, 300), (301, 207)]:
        pixels = torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
        module(pixels)
        expected = data.Normalize(**COLOURS)(transform(pixels))
        assert torch.equal(module.network.inputs, expected), (height, width)


def test_the_axes_of_pictures_and_of_clips():
    pixels = torch.randint(256, (2, 4, 9, 11, 3), dtype=torch.uint8)
    seen = Preprocessing(size=8, resize=None, interpolation="bilinear", frames=4, stride=1, **COLOURS)
    clips = FromPixels(Kept(), seen, channels_last=True)(pixels)
    torch.testing.assert_close(FromPixels(Kept(), seen, channels_last=False)(pixels.movedim(-1, 1)), clips)
    assert clips.shape == (2, 3 * 4 * 8 * 8)
    torch.testing.assert_close(clips.sum(1), torch.ones(2))
