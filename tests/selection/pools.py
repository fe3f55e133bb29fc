"""Small pools with scores, and selection as the definition has it: rank every pair, take K."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bsssl.selection import SAMPLES_SCHEMA, ScoreHeader, score_path, write_scores


@dataclass
class Pool:
    """Scored samples by global index: ``index`` (N,), ``classes`` (N, P), ``scores`` (N, P)."""

    index: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    num_records: int
    num_classes: int


def make_pool(
    seed: int, *, records: int = 300, top_p: int = 3, num_classes: int = 7, levels: int = 0, unreadable: float = 0.2
) -> Pool:
    """A random pool; ``levels`` > 0 leaves only that many distinct scores, 0 and 1 among them."""
    random = np.random.default_rng(seed)
    index = np.flatnonzero(random.random(records) >= unreadable)
    classes = np.argsort(random.random((len(index), num_classes)), axis=1)[:, :top_p].astype(np.int64)
    scores = random.random((len(index), top_p), dtype=np.float32) ** 4
    if levels:
        scores = np.round(scores * (levels - 1)) / np.float32(max(levels - 1, 1))
    return Pool(index, classes, scores.astype(np.float32), records, num_classes)


def write_pool(
    folder: Path, scored: Pool, /, *, cuts: Sequence[int] = (), shuffle: int | None = None, **changed: object
) -> list[str]:
    """Score files of ``scored`` cut into shards before the records in ``cuts``; samples within a file in any order."""
    edges = [0, *cuts, scored.num_records]
    paths = []
    for number, (base, end) in enumerate(itertools.pairwise(edges)):
        rows = np.flatnonzero((scored.index >= base) & (scored.index < end))
        if shuffle is not None:
            np.random.default_rng([shuffle, number]).shuffle(rows)
        facts = {
            "teacher": "teacher", "class_names": tuple(f"c{i}" for i in range(scored.num_classes)),
            "top_p": scored.classes.shape[1], "preprocessing": {"resize": 8}, "num_shards": len(edges) - 1,
            "shard": f"shard-{number}", "number": number, "base": base, "num_records": end - base,
            "records": f"{number:02x}{end - base:06x}", **changed,
        }  # fmt: skip
        path = score_path(str(folder), number)
        write_scores(
            path,
            header=ScoreHeader(**facts),  # type: ignore[arg-type]
            samples=sample_table(scored.index[rows], base),
            classes=scored.classes[rows],
            scores=scored.scores[rows],
        )
        paths.append(path)
    return paths


def sample_table(index: np.ndarray, base: int = 0) -> pa.Table:
    columns = {
        "position": index - base,
        "key": [f"key-{i}" for i in index],
        "path": [f"pool/{i // 100}.tar" for i in index],
        "offset": index * 512,
        "size": index + 1,
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in SAMPLES_SCHEMA})


Pick = tuple[int, int, int, float]
"""Class, rank, global sample index, score."""


def pairs(pool: Pool) -> list[tuple[int, float, int]]:
    """Every (class, score, global sample index)."""
    return [
        (int(label), float(score), int(index))
        for index, labels, scores in zip(pool.index, pool.classes, pool.scores, strict=True)
        for label, score in zip(labels, scores, strict=True)
    ]


def oracle(pool: Pool, *, top_k: int, variant: str = "balanced", min_score: float = 0.0) -> list[Pick]:
    """The picks by brute force."""
    good = (pair for pair in pairs(pool) if pair[1] >= np.float32(min_score))
    ranked = sorted(good, key=lambda pair: (-pair[1], pair[2], pair[0]))
    if variant == "unbalanced":
        ranked, top_k = ranked[: top_k * pool.num_classes], len(ranked)
    picks = []
    for label in range(pool.num_classes):
        kept = [pair for pair in ranked if pair[0] == label][:top_k]
        picks += [(label, rank, index, score) for rank, (_, score, index) in enumerate(kept)]
    return picks


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
