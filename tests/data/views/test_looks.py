"""The perceptual hash of what a network sees of an item."""

import numpy as np
import pytest
import torch
from PIL import Image

from bsssl.data import NO_LOOK, mirrored
from bsssl.data.views.looks import look


@pytest.fixture
def picture(draw):
    """``picture(seed)``, uint8 (3, 96, 96)."""

    def make(seed):
        image = draw("circle", seed=seed).resize((96, 96), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).movedim(-1, 0)

    return make


def bits_between(one, other):
    first, second = (np.frombuffer(part, np.uint8) for part in (one, other))
    return int(np.unpackbits(first ^ second).sum())


def test_the_same_at_another_size_or_a_little_brighter_is_near(picture):
    own = look([picture(1)])
    larger = torch.nn.functional.interpolate(picture(1)[None].float(), size=(300, 300), mode="bilinear").byte()[0]
    assert bits_between(own, look([larger])) < 32
    assert bits_between(own, look([(picture(1) * 0.9).byte()])) < 32
    assert bits_between(own, look([picture(2)])) > 64


def test_the_hash_of_the_mirror_image_is_known(picture):
    own = np.frombuffer(look([picture(1)]), np.uint8)
    assert bits_between(mirrored(own[None])[0].tobytes(), look([picture(1).flip(-1)])) < 32
    assert bits_between(own.tobytes(), look([picture(1).flip(-1)])) > 64


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_what_is_of_one_colour_has_no_hash(grey):
    plain = torch.full((3, 32, 32), grey, dtype=torch.uint8)
    assert look([plain]) == look([plain[:, None].expand(-1, 8, -1, -1)]) == NO_LOOK


def test_clips_are_known_by_frames_from_all_of_them(picture):
    clips = [torch.stack([picture(seed) for seed in seeds], 1) for seeds in ((1, 2, 3, 4), (5, 6, 7, 8))]
    own = look(clips)
    assert bits_between(own, look([(clip * 0.9).byte() for clip in clips])) < 32
    assert bits_between(own, look([clips[0], clips[0]])) > 32  # another second half
    assert bits_between(own, look(clips[::-1])) > 32
