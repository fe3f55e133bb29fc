"""What may be wrong with labels, in words: said before anything is trained on them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bsssl import data
from bsssl.data import labels
from bsssl.errors import shortened

_MOST = 3  # names in a line
_FEW = 10  # classes: where there are fewer, each may well have one item
_ENOUGH = 2  # items of a class, on average
_TEXT_ORDER = 11  # numbers from 0 on that text puts into another order


def are_captions(counts: Mapping[str, int]) -> bool:
    """Return whether nearly every item has a label of its own; ``counts`` are the items of each class."""
    sentences = sum(len(name.split()) > 2 for name in counts) * 2 > len(counts)
    return len(counts) * _ENOUGH > sum(counts.values()) and (len(counts) >= _FEW or sentences)


def of_captions(counts: Mapping[str, int]) -> str:
    """Return what is wrong where ``are_captions``."""
    return (
        f"{sum(counts.values())} items have {len(counts)} classes (such as {listed(counts)}): labels that nearly every "
        "item has of its own are no classes. Are they captions? Give the name of a class as label"
    )


def of_spellings(before: data.Records, after: data.Records, *, what: str) -> list[str]:
    """Return what became of the labels of a source, ``before`` and ``after`` they were tidied."""
    counts = Counter[str | None](before.label.to_pylist())
    meanings = dict(zip(before.label.to_pylist(), after.label.to_pylist(), strict=True))
    spellings: dict[str | None, list[str]] = {}
    for spelling in counts:
        if spelling is not None and meanings[spelling] != spelling:
            spellings.setdefault(meanings[spelling], []).append(spelling)
    said = []
    if nothing := spellings.pop(None, []):
        named = ", ".join(f"{counts[one]} times {quoted(one)}" for one in nothing[:_MOST])
        said.append(f"{what}: {sum(counts[one] for one in nothing)} labels are no label ({named})")
    if spellings:
        pairs = [f"{quoted(one)} as {quoted(name or '')}" for name, group in spellings.items() for one in group]
        said.append(f"{what}: {len(pairs)} spellings of labels are taken for another: {some(pairs)}")
    return said


def of_names(counts: Mapping[str, int], classes: Sequence[str], *, what: str) -> list[str]:
    """Return what is odd about the names of the ``classes``, of which there are ``counts`` items."""
    said = []
    if groups := labels.alike(classes):
        named = [" and ".join(f"{quoted(name)} ({counts[name]})" for name in group) for group in groups]
        said.append(
            f"{what}: {sum(map(len, groups))} names of classes look alike, such as {some(named)}, and are taken as "
            "classes of their own; if they are one, spell it alike, or set data.merge_lookalikes=true"
        )
    for name in [name for name in classes if name.casefold() in labels.NO_NUMBER]:
        said.append(f"{what}: {quoted(name)} is taken as a class; where there is no label, leave it empty")
    lists = [name for name in classes if name.startswith(("[", "{")) and name.endswith(("]", "}"))]
    if lists:
        said.append(f"{what}: labels that are lists are each taken as one class of that name: {listed(lists)}")
    numbers = [name for name in classes if name.isdecimal()]
    if len(numbers) >= _TEXT_ORDER:
        order = "numbers" if numbers == labels.ordered(numbers) else "texts, as in the earlier work in the run's folder"
        said.append(
            f"{what}: {len(numbers)} names of classes are numbers, in the order of {order}: "
            f"{', '.join(numbers[:_MOST])}, ..., {numbers[-1]}"
        )
    return said


def of_counts(counts: Mapping[str, int], tests: Mapping[str, Mapping[str, int]], *, what: str) -> list[str]:
    """Return which classes have too few items to learn from, or none to test with."""
    single = [name for name, count in counts.items() if count == 1]
    said = [f"{what}: {len(single)} of {len(counts)} classes have a single item: {listed(single)}"] if single else []
    for test, tested in tests.items():
        if lacking := [name for name in counts if not tested.get(name)]:
            said.append(f"{test}: {len(lacking)} of {len(counts)} classes have no item to test with: {listed(lacking)}")
    return said


def of_places(parts: Iterable[data.Records]) -> list[str]:
    """Return which items have several labels, in one list or in several."""
    places = pa.concat_tables(part.table.select(["path", "offset", "label"]) for part in parts).combine_chunks()
    by_place = places.group_by(["path", "offset"], use_threads=False).aggregate([("label", "distinct")])
    torn = by_place.filter(pc.greater(pc.list_value_length(by_place["label_distinct"]), 1))
    if not len(torn):
        return []
    rows: list[dict[str, Any]] = torn.slice(0, _MOST).to_pylist()
    named = [f"{row['path']} ({' and '.join(map(quoted, sorted(row['label_distinct'])))})" for row in rows]
    return [f"{len(torn)} items have more than one label: {some(named, of=len(torn))}; correct the wrong ones"]


def of_shared_items(train: data.Records, test: data.Records, *, what: str) -> list[str]:
    """Return which of the test items are labeled ones too, by where they lie."""
    shared = data.find_overlap([train], test)
    if not len(shared):
        return []
    such = f"such as {shared[0].key}"
    return [f"{len(shared)} items of {what} are in data.train too ({such}): the accuracies will be too high"]


def listed(names: Collection[str]) -> str:
    """Return the first of ``names`` in quotes, and how many there are besides."""
    return some([quoted(name) for name in list(names)[:_MOST]], of=len(names))


def some(texts: Sequence[str], *, of: int | None = None) -> str:
    """Return the first of the texts, and how many there are besides, ``of`` so many in all."""
    more = (len(texts) if of is None else of) - _MOST
    return ", ".join(texts[:_MOST]) + (f" and {more} more" if more > 0 else "")


def quoted(name: str) -> str:
    """Return a name in quotes, not too long."""
    return f"'{shortened(name)}'"
