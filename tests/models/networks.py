"""What tests do to networks."""

import torch
from torch import nn


def randomised(model: nn.Module) -> nn.Module:
    """``model`` with running statistics and scales unlike those of a fresh one, ready to be compared by its outputs."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.copy_(torch.rand_like(tensor) * 0.1 + (0.5 if "var" in name or "weight" in name else 0))
    return model.eval()
