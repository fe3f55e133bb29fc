"""The names that other tools give to the tensors of a network, turned into the names that they have here."""

import re
from collections.abc import Mapping

from torch import Tensor

_PREFIXES = ("module.", "_orig_mod.", "model.")
# R(2+1)D's names in torchvision and VMZ, and PyTorchVideo's; the classifier is renamed as everywhere.
_R2PLUS1D = {
    r"^stem\.0\.": "blocks.0.conv.conv_xy.",
    r"^stem\.1\.": "blocks.0.conv.norm.",
    r"^stem\.3\.": "blocks.0.conv.conv_t.",
    r"^stem\.4\.": "blocks.0.norm.",
    r"^layer(\d+)\.(\d+)\.": r"blocks.\1.res_blocks.\2.",
    r"\.downsample\.0\.": ".branch1_conv.",
    r"\.downsample\.1\.": ".branch1_norm.",
    r"\.conv1\.": ".branch2.conv_a.",
    r"\.conv2\.": ".branch2.conv_b.",
    r"\.conv_([ab])\.0\.0\.": r".conv_\1.conv_xy.",
    r"\.conv_([ab])\.0\.1\.": r".conv_\1.norm.",
    r"\.conv_([ab])\.0\.3\.": r".conv_\1.conv_t.",
    r"\.conv_([ab])\.1\.": r".norm_\1.",
}
_HEADS = ("fc", "classifier", "head", "head.fc", "last_linear")


def rename(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return ``state`` with the names that its tensors have in the network of the state dict ``expected``.

    Names that are not known stay as they are. ``head`` is the name of that network's classifier.
    """
    return _rename_head(_rename_r2plus1d(_strip_prefixes(state, expected), expected), expected, head)


def _strip_prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` without the prefixes that wrappers of a network put before every name."""
    names = list(state)
    foreign = [prefix for prefix in _PREFIXES if not any(name.startswith(prefix) for name in expected)]
    while prefix := next((prefix for prefix in foreign if all(name.startswith(prefix) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _rename_r2plus1d(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a torchvision or VMZ network's ``state`` with PyTorchVideo's names, if ``expected`` has those."""
    if "stem.0.weight" not in state or "blocks.0.conv.conv_xy.weight" not in expected:
        return state
    renamed = {}
    for name, value in state.items():
        for theirs, ours in _R2PLUS1D.items():
            name = re.sub(theirs, ours, name)
        renamed[name] = value
    return renamed


def _rename_head(state: dict[str, Tensor], expected: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return ``state`` with its classifier called ``head``."""
    if f"{head}.weight" in state:
        return state
    names = [name for name in _HEADS if f"{name}.weight" in state and f"{name}.weight" not in expected]
    if len(names) != 1:
        return state
    old = f"{names[0]}."
    return {f"{head}.{name[len(old) :]}" if name.startswith(old) else name: value for name, value in state.items()}
