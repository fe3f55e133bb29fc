import pytest
import torch
from torch.nn import functional

from bsssl.optim import mixing


@pytest.fixture
def target():
    return torch.arange(16) % 5


def test_no_mixing():
    assert mixing(mixup=0, cutmix=0, num_classes=5) is None


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0), (0, 1.0), (0.4, 1.0)])
@pytest.mark.parametrize("soft", [False, True])
def test_mixed_targets_sum_to_one(target, mixup, cutmix, soft):
    mix = mixing(mixup=mixup, cutmix=cutmix, num_classes=5)
    given = functional.one_hot(target, 5).float() if soft else target
    inputs = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for seed in range(10):
        torch.manual_seed(seed)
        mixed, targets = mix(inputs, given)
        assert mixed.shape == inputs.shape and targets.shape == (16, 5)
        torch.testing.assert_close(targets.sum(1), torch.ones(16))
        torch.manual_seed(seed)
        again = mix(inputs, given)
        assert torch.equal(again[0], mixed) and torch.equal(again[1], targets)


def test_both_kinds_take_turns(target):
    mix = mixing(mixup=1.0, cutmix=1.0, num_classes=5)
    black_and_white = (torch.arange(16) % 2).float().view(16, 1, 1, 1).expand(16, 3, 8, 8)
    torch.manual_seed(0)
    mixed = [mix(black_and_white, target)[0] for _ in range(20)]
    blended = sum(bool(((batch > 0.01) & (batch < 0.99)).any()) for batch in mixed)
    assert 3 < blended < 17  # mixup blends, CutMix pastes


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0), (0, 1.0)])
def test_all_frames_of_a_clip_are_mixed_alike(target, mixup, cutmix):
    still = torch.rand(16, 3, 1, 8, 8, generator=torch.Generator().manual_seed(1)).expand(-1, -1, 4, -1, -1)
    torch.manual_seed(0)
    mixed, targets = mixing(mixup=mixup, cutmix=cutmix, num_classes=5)(still, target)
    assert mixed.shape == still.shape and targets.shape == (16, 5) and not torch.equal(mixed, still)
    assert torch.equal(mixed, mixed[:, :, :1].expand_as(mixed))
