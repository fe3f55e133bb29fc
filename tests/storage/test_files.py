import errno
import json
import os

import fsspec
import pytest

from bsssl import storage
from bsssl.errors import UserError


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_appears_whole_and_makes_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with storage.atomic_write(str(path)) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b"whole")
    assert path.read_bytes() == b"halfwhole"
    assert files(path.parent) == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), storage.atomic_write(str(path)) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch, failing):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    path = tmp_path / "file"
    with pytest.raises(UserError, match=rf"^cannot write {path}: No space left on device; free space or choose"):
        storage.write_text(str(path), "text")
    assert files(tmp_path) == []


def test_a_file_in_a_folders_place(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"^cannot write .*taken/file: .*another folder with output_dir="):
        storage.write_text(str(tmp_path / "taken" / "file"), "text")


def test_two_writers_of_one_file_do_no_harm(tmp_path):
    path = str(tmp_path / "file")
    with storage.atomic_write(path) as first, storage.atomic_write(path) as second:
        first.write(b"same")
        second.write(b"same")
    assert files(tmp_path) == ["file"]


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def test_remote_writes_are_whole_or_absent_too(memory):
    with storage.atomic_write("memory://folder/file") as file:
        file.write(b"text")
    with pytest.raises(KeyError), storage.atomic_write("memory://folder/other") as file:
        file.write(b"text")
        raise KeyError
    assert memory.ls("folder", detail=False) == ["/folder/file"]
    assert storage.open_read("memory://folder/file").read() == b"text"
    assert storage.exists("memory://folder/file") and not storage.exists("memory://folder/other")


def test_leftovers_of_killed_writers_go(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("file", "file.1-ab.tmp", "inner/file.1-cd.tmp"):
        (tmp_path / name).write_text("")
    storage.remove_leftovers(str(tmp_path))
    assert files(tmp_path) == ["file", "inner"]
    assert files(tmp_path / "inner") == []


@pytest.mark.parametrize("path", ["missing.json", "memory://missing.json"])
def test_reading_what_is_not_there(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no such file: {path}; check the path"):
        storage.open_read(path)


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": ')
    with pytest.raises(UserError, match=rf"{path} is not valid JSON .*; delete it and run again"):
        storage.read_json(str(path))


def test_json_comes_back(tmp_path):
    path = str(tmp_path / "file.json")
    storage.write_json(path, {"b": (1, 2), "a": "ä"})
    assert storage.read_json(path) == {"b": [1, 2], "a": "ä"} == storage.as_json({"b": (1, 2), "a": "ä"})
    storage.write_json_lines(path, [1, {"a": 2}])
    with open(path) as lines:
        assert [json.loads(line) for line in lines] == [1, {"a": 2}]


def test_paths_local_and_remote(tmp_path, memory):
    assert storage.join("folder/", "a", "b") == "folder/a/b"
    assert storage.join("s3://bucket/", "a") == "s3://bucket/a"
    assert storage.is_remote("https://x/y") and not storage.is_remote("/x/y")
    for name in ("b.tar", "a.tar", "a.txt"):
        (tmp_path / name).write_text("")
        storage.write_text(f"memory://g/{name}", "")
    assert storage.glob(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert storage.glob("memory://g/*.tar") == ["memory:///g/a.tar", "memory:///g/b.tar"]


def test_digests_are_of_the_content(tmp_path):
    for name, text in {"a": "1", "b": "2", "c": "1"}.items():
        (tmp_path / name).write_text(text)
    one, other, same = (storage.digest([str(tmp_path / name)]) for name in "abc")
    assert one == same != other and len(one) == 16
    assert storage.digest(str(tmp_path / name) for name in "ab") not in (one, other)
    with pytest.raises(UserError, match="no such file"):
        storage.digest([str(tmp_path / "none")])


def test_files_that_others_may_be_writing_stay(tmp_path):
    young, old = tmp_path / "a.tmp", tmp_path / "b.tmp"
    for path in (young, old):
        path.write_text("")
    os.utime(old, (0, 0))
    storage.remove_leftovers(str(tmp_path), unchanged_for=3600)
    assert young.exists() and not old.exists()


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


def test_walk(tmp_path):
    for name in ("b/2", "b/1", "a/deep/3", "0", ".hidden/4", "b/.5"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).touch()
    (tmp_path / "top" / "linked").symlink_to(tmp_path / "top" / "b")
    assert list(storage.walk(str(tmp_path / "top"))) == ["0", "a/deep/3", "b/1", "b/2", "linked/1", "linked/2"]
    assert list(storage.walk(f"{tmp_path}/top/b/")) == ["1", "2"]
    assert list(storage.walk(str(tmp_path / "nowhere"))) == []


def test_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == str(tmp_path / "b")
    assert storage.absolute("memory://a/b") == "memory://a/b"
    with pytest.raises(UserError, match="cannot read nosuch://bucket/x"):
        storage.absolute("nosuch://bucket/x")
