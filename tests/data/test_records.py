import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bsssl.data.records import RECORD_SCHEMA, Record, Records, read_bytes
from bsssl.errors import UserError

RECORDS = Records.from_columns(
    key=["a", "b, c", "007"],
    path=["/x/a.jpg", 'with "quotes".png', "s3://bucket/t.tar"],
    offset=[0, 0, 1536],
    size=[-1, -1, 20],
    label=["cat", None, "007"],
    tags=[["sun", "sea"], None, ["one"]],
)


@pytest.mark.parametrize("name", ["records.csv", "records.parquet"])
def test_what_is_written_is_read(tmp_path, name):
    path = str(tmp_path / name)
    RECORDS.write(path)
    assert Records.read(path) == RECORDS
    assert Records.read(path).table.schema.equals(RECORD_SCHEMA)


def test_rows():
    assert RECORDS[2] == RECORDS[-1] == list(RECORDS)[2] == Record("007", "s3://bucket/t.tar", 1536, 20, "007", ["one"])
    assert RECORDS[1:].key.to_pylist() == ["b, c", "007"] and len(RECORDS[:0]) == 0
    assert RECORDS.take([2, 0]) == Records.concat([RECORDS[2:], RECORDS[:1]]) and len(RECORDS.take([])) == 0
    assert RECORDS.filter([True, False, False]) == RECORDS[:1]
    with pytest.raises(IndexError):
        RECORDS[3]


def test_columns():
    again = Records.from_columns(key=RECORDS.key, path=RECORDS.path, offset=RECORDS.offset, size=RECORDS.size)
    assert again.label.null_count == again.tags.null_count == 3
    assert again.with_labels(RECORDS.label).with_tags([["sun", "sea"], None, ["one"]]) == RECORDS
    assert list(Records.unlabeled(RECORDS.table)) == list(again)


def test_records_in_memory(memory):
    RECORDS.write("memory://folder/records.parquet")
    assert Records.read("memory://folder/records.parquet") == RECORDS


@pytest.mark.parametrize("name", ["records.csv", "records.parquet"])
def test_no_rows(tmp_path, name):
    path = str(tmp_path / name)
    Records.concat([]).write(path)
    assert Records.read(path).table.equals(RECORD_SCHEMA.empty_table())


def test_refused_files(tmp_path):
    with pytest.raises(UserError, match=r"\.csv or \.parquet"):
        RECORDS.write(str(tmp_path / "records.txt"))
    with pytest.raises(UserError, match="no such file"):
        Records.read(str(tmp_path / "missing.parquet"))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"damaged\.parquet is not a readable file"):
        Records.read(str(tmp_path / "damaged.parquet"))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"other\.csv is not a readable file of records .*; delete it and run again"):
        Records.read(str(tmp_path / "other.csv"))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("path", None),
        ("offset", ["x"] * 3),
        ("size", [None] * 3),
        ("key", pa.array([b"\xff"] * 3, pa.binary()).view(pa.string())),
        ("tags", [1, 2, 3]),
        ("label", [["a"]] * 3),
    ],
)
def test_a_column_of_records_that_is_another(tmp_path, column, values):
    path, place = str(tmp_path / "records.parquet"), RECORD_SCHEMA.get_field_index(column)
    table = RECORDS.table.remove_column(place)
    pq.write_table(table if values is None else table.add_column(place, column, pa.array(values)), path)
    with pytest.raises(UserError, match=r"records\.parquet is not a readable file of records") as caught:
        Records.read(path)
    assert "\n" not in str(caught.value)


def test_a_range_that_no_memory_holds(tmp_path):
    (tmp_path / "t.tar").write_bytes(b"content")
    with pytest.raises(OSError, match=f"cut short: 4 of {2**60} bytes"):
        read_bytes(str(tmp_path / "t.tar"), offset=3, size=2**60)


def test_a_file_that_takes_the_place_of_another(tmp_path):
    """As when what a stage left is made again by the same process, which had opened the former."""
    path = tmp_path / "t.tar"
    path.write_bytes(b"former content")
    assert read_bytes(str(path), offset=0, size=6) == b"former"
    path.rename(tmp_path / "aside.tar")
    path.write_bytes(b"latter content, longer")
    assert read_bytes(str(path), offset=0, size=6) == b"latter"
    assert read_bytes(str(path), offset=14, size=8) == b", longer"


def test_classes():
    labeled = Records.from_columns(key=["1", "2", "3"], path=["1", "2", "3"], label=["b", "a", "b"])
    assert labeled.class_names() == ["a", "b"]
    indices = labeled.class_indices(["a", "b"], what="test set")
    assert indices.dtype == np.int64 and indices.tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="test set: unknown class 'b': did you mean 'bb'"):
        labeled.class_indices(["a", "bb"], what="test set")
    with pytest.raises(UserError, match=r"1 of 3 items have no label \(first: with "):
        RECORDS.class_indices(["cat", "007"], what="test set")


def test_read_local_ranges(tmp_path):
    path = str(tmp_path / "file")
    content = bytes(range(256))
    (tmp_path / "file").write_bytes(content)
    assert read_bytes(path) == content
    assert read_bytes(path, offset=10, size=5) == content[10:15]
    assert read_bytes(path, offset=250) == content[250:]
    with pytest.raises(OSError, match="cut short: 6 of 10 bytes at offset 250"):
        read_bytes(path, offset=250, size=10)
    with pytest.raises(FileNotFoundError, match="missing"):
        read_bytes(str(tmp_path / "missing"))


def test_read_remote_ranges(memory):
    memory.pipe("/folder/file", b"0123456789")
    assert read_bytes("memory://folder/file") == b"0123456789"
    assert read_bytes("memory://folder/file", offset=2, size=3) == b"234"
    assert read_bytes("memory://folder/file", offset=7) == b"789"
    with pytest.raises(OSError, match="cut short"):
        read_bytes("memory://folder/file", offset=7, size=9)
    with pytest.raises(FileNotFoundError):
        read_bytes("memory://folder/missing")
    with pytest.raises(UserError, match="nosuch"):
        read_bytes("nosuch://folder/file")


def test_server_that_ignores_ranges(memory, monkeypatch):
    memory.pipe("/folder/file", b"0123456789")
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: b"0123456789")
    with pytest.raises(OSError, match="does not serve ranges"):
        read_bytes("memory://folder/file", offset=2, size=3)


def test_few_files_stay_open(tmp_path):
    for number in range(200):
        (tmp_path / f"{number}").write_bytes(b"content")
        assert read_bytes(str(tmp_path / f"{number}"), offset=1, size=3) == b"ont"
    assert len(os.listdir("/proc/self/fd")) < 150
