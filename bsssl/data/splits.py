"""Few-label splits of a labeled set."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from bsssl.data.records import Records
from bsssl.errors import UserError


def hold_out(targets: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Return a random ``share`` of the items of each class, one at least but never all: bool (rows,)."""
    generator, held = np.random.default_rng(seed), np.zeros(len(targets), bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        held[generator.choice(members, size=held_out(len(members), share=share), replace=False)] = True
    return held


def held_out(count: int, *, share: float) -> int:
    """Return how many of ``count`` items of a class ``hold_out`` takes."""
    return min(max(1, round(share * count)), count - 1)


def split_holdout(records: Records, *, share: float, seed: int) -> tuple[Records, Records]:
    """All labeled ``records`` but a random ``share`` of each class, one at least, and that share; both sorted by key.

    The draw depends on the keys, the labels and ``seed``, not on the order of ``records``.

    Raises:
        UserError: A class has a single item, which cannot both train and test.
    """
    classes = sorted(records.class_names())
    counts = records.class_counts(classes)
    if single := [name for name in classes if counts[name] == 1]:
        raise UserError(
            f"data.holdout leaves {len(single)} of {len(classes)} classes without an item to train on or to test with "
            f"(such as '{single[0]}', which has one); add items, or give a test set as data.test"
        )
    return split_calibration(records, share=share, seed=seed)


def split_calibration(records: Records, *, share: float, seed: int) -> tuple[Records, Records]:
    """All labeled ``records`` but a random ``share`` of each class, and that share; both sorted by key.

    The share is of one item at least, and never all items of a class. The draw depends on the keys, the labels and
    ``seed``, not on the order of ``records``.
    """
    records = _sorted(records)
    targets = records.class_indices(sorted(records.class_names()), what="data.train")
    held = hold_out(targets, share=share, seed=seed)
    return records.filter(~held), records.filter(held)


def split_labels(
    records: Records,
    *,
    labels_per_class: int,
    seed: int,
    imbalance: float = 1.0,
    classes: Sequence[str] | None = None,
) -> tuple[Records, Records]:
    """``labels_per_class`` items of every class drawn at random, and all the others.

    With ``imbalance`` (at least 1), class i of L has ``labels_per_class / imbalance ** (i / (L - 1))`` items instead,
    rounded, 1 at least: a long tail as in Cui et al. 2019 (arXiv 1901.05555), in the order of ``classes``,
    by default that of ``Records.class_names``.

    The draw depends on the keys, the labels and ``seed``, not on the order of ``records``; both parts come sorted by
    key. Every record needs a label. UserError when a class has fewer items than that.
    """
    classes, records = classes or records.class_names(), _sorted(records)
    names = sorted(classes)  # of the draw, which another order of the classes leaves as it is
    place = {name: number for number, name in enumerate(classes)}
    targets = records.class_indices(names, what="the labeled set")
    steps = np.array([place[name] for name in names]) / max(len(names) - 1, 1)
    wanted = np.maximum(np.rint(labels_per_class / imbalance**steps), 1).astype(int)
    counted = zip(names, np.bincount(targets, minlength=len(names)), wanted, strict=True)
    small = [(count, name) for name, count, least in counted if count < least]
    if small:
        count, name = min(small)
        raise UserError(
            f"labels_per_class={labels_per_class} is more than {len(small)} of {len(names)} classes have "
            f"(fewest: '{name}' with {count}); lower it or add labeled items"
        )
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(records), dtype=bool)
    for index, size in enumerate(wanted):
        members = np.flatnonzero(targets == index)
        chosen[generator.choice(members, size=size, replace=False)] = True
    return records.filter(chosen), records.filter(~chosen)


def _sorted(records: Records) -> Records:
    columns = [(name, "ascending") for name in ("key", "path", "offset")]
    return records.take(pc.sort_indices(records.table, sort_keys=columns))
