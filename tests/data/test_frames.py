import pytest

from bsssl.data.frames import Frames, pictures_of, split_frames
from bsssl.data.records import read_bytes
from tests.data.videos import write_frames


@pytest.mark.parametrize(
    ("frames", "fragment"),
    [
        (Frames(), "#fps=25"),
        (Frames(29.97), "#fps=29.97"),
        (Frames(1e-3, 12), "#fps=0.001&frames=12"),
        (Frames(1000, names="img_*.jpg"), "#fps=1000&names=img_*.jpg"),
        (Frames(8, 3, "v=[0-9]?"), "#fps=8&frames=3&names=v=[0-9]?"),
    ],
)
def test_named_and_found_again(frames, fragment):
    assert str(frames) == fragment
    assert split_frames(f"a b/v1{fragment}") == ("a b/v1", frames)


@pytest.mark.parametrize(
    "path",
    [
        "v1",
        f"v1#fps=25&frames={'9' * 5000}",
        "v1#fps=0",
        "v1#fps=-1",
        "v1#fps=",
        "v1#fps=1e3",
        "v1#fps=25&names=",
        "v#fps=25/1",
        f"v#fps={'9' * 400}",
    ],
)
def test_names_without_frames(path):
    assert split_frames(path) == (path, None)


def test_the_order_is_that_of_the_numbers():
    assert Frames().ordered(["img_10.jpg", "img_9.png", "notes.txt", "img_11.JPG", "._img_8.jpg"]) == [
        *("img_9.png", "img_10.jpg", "img_11.JPG")
    ]
    assert Frames().ordered(["v2_take1_0.jpg", "v2_take1_5.jpg", "v2_take1_10.jpg"])[2] == "v2_take1_10.jpg"
    assert Frames().ordered(["poster.jpg"]) == ["poster.jpg"]
    assert Frames(names="img_*").ordered(["img_1.jpg", "flow_x_1.jpg", "img_2.jpg"]) == ["img_1.jpg", "img_2.jpg"]
    huge = [f"{10**30 + number}.jpg" for number in (2, 1, 0)]
    assert Frames().ordered(huge) == huge[::-1]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "no pictures in it"),
        (["a.txt"], "no pictures in it"),
        (["1.jpg", "2.jpg", "4.jpg"], "frames are missing between 2.jpg and 4.jpg"),
        (["1.jpg", "3.jpg", "4.jpg"], "frames are missing between 1.jpg and 3.jpg"),
        (["1.jpg", "01.jpg"], "01.jpg and 1.jpg have the same number: say by options.names which are the frames"),
        (["1.jpg", "1.png"], "1.jpg and 1.png have the same number"),
        (
            ["flow_x_1.jpg", "img_1.jpg"],
            "pictures of several kinds, as flow_x_1.jpg and img_1.jpg: say by options.names",
        ),
        (["1.jpg", "cover.jpg"], "cover.jpg has no number that says which frame it is"),
    ],
)
def test_what_is_no_video(names, reason):
    with pytest.raises(OSError, match=f"^{reason}"):
        Frames().ordered(names)


def test_frames_that_are_gone_since_they_were_listed(tmp_path):
    folder = write_frames(tmp_path / "v", range(5))
    (folder / "img_00004.png").unlink()
    with pytest.raises(OSError, match=r"v#fps=25&frames=5#t=0,1: 4 frames, where 5 were listed"):
        read_bytes(f"{folder}#fps=25&frames=5#t=0,1")


def test_the_content_says_the_rate_and_forgets_the_names(tmp_path):
    one = write_frames(tmp_path / "one", range(3))
    for number, name in enumerate(("f8.png", "f9.png", "f10.png")):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).write_bytes((one / f"img_{number:05d}.png").read_bytes())
    contents = [read_bytes(f"{tmp_path / name}#fps=12.5") for name in ("one", "two")]
    assert contents[0] == contents[1] != read_bytes(f"{one}#fps=25")
    pictures = pictures_of(contents[0])
    assert pictures.fps == 12.5 and list(pictures.names) == [f"{number:09d}.png" for number in range(3)]
    assert pictures.read(pictures.names[1]) == (one / "img_00001.png").read_bytes()


@pytest.mark.parametrize("size", [512, 1500, -600, -20_000])
def test_a_content_that_is_cut(tmp_path, size):
    content = read_bytes(f"{write_frames(tmp_path / 'v', range(30))}#fps=25")
    assert len(pictures_of(content).names) == 30
    with pytest.raises(OSError, match=r"cut short|damaged"):
        pictures_of(content.rstrip(b"\0")[:size])


@pytest.mark.parametrize("facts", [b"{", b"[]", b'{"fps": null}', b'{"fps": -1}', b'{"fps": NaN}', b"\xff"])
def test_a_rate_that_cannot_be_read(make_tar, facts):
    with pytest.raises(OSError, match=r"its frames\.json is damaged"):
        pictures_of(make_tar({"frames.json": facts, "1.jpg": b""}))
