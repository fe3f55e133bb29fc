import multiprocessing
import os
import random
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from torch.utils.data import DataLoader

from bsssl.data.decoding.pictures import DecodeError
from bsssl.data.decoding.readers import check_backend, helper, index, open_video
from bsssl.data.decoding.readers.matroska import stated_size
from bsssl.data.decoding.readers.pyav import PyavReader
from bsssl.data.endings import Endings
from bsssl.errors import UserError
from tests.data.videos import read_number, read_numbers, remux, turn, write_audio, write_video
from tests.processes import PATIENCE, wait_until

FRAMES = 48
HANG = 2 * PATIENCE
RNG = np.random.default_rng(7)
VARIED = np.cumsum(RNG.choice([0.02, 0.04, 0.1, 0.37], FRAMES)).tolist()
SHORT_GOPS = {"g": "12", "bf": "3"}
VPX = {"g": "12", "deadline": "realtime"}
X265 = {"x265-params": "log-level=none:keyint=12:min-keyint=12:bframes=3"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("a.mp4", {"options": SHORT_GOPS}),
    "h264, one keyframe": ("a.mp4", {"options": {"g": "250", "bf": "3"}}),
    "h264, open groups": ("a.mp4", {"options": {**SHORT_GOPS, "x264-params": "open-gop=1:scenecut=0:b-adapt=0"}}),
    "h264, fragments": ("a.mp4", {"options": SHORT_GOPS, "muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    "h264 with sound": ("a.mp4", {"options": SHORT_GOPS, "audio": True}),
    "mkv": ("a.mkv", {"options": SHORT_GOPS}),
    "live mkv": ("a.mkv", {"options": SHORT_GOPS, "muxer": {"live": "1"}}),
    "flv": ("a.flv", {"options": SHORT_GOPS}),
    "hevc": ("a.mp4", {"codec": "libx265", "options": X265}),
    "vp8": ("a.webm", {"codec": "libvpx", "options": VPX}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "options": {**VPX, "cpu-used": "8"}}),
    "av1": ("a.mp4", {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}, "width": 96, "height": 64}),
    "varied rate": ("a.mp4", {"options": SHORT_GOPS, "seconds": VARIED}),
    "varied rate, mkv": ("a.mkv", {"options": SHORT_GOPS, "seconds": VARIED}),
    "mpeg4 avi": ("a.avi", {"codec": "mpeg4", "options": {"g": "12"}}),
    "mpeg4 avi, B-frames": ("a.avi", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
    "mpeg4 mp4, B-frames": ("a.mp4", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
    "h264 avi": ("a.avi", {"options": {"g": "12", "bf": "0"}}),
    "h264 avi, B-frames": ("a.avi", {"options": SHORT_GOPS}),
    "mjpeg avi": ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    "ts": ("a.ts", {"options": SHORT_GOPS}),
    "mpeg2 ts": ("a.ts", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "mpeg2 ps": ("a.mpg", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "mpeg1 ps": ("a.mpg", {"codec": "mpeg1video", "options": {"g": "12", "bf": "2"}}),
    "vob": ("a.vob", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "wmv": ("a.wmv", {"codec": "wmv2", "options": {"g": "12"}}),
    "mxf": ("a.mxf", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "h264 mxf": ("a.mxf", {"options": {"g": "12", "bf": "0"}}),
    "h264 mxf, B-frames": ("a.mxf", {"options": SHORT_GOPS}),
    "no container": ("a.h264", {"options": SHORT_GOPS}),
    "no container, hevc": ("a.hevc", {"codec": "libx265", "options": X265}),
    "refresh": ("a.mp4", {"options": {"g": "12", "x264-params": "intra-refresh=1"}}),
    "odd size": ("a.mp4", {"options": SHORT_GOPS, "pixels": "yuv444p", "width": 67, "height": 49}),
    "padded rows": ("a.mov", {"options": SHORT_GOPS, "width": 48, "height": 36}),
    "padded rows, avi": ("a.avi", {"codec": "mpeg4", "options": {"g": "12"}, "width": 48, "height": 36}),
    "padded rows, webm": ("a.webm", {"codec": "libvpx", "options": VPX, "width": 72, "height": 48}),
    "ten bits": ("a.mp4", {"options": SHORT_GOPS, "pixels": "yuv420p10le"}),
    "alpha": ("a.mov", {"codec": "qtrle", "pixels": "argb"}),
    "png": ("a.mov", {"codec": "png", "pixels": "rgba"}),
    "alpha vp9": ("a.webm", {"codec": "libvpx-vp9", "pixels": "yuva420p", "options": {**VPX, "cpu-used": "8"}}),
    "one frame": ("a.mp4", {"frames": 1}),
}
TIMED_AS_WRITTEN = {"varied rate", "varied rate, mkv"}
# What a library cannot read is an error, never other frames.
REFUSED = {
    "av": set(),
    "decord": {"av1", "live mkv", "ts", "mpeg2 ts", "no container", "no container, hevc"},
    "torchcodec": {
        *("ts", "mpeg2 ts", "mpeg1 ps", "mpeg2 ps", "vob", "mpeg4 avi, B-frames", "h264 avi, B-frames"),
        *("h264 mxf, B-frames", "no container", "no container, hevc"),
    },
}
ENCODERS = {options.get("codec", "libx264") for _, options in KINDS.values()}


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``video(kind)``: the path of a video of that kind, which nobody may change; made when first asked for."""
    folder, made = tmp_path_factory.mktemp("kinds"), {}

    def make(kind: str) -> Path:
        if kind not in made:
            name, options = KINDS[kind]
            path = folder / f"{len(made)}-{name}"
            made[kind] = write_video(path, **{"frames": FRAMES, **options})
        return made[kind]

    return make


@pytest.fixture(scope="session")
def loadable() -> Callable[[str], None]:
    """``loadable(backend)`` skips the test where a library is not installed or does not work."""
    problems: dict[str, str | None] = {"av": None}

    def check(backend: str) -> None:
        if backend not in problems:
            try:
                helper._Helper.take(backend).give_back()
                problems[backend] = None
            except UserError as error:
                problems[backend] = str(error)
        if problems[backend]:
            pytest.skip(problems[backend])

    return check


@pytest.fixture(params=["av", "decord", "torchcodec"])
def backend(request: pytest.FixtureRequest, loadable: Callable[[str], None]) -> str:
    loadable(request.param)
    return request.param


def _index_lists(frames: int) -> list[list[int]]:
    last = frames - 1
    random_ones = [random.Random(seed).choices(range(frames), k=8) for seed in range(6)]
    lists = [list(range(frames)), [0], [last], [frames // 2], [last, 0], [3, 3, 1, 3], [*range(9, 25), *range(12, 28)]]
    return [[index % frames for index in indices] for indices in [*lists, *random_ones, *map(sorted, random_ones)]]


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_encoders_are_there(encoder):
    try:
        av.codec.Codec(encoder, "w")
    except av.error.FFmpegError:
        pytest.fail(f"PyAV was built without the encoder {encoder}, with which these tests make videos")


def test_the_rate_of_what_has_no_container(tmp_path):
    content = write_video(tmp_path / "a.h264", frames=12, rate=10).read_bytes()
    with open_video(content) as reader:
        np.testing.assert_allclose(reader.seconds(), np.arange(12) / 10)


@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
@pytest.mark.parametrize("kind", KINDS)
def test_right_frames(video, backend, kind, as_bytes):
    path = video(kind)
    source = path.read_bytes() if as_bytes else str(path)
    if kind in REFUSED[backend]:
        assert any(_is_refused(source, backend, indices) for indices in _index_lists(FRAMES))
        return
    options = KINDS[kind][1]
    shape = (options.get("height", 48), options.get("width", 64), 3)
    with open_video(source, backend=backend) as reader:
        assert reader.num_frames == options.get("frames", FRAMES)
        for indices in _index_lists(reader.num_frames):
            pictures = reader.get(indices)
            assert pictures.shape == (len(indices), *shape)
            assert read_numbers(pictures) == indices
        times = np.array(VARIED) - VARIED[0] if kind in TIMED_AS_WRITTEN else np.arange(reader.num_frames) / 25
        seconds = reader.seconds()
        assert seconds.dtype == np.float64
        np.testing.assert_allclose(seconds, times, atol=1e-3)  # Matroska counts milliseconds


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        *(("a.vob", "mpeg2video", "yuv420p"), ("a.mxf", "mpeg2video", "yuv422p"), ("a.gif", "gif", "rgb8")),
        *(("a.3g2", "mpeg4", "yuv420p"), ("a.asf", "wmv2", "yuv420p"), ("a.rm", "rv10", "yuv420p")),
        *(("a.nut", "mpeg4", "yuv420p"), ("a.mjpeg", "mjpeg", "yuvj420p"), ("a.m2v", "mpeg2video", "yuv420p")),
        *(("a.apng", "apng", "rgb24"), ("a.ivf", "libvpx", "yuv420p"), ("a.265", "libx265", "yuv420p")),
    ],
)
def test_other_containers_of_the_usual_names(tmp_path, name, codec, pixels):
    path = write_video(tmp_path / name, codec=codec, pixels=pixels, frames=12, width=176, height=144)
    assert Endings("videos").match(name)
    with open_video(str(path)) as reader:
        assert read_numbers(reader.get([0, 7, 11])) == [0, 7, 11]


def _is_refused(source: str | bytes, backend: str, indices: list[int]) -> bool:
    """Whether these frames are; if not they must be right."""
    try:
        with open_video(source, backend=backend) as reader:
            assert read_numbers(reader.get(indices)) == indices
    except DecodeError as error:
        assert str(error).startswith(backend)
        return True
    return False


@pytest.mark.parametrize("kind", ["h264", "padded rows", "padded rows, avi", "padded rows, webm"])
def test_all_backends_give_the_same_pixels(video, backend, kind):
    path = str(video(kind))
    with open_video(path) as reader, open_video(path, backend=backend) as other:
        difference = reader.get([5, 30]).astype(int) - other.get([5, 30])
    assert np.abs(difference).max() <= 3


def test_shapes_and_errors_of_get(video, backend):
    with open_video(str(video("h264")), backend=backend) as reader:
        assert reader.get(np.array([4, 2])).dtype == np.uint8
        for wrong in ([FRAMES], [-1], [0, 100]):
            with pytest.raises(IndexError, match="of a video of 48"):
                reader.get(wrong)
        with pytest.raises(ValueError, match="no frames asked for"):
            reader.get([])
        with pytest.raises(TypeError):
            reader.get([1.5])
        assert read_numbers(reader.get([7])) == [7]
    reader.close()  # once more


def test_two_videos_at_a_time(video, backend):
    with open_video(str(video("h264")), backend=backend) as one, open_video(str(video("vp9")), backend=backend) as two:
        assert read_numbers(one.get([3, 40])) == [3, 40]
        assert read_numbers(two.get([4, 41])) == [4, 41]
        assert read_numbers(one.get([20])) == [20]


# What only PyAV's reader does


def _hide(hidden: set[int]) -> Callable[[int, av.Packet], bytes | None]:
    """Clear the bit of VP8 packets by which they are shown."""

    def change(place: int, packet: av.Packet) -> bytes | None:
        content = bytes(packet)
        return bytes([content[0] & ~0x10]) + content[1:] if place in hidden else None

    return change


def test_a_hidden_frame_leaves_the_one_before_on_the_screen(video, tmp_path):
    path = remux(video("vp8"), tmp_path / "hidden.webm", _hide({20, 21}))
    with open_video(str(path)) as reader:
        assert read_numbers(reader.get([19, 20, 21, 22, 47])) == [19, 19, 19, 22, 47]


@pytest.mark.parametrize("kind", ["h264", "h264, open groups", "hevc", "h264, one keyframe"])
def test_what_an_edit_list_hides_does_not_count(video, backend, kind, tmp_path):
    path = remux(video(kind), tmp_path / "cut.mp4", lambda *_: None, later=-18 * 512)
    try:
        with open_video(str(path), backend=backend) as reader:
            numbers = [read_numbers(reader.get(indices)) for indices in ([0, 29], [7, 8], range(30))]
            assert reader.num_frames == 30 and reader.seconds()[-1] == pytest.approx(29 / 25)
    except DecodeError as error:
        assert backend != "av" and str(error).startswith(backend)  # decord counts what is hidden
    else:
        assert numbers == [[18, 47], [25, 26], list(range(18, 48))]


def test_frames_before_the_first_keyframe_do_not_count(video):
    content = video("ts").read_bytes()
    with open_video(content[188 * 20 :]) as reader:
        numbers = read_numbers(reader.get(range(reader.num_frames)))
        assert numbers == list(range(48 - reader.num_frames, 48))
        assert numbers[0] % 12 == 0 and numbers[0] > 0


@pytest.mark.parametrize("kind", ["h264", "ts", "mpeg4 avi, B-frames"])
def test_a_seek_that_goes_astray_is_noticed(video, kind):
    with open_video(str(video(kind))) as reader:
        reader.index.keys[:, 2] = reader.index.keys[-1, 2]
        for indices in _index_lists(FRAMES):
            assert read_numbers(reader.get(indices)) == indices


def test_only_what_is_needed_is_decoded(video, monkeypatch):
    packets, pictures = [], []
    read, convert = PyavReader._packets, PyavReader._picture

    def counted(reader):
        for packet in read(reader):
            packets.append(packet.pts)
            yield packet

    monkeypatch.setattr(PyavReader, "_packets", counted)
    monkeypatch.setattr(PyavReader, "_picture", lambda *args: pictures.append(1) or convert(*args))
    with open_video(str(video("h264"))) as reader:
        assert len(packets) == FRAMES
        packets.clear()
        reader.get([2, 40, 38, 40])
        assert len(packets) <= 6 + 6 and len(pictures) == 3
        packets.clear()
        reader.get(range(FRAMES))
        assert len(packets) == FRAMES  # without a seek between adjacent groups


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_upright(video, backend, degrees):
    path = video("h264")
    with open_video(str(path)) as reader:
        stored = reader.get([5, 33])
    with open_video(turn(path.read_bytes(), degrees), backend=backend) as reader:
        pictures = reader.get([5, 33])
    upright = np.rot90(stored, -degrees // 90, axes=(1, 2))
    assert pictures.shape == upright.shape
    assert np.abs(pictures.astype(int) - upright).max() <= 3


def test_colours_of_full_range_and_of_high_definition(tmp_path):
    """Grey stays grey, and white white, whatever the range that the samples are said to have."""
    path = write_video(tmp_path / "full.mkv", codec="mjpeg", pixels="yuvj420p", frames=2)
    with open_video(str(path)) as reader:
        picture = reader.get([1])[0]
    assert read_number(picture) == 1 and picture.max() >= 250 and picture.min() <= 5


# Bad files


def _flip(content: bytes, seed: int, *, bits: int = 40) -> bytes:
    generator, damaged = random.Random(seed), bytearray(content)
    for _ in range(bits):
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def _good_file_is_read(video, backend):
    with open_video(str(video("h264")), backend=backend) as reader:
        assert read_numbers(reader.get([11, 37])) == [11, 37]


@pytest.fixture
def bad(video, tmp_path) -> Callable[[str], str]:
    """``bad(name)``: the path of a file that cannot be read."""
    fast = write_video(tmp_path / "fast.mp4", options=SHORT_GOPS, muxer={"movflags": "faststart"}).read_bytes()
    plain, avi, mkv = (video(kind).read_bytes() for kind in ("h264", "mpeg4 avi", "mkv"))
    contents = {
        "empty": b"",
        "text": b"these are words\n" * 100,
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n" + bytes(video("ts")) + b"\n#EXT-X-ENDLIST\n",
        "audio": write_audio(tmp_path / "audio.mp4").read_bytes(),
        "cut": fast[: len(fast) * 2 // 3],
        "cut early": fast[:1000],
        "cut before its index": plain[: len(plain) // 2],
        "cut avi": avi[: avi.index(b"movi") + 1000],
        "cut mkv": mkv[: len(mkv) * 2 // 3],
        "unknown codec": plain.replace(b"avc1", b"zzzz"),
        "no frames": fast[: fast.index(b"mdat") + 4],
    }

    def make(name: str) -> str:
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(contents[name])
        return str(path)

    return make


REASONS = {
    "empty": "^empty file$",
    "text": "^not a video, or damaged$",
    "playlist": "^not a video, or damaged$",
    "audio": "^there is no video in it, only sound$",
    "cut": "^cut short after [12][0-9] frames$",
    "cut early": "^not a video, or damaged",
    "cut before its index": "^not a video, or damaged$",
    "cut avi": "^cut short after [0-9]+ frames$",
    "cut mkv": "^cut short: [0-9]+ of [0-9]+ bytes are there$",
    "unknown codec": "^no decoder for its video codec$",
    "no frames": "^no frames in it$",
}


@pytest.mark.parametrize("name", REASONS)
def test_unreadable_files(video, bad, backend, name):
    path = bad(name)
    for source in (path, Path(path).read_bytes()):
        with pytest.raises(DecodeError, match=REASONS[name]):
            open_video(source, backend=backend)
    _good_file_is_read(video, backend)


@pytest.mark.parametrize("kind", ["mkv", "vp8", "vp9"])
def test_matroska_cut_anywhere(video, kind, tmp_path):
    content, path = video(kind).read_bytes(), tmp_path / "cut.mkv"
    for size in random.Random(3).sample(range(len(content)), 40):
        path.write_bytes(content[:size])
        for source in (content[:size], str(path)):
            with pytest.raises(DecodeError, match=r"^cut short: |^empty file$|^not a video"):
                open_video(source)
    with open_video(content + b"more") as reader:  # behind what the file says it is
        assert reader.num_frames == FRAMES


def test_a_gif_cut_anywhere(tmp_path):
    content = write_video(tmp_path / "a.gif", codec="gif", pixels="rgb8", frames=12).read_bytes()
    for size in random.Random(3).sample(range(len(content)), 20):
        with pytest.raises(DecodeError, match=r"^cut short: |^empty file$|^not a video"):
            open_video(content[:size])
    with open_video(content + bytes(100)) as reader:
        assert reader.num_frames == 12


@pytest.mark.parametrize("kind", ["vp8", "vp9"])
def test_webm_damaged_anywhere_has_all_frames_or_is_refused(video, kind, tmp_path):
    content, path, refused = video(kind).read_bytes(), tmp_path / "damaged.webm", 0
    for place in random.Random(4).sample(range(300, len(content) - 300), 40):
        path.write_bytes(content[:place] + bytes(64) + content[place + 64 :])
        try:
            with open_video(str(path)) as reader:
                assert reader.num_frames == FRAMES
        except DecodeError:
            refused += 1
    assert refused >= 10


def test_a_live_stream_is_as_long_as_what_is_left_of_it(video):
    content = video("live mkv").read_bytes()
    with open_video(content[: len(content) * 3 // 4]) as reader:
        assert 24 <= reader.num_frames < FRAMES
        numbers = read_numbers(reader.get(range(reader.num_frames)))
    assert numbers[:24] == list(range(24)) and numbers == sorted(numbers)  # the last may lack those between


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ("1a45dfa382 0000 18538067 85", 5 + 2 + 5 + 5),
        ("1a45dfa34002 0000 18538067 4102", 6 + 2 + 6 + 258),
        ("1a45dfa380 18538067 0100000000000007", 5 + 12 + 7),
        ("1a45dfa380 18538067 ff", 0),
        ("1a45dfa380 18538067 01ffffffffffffff", 0),
        ("1a45dfa380 18538067 00ffffffffffffff", 0),
        ("1a45dfa380 18538067 41", 0),
        ("1a45dfa380 18538067", 0),
        ("1a45dfa380 ec80", 0),
        ("1a45dfa3ff 18538067 85", 0),
        ("00000018 66747970", 0),
        ("", 0),
    ],
)
def test_the_size_that_a_matroska_file_states(start, size):
    assert stated_size(bytes.fromhex(start)) == size


def test_files_that_cannot_be_opened(backend, tmp_path):
    with pytest.raises(DecodeError, match=r"^No such file or directory$"):
        open_video(str(tmp_path / "nowhere.mp4"), backend=backend)
    with pytest.raises(DecodeError, match=r" is a folder, not a file$"):
        open_video(str(tmp_path), backend=backend)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DecodeError, match=r"pipe\.mp4 is a pipe, not a file$"):
        open_video(str(tmp_path / "pipe.mp4"), backend=backend)


@pytest.mark.parametrize("name", ["with space.mp4", "naïve-видео.mp4", "a:b.mp4", "-v.mp4", "100%.mp4", "q?x=1#y.mp4"])
def test_names_of_files(video, backend, name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(video("h264").read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        with open_video(path, backend=backend) as reader:
            assert read_numbers(reader.get([13])) == [13]


@pytest.mark.parametrize("kind", ["h264", "mkv", "mpeg4 avi", "vp9", "ts", "hevc", "mpeg2 ps", "png"])
def test_damage_is_an_error_or_goes_unseen_but_never_worse(video, backend, kind):
    content = video(kind).read_bytes()
    reasons = []
    for seed in range(12 if backend == "av" else 4):
        damaged = _flip(content, seed) if seed % 2 else content[: random.Random(seed).randrange(len(content))]
        try:
            with open_video(damaged, backend=backend, deadline=20) as reader:
                reader.seconds()
                assert reader.get([0, reader.num_frames - 1]).shape[0] == 2
        except DecodeError as error:
            reasons.append(str(error))
    assert all(reason and "\n" not in reason and "Traceback" not in reason for reason in reasons)
    _good_file_is_read(video, backend)


@pytest.mark.parametrize("kind", ["h264", "mkv", "mpeg4 avi"])
def test_damaged_frames_are_refused_and_others_are_not(video, backend, kind):
    """A decoder fills in what it cannot read; frames of other groups of pictures are whole."""
    content = bytearray(video(kind).read_bytes())
    with av.open(str(video(kind))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        place, size = packets[12].pos, packets[12].size  # of a keyframe
        start = content.index(bytes(packets[12])[-40:], place) + 40 - size
    content[start + size // 4 : start + size] = random.Random(5).randbytes(size - size // 4)
    for damaged in ([14], range(FRAMES)):
        with (
            pytest.raises(DecodeError, match=r"^damaged|^(decord|torchcodec): "),
            open_video(bytes(content), backend=backend) as reader,
        ):
            reader.get(damaged)
    with open_video(bytes(content), backend=backend) as reader:
        if backend == "av":
            assert read_numbers(reader.get([0, 5, 11, 24])) == [0, 5, 11, 24]
        if backend != "decord":  # which decodes so far ahead that the damage shows
            assert read_numbers(reader.get([0, 5, 40])) == [0, 5, 40]


@pytest.mark.parametrize("kind", ["h264", "h264, one keyframe", "mkv", "h264 avi"])
def test_a_first_keyframe_that_is_none_is_damage_not_a_shorter_video(video, backend, kind):
    content = bytearray(video(kind).read_bytes())
    with av.open(str(video(kind))) as container:
        first = next(packet for packet in container.demux(video=0) if packet.size)
        start = content.index(bytes(first)[-40:], first.pos) + 40 - first.size
    content[start : start + first.size] = bytes(first.size)
    with pytest.raises(DecodeError), open_video(bytes(content), backend=backend) as reader:
        reader.get([0])


# Backends


def test_unknown_backends():
    with pytest.raises(UserError, match=r"unknown video reader 'ffmpeg': valid: av, decord, torchcodec"):
        check_backend("ffmpeg")
    with pytest.raises(UserError, match=r"video reader 'av' has no option 'threads'"):
        check_backend("av", {"threads": 2})


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """``fake(module, source)``: what helper processes that start from now on import by that name."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(helper, "_idle", {})

    def make(module: str, source: str) -> None:
        path = folder.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))

    return make


def test_a_library_that_is_not_installed(video, fake):
    fake("decord", "raise ModuleNotFoundError(\"No module named 'decord'\")")
    with pytest.raises(
        UserError, match=r"^cannot import the video reader decord \(No module.*pip install 'bsssl\[video\]'"
    ):
        open_video(str(video("h264")), backend="decord")


def test_a_library_that_does_not_work(video, fake):
    fake("torchcodec.__init__", "")
    fake(
        "torchcodec.decoders",
        """
        def VideoDecoder(*_, **__):
            raise RuntimeError("Could not load libtorchcodec. Likely causes:\\n  1. FFmpeg is not properly installed")
        """,
    )
    with pytest.raises(UserError, match=r"^the video reader torchcodec: it does not find .*FFmpeg; install FFmpeg"):
        open_video(str(video("h264")), backend="torchcodec")
    fake("decord", "import os; os.abort()")
    with pytest.raises(UserError, match=r"^the video reader decord: it crashes when it is imported"):
        open_video(str(video("h264")), backend="decord")


FAKE_DECORD = """
    import ctypes, os, signal, numpy
    class logging:
        ERROR = 16
        set_level = staticmethod(print)  # to standard output, as libraries do
    class Batch(list):
        def asnumpy(self):
            return numpy.full((len(self), 4, 6, 3), 9, numpy.uint8)
    class VideoReader:
        def __init__(self, path, **_):
            self._what = path
            self._act("open")
        def __len__(self):
            return 48
        def get_frame_timestamp(self, indices):
            return numpy.array(indices)[:, None] / 25
        def get_batch(self, indices):
            self._act("get")
            return Batch(indices)
        def __del__(self):
            self._act("close")
        def _act(self, when):
            print("opening", self._what, flush=True)
            if f"hang-{when}" in self._what:
                open(self._what + ".hangs", "w").close()
                ctypes.PyDLL(None).sleep(HANG)  # with the interpreter locked
            if f"crash-{when}" in self._what:
                os.kill(os.getpid(), signal.SIGSEGV)
""".replace("HANG", f"{HANG:.0f}")


@pytest.mark.parametrize("when", ["open", "get"])
@pytest.mark.parametrize("what", ["hang", "crash"])
def test_libraries_that_hang_or_crash(video, fake, tmp_path, what, when):
    fake("decord", FAKE_DECORD)
    bad, good = tmp_path / f"{what}-{when}.mp4", tmp_path / "good.mp4"
    for path in (bad, good):
        path.write_bytes(video("h264").read_bytes())
    reason, deadline = ("decoding took longer than 0.5 s", 0.5) if what == "hang" else ("the decoder crashed", PATIENCE)
    start = time.monotonic()
    with (
        pytest.raises(DecodeError, match=f"^{reason}$"),
        open_video(str(bad), backend="decord", deadline=deadline) as reader,
    ):
        reader.get([0])
    assert time.monotonic() - start < HANG
    with open_video(str(good), backend="decord") as reader:
        assert (reader.get([0, 5]) == 9).all()


def test_a_crash_while_closing_spares_the_next_video(video, fake, tmp_path):
    fake("decord", FAKE_DECORD)
    bad, good = tmp_path / "crash-close.mp4", tmp_path / "good.mp4"
    for path in (bad, good):
        path.write_bytes(video("h264").read_bytes())
        with open_video(str(path), backend="decord") as reader:
            assert len(reader.get([0])) == 1


def test_decord_on_a_stream_on_which_it_hangs(loadable, tmp_path, monkeypatch):
    loadable("decord")
    path = write_video(tmp_path / "a.ts", frames=200, options={"g": "250", "bf": "3"}, width=128, height=96, noise=8)
    with pytest.raises(DecodeError, match=r"^decord takes one frame for another in such files \(mpegts\)"):
        open_video(str(path), backend="decord")
    monkeypatch.setattr(PyavReader, "kind", "mov")  # so that it is tried
    with (
        pytest.raises(DecodeError, match=r"^decoding took longer than 2 s$|^decord: .*Unable to handle EOF"),
        open_video(str(path), backend="decord", deadline=2) as reader,
    ):
        reader.get([100, 102])


def test_a_helper_outlives_videos_but_neither_its_death_nor_a_broken_read(video, loadable):
    loadable("decord")
    path = str(video("h264"))
    with open_video(path, backend="decord") as reader:
        process = reader._helper._process
        reader.get([0])
    with open_video(path, backend="decord") as reader:
        assert reader._helper._process is process
        unfinished = reader._pictures([0, 1, 2])
        next(unfinished)
    assert process.returncode is not None  # pictures were on their way
    with open_video(path, backend="decord") as reader:
        process = reader._helper._process
    process.kill()
    process.wait()
    _good_file_is_read(video, "decord")


def test_temporary_files_are_removed(video, backend, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_video(video("h264").read_bytes(), backend=backend) as reader:
        reader.get([1])
        assert len(list(tmp_path.iterdir())) == (backend != "av")
    with pytest.raises(DecodeError):
        open_video(b"no video", backend=backend)
    assert list(tmp_path.iterdir()) == []


# Time


def test_the_deadline_covers_opening_and_reading(video, backend):
    path = str(video("h264"))
    with pytest.raises(DecodeError, match=r"^decoding took longer than 1e-06 s$"):
        open_video(path, backend=backend, deadline=1e-6)
    with open_video(path, backend=backend, deadline=PATIENCE) as reader:
        reader._clock._left = 1e-6
        with pytest.raises(DecodeError, match=rf"^decoding took longer than {PATIENCE:g} s$"):
            reader.get([40])
    _good_file_is_read(video, backend)


def test_the_time_between_calls_does_not_count(video):
    with open_video(str(video("h264")), deadline=PATIENCE) as reader:
        before = reader._clock._left
        time.sleep(0.2)
        begun = time.monotonic()
        reader.get([0])
        assert before - reader._clock._left <= time.monotonic() - begun


# Processes


class Numbers:
    """A dataset: the numbers in three frames of each video."""

    def __init__(self, paths: list[str], backend: str) -> None:
        self.paths, self.backend = paths, backend

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[list[int], str]:
        try:
            with open_video(self.paths[row], backend=self.backend, deadline=PATIENCE) as reader:
                return read_numbers(reader.get([0, 20, 47])), ""
        except DecodeError as error:
            return [], str(error)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("backend", ["av", "decord"])
def test_in_workers_of_a_loader(video, bad, loadable, backend, method):
    loadable(backend)
    _good_file_is_read(video, backend)  # what this process has must not be used by those forked from it
    paths = [str(video("h264")), bad("text"), str(video("vp9")), str(video("h264"))]
    workers = 2 if method == "fork" else 1
    loader = DataLoader(
        Numbers(paths, backend), num_workers=workers, batch_size=None, multiprocessing_context=method, timeout=PATIENCE
    )
    right = ([0, 20, 47], "")
    assert [tuple(item) for item in loader] == [right, ([], "not a video, or damaged"), right, right]
    _good_file_is_read(video, backend)


def _report_helper(path: str, connection: Any) -> None:
    reader = open_video(path, backend="decord", deadline=PATIENCE)
    connection.send(reader._helper._process.pid)
    reader._clock._left = 2.0  # after which a helper that hangs ends
    reader.get([0])
    Path(f"{path}.idles").touch()
    time.sleep(HANG)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "hanging"])
def test_a_helper_ends_with_its_parent(video, fake, tmp_path, busy):
    fake("decord", FAKE_DECORD)
    path = tmp_path / ("hang-get.mp4" if busy else "good.mp4")
    path.write_bytes(video("h264").read_bytes())
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=_report_helper, args=(str(path), theirs))
    parent.start()
    assert ours.poll(PATIENCE)
    pid = ours.recv()
    wait_until(Path(f"{path}.hangs" if busy else f"{path}.idles").exists)
    parent.kill()
    parent.join()
    wait_until(lambda: not _is_running(pid))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_from_several_threads(video, backend):
    """Each thread its own reader."""
    found: list[list[int]] = []

    def read(first: int) -> None:
        with open_video(str(video("h264")), backend=backend) as reader:
            found.append(read_numbers(reader.get([first, first + 20])))

    threads = [threading.Thread(target=read, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [[0, 20], [1, 21], [2, 22]]


def _usage(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, threads and descriptors of a process."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list((process / "task").iterdir())),
        len(list((process / "fd").iterdir())),
    )


def test_the_frames_of_a_long_video_are_listed_once(video, backend, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "long.mkv"
    path.write_bytes(video("mkv").read_bytes())
    with open_video(str(path), backend=backend):
        assert not (tmp_path / "cache").exists()  # it is short
    monkeypatch.setattr(index, "_WORTH_KEEPING", FRAMES)
    lists, read = [], PyavReader._list_frames
    monkeypatch.setattr(PyavReader, "_list_frames", lambda reader: lists.append(1) or read(reader))
    numbers = [40, 3, 17]

    def shown() -> tuple[list[int], int]:
        with open_video(str(path), backend=backend) as reader:
            np.testing.assert_allclose(reader.seconds(), np.arange(FRAMES) / 25, atol=1e-3)
            return read_numbers(reader.get(numbers)), len(lists)

    assert [shown() for _ in range(3)] == [(numbers, 1)] * 3
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    content = kept.read_bytes()
    overwritten = [content[:place] + bytes(20) + content[place + 20 :] for place in range(0, len(content) - 20, 20)]
    for damaged in (content[:-30], b"", b"PK\3\4 none", b"\x93NUMPY\1\0none"):
        lists.clear()
        kept.write_bytes(damaged)
        assert shown() == (numbers, 1)
    for damaged in overwritten:
        kept.write_bytes(damaged)
        index.read_index(str(kept))  # nothing is raised
    path.write_bytes(video("vp8").read_bytes())  # the file is another one now
    assert shown() == (numbers, 2)


def test_a_file_that_changes_while_its_frames_are_listed(video, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "_WORTH_KEEPING", 1)
    path = write_video(tmp_path / "changing.mkv", frames=12)
    listed = PyavReader._list_frames

    def list_and_change(reader):
        frames = listed(reader)
        path.write_bytes(video("mkv").read_bytes())
        return frames

    with monkeypatch.context() as patched:
        patched.setattr(PyavReader, "_list_frames", list_and_change)
        with open_video(str(path)) as reader:
            assert reader.num_frames == 12
    with open_video(str(path)) as reader:
        assert reader.num_frames == FRAMES


def test_where_no_list_can_be_kept(video, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "_WORTH_KEEPING", FRAMES)
    with open_video(str(video("h264"))) as reader:
        assert read_numbers(reader.get([7])) == [7]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_grows(video, bad, backend):
    good, broken = str(video("h264")), bad("cut")

    def read_many(times: int) -> list[int]:
        pids = [os.getpid()]
        for turn_number in range(times):
            with open_video(good, backend=backend) as reader:
                reader.get([turn_number % FRAMES])
                if backend != "av":
                    pids[1:] = [reader._helper._process.pid]
            if turn_number % 5 == 0:
                with pytest.raises(DecodeError):
                    open_video(broken, backend=backend)
        return pids

    before = [_usage(pid) for pid in read_many(100)]
    after = [_usage(pid) for pid in read_many(500)]
    for (memory, threads, descriptors), (memory_now, threads_now, descriptors_now) in zip(before, after, strict=True):
        assert memory_now - memory < 8
        assert threads_now <= threads and descriptors_now <= descriptors


def test_a_packet_without_a_frame_at_the_time_of_another(tmp_path):
    path = write_video(tmp_path / "video.mp4", frames=12)
    with open_video(str(path)) as video:
        assert len(video._count_frames([0, *range(12)], packets=13).seconds) == video.num_frames == 12
