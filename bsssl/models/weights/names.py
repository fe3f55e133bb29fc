"""The names that other tools give to the tensors of a network, turned into the names that they have here."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

MMACTION, PYSLOWFAST = "mmaction2", "PySlowFast"
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
# The names of mmaction2's bottlenecks, and PyTorchVideo's.
_MMACTION_BLOCKS = {
    r"\.downsample\.conv\.": ".branch1_conv.",
    r"\.downsample\.bn\.": ".branch1_norm.",
    **{rf"\.conv{number}\.conv\.": f".branch2.conv_{letter}." for number, letter in enumerate("abc", 1)},
    **{rf"\.conv{number}\.bn\.": f".branch2.norm_{letter}." for number, letter in enumerate("abc", 1)},
}
# Those of PySlowFast, which are those of SlowFast's own repository.
_PYSLOWFAST_BLOCKS = {
    r"\.branch1\.": ".branch1_conv.",
    r"\.branch1_bn\.": ".branch1_norm.",
    r"\.branch2\.([abc])\.": r".branch2.conv_\1.",
    r"\.branch2\.([abc])_bn\.": r".branch2.norm_\1.",
}


def _mmaction(expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Return mmaction2's names of SlowOnly and I3D, and those of the network of PyTorchVideo."""
    stem = {r"(?<!\d\.)\bconv1\.conv\.": "blocks.0.conv.", r"(?<!\d\.)\bconv1\.bn\.": "blocks.0.norm."}
    stages = enumerate(_stages(expected), 1)
    layers = {rf"\blayer{number}\.(\d+)\.": rf"blocks.{block}.res_blocks.\1." for number, block in stages}
    return {**stem, **layers, **_MMACTION_BLOCKS}


def _pyslowfast(expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Return PySlowFast's names of ResNets of one pathway or two, and those of the network of PyTorchVideo."""
    two = any(".multipathway_blocks." in name for name in expected)
    table = {}
    for number, block in enumerate((0, *_stages(expected)), 1):
        for pathway in (0, 1) if two else (0,):
            place = f"blocks.{block}." + (f"multipathway_blocks.{pathway}." if two else "")
            table[rf"\bs{number}\.pathway{pathway}_stem\.bn\."] = f"{place}norm."
            table[rf"\bs{number}\.pathway{pathway}_stem\."] = place
            table[rf"\bs{number}\.pathway{pathway}_res(\d+)\."] = rf"{place}res_blocks.\1."
        table[rf"\bs{number}_fuse\.bn\."] = f"blocks.{block}.multipathway_fusion.norm."
        table[rf"\bs{number}_fuse\.conv_f2s\."] = f"blocks.{block}.multipathway_fusion.conv_fast_to_slow."
    return {**table, **_PYSLOWFAST_BLOCKS}


def _stages(expected: Mapping[str, Tensor]) -> list[int]:
    """Return the numbers of the blocks of a network of PyTorchVideo that are stages, not pools."""
    return sorted({int(name.split(".")[1]) for name in expected if ".res_blocks." in name})


@dataclass(frozen=True)
class _Vocabulary:
    """How a library calls what is called otherwise in a network here."""

    library: str
    mark: str
    """the end of a name that tells the vocabulary"""
    ours: str
    """the beginning of a name of the networks for which it is translated"""
    table: Callable[[Mapping[str, Tensor]], Mapping[str, str]]
    """given the tensors of the network, returns patterns and what is to stand in their place, in the order to apply"""


_VOCABULARIES = (
    _Vocabulary("OpenMMLab", "conv1.conv.weight", "conv1.weight", lambda expected: _OPENMMLAB),
    _Vocabulary("VMZ", "stem.0.weight", "blocks.0.conv.", lambda expected: _R2PLUS1D),
    _Vocabulary(MMACTION, "conv1.conv.weight", "blocks.0.conv.weight", _mmaction),
    _Vocabulary(PYSLOWFAST, "s1.pathway0_stem.conv.weight", "blocks.0.", _pyslowfast),
)
_TEXTS = re.compile(
    r"(text|transformer|token_embedding|positional_embedding|ln_final|text_projection|text_decoder|logit_\w+)(\.|$)"
)
"""what a whole CLIP has beside the tower that sees pictures, which is called visual"""
_HEADS = (
    *("fc", "classifier", "head", "head.fc", "head.projection", "last_linear"),
    *("cls_head.fc_cls", "cls_head.fc", "heads.0.clf.0"),
)
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
    library: str | None
    """whose names of the tensors were translated"""


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
    vocabulary = next((one for one in _VOCABULARIES if _is_spoken(one, state, expected)), None)
    translated = state if vocabulary is None else _translated(state, vocabulary.table(expected))
    places = _places(list(translated), expected)
    inside = {name.removeprefix(places[0]): value for name, value in translated.items() if name.startswith(places[0])}
    if any(name.startswith("visual.") for name in expected):
        inside = {name: value for name, value in inside.items() if not _TEXTS.match(name)}
    library = None if vocabulary is None else vocabulary.library
    return Part(_with_head(inside, translated, expected, head), places[0], tuple(places[1:]), library)


def _is_spoken(vocabulary: _Vocabulary, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Return whether the file has names of ``vocabulary``, and the network those into which they are translated."""
    theirs = any(name.endswith(vocabulary.mark) for name in state)
    return theirs and any(name.startswith(vocabulary.ours) for name in expected)


def _translated(state: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Return ``state`` with the network's names for what another library calls otherwise."""
    names = list(state)
    for old, new in table.items():
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
    elsewhere = [name.removesuffix("weight") for name in everything if f".{name}".endswith(ends)]
    if beside or len(elsewhere) != 1:
        return state
    old = elsewhere[0]
    moved = {f"{head}.{name[len(old) :]}": value for name, value in everything.items() if name.startswith(old)}
    return state | moved
