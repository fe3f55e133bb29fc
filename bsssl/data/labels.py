"""Labels: what the spellings in a column mean, in which order classes are, and names that look alike."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bsssl.storage.columns import Values

_NOTHING = ("", "-1", "-1.0")
"""what stands where there is no label; pandas makes floats of whole numbers"""
NO_NUMBER = ("nan", "none", "null", "<na>", "na", "n/a", "#n/a")
"""what programs write where a number is missing, folded: among words it may be the name of a class"""
_AROUND = re.compile(r"^[\s\u200b\u2060\ufeff]+|[\s\u200b\u2060\ufeff]+$")
"""what cannot be seen around a label"""
_WHOLE = re.compile(r"(-?[0-9]+)(?:\.0*)?")
_NUMBER = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?")


def meanings(spellings: Iterable[str | None]) -> dict[str | None, str | None]:
    """Return the label that each of the ``spellings`` in a column stands for; None for no label.

    A label is in Unicode's NFC, without blanks around it. Nothing and -1 are no label. Where all others are whole
    numbers, floats are these numbers (``3.0`` is ``3``), and ``nan``, ``none``, ``null``, ``NA`` and the like no label.
    """
    # By Python, whose normalisation does not depend on how Arrow was built.
    tidy = {one: unicodedata.normalize("NFC", _AROUND.sub("", one or "")) for one in spellings}
    found = {one: None if name in _NOTHING else name for one, name in tidy.items()}
    names = [name for name in found.values() if name is not None and name.casefold() not in NO_NUMBER]
    if not names or not all(map(_WHOLE.fullmatch, names)):
        return found
    return {one: _whole(name) for one, name in found.items()}


def tidied(labels: Values[str | None]) -> Values[str | None]:
    """Return a column of labels with what its spellings stand for."""
    return replaced(labels, meanings(pc.unique(labels).to_pylist()))


def replaced(labels: Values[str | None], by: Mapping[str | None, str | None]) -> Values[str | None]:
    """Return a column of labels with those that are keys of ``by`` replaced."""
    there = pc.unique(labels)
    names = pa.array([by.get(one, one) for one in there.to_pylist()], pa.string())
    column: Values[str | None] = names.take(pc.index_in(labels, value_set=there))
    return column


def ordered(names: Iterable[str]) -> list[str]:
    """Return names of classes in their order: numbers as numbers, then words as text."""
    return sorted(names, key=_rank)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that look alike: that differ in case, in blanks or in what cannot be seen."""
    groups = defaultdict(list)
    for name in names:
        groups[_seen(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def commonest(counts: Mapping[str, int], names: Iterable[str]) -> dict[str | None, str | None]:
    """Return for each of ``names`` the one of those in ``counts`` that looks alike and counts most.

    Names that look like none of them are left out.
    """
    best: dict[str, str] = {}
    for name in sorted(counts, key=lambda one: (counts[one], one)):
        best[_seen(name)] = name
    return {name: best[seen] for name in names if (seen := _seen(name)) in best}


def _whole(name: str | None) -> str | None:
    """Return the whole number that a label is, if it is one; None for a word."""
    match = _WHOLE.fullmatch(name or "")
    return match[1] if match and match[1] not in _NOTHING else None


def _rank(name: str) -> tuple[Any, ...]:
    return (0, Decimal(name), name) if _NUMBER.fullmatch(name) else (1, 0, name)


def _seen(name: str) -> str:
    """Return what all names have in common that look like ``name``."""
    visible = "".join(one for one in name if unicodedata.category(one) != "Cf")
    return unicodedata.normalize("NFC", " ".join(visible.split()).casefold())
