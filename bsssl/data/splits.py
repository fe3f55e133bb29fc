"""Few-label splits of a labeled set."""

import numpy as np
import pyarrow.compute as pc

from bsssl.data.records import Records
from bsssl.errors import UserError


def split_labels(
    records: Records, *, labels_per_class: int, seed: int, imbalance: float = 1.0
) -> tuple[Records, Records]:
    """``labels_per_class`` items of every class drawn at random, and all the others.

    With ``imbalance`` (at least 1), class i of L has ``labels_per_class / imbalance ** (i / (L - 1))`` items instead,
    rounded, 1 at least: a long tail as in Cui et al. 2019 (arXiv 1901.05555), the classes in the order of their names.

    The draw depends on the keys, the labels and ``seed``, not on the order of ``records``; both parts come sorted by
    key. Every record needs a label. UserError when a class has fewer items than that.
    """
    names = records.class_names()
    columns = [(name, "ascending") for name in ("key", "path", "offset")]
    records = records.take(pc.sort_indices(records.table, sort_keys=columns))
    classes = records.class_indices(names, what="the labeled set")
    steps = np.arange(len(names)) / max(len(names) - 1, 1)
    wanted = np.maximum(np.rint(labels_per_class / imbalance**steps), 1).astype(int)
    counted = zip(names, np.bincount(classes), wanted, strict=True)
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
        members = np.flatnonzero(classes == index)
        chosen[generator.choice(members, size=size, replace=False)] = True
    return records.filter(chosen), records.filter(~chosen)
