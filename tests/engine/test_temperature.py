import pytest
import torch
from torch.nn import functional

from bsssl.engine.temperature import fit_temperature


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_temperature_of_logits_that_are_too_sure_or_too_little(factor):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    found = fit_temperature(factor * logits, targets)
    assert found.value == pytest.approx(factor, rel=0.03)
    assert found.before == pytest.approx(float(functional.cross_entropy(factor * logits, targets)), rel=1e-5)
    assert found.after <= found.before
    assert found.after == pytest.approx(float(functional.cross_entropy(logits, targets)), rel=1e-3)


@pytest.mark.parametrize("targets", [[0, 1], [1, 0]])
def test_labels_that_are_all_right_or_by_chance_fit_none(targets):
    assert fit_temperature(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor(targets)) is None
