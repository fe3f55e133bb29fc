import gzip

import pytest

from bsssl.data.datasets.sources import IMAGE_EXTENSIONS, Tars
from bsssl.data.datasets.tars import index_tar, is_cut
from bsssl.data.loading.dataset import Failure, ItemDataset
from bsssl.data.views.transforms import test_transform as make_test_transform
from bsssl.data.views.views import ImageViews
from bsssl.errors import UserError

ENDINGS = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)


def _index(tmp_path, content):
    (tmp_path / "t.tar").write_bytes(content)
    return index_tar(str(tmp_path / "t.tar"), endings=ENDINGS)


@pytest.mark.parametrize("size", [2**60, 2**63, 2**80, -1024])
def test_a_member_with_a_size_that_none_has(tmp_path, make_tar, size):
    content = bytearray(make_tar({"a/1.jpg": b"1", "a/2.jpg": b"2"}))
    head = content[1024:1536]
    head[124:136] = (b"\x80" if size > 0 else b"\xff") + (size % 2**88).to_bytes(11, "big")
    head[148:156] = b"%06o\0 " % (256 + sum(head[:148]) + sum(head[156:]))
    content[1024:1536] = head
    records = _index(tmp_path, content)
    assert is_cut(records) and records[0].read() == b"1"
    for record in records[1:]:
        with pytest.raises(OSError, match="cut short"):
            record.read()


def test_labels(tmp_path, make_tar):
    records = _index(
        tmp_path,
        make_tar(
            {
                "./a.jpg": b"0",
                "a.cls": b"12\n",
                "a.json": b'{"label": "json", "tags": ["x"]}',
                "b.json": b'{"label": 3}',
                "b.jpg": b"1",
                "c.jpg": b"2",
                "c.txt": b"cat",
                "deep/er/d.seg.jpg": b"3",
                "e.jpg": b"4",
                "f.json": b"{not json",
                "dog/f.PNG": b"5",
            }
        ),
    )
    assert records.key.to_pylist() == [
        f"t.tar/{n}" for n in ("a.jpg", "b.jpg", "c.jpg", "deep/er/d.seg.jpg", "e.jpg", "dog/f.PNG")
    ]
    assert records.label.to_pylist() == ["12", "3", "cat", "er", None, "dog"]
    assert records.tags.to_pylist() == [["x"], None, None, None, None, None]
    assert [record.read() for record in records] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert not is_cut(records)


def test_long_names(tmp_path, make_tar):
    name = "folder/" * 40 + "ü.jpg"
    records = _index(tmp_path, make_tar({name: b"content"}))
    assert records.key.to_pylist() == [f"t.tar/{name}"]


@pytest.mark.parametrize("cut", [700, 512 + 600 + 424, 1024 + 512 + 100, 1024 + 1024 + 10, 4 * 1024, -10240])
def test_cut_tar(tmp_path, make_tar, encode, cut):
    """Wherever the cut is: the whole members are read, and at least one item fails, saying why."""
    from PIL import Image

    pictures = {f"{n}.png": encode(Image.new("RGB", (8, 8), (n, 0, 0))).ljust(600, b"\0") for n in range(4)}
    whole = make_tar(pictures)
    end = 4 * (512 + 1024)
    content = whole[: cut if cut > 0 else end]
    records = _index(tmp_path, content)
    assert is_cut(records)
    dataset = ItemDataset(records, views=ImageViews(make_test_transform(size=8)))
    items = [dataset[row][0] for row in range(len(dataset))]
    failures = [item for item in items if isinstance(item, Failure)]
    data_ends = [n * 1536 + 512 + 600 for n in range(4)]
    assert len(items) - len(failures) == sum(data_end <= len(content) for data_end in data_ends)
    assert failures and all("cut short" in failure.reason and "t.tar" in failure.reason for failure in failures)
    with pytest.raises(UserError, match=r"t\.tar is cut short"):
        Tars(path=str(tmp_path / "t.tar")).records()


def test_damaged_header(tmp_path, make_tar):
    content = bytearray(make_tar({"1.jpg": b"1", "2.jpg": b"2", "3.jpg": b"3"}))
    content[1024:1100] = b"\xff" * 76
    records = _index(tmp_path, bytes(content))
    assert is_cut(records) and len(records) == 2


def test_empty_file_is_a_cut_tar(tmp_path):
    assert is_cut(_index(tmp_path, b""))


def test_empty_tar(tmp_path, make_tar):
    assert len(_index(tmp_path, make_tar({}))) == 0


def test_not_a_tar(tmp_path, make_tar):
    with pytest.raises(UserError, match="is not a tar"):
        _index(tmp_path, b"something else" * 100)
    with pytest.raises(UserError, match="decompressed"):
        _index(tmp_path, gzip.compress(make_tar({"a.jpg": b"1"})))
