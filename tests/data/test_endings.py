import pytest

from bsssl.data import endings
from bsssl.data.endings import Endings, LeftOut, extension_of, is_hidden
from bsssl.errors import UserError


def _left_out(wanted, names):
    counts = LeftOut()
    counts.add(names)
    return Endings(wanted).left_out(counts)


def test_what_is_left_out():
    option = "the source's options.extensions says what is taken (images, videos, any, or a list)"
    assert _left_out(["jpg"], ["a.HEIC", "b.heic", "c/d.gif", "e"]) == (
        f"left out: 2 .heic, 1 without an extension, 1 .gif; {option}"
    )
    assert _left_out("videos", ["v/000001.jpg", "v/000002.jpg"]) == (
        "left out: 2 .jpg; folders of pictures are read as videos by dataset: frames, tars of such by dataset: "
        "frame_tars"
    )
    many = [f"{number}.x{number:02d}" for number in range(10)] + ["y.x00"] * 1000
    assert _left_out("images", many).startswith(
        "left out: 1,001 .x00, 1 .x01, 1 .x02, 1 .x03, 1 .x04, 1 .x05, 4 of 4 oth"
    )
    assert len(_left_out("images", ["a." + "b" * 5000])) < 200


def test_pictures_that_nothing_reads_here_are_left_out_with_the_extra_that_reads_them(monkeypatch):
    assert Endings("images").match("a.HEIC")
    monkeypatch.setattr(endings, "find_spec", lambda name: None if name == "pillow_heif" else object())
    assert not Endings("images").match("a.HEIC") and Endings("images").match("a.jxl")
    assert Endings(["heic"]).match("a.HEIC")
    assert "left out: 2 .heic, 1 .txt; pip install 'bsssl[pictures]' for .heic; the source's" in _left_out(
        "images", ["1.heic", "2.heic", "3.txt"]
    )
    assert "pip" not in _left_out("videos", ["1.heic"])


@pytest.mark.parametrize("name", ["._x.jpg", "a/.b/c.jpg", "__MACOSX/c.jpg", "a/Thumbs.db", "DESKTOP.INI"])
def test_hidden(name):
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["x.jpg", "./x.jpg", "../x.jpg", "a/b..jpg", "/x.jpg", "thumbs/x.jpg"])
def test_not_hidden(name):
    assert not is_hidden(name)


def test_extensions_of_names():
    assert [extension_of(name) for name in ("a.JPG", "a.b/c", "a.b/c.d.e", "c")] == ["jpg", "", "e", ""]
    assert extension_of("a.b/c.D.e", whole=True) == "d.e"


def test_unknown_sort():
    with pytest.raises(UserError, match=r"unknown extensions 'image': did you mean 'images'\?"):
        Endings("image")
