import torch
from torch import nn

from bsssl.config import Supervised
from bsssl.optim import build_optimizer
from bsssl.registry import OPTIMIZERS


def build(**settings):
    """The optimiser of a linear layer, and its one group of parameters."""
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(Supervised(**settings), model)
    (group,) = optimizer.param_groups
    assert group["params"] == list(model.parameters())
    return optimizer, group


def test_sgd():
    optimizer, group = build(base_lr=0.1, batch_size=1536, momentum=0.8, nesterov=True, weight_decay=1e-3)
    assert type(optimizer) is torch.optim.SGD
    chosen = [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")]
    assert chosen == [0.1 * 1536 / 256, 0.8, True, 1e-3]


def test_adamw():
    optimizer, group = build(optimizer="adamw", base_lr=1e-3, batch_size=256, momentum=0.8, weight_decay=0.05)
    assert type(optimizer) is torch.optim.AdamW
    assert [group[name] for name in ("lr", "betas", "weight_decay")] == [1e-3, (0.8, 0.999), 0.05]


def test_a_class_of_torch_is_an_optimizer_of_a_plugin(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS._parts, "rmsprop", torch.optim.RMSprop)
    optimizer, group = build(optimizer="rmsprop", optimizer_options={"alpha": 0.5}, base_lr=0.1, batch_size=256)
    assert type(optimizer) is torch.optim.RMSprop
    assert [group[name] for name in ("lr", "alpha", "weight_decay", "momentum")] == [0.1, 0.5, 1e-4, 0]
