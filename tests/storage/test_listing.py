import fsspec
import pytest

from bsssl import storage
from bsssl.runtime.console import logger


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def test_walk(tmp_path):
    for name in ("b/2", "b/1", "a/deep/3", "0", ".hidden/4", "b/.5"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).touch()
    assert list(storage.walk(str(tmp_path / "top"))) == ["0", "a/deep/3", "b/1", "b/2"]
    assert list(storage.walk(f"{tmp_path}/top/b/")) == ["1", "2"]
    assert list(storage.walk(str(tmp_path / "nowhere"))) == []


@pytest.mark.parametrize("target", [".", "..", "b", "a/deep"])
def test_a_link_to_what_is_walked_anyway_is_not_followed_and_said(tmp_path, caplog, monkeypatch, target):
    monkeypatch.setattr(logger, "propagate", True)
    for name in ("b/1", "a/deep/2", "0"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).touch()
    (tmp_path / "top" / "a" / "latest").symlink_to(tmp_path / "top" / target)
    with caplog.at_level("INFO", "bsssl"):
        assert list(storage.walk(str(tmp_path / "top"))) == ["0", "a/deep/2", "b/1"]
    assert "top/a/latest" in caplog.text


def test_a_folder_elsewhere_is_walked_once_however_many_links_lead_to_it(tmp_path):
    for name in ("top/0", "elsewhere/x/1", "top/.versions/2", "other/3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, target in {
        "top/a": "elsewhere",
        "top/b": "elsewhere",
        "top/c": "elsewhere/x",
        "elsewhere/back": "top",
        "elsewhere/x/round": "elsewhere",
        "top/now": "top/.versions",
    }.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    assert list(storage.walk(str(tmp_path / "top"))) == ["0", "a/x/1", "now/2"]
    (tmp_path / "top" / "Part").symlink_to(tmp_path / "elsewhere" / "x")  # comes before the whole
    assert list(storage.walk(str(tmp_path / "top"))) == ["0", "Part/1", "now/2"]


def test_glob(tmp_path, memory):
    for name in ("b.tar", "a.tar", "a.txt"):
        (tmp_path / name).write_text("")
        storage.write_text(f"memory://g/{name}", "")
    assert storage.glob(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert storage.glob("memory://g/*.tar") == ["memory:///g/a.tar", "memory:///g/b.tar"]
