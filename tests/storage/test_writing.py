import errno
import os

import fsspec
import pytest

from bsssl import storage
from bsssl.errors import UserError


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


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
    with pytest.raises(UserError, match=rf"^cannot write {path}: No space left on device; free space or write to"):
        storage.write_text(str(path), "text")
    assert files(tmp_path) == []


def test_a_file_in_a_folders_place(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"^cannot write .*taken/file: .*another folder \(a run: output_dir="):
        storage.write_text(str(tmp_path / "taken" / "file"), "text")


def test_two_writers_of_one_file_do_no_harm(tmp_path):
    path = str(tmp_path / "file")
    with storage.atomic_write(path) as first, storage.atomic_write(path) as second:
        first.write(b"same")
        second.write(b"same")
    assert files(tmp_path) == ["file"]


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


def test_files_that_others_may_be_writing_stay(tmp_path):
    young, old = tmp_path / "a.tmp", tmp_path / "b.tmp"
    for path in (young, old):
        path.write_text("")
    os.utime(old, (0, 0))
    storage.remove_leftovers(str(tmp_path), unchanged_for=3600)
    assert young.exists() and not old.exists()
