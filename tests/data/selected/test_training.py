import numpy as np
import pyarrow as pa
import pytest

from bsssl.data.selected.training import selected_training_set
from bsssl.errors import UserError
from bsssl.selection import (
    SAMPLES_SCHEMA,
    ScoreHeader,
    read_selection,
    score_files,
    score_path,
    select_samples,
    write_scores,
    write_selection,
)

CLASSES, TOP_P, PER_SHARD = 6, 3, 40


@pytest.fixture
def scored(tmp_path):
    """Score files of three shards, the first two records of each unreadable, and a selection of 25 per class."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3, PER_SHARD, CLASSES)) * 2
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    folder = str(tmp_path / "scores")
    for number in range(3):
        positions = np.arange(2, PER_SHARD)
        best = np.argsort(-softmax[number], axis=1)[positions, :TOP_P]
        columns = [
            positions,
            [f"{number}/{p}" for p in positions],
            [f"/{number}.tar"] * len(positions),
            positions * 512,
        ]
        samples = pa.table([*map(pa.array, columns), pa.array(positions)], schema=SAMPLES_SCHEMA)
        header = ScoreHeader(
            teacher="t", class_names=tuple("abcdef"), top_p=TOP_P, num_shards=3, shard=f"{number}.tar",
            number=number, base=number * PER_SHARD, num_records=PER_SHARD,
        )  # fmt: skip
        path = score_path(folder, number)
        scores = np.take_along_axis(softmax[number, 2:], best, axis=1)
        write_scores(path, header=header, samples=samples, classes=best, scores=scores)
    selection = str(tmp_path / "selection.parquet")
    write_selection(selection, select_samples(score_files(folder), top_k=25, variant="balanced", seed=0))
    return selection, score_files(folder), softmax


def test_per_pair(scored):
    selection, _, _ = scored
    records, targets = selected_training_set(selection, mode="per_pair")
    table = read_selection(selection).table
    assert len(records) == len(table) and targets.dtype == np.int64
    assert targets.tolist() == table["class"].to_pylist()
    assert [(row.key, row.path, row.offset, row.size) for row in records] == list(
        zip(*(table[name].to_pylist() for name in ("key", "path", "offset", "size")), strict=True)
    )


def test_multi(scored):
    selection, _, _ = scored
    records, targets = selected_training_set(selection, mode="multi")
    expected = {}
    for row in read_selection(selection).table.to_pylist():
        expected.setdefault((row["path"], row["offset"]), set()).add(row["class"])
    assert max(len(classes) for classes in expected.values()) > 1
    assert len(records) == len(targets) == len(expected)
    for index, record in enumerate(records):
        classes = expected[record.path, record.offset]
        target = targets[index].numpy()
        assert set(np.flatnonzero(target)) == classes and target.sum() == pytest.approx(1)
        assert target[list(classes)] == pytest.approx(1 / len(classes))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0, 0.001])
def test_soft(scored, temperature):
    selection, files, softmax = scored
    records, targets = selected_training_set(selection, mode="soft", scores=files, temperature=temperature)
    assert len(records) == len(selected_training_set(selection, mode="multi")[0])
    for index, record in enumerate(records):
        shard, position = int(record.path[1]), record.offset // 512
        kept = np.sort(softmax[shard, position])[-TOP_P]
        scores = np.where(softmax[shard, position] >= kept, softmax[shard, position], 0)
        expected = (scores / scores.max()) ** (1 / temperature)
        np.testing.assert_allclose(targets[index].numpy(), expected / expected.sum(), rtol=1e-3, atol=1e-5)


def test_refused(scored):
    selection, files, _ = scored
    with pytest.raises(UserError, match="unknown targets 'hard'; valid: multi"):
        selected_training_set(selection, mode="hard")
    with pytest.raises(UserError, match=r"^.*selection.*parquet has samples of shard \d, and there are 1 score files"):
        selected_training_set(selection, mode="soft", scores=files[:1])
    with pytest.raises(UserError, match="no selection at"):
        selected_training_set(selection + ".missing", mode="per_pair")
