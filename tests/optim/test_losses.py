import numpy as np
import pytest
import torch
from torch.nn import functional

from bsssl.optim.losses import EarlyLearning, Loss, logit_adjustment, mixing

ROWS = torch.arange(16)


@pytest.fixture
def logits():
    return torch.randn(16, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target():
    return torch.arange(16) % 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_indices(logits, target, smoothing):
    even = torch.full((16, 5), smoothing / 5)
    wanted = functional.one_hot(target, 5) * (1 - smoothing) + even
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(Loss(label_smoothing=smoothing)(logits, target, ROWS), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_vectors(logits, target, smoothing):
    one_hot = functional.one_hot(target, 5).float()
    loss = Loss(label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, one_hot, ROWS), loss(logits, target, ROWS))
    soft = logits.roll(1, 0).softmax(1)
    expected = -((soft * (1 - smoothing) + smoothing / 5) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(logits, soft, ROWS), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalised_cross_entropy(logits, target, q, smoothing):
    loss = Loss(q=q, label_smoothing=smoothing)
    one_hot = functional.one_hot(target, 5).float()
    for vectors in (one_hot, logits.roll(1, 0).softmax(1)):
        wanted = vectors * (1 - smoothing) + smoothing / 5
        expected = (wanted * (1 - logits.softmax(1) ** q) / q).sum(1).mean()
        torch.testing.assert_close(loss(logits, vectors, ROWS), expected)
    torch.testing.assert_close(loss(logits, target, ROWS), loss(logits, one_hot, ROWS))


def test_generalised_cross_entropy_tends_to_cross_entropy(logits, target):
    near = Loss(q=1e-4)(logits, target, ROWS)
    torch.testing.assert_close(near, functional.cross_entropy(logits, target), rtol=1e-3, atol=1e-3)


def test_what_the_network_is_sure_is_wrong_pulls_less_on_it_in_generalised_cross_entropy():
    def pull(q):
        logits = torch.tensor([[8.0, 0.0]], requires_grad=True)
        Loss(q=q)(logits, torch.tensor([1]), torch.tensor([0])).backward()
        return float(logits.grad.abs().sum())

    assert pull(0.7) < 0.02 * pull(0.0)


@pytest.mark.parametrize("q", [0.0, 0.7])
def test_logit_adjustment_is_in_the_loss_alone(logits, target, q):
    counts = np.array([8.0, 4.0, 2.0, 2.0, 0.0])
    adjustment = logit_adjustment(counts, tau=1.5)
    expected = 1.5 * torch.tensor([8, 4, 2, 2, 1]).div(17).log()  # a class without items counts as one with one
    torch.testing.assert_close(adjustment, expected)
    before = logits.clone()
    adjusted = Loss(q=q, adjustment=adjustment)(logits, target, ROWS)
    torch.testing.assert_close(adjusted, Loss(q=q)(logits + expected, target, ROWS))
    assert torch.equal(logits, before)


def test_logit_adjustment_asks_more_for_rare_classes():
    loss = Loss(adjustment=logit_adjustment(np.array([90, 10]), tau=1.0))
    common, rare = (float(loss(torch.zeros(1, 2), torch.tensor([label]), torch.tensor([0]))) for label in (0, 1))
    assert common == pytest.approx(-np.log(0.9)) and rare == pytest.approx(-np.log(0.1))


def test_early_learning_against_its_definition(logits, target):
    early_learning = EarlyLearning(rows=40, num_classes=5, weight=3.0, beta=0.7)
    loss = Loss(early_learning=early_learning)
    average = torch.zeros(40, 5)
    for step in range(3):
        rows = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:16]
        given = logits.roll(step, 0).requires_grad_()
        predicted = given.softmax(1)
        average[rows] = 0.7 * average[rows] + 0.3 * predicted.detach()
        expected = functional.cross_entropy(given, target) + 3 * (1 - (predicted * average[rows]).sum(1)).log().mean()
        found = loss(given, target, rows)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # it keeps away from 0 and 1
        gradients = [torch.autograd.grad(value, given, retain_graph=True)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(early_learning.memory, average, rtol=1e-3, atol=1e-3)


def test_only_early_learning_has_a_state():
    assert not Loss(q=0.7, adjustment=torch.zeros(5)).state_dict()
    loss = Loss(early_learning=EarlyLearning(rows=4, num_classes=5, weight=3.0, beta=0.7))
    assert [value.shape for value in loss.state_dict().values()] == [(4, 5)]


def test_certainty_is_finite():
    loss = Loss(early_learning=EarlyLearning(rows=1, num_classes=2, weight=3.0, beta=0.0))
    sure = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    found = loss(sure, torch.tensor([0]), torch.tensor([0]))
    found.backward()
    assert found.isfinite() and sure.grad.isfinite().all()


def test_half_precision_is_computed_in_full(target):
    logits = torch.full((16, 5), 3e4, dtype=torch.float16)
    loss = Loss()(logits, target, ROWS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.log(torch.tensor(5.0)))


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
