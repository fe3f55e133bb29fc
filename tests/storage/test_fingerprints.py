import pytest

from bsssl import storage
from bsssl.errors import UserError


def test_digests_are_of_the_content(tmp_path):
    for name, text in {"a": "1", "b": "2", "c": "1"}.items():
        (tmp_path / name).write_text(text)
    one, other, same = (storage.digest([str(tmp_path / name)]) for name in "abc")
    assert one == same != other and len(one) == 16
    assert storage.digest(str(tmp_path / name) for name in "ab") not in (one, other)
    with pytest.raises(UserError, match="no such file"):
        storage.digest([str(tmp_path / "none")])


def test_fingerprints_are_of_the_value():
    assert storage.fingerprint({"a": 1, "b": [2]}) == storage.fingerprint({"b": [2], "a": 1})
    assert storage.fingerprint({"a": 1}) != storage.fingerprint({"a": 2})
    assert len(storage.fingerprint(None)) == 16


def test_the_state_of_a_path_changes_with_what_lies_there(tmp_path):
    folder = tmp_path / "folder"
    (folder / "class").mkdir(parents=True)
    empty = storage.state(str(folder))
    assert storage.state(str(folder)) == empty
    (folder / "class" / "new.jpg").write_text("")
    assert storage.state(str(folder)) != empty
    file = folder / "class" / "new.jpg"
    before = storage.state(str(file))
    file.write_text("longer")
    assert storage.state(str(file)) != before
    for text in ("s3://bucket/x", str(tmp_path / "part-*.tar"), str(tmp_path / "none")):
        assert storage.state(text) == [text]
