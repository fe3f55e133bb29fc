"""Videos that are made of pictures: folders of frames, what they become as content, and animated WebP."""

import io

import numpy as np
import pytest
from PIL import Image

from bsssl.data.decoding.headers import video_header
from bsssl.data.decoding.pictures import DecodeError
from bsssl.data.decoding.readers import open_video
from bsssl.data.records import read_bytes
from tests.data.videos import draw_number, read_numbers, write_frames


def _both(folder, fps=25):
    """A folder of frames as a path and as content."""
    return f"{folder}#fps={fps}", read_bytes(f"{folder}#fps={fps}")


@pytest.mark.parametrize("backend", ["av", "decord"])
def test_frames_by_number(tmp_path, backend):
    for source in _both(write_frames(tmp_path / "v", range(3, 15), name="f{}.png"), fps=10):
        with open_video(source, backend=backend) as video:
            assert video.num_frames == 12
            np.testing.assert_allclose(video.seconds(), np.arange(12) / 10)
            assert read_numbers(video.get([11, 0, 7, 7])) == [14, 3, 10, 10]
            assert read_numbers(video.get(range(12))) == [*range(3, 15)]


def test_a_file_of_the_content(tmp_path):
    (tmp_path / "v.frames").write_bytes(_both(write_frames(tmp_path / "v"), fps=5)[1])
    with open_video(str(tmp_path / "v.frames")) as video:
        assert video.seconds()[1] == 0.2 and read_numbers(video.get([11])) == [11]


def test_pictures_are_turned_upright(tmp_path):
    for number in range(2):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by 90 degrees
        turned = Image.fromarray(np.rot90(draw_number(number)))
        (tmp_path / "v").mkdir(exist_ok=True)
        turned.save(tmp_path / "v" / f"{number}.jpg", exif=exif, quality=95)
    for source in _both(tmp_path / "v"):
        with open_video(source) as video:
            assert read_numbers(video.get([0, 1])) == [0, 1]


def test_pictures_of_two_sizes(tmp_path):
    write_frames(tmp_path / "v", range(4))
    write_frames(tmp_path / "v", [4], size=(32, 48))
    path, content = _both(tmp_path / "v")
    with pytest.raises(DecodeError, match=r"pictures of two sizes, 64 x 48 and 32 x 48 at 000000004\.png"):
        open_video(content)
    with open_video(path) as video:
        assert read_numbers(video.get([0, 3])) == [0, 3]
        with pytest.raises(DecodeError, match=r"pictures of two sizes, 64 x 48 and 32 x 48 at img_00004\.png"):
            video.get([4])


def test_pictures_that_are_turned_differently(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "v").mkdir()
    Image.fromarray(draw_number(0)).save(tmp_path / "v" / "0.jpg")
    Image.fromarray(draw_number(1)).save(tmp_path / "v" / "1.jpg", exif=exif)
    for source in _both(tmp_path / "v"):
        with (
            open_video(source) as video,
            pytest.raises(DecodeError, match="pictures of two sizes, 48 x 64 and 64 x 48"),
        ):
            video.get([0, 1])


@pytest.mark.parametrize("damage", [b"", b"no picture", None], ids=["empty", "text", "cut"])
def test_a_broken_picture_in_the_middle(tmp_path, damage):
    folder = write_frames(tmp_path / "v")
    broken = folder / "img_00006.png"
    broken.write_bytes(broken.read_bytes()[:-40] if damage is None else damage)
    path, content = _both(folder)
    with open_video(path) as video:
        assert read_numbers(video.get([5, 7])) == [5, 7]
        with pytest.raises(DecodeError, match=r"^img_00006\.png: "):
            video.get(range(12))
    with pytest.raises(DecodeError, match=r"^000000006\.png: "), open_video(content) as video:
        video.get(range(12))


def test_what_is_wrong_with_a_folder(tmp_path):
    folder = write_frames(tmp_path / "v", [1, 2, 4])
    with pytest.raises(DecodeError, match=r"frames are missing between img_00002\.png and img_00004\.png"):
        open_video(f"{folder}#fps=25")
    with pytest.raises(DecodeError, match="none: No such file or directory"):
        open_video(f"{tmp_path}/none#fps=25")
    with pytest.raises(DecodeError, match="64 x 48 pixels are more than the limit of 100"):
        open_video(f"{write_frames(tmp_path / 'large', range(2))}#fps=25", max_pixels=100)


def test_one_frame(tmp_path):
    for source in _both(write_frames(tmp_path / "v", [7])):
        with open_video(source) as video:
            assert video.num_frames == 1 and read_numbers(video.get([0])) == [7]


def test_headers(tmp_path):
    header = video_header(_both(write_frames(tmp_path / "v"), fps=10)[1], decode=True)
    assert (header.format, header.width, header.height, header.rate) == ("frames", 64, 48, 10)
    assert header.seconds == pytest.approx(1.2)


@pytest.fixture
def animation():
    """The content of an animated WebP of these durations in milliseconds."""

    def make(durations, **options):
        pictures = [Image.fromarray(draw_number(number)) for number in range(len(durations))]
        file = io.BytesIO()
        pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, **options)
        return file.getvalue()

    return make


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}])
def test_animated_webp(tmp_path, animation, options):
    content = animation([40, 100, 20, 40, 40, 0, 40, 40], **options)
    (tmp_path / "a.webp").write_bytes(content)
    for source in (content, str(tmp_path / "a.webp")):
        with open_video(source) as video:
            np.testing.assert_allclose(video.seconds(), np.cumsum([0, 40, 100, 20, 40, 40, 100, 40]) / 1000)
            assert read_numbers(video.get(range(8))) == [*range(8)]
            assert read_numbers(video.get([6, 2, 2])) == [6, 2, 2]
    assert video_header(content).format == "webp"


def test_webp_that_is_no_video(animation, encode):
    with pytest.raises(DecodeError, match="a WebP of a single picture, not an animation"):
        open_video(encode(Image.fromarray(draw_number(1)), "WEBP"))
    content = animation([40] * 8)
    for end in (9, 20, 100, len(content) // 2, len(content) - 3):
        with pytest.raises(DecodeError):
            open_video(content[:end])
    broken = bytearray(content)
    broken[len(content) // 2 : len(content) // 2 + 80] = bytes(80)
    with pytest.raises(DecodeError), open_video(bytes(broken)) as video:
        video.get(range(8))
