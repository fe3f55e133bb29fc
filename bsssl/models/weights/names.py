"""The names that other tools give to the tensors of a network, turned into the names that they have here."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

# R(2+1)D's names in torchvision and VMZ, and PyTorchVideo's; the classifier is renamed as everywhere.
_R2PLUS1D = {
    r"\bstem\.0\.": "blocks.0.conv.conv_xy.",
    r"\bstem\.1\.": "blocks.0.conv.norm.",
    r"\bstem\.3\.": "blocks.0.conv.conv_t.",
    r"\bstem\.4\.": "blocks.0.norm.",
    r"\blayer(\d+)\.(\d+)\.": r"blocks.\1.res_blocks.\2.",
    r"\.downsample\.0\.": ".branch1_conv.",
    r"\.downsample\.1\.": ".branch1_norm.",
    r"\.conv1\.": ".branch2.conv_a.",
    r"\.conv2\.": ".branch2.conv_b.",
    r"\.conv_([ab])\.0\.0\.": r".conv_\1.conv_xy.",
    r"\.conv_([ab])\.0\.1\.": r".conv_\1.norm.",
    r"\.conv_([ab])\.0\.3\.": r".conv_\1.conv_t.",
    r"\.conv_([ab])\.1\.": r".norm_\1.",
}
# A convolution and its normalisation are one module in OpenMMLab's video networks.
_OPENMMLAB = {
    r"\bconv(\d)\.conv\.": r"conv\1.",
    r"\bconv(\d)\.bn\.": r"bn\1.",
    r"\bdownsample\.conv\.": "downsample.0.",
    r"\bdownsample\.bn\.": "downsample.1.",
}
_VOCABULARIES = (("conv1.conv.weight", "conv1.weight", _OPENMMLAB), ("stem.0.weight", "blocks.0.conv.", _R2PLUS1D))
"""the end of a name that tells a vocabulary, the beginning of one of the network for which it is translated, and how"""
_TEXTS = re.compile(
    r"(text|transformer|token_embedding|positional_embedding|ln_final|text_projection|text_decoder|logit_\w+)(\.|$)"
)
"""what a whole CLIP has beside the tower that sees pictures, which is called visual"""
_HEADS = ("fc", "classifier", "head", "head.fc", "last_linear", "cls_head.fc_cls", "cls_head.fc", "heads.0.clf.0")
_AVERAGED = re.compile(r"(?<![a-z])ema(?![a-z])|averag|teacher", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """The tensors in a file that are a network's."""

    state: dict[str, Tensor]
    """by their names in the network, as far as these are known"""
    place: str
    """what their names begin with in the file, the last dot included; empty for the whole file"""
    alternatives: tuple[str, ...]
    """other places that hold as much of the network"""


def find_part(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: str, *, place: str = "") -> Part:
    """Return the part of ``state`` that belongs to the network of the state dict ``expected``.

    The network may lie anywhere in the file, inside wrappers and beside other networks. Of several places that hold the
    same tensors of it, averaged weights come first, then what stands first in the file.

    Args:
        state: All tensors of a file by name.
        expected: Those of the network.
        head: The name of the network's classifier.
        place: Look among the names that begin so, or have it as one of their parts, alone.
    """
    if place:
        state = {name: value for name, value in state.items() if f".{place}." in f".{name}"}
    translated = _translated(state, expected)
    found = _places(list(translated), expected)
    inside = {name.removeprefix(found[0]): value for name, value in translated.items() if name.startswith(found[0])}
    if any(name.startswith("visual.") for name in expected):
        inside = {name: value for name, value in inside.items() if not _TEXTS.match(name)}
    return Part(_with_head(inside, translated, expected, head), found[0], tuple(found[1:]))


def _translated(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with the network's names for what other libraries call otherwise."""
    names = list(state)
    for mark, ours, vocabulary in _VOCABULARIES:
        if any(name.endswith(mark) for name in names) and any(name.startswith(ours) for name in expected):
            for old, new in vocabulary.items():
                names = [re.sub(old, new, name) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _places(names: Sequence[str], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the beginnings under which most of the network lies; what all names share, where that is next to none."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(
            ".".join([*parts[:start], ""]) for start in range(len(parts)) if ".".join(parts[start:]) in expected
        )
    most = max(counts.values(), default=0)
    if 2 * most < len(expected):
        return [_shared(names)]
    best = [place for place, count in counts.items() if count == most]
    return sorted(best, key=lambda place: _AVERAGED.search(place) is None)


def _shared(names: Sequence[str]) -> str:
    """Return the parts that all names begin with, the last dot included."""
    places = (name.split(".")[:-1] for name in names)
    alike = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False))
    return "".join(f"{parts[0]}." for parts in alike)


def _with_head(
    state: dict[str, Tensor], everything: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: str
) -> dict[str, Tensor]:
    """Return ``state`` with its classifier called ``head``, be it beside the rest or elsewhere in the file."""
    if f"{head}.weight" in state:
        return state
    beside = [name for name in _HEADS if f"{name}.weight" in state and f"{name}.weight" not in expected]
    if len(beside) == 1:
        old = f"{beside[0]}."
        return {f"{head}.{name[len(old) :]}" if name.startswith(old) else name: value for name, value in state.items()}
    ends = tuple(f".{name}.weight" for name in _HEADS)
    elsewhere = [name.removesuffix("weight") for name in everything if name.endswith(ends)]
    if beside or len(elsewhere) != 1:
        return state
    old = elsewhere[0]
    moved = {f"{head}.{name[len(old) :]}": value for name, value in everything.items() if name.startswith(old)}
    return state | moved
