"""Scoring: the teacher over one shard of the pool. Shards are independent tasks, safe to run twice and in any order."""

import contextlib
import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from bsssl import storage
from bsssl.data import HASH_BYTES, LOOK_BYTES, Records
from bsssl.engine.predict import Prediction
from bsssl.errors import UserError
from bsssl.selection import SAMPLES_SCHEMA, ScoreHeader, ledger_path, write_scores
from bsssl.selection.scores import SUFFIX, ScoreFile

_LARGEST = float(np.finfo(np.float16).max)
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
    hashes: list[bytes]
    """content hash of each scored sample, where held content was looked for"""
    held_hashes: list[bytes]
    """content hash of each of ``held``"""
    looks: list[bytes] = field(default_factory=list)
    """perceptual hash of each scored sample, where they are asked for"""
    energy: np.ndarray | None = None
    """log-sum-exp of the logits of each scored sample, float32 (N,); None where there are no logits"""
    features: np.ndarray | None = None
    """features of each scored sample, float16 (N, D), where they are asked for"""


def score_shard(
    predictions: Iterable[Prediction], *, top_p: int, held_hashes: frozenset[bytes], views: int = 1
) -> ShardScores:
    """Keep the P best classes of every sample, as float32 softmax scores, its energy and features: means over views.

    Args:
        predictions: of the shard's records, ``index`` being the record's position.
        top_p: P.
        held_hashes: content hashes of the labeled and test items; samples with one of them are left out and listed.
        views: per sample; they follow each other in one prediction.
    """
    positions, classes, scores = [], [], []
    failures: dict[int, str] = {}
    held: list[int] = []
    hashes: list[bytes] = []
    held_here: list[bytes] = []
    looks: list[bytes] = []
    energy: list[np.ndarray] = []
    features: list[np.ndarray] = []
    for prediction in predictions:
        failures.update((failure.index, failure.reason) for failure in prediction.failures)
        if not len(prediction.index):
            continue
        index, contents = prediction.index[::views], prediction.hashes[::views]
        keep = np.array([digest not in held_hashes for digest in contents] or [True] * len(index))
        for digest in contents:
            (held_here if digest in held_hashes else hashes).append(digest)
        held += index[~keep].tolist()
        looks += itertools.compress(prediction.looks[::views], keep)
        if prediction.energy is not None:
            energy.append(prediction.energy.reshape(len(index), views).mean(1)[keep])
        if prediction.features is not None:
            means = prediction.features.reshape(len(index), views, -1).mean(1)[keep]
            features.append(np.clip(means, -_LARGEST, _LARGEST).astype(np.float16))
        probabilities = torch.from_numpy(prediction.probabilities).view(len(index), views, -1).mean(1)
        best = probabilities[torch.from_numpy(keep)].topk(top_p, dim=1)
        positions.append(index[keep])
        classes.append(best.indices.numpy().astype(np.int32))
        scores.append(best.values.numpy())
    if not positions:
        positions, classes = [np.zeros(0, np.int64)], [np.zeros((0, top_p), np.int32)]
        scores, energy = [np.zeros((0, top_p), np.float32)], [np.zeros(0, np.float32)]
    return ShardScores(
        np.concatenate(positions),
        np.concatenate(classes),
        np.concatenate(scores),
        failures=failures,
        held=held,
        hashes=hashes,
        held_hashes=held_here,
        looks=looks,
        energy=np.concatenate(energy) if energy else None,
        features=np.concatenate(features) if features else None,
    )


def save_shard(path: str, scored: ShardScores, *, header: ScoreHeader, records: Records) -> None:
    """Write the ledger of what has no score, then hashes, looks, energy and features, and last the score file.

    The presence of the score file means that the shard is done.
    """
    reasons = scored.failures | dict.fromkeys(scored.held, EXCLUDED)
    records.write_ledger(ledger_path(path), reasons)
    with storage.atomic_write(hashes_path(path)) as file:
        file.write(b"".join([*sorted(scored.hashes), *sorted(scored.held_hashes)]))
    order = np.argsort(scored.positions)
    for beside in (looks_path(path), energy_path(path), features_path(path)):
        Path(beside).unlink(missing_ok=True)  # of another scoring of the shard
    if scored.looks:
        with storage.atomic_write(looks_path(path)) as file:
            file.write(b"".join(scored.looks[number] for number in order))
    if scored.energy is not None:
        with storage.atomic_write(energy_path(path)) as file:
            np.save(file, scored.energy[order])
    if scored.features is not None:
        with storage.atomic_write(features_path(path)) as file:
            np.save(file, scored.features[order])
    rows = scored.positions[order]
    samples = records.take(rows).table.append_column("position", pa.array(rows)).select(SAMPLES_SCHEMA.names)
    write_scores(
        path,
        header=header,
        samples=samples.cast(SAMPLES_SCHEMA),
        classes=scored.classes[order],
        scores=scored.scores[order],
    )


