import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bsssl.errors import UserError
from bsssl.selection import (
    SELECTION_SCHEMA,
    picks,
    read_selection,
    select_samples,
    summary_path,
    write_selection,
)
from tests.selection.pools import digest, make_pool, oracle, write_pool


@pytest.mark.parametrize("rows_per_group", [10, 2**18])
def test_what_is_written_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_group: int) -> None:
    monkeypatch.setattr(picks, "_ROWS_PER_GROUP", rows_per_group)
    pool = make_pool(0)
    paths = write_pool(tmp_path, pool, cuts=[100, 101, 250])
    path = str(tmp_path / "out" / "selection.parquet")
    write_selection(path, select_samples(paths, top_k=20))
    chosen = read_selection(path)
    assert chosen.table.schema.equals(SELECTION_SCHEMA)
    bases = np.array([0, 100, 101, 250])
    expected = [
        {
            "key": f"key-{index}", "path": f"pool/{index // 100}.tar", "offset": index * 512, "size": index + 1,
            "shard": (shard := int(np.searchsorted(bases, index, "right")) - 1), "position": index - int(bases[shard]),
            "class": label, "score": score, "rank": rank,
        }
        for label, rank, index, score in oracle(pool, top_k=20)
    ]  # fmt: skip
    assert chosen.table.to_pylist() == expected
    facts = chosen.facts
    assert facts["class_names"] == [f"c{i}" for i in range(7)]
    assert facts["teacher"] == "teacher" and facts["top_k"] == 20 and facts["variant"] == "balanced"
    summary = json.loads(Path(summary_path(path)).read_text())
    assert summary["pairs"] == len(expected) and summary["short_classes"] == {}


def test_the_same_scores_make_the_same_file(tmp_path: Path) -> None:
    pool = make_pool(1, levels=3)
    digests = set()
    for trial in range(2):
        paths = write_pool(tmp_path / str(trial), pool, cuts=[40, 200], shuffle=trial)
        path = str(tmp_path / f"{trial}.parquet")
        write_selection(path, select_samples(paths[:: 1 - 2 * trial], top_k=30))
        digests.add(digest(path))
    assert len(digests) == 1


def test_a_sample_of_several_classes_appears_under_each(tmp_path: Path) -> None:
    pool = make_pool(2, records=5, top_p=3, num_classes=3, unreadable=0)
    path = str(tmp_path / "selection.parquet")
    write_selection(path, select_samples(write_pool(tmp_path, pool), top_k=5))
    chosen = read_selection(path)
    assert len(chosen) == 15 and len(set(chosen.key.to_pylist())) == chosen.num_samples == 5
    assert json.loads(Path(summary_path(path)).read_text())["samples"] == 5


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no selection at .*selection\.parquet; run `bsssl select`"):
        read_selection(str(tmp_path / "selection.parquet"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def spoiled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:400] = b"\0" * 300
    path.write_bytes(content)


def another_table(path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"]}), path)


def no_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 0), path)


def no_facts(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def other_version(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({"bsssl": '{"version": 7}'}), path)


def fewer_classes(path: Path) -> None:
    table = pq.read_table(path)
    facts = {**json.loads(table.schema.metadata[b"bsssl"]), "class_names": ["c0"]}
    pq.write_table(table.replace_schema_metadata({"bsssl": json.dumps(facts)}), path)


def facts_of_another_kind(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({"bsssl": "[7]"}), path)


def facts_without_end(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({"bsssl": "[" * 99_999}), path)


def no_class_names(path: Path) -> None:
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"bsssl"])
    del facts["class_names"]
    pq.write_table(table.replace_schema_metadata({"bsssl": json.dumps(facts)}), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "is damaged"),
        (spoiled, "is damaged"),
        (another_table, "not a selection file"),
        (no_rows, "not a selection file"),
        (no_facts, "not a selection file"),
        (other_version, "format version 7, this program reads 1"),
        (fewer_classes, "out of range"),
        (facts_of_another_kind, "not a selection file"),
        (facts_without_end, "not a selection file"),
        (no_class_names, "out of range"),
    ],
)
def test_damaged(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "selection.parquet"
    write_selection(str(path), select_samples(write_pool(tmp_path, make_pool(0)), top_k=3))
    spoil(path)
    with pytest.raises(UserError, match=message) as caught:
        read_selection(str(path))
    said = str(caught.value)
    assert str(path) in said and "run `bsssl select`" in said and "\n" not in said
