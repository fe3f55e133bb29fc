import os
import pwd
import tempfile

import pytest

from bsssl import storage
from bsssl.errors import UserError


def test_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == str(tmp_path / "b")
    assert storage.absolute("memory://a/b") == "memory://a/b"
    with pytest.raises(UserError, match="cannot read nosuch://bucket/x"):
        storage.absolute("nosuch://bucket/x")


def test_where_caches_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert storage.cache_folder() == str(tmp_path / ".cache" / "bsssl")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])  # as where the user has no entry
    assert storage.cache_folder() == os.path.join(tempfile.gettempdir(), f"bsssl-{os.getuid()}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert storage.cache_folder() == str(tmp_path / "caches" / "bsssl")


def test_paths_local_and_remote():
    assert storage.join("folder/", "a", "b") == "folder/a/b"
    assert storage.join("s3://bucket/", "a") == "s3://bucket/a"
    assert storage.is_remote("https://x/y") and not storage.is_remote("/x/y")
