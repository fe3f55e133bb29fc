"""Score files of which near copies are left out, beside a search through all rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bsssl.errors import UserError
from bsssl.selection import (
    NEAR_SCHEMA,
    SAMPLES_SCHEMA,
    NearCopies,
    ScoreHeader,
    read_near,
    score_files,
    score_path,
    select_samples,
    write_scores,
)

SHARDS, RECORDS, CLASSES, TOP_P = 3, 40, 3, 2


@pytest.fixture
def pool(tmp_path):
    """Score files of 120 items, many of whose scores are equal, and all rows: shard, position, class, score."""
    generator, rows = np.random.default_rng(0), []
    for number in range(SHARDS):
        keys = [f"{number}/{row}" for row in range(RECORDS)]
        columns = [range(RECORDS), keys, keys, [0] * RECORDS, [-1] * RECORDS]
        classes = np.array([generator.permutation(CLASSES)[:TOP_P] for _ in range(RECORDS)])
        scores = -np.sort(-generator.integers(0, 9, (RECORDS, TOP_P)) / 8)
        header = ScoreHeader(
            teacher="t",
            class_names=("a", "b", "c"),
            top_p=TOP_P,
            num_shards=SHARDS,
            shard=str(number),
            number=number,
            base=number * RECORDS,
            num_records=RECORDS,
        )
        samples = pa.table(dict(zip(SAMPLES_SCHEMA.names, columns, strict=True)))
        path = score_path(str(tmp_path / "scores"), number)
        write_scores(path, header=header, samples=samples, classes=classes, scores=scores)
        for row in range(RECORDS):
            rows += [(number, row, *pair) for pair in zip(classes[row].tolist(), scores[row].tolist(), strict=True)]
    return score_files(str(tmp_path / "scores")), rows


def near_copies(pairs, held=()):
    """Items (shard, position) and their leaders, and items near to a test item."""
    rows = [(*item, "pool", *leader) for item, leader in pairs] + [(*item, "test", -1, 0) for item in held]
    place = {"path": "p", "offset": 0, "size": -1, "key": "k"}
    names = ("shard", "position", "set", "near_shard", "near_position")
    near = {f"near_{name}": value for name, value in place.items()}
    table = [dict(zip(names, row, strict=True)) | place | near | {"distance": 3.0} for row in rows]
    return NearCopies(pa.Table.from_pylist(table, schema=NEAR_SCHEMA))


def picks(chosen):
    table = chosen.to_table()
    return [*zip(*(table[name].to_pylist() for name in ("shard", "position", "class")), strict=True)]


def expected(rows, groups, held):
    """The rows that are left, best first, found one by one."""
    left, seen = [], set()
    for shard, position, index, _ in sorted(rows, key=lambda row: (row[2], -row[3], row[0], row[1])):
        group = groups.get((shard, position))
        if (shard, position) in held or (group, index) in seen:
            continue
        if group is not None:
            seen.add((group, index))
        left.append((shard, position, index))
    return left


def test_of_a_group_the_best_of_each_class_is_left(pool):
    paths, rows = pool
    generator = np.random.default_rng(1)
    items = [(int(item) // RECORDS, int(item) % RECORDS) for item in generator.permutation(SHARDS * RECORDS)[:60]]
    parts = [sorted(items[start : start + 6]) for start in range(0, 48, 6)]
    groups = {item: number for number, part in enumerate(parts) for item in part}
    held = [*items[48:], parts[0][0], parts[1][3]]  # a leader among them
    near = near_copies([(item, part[0]) for part in parts for item in part[1:]], held)
    chosen = select_samples(paths, top_k=1000, near=near)
    assert picks(chosen) == expected(rows, groups, held)
    assert chosen.near_held == 14
    left = [row for row in rows if row[:2] not in held]
    assert chosen.near_copies == len(left) - len(picks(chosen)) > 0
    assert picks(select_samples(paths, top_k=5, near=near)) == [
        pick for index in range(CLASSES) for pick in [one for one in picks(chosen) if one[2] == index][:5]
    ]
    kept = select_samples(paths, top_k=1000, near=near, one_per_class=False)
    assert picks(kept) == expected(rows, {}, held) and not kept.near_copies


def test_without_near_copies_nothing_changes(pool):
    paths, _ = pool
    assert picks(select_samples(paths, top_k=9, near=near_copies([]))) == picks(select_samples(paths, top_k=9))


@pytest.mark.parametrize("content", [None, b"not Parquet", "other columns"])
def test_what_is_not_a_file_of_near_copies_is_said(tmp_path, content):
    path = tmp_path / "near.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(UserError, match=r"near\.parquet"):
        read_near(str(path))
