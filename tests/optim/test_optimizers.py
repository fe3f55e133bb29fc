import torch
from torch import nn

from bsssl.optim import build_optimizer


def test_sgd():
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, kind="sgd", lr=0.6, momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert group["params"] == list(model.parameters())
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.6, 0.9, True, 1e-4)


def test_adamw():
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, kind="adamw", lr=1e-3, momentum=0.8, nesterov=False, weight_decay=0.05)
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert group["params"] == list(model.parameters())
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.8, 0.999), 0.05)
