import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from torch.nn import functional

from bsssl.config import Supervised
from bsssl.errors import UserError
from bsssl.optim import build_loss
from bsssl.optim.losses import CrossEntropy, EarlyLearning, SymmetricKL, adjustment
from bsssl.registry import LOSSES

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
    torch.testing.assert_close(CrossEntropy(label_smoothing=smoothing)(logits, target, ROWS), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_vectors(logits, target, smoothing):
    one_hot = functional.one_hot(target, 5).float()
    loss = CrossEntropy(label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, one_hot, ROWS), loss(logits, target, ROWS))
    soft = logits.roll(1, 0).softmax(1)
    expected = -((soft * (1 - smoothing) + smoothing / 5) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(logits, soft, ROWS), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalised_cross_entropy(logits, target, q, smoothing):
    loss = CrossEntropy(q=q, label_smoothing=smoothing)
    one_hot = functional.one_hot(target, 5).float()
    for vectors in (one_hot, logits.roll(1, 0).softmax(1)):
        wanted = vectors * (1 - smoothing) + smoothing / 5
        expected = (wanted * (1 - logits.softmax(1) ** q) / q).sum(1).mean()
        torch.testing.assert_close(loss(logits, vectors, ROWS), expected)
    torch.testing.assert_close(loss(logits, target, ROWS), loss(logits, one_hot, ROWS))


def test_generalised_cross_entropy_tends_to_cross_entropy(logits, target):
    near = CrossEntropy(q=1e-4)(logits, target, ROWS)
    torch.testing.assert_close(near, functional.cross_entropy(logits, target), rtol=1e-3, atol=1e-3)


def test_what_the_network_is_sure_is_wrong_pulls_less_on_it_in_generalised_cross_entropy():
    def pull(q):
        logits = torch.tensor([[8.0, 0.0]], requires_grad=True)
        CrossEntropy(q=q)(logits, torch.tensor([1]), torch.tensor([0])).backward()
        return float(logits.grad.abs().sum())

    assert pull(0.7) < 0.02 * pull(0.0)


@pytest.mark.parametrize("q", [0.0, 0.7])
def test_logit_adjustment_is_in_the_loss_alone(logits, target, q):
    counts = np.array([8.0, 4.0, 2.0, 2.0, 0.0])
    added = adjustment(counts, tau=1.5)
    expected = 1.5 * torch.tensor([8, 4, 2, 2, 1]).div(17).log()  # a class without items counts as one with one
    torch.testing.assert_close(added, expected)
    before = logits.clone()
    adjusted = CrossEntropy(q=q, adjustment=added)(logits, target, ROWS)
    torch.testing.assert_close(adjusted, CrossEntropy(q=q)(logits + expected, target, ROWS))
    assert torch.equal(logits, before)


def test_logit_adjustment_asks_more_for_rare_classes():
    loss = CrossEntropy(adjustment=adjustment(np.array([90, 10]), tau=1.0))
    common, rare = (float(loss(torch.zeros(1, 2), torch.tensor([label]), torch.tensor([0]))) for label in (0, 1))
    assert common == pytest.approx(-np.log(0.9)) and rare == pytest.approx(-np.log(0.1))


def test_early_learning_against_its_definition(logits, target):
    early_learning = EarlyLearning(rows=40, num_classes=5, weight=3.0, beta=0.7)
    loss = CrossEntropy(early_learning=early_learning)
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
    assert not CrossEntropy(q=0.7, adjustment=torch.zeros(5)).state_dict()
    loss = CrossEntropy(early_learning=EarlyLearning(rows=4, num_classes=5, weight=3.0, beta=0.7))
    assert [value.shape for value in loss.state_dict().values()] == [(4, 5)]


def test_certainty_is_finite():
    loss = CrossEntropy(early_learning=EarlyLearning(rows=1, num_classes=2, weight=3.0, beta=0.0))
    sure = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    found = loss(sure, torch.tensor([0]), torch.tensor([0]))
    found.backward()
    assert found.isfinite() and sure.grad.isfinite().all()


@pytest.mark.parametrize("loss", [CrossEntropy(), SymmetricKL()])
def test_half_precision_is_computed_in_full(target, loss):
    found = loss(torch.full((16, 5), 3e4, dtype=torch.float16), target, ROWS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(torch.zeros(16, 5), target, ROWS))
    assert found.isfinite()


def symmetric_kl(logits, target, *, epsilon=1e-7):
    """Half the sum of both divergences, in NumPy and SciPy, and where each target is zero ``epsilon`` in its stead."""
    predicted, target = (values.double().numpy() for values in (logits.double().softmax(1), target))
    forth = rel_entr(target, predicted).sum(1)
    back = rel_entr(predicted, np.maximum(target, epsilon)).sum(1)
    return torch.tensor(((forth + back) / 2).mean(), dtype=torch.float32)


@pytest.mark.parametrize("epsilon", [1e-7, 1e-3])
def test_symmetric_kl_against_its_definition(logits, target, epsilon):
    loss = SymmetricKL(epsilon=epsilon)
    soft = (3 * logits.roll(1, 0)).softmax(1).clamp(min=2e-3)
    soft = soft / soft.sum(1, keepdim=True)
    best = soft * (soft >= soft.topk(2).values[:, 1:])  # as the scores of a teacher for its P best classes: zeros else
    best = best / best.sum(1, keepdim=True)
    one_hot = functional.one_hot(target, 5).float()
    for vectors in (soft, best, one_hot, 0.3 * one_hot + 0.7 * one_hot.roll(1, 0)):
        torch.testing.assert_close(loss(logits, vectors, ROWS), symmetric_kl(logits, vectors, epsilon=epsilon))
    assert torch.equal(loss(logits, target, ROWS), loss(logits, one_hot, ROWS))


def test_symmetric_kl_is_symmetric_and_zero_where_the_prediction_is_the_target(logits):
    loss, other = SymmetricKL(), logits.roll(1, 0)
    torch.testing.assert_close(loss(logits, other.softmax(1), ROWS), loss(other, logits.softmax(1), ROWS))
    given = logits.clone().requires_grad_()
    found = loss(given, logits.softmax(1), ROWS)
    found.backward()
    assert abs(float(found)) < 1e-6 and float(given.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("right", [0, 1])
def test_symmetric_kl_of_certainty_is_finite(right):
    sure = torch.tensor([[1000.0, -1000.0]], requires_grad=True)
    found = SymmetricKL()(sure, torch.tensor([right]), torch.tensor([0]))
    found.backward()
    assert found.isfinite() and sure.grad.isfinite().all()
    # What is sure and wrong costs its distance in logits and the logarithm of epsilon, halved.
    assert float(found) == pytest.approx((2000 - np.log(1e-7)) / 2 if right else 0.0, abs=1e-3)


def test_symmetric_kl_learns_what_the_target_says(logits):
    given, soft = torch.zeros(16, 5, requires_grad=True), logits.softmax(1)
    optimizer = torch.optim.SGD([given], lr=10.0)
    for _ in range(200):
        optimizer.zero_grad()
        SymmetricKL()(given, soft, ROWS).backward()
        optimizer.step()
    torch.testing.assert_close(given.softmax(1), soft, rtol=0, atol=0.01)


def test_symmetric_kl_by_its_name(logits, target):
    assert torch.equal(build(loss="symmetric_kl")(logits, target, ROWS), SymmetricKL()(logits, target, ROWS))
    chosen = build(loss="symmetric_kl", loss_options={"epsilon": 1e-3})
    assert torch.equal(chosen(logits, target, ROWS), SymmetricKL(epsilon=1e-3)(logits, target, ROWS))
    assert not chosen.state_dict()


def build(**settings):
    counts = np.array([4.0, 2.0, 2.0, 1.0, 1.0])
    return build_loss(Supervised(**settings), num_classes=5, rows=16, class_counts=lambda: counts)


def test_the_keys_of_a_training_are_the_options_of_cross_entropy(logits, target):
    settings = {"label_smoothing": 0.1, "gce": 0.7, "logit_adjustment": 1.5}
    added = adjustment(np.array([4.0, 2.0, 2.0, 1.0, 1.0]), tau=1.5)
    expected = CrossEntropy(label_smoothing=0.1, q=0.7, adjustment=added)(logits, target, ROWS)
    assert torch.equal(build(**settings)(logits, target, ROWS), expected)
    remembering = build(elr=3.0, elr_beta=0.5)
    early_learning = EarlyLearning(rows=16, num_classes=5, weight=3.0, beta=0.5)
    expected = CrossEntropy(early_learning=early_learning)(logits, target, ROWS)
    assert torch.equal(remembering(logits, target, ROWS), expected)
    assert remembering.state_dict().keys() == {"early_learning.memory"}


def test_classes_are_counted_only_where_it_is_asked_for():
    def count():
        raise AssertionError

    build_loss(Supervised(elr=3.0), num_classes=5, rows=16, class_counts=count)
    with pytest.raises(AssertionError):
        build_loss(Supervised(logit_adjustment=1.0), num_classes=5, rows=16, class_counts=count)


class Margin(torch.nn.Module):
    """A loss as a plugin might have one."""

    def __init__(self, *, num_classes: int, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, logits, target, rows):
        return functional.multi_margin_loss(logits, target, margin=self.margin)


def test_a_loss_of_a_plugin(logits, target, monkeypatch):
    monkeypatch.setitem(LOSSES._parts, "margin", Margin)
    expected = functional.multi_margin_loss(logits, target, margin=0.5)
    assert torch.equal(build(loss="margin", loss_options={"margin": "0.5"})(logits, target, ROWS), expected)
    with pytest.raises(UserError, match="loss 'margin': margin='wide': Input should be a valid number"):
        build(loss="margin", loss_options={"margin": "wide"})
    with pytest.raises(UserError, match=r"^teacher\.loss: loss 'margin' has no option 'width'"):
        Supervised(loss="margin", loss_options={"width": 1}).check_parts("teacher")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinges"}, "unknown loss 'hinges': valid: cross_entropy, margin, symmetric_kl"),
        ({"loss": "symmetric_kl", "label_smoothing": 0.1}, "label_smoothing is no option of loss 'symmetric_kl'; take"),
        ({"loss": "margin", "gce": 0.7}, "gce is no option of loss 'margin'; take it out, and give options of margin"),
        ({"loss_options": {"gce": 0.7}}, "loss_options: options of cross_entropy are keys beside it .label_smoothing,"),
        ({"optimizer": "adma"}, "unknown optimizer 'adma': did you mean 'adamw'. valid: adamw, sgd"),
        (
            {"schedule": "cosine", "schedule_options": {"a": 1}},
            "options of cosine are keys beside it .it has none.; move",
        ),
    ],
)
def test_parts_and_options_that_cannot_be(settings, message, monkeypatch):
    monkeypatch.setitem(LOSSES._parts, "margin", Margin)
    with pytest.raises(ValueError, match=message):
        Supervised(**settings)
