import os
import re
import socket

import pytest

from bsssl import storage
from bsssl.errors import UserError


@pytest.mark.parametrize("path", ["missing.json", "memory://missing.json"])
def test_reading_what_is_not_there(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no such file: {path}; check the path"):
        storage.open_read(path)


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    """Names in the working folder of what is there, but is no file, with what each is."""
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    os.mkdir("folder")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        yield {"folder": "a folder", "pipe": "a pipe", "socket": "a socket", "/dev/zero": "a device"}


def test_reading_what_is_no_file(no_files):
    for name, kind in no_files.items():
        with pytest.raises(UserError, match=re.escape(f"{name} is {kind}, not a file; give a file")):
            storage.open_read(name)
        with pytest.raises(storage.NotAFile, match=re.escape(f"{name} is {kind}, not a file")):
            storage.open_file(name)


def test_what_cannot_be_opened_is_refused_by_name(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"loop cannot be opened: Too many levels of symbolic links; check the path"):
        storage.open_read(str(tmp_path / "loop"))
    with pytest.raises(UserError, match=r"a+ cannot be opened: File name too long; check the path"):
        storage.open_read(str(tmp_path / ("a" * 300)))


def test_a_path_that_goes_through_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no such file: .*file/x; check the path"):
        storage.open_read(str(tmp_path / "file" / "x"))
