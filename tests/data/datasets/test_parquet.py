import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bsssl.data.datasets.parquet import ParquetItems
from bsssl.data.datasets.paths import dataset_at, items_at
from bsssl.data.datasets.sources import Manifest
from bsssl.errors import UserError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
SCHEMA = pa.schema(
    [("image", IMAGE), ("label", pa.int64())], metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})}
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _rows(first, count):
    labels = [0, 1, -1, None]
    return [
        {"image": {"bytes": b"\x89PNG%d" % row, "path": f"{row}.jpeg" if row % 2 else None}, "label": labels[row % 4]}
        for row in range(first, first + count)
    ]


@pytest.fixture
def shards(tmp_path):
    """A folder of two shards, of 5 and 4 rows."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, rows in enumerate((_rows(0, 5), _rows(5, 4))):
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, folder / f"train-0000{number}-of-00002.parquet", row_group_size=3)
    return folder


@pytest.mark.parametrize("inner", ["", "/train-*.parquet", "/train-{00000..00001}-of-00002.parquet"])
def test_shards(shards, inner):
    source = ParquetItems(path=f"{shards}{inner}")
    records = source.records()
    assert [len(batch) for batch in source.batches()] == [5, 4]
    assert records.key.to_pylist()[:2] == [f"train-00000-of-00002.parquet/00000000{end}" for end in ("0.png", "1.jpeg")]
    assert records[-1].key == "train-00001-of-00002.parquet/000000003.png"
    assert records.label.to_pylist() == ["cat", "dog", None, None, "cat", "dog", None, None, "cat"]
    assert [record.read() for record in records] == [b"\x89PNG%d" % row for row in range(9)]


def test_by_what_is_pointed_at(shards):
    path = str(shards / "train-00000-of-00002.parquet")
    assert dataset_at(path) == "parquet"
    [batch] = items_at([path], videos=False)
    assert batch[0].key == f"{path}/000000000.png"
    with pytest.raises(UserError, match=r"has no column 'path'; .*; set dataset: parquet for items inside"):
        Manifest(path=path).records()


def test_other_columns(tmp_path):
    path = str(tmp_path / "x.parquet")
    table = pa.table({"jpg": [b"1", None], "kind": ["a", " b"], "n": [3, 4], "both": [["a"], ["b"]]})
    pq.write_table(table, path)
    records = ParquetItems(path=path, column="jpg", label_column="kind").records()
    assert records.label.to_pylist() == ["a", "b"]
    assert [record.read() for record in records] == [b"1", b""]  # a row without a picture is one that cannot be read
    assert ParquetItems(path=path, column="jpg", label_column="n").records().label.to_pylist() == ["3", "4"]
    assert ParquetItems(path=path, column="jpg").records().label.to_pylist() == [None, None]
    for options, message in (
        ({}, "has no column 'image': .*valid: both, jpg, kind, n; see options.column"),
        ({"column": "kind"}, "the column 'kind' holds neither bytes nor structs with bytes"),
        ({"column": "jpg", "label_column": "knd"}, "has no column 'knd': did you mean 'kind'"),
        ({"column": "jpg", "label_column": "both"}, "the column 'both' holds more than one label per row"),
    ):
        with pytest.raises(UserError, match=message):
            ParquetItems(path=path, **options).records()


@pytest.mark.parametrize(
    ("labels", "meant"),
    [
        ([1.0, 0.0, float("nan"), -1.0, None], ["dog", "cat", None, None, None]),
        (["dog", "owl", None, "-1", ""], ["dog", "owl", None, "-1", None]),
        ([0, 2], "row 2: the label 2 is of none of the 2 classes that have names; correct it"),
        ([0.5], "row 1: the label 0.5 is of none"),
        ([0, -2], "row 2: the label -2 is of none"),
    ],
)
def test_labels_of_classes_with_names(tmp_path, labels, meant):
    images = pa.array([{"bytes": b"x", "path": None}] * len(labels), IMAGE)
    table = pa.table({"image": images, "label": labels}).replace_schema_metadata(SCHEMA.metadata)
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetItems(path=str(tmp_path / "x.parquet"))
    if isinstance(meant, str):
        with pytest.raises(UserError, match=meant):
            source.records()
    else:
        assert source.records().label.to_pylist() == meant


@pytest.mark.parametrize("name", ["lable", "Label"])
def test_a_misspelt_column_of_labels_is_named(tmp_path, name):
    pq.write_table(pa.table({"image": [b"x"], name: ["a"]}), tmp_path / "x.parquet")
    message = (
        rf"x\.parquet has no column 'label': .*valid: {name}, image; see options\.label_column|valid: image, {name};"
    )
    with pytest.raises(UserError, match=message):
        ParquetItems(path=str(tmp_path / "x.parquet")).records()
    source = ParquetItems(path=str(tmp_path / "x.parquet"), label_column=name)
    assert source.records().label.to_pylist() == ["a"]


def test_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"image": {"bytes": None, "path": "a.jpg"}}], pa.schema([("image", IMAGE)])), path
    )
    with pytest.raises(UserError, match=r"x\.parquet: row 1 names a file and has no bytes; use dataset: manifest"):
        ParquetItems(path=str(path)).records()
    path.write_bytes(b"PAR1nothing")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read as a table"):
        ParquetItems(path=str(path)).records()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no \.parquet files"):
        ParquetItems(path=str(tmp_path / "empty")).records()
