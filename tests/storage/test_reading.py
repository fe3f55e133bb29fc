import pytest

from bsssl import storage
from bsssl.errors import UserError


@pytest.mark.parametrize("path", ["missing.json", "memory://missing.json"])
def test_reading_what_is_not_there(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no such file: {path}; check the path"):
        storage.open_read(path)
