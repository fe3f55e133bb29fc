import json

import pytest

from bsssl import storage
from bsssl.errors import UserError


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": ')
    with pytest.raises(UserError, match=rf"{path} is not valid JSON .*; delete it and run again"):
        storage.read_json(str(path))


@pytest.mark.parametrize(
    ("path", "ending"),
    [("a.csv", "csv"), ("https://h/a.parquet?X-Amz-Signature=a.b/c", "parquet"), ("s3://b/a.JSONL", "jsonl")],
)
def test_the_path_decides_the_format(path, ending):
    assert storage.table_format(path) == ending


def test_json_comes_back(tmp_path):
    path = str(tmp_path / "file.json")
    storage.write_json(path, {"b": (1, 2), "a": "ä"})
    assert storage.read_json(path) == {"b": [1, 2], "a": "ä"} == storage.as_json({"b": (1, 2), "a": "ä"})
    storage.write_json_lines(path, [1, {"a": 2}])
    with open(path) as lines:
        assert [json.loads(line) for line in lines] == [1, {"a": 2}]


def test_a_ledger_comes_back(tmp_path):
    path = str(tmp_path / "ledger.jsonl")
    entries = [("a/b.jpg", "cut short"), ("ü", 'a "quoted"\nreason')]
    storage.write_ledger(path, iter(entries))
    assert storage.read_ledger(path) == entries
    with open(path) as lines:
        assert lines.readline() == '{"key": "a/b.jpg", "reason": "cut short"}\n'
    storage.write_ledger(path, [])
    assert storage.read_ledger(path) == []


@pytest.mark.parametrize("text", ["nonsense", '{"key": "a"}', "[1]"])
def test_what_is_not_a_ledger_is_named(tmp_path, text):
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^{path} is not a ledger; delete it"):
        storage.read_ledger(str(path))
    with pytest.raises(UserError, match="no such file"):
        storage.read_ledger(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["", "[1", b"\xff", "[" * 99_999, '{"a":' * 99_999])
def test_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        storage.parse_json(text)
