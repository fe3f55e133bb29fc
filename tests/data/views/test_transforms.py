import pickle

import pytest
import torch
from torchvision.transforms import v2

from bsssl.data.views import transforms
from bsssl.data.views.transforms import Normalize, train_transform
from bsssl.errors import UserError
from bsssl.registry import AUGMENTATIONS


def _image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("crop", ["random_resized", "padded", "affine", "none"])
@pytest.mark.parametrize("shape", [(32, 32), (50, 40), (20, 90)])
@pytest.mark.parametrize("randaugment_ops", [0, 2])
def test_train_transform(crop, shape, randaugment_ops):
    transform = train_transform(size=32, crop=crop, randaugment_ops=randaugment_ops)
    image = _image(*shape)
    torch.manual_seed(1)
    first = transform(image)
    other = transform(image)
    torch.manual_seed(1)
    assert first.dtype == torch.uint8 and first.shape == (3, 32, 32)
    assert torch.equal(first, transform(image))
    if crop == "random_resized":
        assert not torch.equal(first, other)
    assert torch.equal(image, _image(*shape))


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 3, 15, 15)])
def test_affine_is_torchvisions_with_shifts_of_a_part_of_a_pixel(shape):
    size = shape[-1]
    transform = train_transform(size=size, crop="affine", hflip=False)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    for seed in range(20):
        torch.manual_seed(seed)
        moved = transform(image)
        torch.manual_seed(seed)
        angle, *shift, scale, shear = (2 * torch.rand(5) - 1).tolist()
        expected = v2.functional.affine(
            image,
            angle=10 * angle,
            translate=[0.05 * size * part for part in shift],
            scale=1 + 0.1 * scale,
            shear=[5 * shear, 0],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        assert (moved.int() - expected.int()).abs().max() <= 1


def test_padded_crop_is_a_shift_and_a_flip():
    """Every result is one of those torchvision's padding, cropping and flipping give, and all of them occur."""
    image = _image(6, 6)
    padded = v2.functional.pad(image, [2], padding_mode="reflect")
    possible = {}
    for top in range(5):
        for left in range(5):
            part = padded[:, top : top + 6, left : left + 6]
            possible[part.numpy().tobytes()] = (top, left, False)
            possible[part.flip(2).contiguous().numpy().tobytes()] = (top, left, True)
    transform = train_transform(size=6, crop="padded", padding=2)
    seen = {possible[transform(image).contiguous().numpy().tobytes()] for _ in range(2000)}
    assert seen == set(possible.values()) and len(seen) == 50
    assert not any(
        possible[train_transform(size=6, crop="padded", padding=2, hflip=False)(image).numpy().tobytes()][2]
        for _ in range(50)
    )


def test_without_crop_or_flip_it_is_a_resize():
    image = _image(32, 32)
    assert torch.equal(train_transform(size=32, crop="none", hflip=False)(image), image)


def test_test_transform():
    image = _image(100, 160)
    expected = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop(56)])(image)
    assert torch.equal(transforms.test_transform(size=56, resize=64)(image), expected)
    assert transforms.test_transform(size=32)(image).shape == (3, 32, 32)
    small = _image(32, 32)
    assert transforms.test_transform(size=32, resize=32)(small) is small


def test_refused():
    with pytest.raises(UserError, match="resize=32 is less than size=64"):
        transforms.test_transform(size=64, resize=32)
    with pytest.raises(UserError, match="padding=8 must be from 0"):
        train_transform(size=8, crop="padded", padding=8)
    with pytest.raises(UserError, match="unknown augmentation 'centre': valid: affine, none"):
        train_transform(size=8, crop="centre")


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 5, 4, 4)])
def test_normalize(shape):
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    result = Normalize(mean=mean, std=std)(pixels)
    assert result.dtype == torch.float32 and result.shape == shape
    for channel in range(3):
        expected = (pixels[:, channel] / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(result[:, channel], expected, rtol=1e-5, atol=1e-5)
    assert not Normalize().state_dict()
    last = pixels[:, :, 0] if len(shape) == 5 else pixels
    last = last.contiguous(memory_format=torch.channels_last)
    assert Normalize()(last).is_contiguous(memory_format=torch.channels_last)


class _Grey:
    def __init__(self, size, level):
        self.size, self.level = size, level

    def __call__(self, image):
        return torch.full((*image.shape[:-2], self.size, self.size), self.level, dtype=torch.uint8)


def test_an_augmentation_of_a_plugin(monkeypatch):
    monkeypatch.setattr(AUGMENTATIONS, "_parts", dict(AUGMENTATIONS._parts))

    @AUGMENTATIONS.register("grey")
    def grey(*, size: int, level: int = 7):
        return _Grey(size, level)

    assert train_transform(size=5, crop="grey")(_image(9, 9)).unique().tolist() == [7]
    assert train_transform(size=5, crop="grey", level=9)(_image(9, 9)).unique().tolist() == [9]
    with pytest.raises(UserError, match="augmentation 'grey' has no option 'levl': did you mean 'level'"):
        train_transform(size=5, crop="grey", levl=9)


@pytest.mark.parametrize("crop", ["random_resized", "short_side", "padded", "affine", "none"])
def test_transforms_can_be_sent_to_other_processes(crop):
    transform = train_transform(size=8, crop=crop, randaugment_ops=1)
    torch.manual_seed(3)
    expected = transform(_image(20, 30))
    torch.manual_seed(3)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(_image(20, 30)), expected)
