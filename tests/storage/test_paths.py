import pytest

from bsssl import storage
from bsssl.errors import UserError


def test_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == str(tmp_path / "b")
    assert storage.absolute("memory://a/b") == "memory://a/b"
    with pytest.raises(UserError, match="cannot read nosuch://bucket/x"):
        storage.absolute("nosuch://bucket/x")


def test_paths_local_and_remote():
    assert storage.join("folder/", "a", "b") == "folder/a/b"
    assert storage.join("s3://bucket/", "a") == "s3://bucket/a"
    assert storage.is_remote("https://x/y") and not storage.is_remote("/x/y")
