import io
import logging
import tarfile

import pytest
import webdataset

from bsssl.data.datasets.sources import Tars
from bsssl.data.datasets.tars import index_tar, is_cut
from bsssl.data.endings import Endings
from bsssl.data.loading.dataset import Failure, ItemDataset
from bsssl.data.views.transforms import test_transform as make_test_transform
from bsssl.data.views.views import ImageViews
from bsssl.errors import UserError
from bsssl.runtime.console import logger


def _index(tmp_path, content):
    (tmp_path / "t.tar").write_bytes(content)
    return index_tar(str(tmp_path / "t.tar"), endings=Endings("images"))[0]


def _members(tmp_path, content, extensions="images"):
    """The members of a tar that are items, and what is left out."""
    (tmp_path / "t.tar").write_bytes(content)
    records, left_out = index_tar(str(tmp_path / "t.tar"), endings=Endings(extensions))
    return [key.removeprefix("t.tar/") for key in records.key.to_pylist()], dict(left_out)


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


def test_labels_that_are_no_texts_are_those_of_json(tmp_path, make_tar):
    labels = ["-1", "true", '["a", "b"]', "NaN", "null", "1.0"]
    members = {
        f"{row}.{end}": f'{{"label": {one}}}'.encode() for row, one in enumerate(labels) for end in ("jpg", "json")
    }
    assert _index(tmp_path, make_tar(members)).label.to_pylist() == ["-1", "true", '["a", "b"]', None, None, "1.0"]


def test_one_item_of_each_sample(tmp_path, make_tar):
    names = ["a.jpg", "a.thumb.jpg", "a.seg.png", "b.png", "b.JPG", "c.d/e.webp", "c.d/e.flow.tiff", "f.webp", "f.mp4"]
    tar = make_tar(dict.fromkeys(names, b"content"))
    items = ["a.jpg", "b.JPG", "c.d/e.webp", "f.webp"]
    assert _members(tmp_path, tar) == (items, {"thumb.jpg": 1, "seg.png": 1, "png": 1, "flow.tiff": 1, "mp4": 1})
    assert _members(tmp_path, tar, ["png", "jpg"])[0] == ["a.jpg", "b.png"]
    assert _members(tmp_path, tar, ["seg.png"])[0] == ["a.seg.png"]
    assert _members(tmp_path, tar, "any") == (names, {})


def test_names_with_dots_that_are_no_samples(tmp_path, make_tar):
    """A plain tar: no member is called by a name and an extension alone."""
    members = {
        "trip.1.jpg": b"1",
        "trip.1.cls": b"sea",
        "trip.2.jpg": b"2",
        "2021.05.03/x.jpg": b"3",
        "trip.2.txt": b"hill",
    }
    records = _index(tmp_path, make_tar(members))
    assert records.key.to_pylist() == ["t.tar/trip.1.jpg", "t.tar/trip.2.jpg", "t.tar/2021.05.03/x.jpg"]
    assert records.label.to_pylist() == ["sea", "hill", "2021.05.03"]


def test_what_systems_leave_is_no_item(tmp_path, make_tar):
    names = ["x.jpg", "._x.jpg", "a/._y.jpg", "__MACOSX/x.jpg", "__MACOSX/a/._x.jpg", ".cache/x.jpg", "./z.jpg"]
    tar = make_tar(dict.fromkeys([*names, "a/Thumbs.db", ".DS_Store"], b"content"))
    assert _members(tmp_path, tar) == (["x.jpg", "z.jpg"], {})
    assert _members(tmp_path, tar, "any") == (["x.jpg", "z.jpg"], {})


def test_samples_are_those_of_webdataset(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "t.tar")) as tar:
        for number in range(3):
            sample = {
                "jpg": bytes([number]),
                "seg.png": b"mask",
                "thumb.jpg": b"small",
                "cls": number,
                "JSON": {"n": 1},
            }
            tar.write({"__key__": f"a.b/{number}", **sample})
    samples = list(webdataset.WebDataset(str(tmp_path / "t.tar"), shardshuffle=False))
    records = Tars(path=str(tmp_path / "t.tar")).records()
    assert [f"{sample['__key__']}.jpg" for sample in samples] == [
        key.removeprefix("t.tar/") for key in records.key.to_pylist()
    ]
    assert [sample["jpg"] for sample in samples] == [record.read() for record in records]
    assert [sample["cls"].decode() for sample in samples] == records.label.to_pylist()


def test_what_is_left_out_is_said(tmp_path, make_tar, caplog):
    for number in range(2):
        tar = make_tar(dict.fromkeys([f"{number}.jpg", f"{number}.seg.png", "notes.md", "x.raw", "y.raw"], b"content"))
        (tmp_path / f"{number}.tar").write_bytes(tar)
    with caplog.at_level(logging.INFO, logger="bsssl"):
        assert len(Tars(path=str(tmp_path / "*.tar")).records()) == 2
    assert "left out: 4 .raw, 2 .md, 2 .seg.png; the source's options.extensions says" in caplog.text
    with pytest.raises(
        UserError, match=r"nothing to read in .*: there are no videos in it; left out: 4 \.raw, 2 \.jpg, "
    ):
        Tars(path=str(tmp_path / "*.tar"), extensions="videos").records()


def test_the_same_member_twice_is_one_item_the_last(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="bsssl")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in (("a.jpg", b"old"), ("b.jpg", b"other"), ("./a.jpg", b"new"), ("x/a.jpg", b"another")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    records = _index(tmp_path, content.getvalue())
    assert records.key.to_pylist() == ["t.tar/b.jpg", "t.tar/a.jpg", "t.tar/x/a.jpg"]
    assert [record.read() for record in records] == [b"other", b"new", b"another"]
    assert "t.tar: 1 members come again by the same name; of each name the last is taken" in caplog.text


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


def test_not_a_tar(tmp_path):
    with pytest.raises(UserError, match="is not a tar"):
        _index(tmp_path, b"something else" * 100)
