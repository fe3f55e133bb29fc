import bz2
import gzip
import lzma
import os

import pyarrow as pa
import pytest

from bsssl.data.datasets.paths import dataset_at, items_at
from bsssl.data.datasets.sources import Tars
from bsssl.errors import UserError


def _zstd(content):
    return pa.compress(content, "zstd", asbytes=True)


PACKED = {
    **{"x.tar.gz": gzip.compress, "x.TGZ": gzip.compress, "x.tar.bz2": bz2.compress, "x.tar.xz": lzma.compress},
    "x.tar.zst": _zstd,
    "parts.tar.gz": lambda content: gzip.compress(content[:700]) + gzip.compress(content[700:]),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bsssl"


@pytest.mark.parametrize("name", PACKED)
def test_compressed_tars(tmp_path, make_tar, cache, name):
    tar = make_tar({"a.jpg": b"1", "a.cls": b"cat", "dog/b.jpg": b"22" * 1000})
    (tmp_path / name).write_bytes(PACKED[name](tar))
    for _ in range(2):
        records = Tars(path=str(tmp_path / name)).records()
        assert records.key.to_pylist() == [f"{name}/a.jpg", f"{name}/dog/b.jpg"]
        assert records.label.to_pylist() == ["cat", "dog"]
        assert [record.read() for record in records] == [b"1", b"22" * 1000]
    assert len(os.listdir(cache)) == 1
    assert dataset_at(str(tmp_path / name)) == "tars"
    [batch] = items_at([str(tmp_path / name)], videos=False)
    assert batch.key.to_pylist() == [str(tmp_path / name / "a.jpg"), str(tmp_path / name / "dog" / "b.jpg")]


def test_another_folder_and_another_content(tmp_path, make_tar, cache):
    path = tmp_path / "x.tar.gz"
    source = Tars(path=str(path), unpacked=str(tmp_path / "mine"))
    for content in (b"1", b"22"):
        path.write_bytes(gzip.compress(make_tar({"a.jpg": content})))
        assert [record.read() for record in source.records()] == [content]
    assert len(os.listdir(tmp_path / "mine")) == 2 and not cache.exists()


@pytest.mark.parametrize("name", PACKED)
def test_damage(tmp_path, make_tar, cache, name):
    whole = PACKED[name](make_tar({"a.jpg": os.urandom(3000)}))
    for content in (whole[:-30], b"something else" * 10, b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.* (cannot be decompressed|is not a tar|is cut short)"):
            Tars(path=str(tmp_path / name)).records()
    assert not [file for file in (os.listdir(cache) if cache.exists() else []) if not file.endswith(".tar")]
