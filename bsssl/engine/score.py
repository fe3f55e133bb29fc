"""Scoring: the teacher over one shard of the pool. Shards are independent tasks, safe to run twice and in any order."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from bsssl import storage
from bsssl.engine.predict import Prediction
from bsssl.selection import SAMPLES_SCHEMA, ScoreHeader, ledger_path, write_scores

EXCLUDED = "a labeled or test item, excluded"


@dataclass(frozen=True)
class ShardScores:
    """What the teacher said about a shard, before it is written."""

    positions: np.ndarray
    """record of each scored sample in the shard, int64 (N,)"""
    classes: np.ndarray
    """its P best classes, best first, int32 (N, P)"""
    scores: np.ndarray
    """their softmax scores, float32 (N, P)"""
    failures: dict[int, str]
    """why the other records have none, by position"""
    held: list[int]
    """positions whose content is that of a labeled or test item"""


def score_shard(
    predictions: Iterable[Prediction], *, top_p: int, held_hashes: frozenset[bytes], views: int = 1
) -> ShardScores:
    """Keep the P best classes of every sample, as float32 softmax scores, the mean over its views.

    Args:
        predictions: of the shard's records, ``index`` being the record's position.
        top_p: P.
        held_hashes: content hashes of the labeled and test items; samples with one of them are left out and listed.
        views: per sample; they follow each other in one prediction.
    """
    positions, classes, scores = [], [], []
    failures: dict[int, str] = {}
    held: list[int] = []
    for prediction in predictions:
        failures.update((failure.index, failure.reason) for failure in prediction.failures)
        if not len(prediction.index):
            continue
        index, hashes = prediction.index[::views], prediction.hashes[::views]
        keep = np.array([digest not in held_hashes for digest in hashes] or [True] * len(index))
        held += index[~keep].tolist()
        probabilities = torch.from_numpy(prediction.probabilities).view(len(index), views, -1).mean(1)
        best = probabilities[torch.from_numpy(keep)].topk(top_p, dim=1)
        positions.append(index[keep])
        classes.append(best.indices.numpy().astype(np.int32))
        scores.append(best.values.numpy())
    if not positions:
        return ShardScores(
            np.zeros(0, np.int64), np.zeros((0, top_p), np.int32), np.zeros((0, top_p), np.float32), failures, held
        )
    return ShardScores(np.concatenate(positions), np.concatenate(classes), np.concatenate(scores), failures, held)


def save_shard(path: str, found: ShardScores, *, header: ScoreHeader, records: pa.Table) -> None:
    """Write the ledger of what has no score, then the score file, whose presence means that the shard is done."""
    reasons = found.failures | dict.fromkeys(found.held, EXCLUDED)
    keys = records["key"].take(pa.array(sorted(reasons), pa.int64())).to_pylist()
    storage.write_ledger(ledger_path(path), zip(keys, (reasons[position] for position in sorted(reasons)), strict=True))
    order = np.argsort(found.positions)
    rows = pa.array(found.positions[order])
    samples = records.select(["key", "path", "offset", "size"]).take(rows).add_column(0, "position", rows)
    write_scores(
        path,
        header=header,
        samples=samples.cast(SAMPLES_SCHEMA),
        classes=found.classes[order],
        scores=found.scores[order],
    )