def hashes_path(path: str) -> str:
    """Return the file beside the score file ``path`` of the content hashes of its shard.

    It holds ``HASH_BYTES`` for each scored sample, sorted, then for each that was excluded; nothing where there was no
    held content to look for.
    """
    return path.removesuffix(SUFFIX) + ".hashes"


def looks_path(path: str) -> str:
    """Return the file beside the score file ``path`` of the perceptual hashes of its samples, in their order.

    It is there where these were asked for when the shard was scored.
    """
    return path.removesuffix(SUFFIX) + ".looks"


def energy_path(path: str) -> str:
    """Return the file beside the score file ``path`` of the energy of its samples, in their order.

    That is the log-sum-exp of the logits as an array of NumPy, float32. Scores of other tools, and those of earlier
    versions, have none.
    """
    return path.removesuffix(SUFFIX) + ".energy"


def features_path(path: str) -> str:
    """Return the file beside the score file ``path`` of the features of its samples, in their order: an array of NumPy.

    They are those of the first teacher, and there where they were asked for when the shard was scored.
    """
    return path.removesuffix(SUFFIX) + ".features"


def read_looks(path: str) -> np.ndarray | None:
    """Return the perceptual hash of each sample of the score file ``path``, uint8 (N, 32); None where there are none.

    Raises:
        UserError: There are more or fewer than samples.
    """
    if not storage.exists(looks_path(path)):
        return None
    with storage.open_read(looks_path(path)) as file:
        looks = np.frombuffer(file.read(), np.uint8)
    samples = ScoreFile(path).num_samples
    if looks.size != samples * LOOK_BYTES:
        raise UserError(
            f"{looks_path(path)} does not hold {LOOK_BYTES} bytes for each of {samples} samples; delete the score file "
            "beside it and run `bsssl score` again"
        )
    return looks.reshape(samples, LOOK_BYTES)


def read_energy(path: str) -> np.ndarray | None:
    """Return the energy of each sample of the score file ``path``, float32 (N,); None where there is none.

    Raises:
        UserError: The file is damaged, or has more or fewer of them than samples.
    """
    return _read_array(path, energy_path(path), "energy", dtype=np.float32, dimensions=1)


def read_features(path: str) -> np.ndarray | None:
    """Return the features of each sample of the score file ``path``, float16 (N, D); None where there are none.

    Raises:
        UserError: The file is damaged, or has more or fewer of them than samples.
    """
    return _read_array(path, features_path(path), "features", dtype=np.float16, dimensions=2)


def _read_array(path: str, beside: str, what: str, *, dtype: type[np.generic], dimensions: int) -> np.ndarray | None:
    """Return the array in the file ``beside``, ``what`` is known of each sample of the score file ``path``, or None."""
    if not storage.exists(beside):
        return None
    samples = ScoreFile(path).num_samples
    with storage.open_read(beside) as file:
        content = io.BytesIO(file.read())
    with contextlib.suppress(ValueError, EOFError):  # no array, or not all of one
        array: np.ndarray = np.load(content, allow_pickle=False)
        if array.dtype == dtype and array.ndim == dimensions and len(array) == samples:
            return array
    raise UserError(
        f"{beside} does not hold the {what} of each of {samples} samples; delete the score file beside it and run "
        "`bsssl score` again"
    )


def excludes_the_same(path: str, held: frozenset[bytes]) -> bool:
    """Return whether ``held`` would exclude exactly the samples that were excluded from the score file ``path``.

    Args:
        path: A score file that ``save_shard`` wrote.
        held: The content hashes of the labeled and test items of today.

    Returns:
        Also False when that is not known, since the hashes are missing or there was no held content to look for.
    """
    if not storage.exists(hashes_path(path)):
        return False
    with storage.open_read(hashes_path(path)) as file:
        content = file.read()
    hashes = [content[start : start + HASH_BYTES] for start in range(0, len(content), HASH_BYTES)]
    scored = ScoreFile(path).num_samples
    if (len(hashes) < scored and held) or len(content) % HASH_BYTES:
        return False
    return held.isdisjoint(hashes[:scored]) and held.issuperset(hashes[scored:])
