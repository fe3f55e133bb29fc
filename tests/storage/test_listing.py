import fsspec
import pytest

from bsssl import storage


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def test_walk(tmp_path):
    for name in ("b/2", "b/1", "a/deep/3", "0", ".hidden/4", "b/.5"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).touch()
    (tmp_path / "top" / "linked").symlink_to(tmp_path / "top" / "b")
    assert list(storage.walk(str(tmp_path / "top"))) == ["0", "a/deep/3", "b/1", "b/2", "linked/1", "linked/2"]
    assert list(storage.walk(f"{tmp_path}/top/b/")) == ["1", "2"]
    assert list(storage.walk(str(tmp_path / "nowhere"))) == []


def test_glob(tmp_path, memory):
    for name in ("b.tar", "a.tar", "a.txt"):
        (tmp_path / name).write_text("")
        storage.write_text(f"memory://g/{name}", "")
    assert storage.glob(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert storage.glob("memory://g/*.tar") == ["memory:///g/a.tar", "memory:///g/b.tar"]
