"""The student's training set: what a selected sample with one or several classes contributes."""

import os
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bsssl import storage
from bsssl.data.loading.targets import SparseTargets, Targets, soften
from bsssl.data.records import LARGE_SCHEMA, Records
from bsssl.errors import UserError
from bsssl.selection import read_sample_scores, read_selection

Mode = Literal["per_pair", "multi", "soft"]


def selected_training_set(
    selection: str,
    *,
    mode: Mode,
    scores: Iterable[str] = (),
    temperature: float = 1.0,
    classes: Sequence[str] | None = None,
) -> tuple[Records, Targets]:
    """Return records and targets for training on a selection file; rows in the order of shard and position.

    ======== ===================================== ==============================================================
    mode     one row per                           target
    ======== ===================================== ==============================================================
    per_pair (sample, class) pair, by class, rank  the class: int64 (rows,)
    multi    sample                                spread evenly over the classes it was selected for
    soft     sample                                the teacher's P scores to the power 1 / ``temperature``, summing to 1
    ======== ===================================== ==============================================================

    ``scores``: the score files of the whole pool, in shard order (``soft`` alone reads them, one at a time, and only
    those of shards that hold selected samples). UserError for a missing or damaged file, scores that lack a sample, or
    a selection for other classes than ``classes``, where given.
    """
    selected = read_selection(selection)
    class_names, class_index = selected.facts["class_names"], selected.class_index.to_numpy()
    num_classes = len(class_names)
    if classes is not None and class_names != list(classes):
        other = sorted(set(class_names) ^ set(classes))
        raise UserError(
            f"{selection} and the data have different classes ({', '.join(other[:5]) or 'in another order'}); use the "
            "same class list, or score and select again"
        )
    table = selected.table.set_column(1, "path", _from_folder(selected.table["path"], os.path.dirname(selection)))
    records = Records.unlabeled(table.select(LARGE_SCHEMA.names).replace_schema_metadata().cast(LARGE_SCHEMA))
    if mode == "per_pair":
        return records, class_index.astype(np.int64)
    shard, position = selected.shard.to_numpy(), selected.position.to_numpy()
    order = np.lexsort((class_index, position, shard))
    shard, position = shard[order], position[order]
    starts = np.flatnonzero(np.diff(shard, prepend=-1) | np.diff(position, prepend=-1))
    samples = records.take(order[starts])
    if mode == "multi":
        offsets = np.append(starts, len(order)).astype(np.int64)
        counts = np.diff(offsets)
        weights = np.repeat(1 / counts, counts).astype(np.float32)
        return samples, SparseTargets(offsets, class_index[order], weights, num_classes)
    if mode == "soft":
        files = list(scores)
        if shard.max() >= len(files):
            raise UserError(
                f"{selection} has samples of shard {shard.max()}, and there are {len(files)} score files; score that "
                "shard, or run `bsssl select` again"
            )
        return samples, _soft_targets(files, shard[starts], position[starts], temperature, num_classes)
    raise UserError(f"unknown targets '{mode}'; valid: multi, per_pair, soft")


def _from_folder(paths: pa.ChunkedArray, folder: str) -> pa.ChunkedArray:
    """Paths relative to the selection file, as those of copied samples are, as paths from here."""
    relative = pc.invert(pc.match_substring_regex(paths, "^/|://"))
    if not pc.any(relative).as_py():
        return paths
    return pc.if_else(relative, pc.binary_join_element_wise(storage.join(folder, ""), paths, ""), paths)


def _soft_targets(
    files: list[str], shard: np.ndarray, position: np.ndarray, temperature: float, num_classes: int
) -> SparseTargets:
    """Targets of the samples at (``shard``, ``position``), both (rows,), sorted."""
    classes, weights = [], []
    for number in np.unique(shard):
        wanted = position[shard == number]
        found, kept, scores = read_sample_scores(files[number])
        rows = np.searchsorted(found, wanted)
        if len(found) == 0 or np.any(found[np.minimum(rows, len(found) - 1)] != wanted):
            raise UserError(f"{files[number]} lacks selected samples; run `bsssl select` again")
        classes.append(kept[rows].astype(np.int32))
        weights.append(soften(scores[rows], temperature))
    all_classes, all_weights = np.concatenate(classes), np.concatenate(weights)
    offsets = np.arange(len(all_classes) + 1, dtype=np.int64) * all_classes.shape[1]
    return SparseTargets(offsets, all_classes.ravel(), all_weights.ravel(), num_classes)
