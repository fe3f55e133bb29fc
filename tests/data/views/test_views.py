"""Which frames make up the clips of a video, told from pictures whose brightness is their number."""

from functools import partial

import numpy as np
import pytest
import torch

from bsssl.data.decoding.pictures import DecodeError
from bsssl.data.decoding.readers import check_backend, open_video
from bsssl.data.loading.dataset import ItemDataset
from bsssl.data.records import Records
from bsssl.data.views import views as views_module
from bsssl.data.views.transforms import test_transform as make_test_transform
from bsssl.data.views.views import ClipViews
from bsssl.errors import UserError
from bsssl.registry import VIDEO_READERS
from bsssl.stages.seen import TestView
from tests.data.videos import read_numbers, write_video

WHOLE = (None, None)


class Counted:
    """A video of ``num_frames`` frames at 10 per second, read as files are; frame n has the grey level n."""

    def __init__(self, num_frames):
        self.num_frames = num_frames

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def seconds(self):
        return np.arange(self.num_frames) / 10

    def get(self, indices, each=None):
        assert sorted(set(indices)) == list(indices) and indices[0] >= 0 and indices[-1] < self.num_frames
        frames = np.broadcast_to(np.array(indices, np.uint8)[:, None, None, None], (len(indices), 4, 6, 3)).copy()
        return frames if each is None else each(frames)


@pytest.fixture
def clips_of(monkeypatch):
    def clips_of(num_frames, segment=WHOLE, **options):
        monkeypatch.setattr(views_module, "open_video", lambda source, **_: Counted(num_frames))
        clips = ClipViews(lambda frames: frames, **options)(b"", segment)
        assert all(clip.shape == (3, options["frames"], 4, 6) and clip.dtype == torch.uint8 for clip in clips)
        return [clip[0, :, 0, 0].tolist() for clip in clips]

    return clips_of


def test_even_clips_reach_from_the_first_frame_to_the_last(clips_of):
    clips = clips_of(100, frames=4, stride=3, count=10)
    assert [clip[0] for clip in clips] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert clips[-1] == [90, 93, 96, 99]


def test_a_single_clip_is_in_the_middle(clips_of):
    assert clips_of(21, frames=5, stride=2, count=1) == [[6, 8, 10, 12, 14]]


def test_a_short_video_repeats_its_last_frame(clips_of):
    assert clips_of(3, frames=5, stride=1, count=2) == [[0, 1, 2, 2, 2]] * 2
    assert clips_of(1, frames=4, stride=2) == [[0, 0, 0, 0]]


def test_a_segment_is_all_that_is_seen(clips_of):
    assert clips_of(100, (2.0, 3.0), frames=2, stride=1, count=3) == [[20, 21], [24, 25], [28, 29]]
    assert clips_of(100, (9.5, None), frames=8, stride=1, count=1) == [[95, 96, 97, 98, 99, 99, 99, 99]]
    assert clips_of(100, (None, 0.3), frames=3, stride=1, count=1) == [[0, 1, 2]]
    assert clips_of(100, (2.02, 2.08), frames=2, stride=1, count=1) == [[20, 20]]  # on the screen throughout
    with pytest.raises(DecodeError, match=r"no frame from 12 s"):
        clips_of(100, (12.0, None), frames=3, stride=1, count=1)


def test_random_clips_come_from_anywhere_and_vary_in_stride(clips_of):
    torch.manual_seed(0)
    clips = [clips_of(50, frames=4, stride=3, stride_jitter=1)[0] for _ in range(400)]
    strides = {clip[1] - clip[0] for clip in clips}
    assert strides == {2, 3, 4}
    assert all(np.ptp(np.diff(clip)) == 0 for clip in clips)
    assert min(clip[0] for clip in clips) == 0 and max(clip[-1] for clip in clips) == 49


def test_random_clips_follow_from_the_generator_alone(clips_of):
    def draw():
        torch.manual_seed(5)
        return clips_of(50, frames=4, stride=2)

    assert draw() == draw()


def test_clips_that_do_not_depend_on_chance_are_the_same_some_frames_at_a_time(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=20, width=96, height=64))
    transform = make_test_transform(size=24, resize=30)
    [clip] = ClipViews(transform, frames=20, stride=1, count=1)(path, WHOLE)
    with open_video(path) as video:
        whole = transform(torch.from_numpy(video.get(range(20))).movedim(-1, 1))
    assert torch.equal(clip, whole.movedim(1, 0))


TIMES = {
    "24": np.arange(48) / 24,
    "25": np.arange(50) / 25,
    "30": np.arange(60) / 30,
    "60": np.arange(120) / 60,
    "12.5 and 50": np.concatenate([np.arange(12) / 12.5, 0.96 + np.arange(52) / 50]),
}


@pytest.mark.parametrize("reader", ["av", "decord", "torchcodec"])
@pytest.mark.parametrize("rate", TIMES)
def test_frames_by_the_clock(tmp_path, rate, reader):
    """A clip of two seconds at 20 frames a second is what is on the screen then, told by a counter in the pixels."""
    try:
        check_backend(reader)
    except UserError as error:
        pytest.skip(str(error))
    times = TIMES[rate]
    path = str(write_video(tmp_path / "a.mp4", frames=len(times), seconds=times))
    views = ClipViews(lambda frames: frames, frames=40, stride=1, fps=20, count=1, reader=reader)
    [clip] = views(path, WHOLE)
    seen = read_numbers(clip.movedim(0, -1).numpy())
    assert seen == [int(np.flatnonzero(times <= tick / 20 + 1e-3)[-1]) for tick in range(40)]


def test_frames_by_the_clock_of_a_segment_and_of_a_slow_video(clips_of):
    """Videos of 10 frames a second."""
    assert clips_of(100, (2.0, 3.0), frames=2, stride=2, fps=5, count=2) == [[20, 24], [24, 28]]
    assert clips_of(4, frames=8, stride=1, fps=20, count=1) == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert clips_of(4, frames=10, stride=1, fps=20, count=1)[0][-3:] == [3, 3, 3]
    assert clips_of(1, frames=2, stride=1, fps=1, count=1) == [[0, 0]]
    assert clips_of(100, frames=3, stride=1, fps=0.25, count=1) == [[0, 40, 40]]


def test_each_clip_is_cut_in_several_places(tmp_path):
    """Of a wide video, with a red bar at the left, a green one in the middle and a blue one at the right."""
    path = str(write_video(tmp_path / "a.mp4", frames=8, width=96, height=32))
    seen = TestView.model_validate(
        {
            "max_pixels": 10**6,
            "clips": {"frames": 2, "stride": 1, "reader": "av", "count": 2, "crops": 3},
            "transforms": {"size": 32, "resize": 32, "mean": (0, 0, 0), "std": (1, 1, 1)},
        }
    ).views(deadline=60.0)
    views = seen(path, WHOLE)
    assert (seen.count, seen.unit, len(views)) == (6, "view", 6)
    assert [int(view[:, 0, 16, 16].argmax()) for view in views] == [0, 0, 1, 1, 2, 2]
    left, right = views[0], views[4]
    assert not torch.equal(views[0], views[1]) and left.shape == right.shape == (3, 2, 32, 32)


def test_squares_along_the_longer_side():
    left, middle, right = (make_test_transform(size=4, resize=4, place=place) for place in (0.0, 0.5, 1.0))
    wide = torch.arange(12).expand(1, 3, 4, 12).to(torch.uint8)
    assert [cut(wide)[0, 0, 0, 0].item() for cut in (left, middle, right)] == [0, 4, 8]
    assert [cut(wide.mT)[0, 0, 0, 0].item() for cut in (left, middle, right)] == [0, 4, 8]


def test_large_pictures_are_refused(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", frames=2, width=96, height=64))
    with pytest.raises(DecodeError, match=r"96 x 64 pixels"):
        ClipViews(make_test_transform(size=8), frames=2, stride=1, max_pixels=96 * 63)(path, WHOLE)


def test_an_offset_without_a_size_goes_to_the_end_of_the_file(tmp_path):
    first = write_video(tmp_path / "first.mp4", frames=4)
    second = write_video(tmp_path / "second.mp4", frames=9)
    both = tmp_path / "both.bin"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    records = Records.from_columns(key=["second"], path=[str(both)], offset=[first.stat().st_size], size=[-1])
    seen = ItemDataset(records, views=ClipViews(make_test_transform(size=16), frames=9, stride=1, count=1))[0]
    wanted = ClipViews(make_test_transform(size=16), frames=9, stride=1, count=1)(str(second), WHOLE)
    assert torch.equal(seen[0]["input"], wanted[0])


def test_a_reader_of_a_plugin(monkeypatch, tmp_path):
    monkeypatch.setattr(VIDEO_READERS, "_parts", dict(VIDEO_READERS._parts))

    @VIDEO_READERS.register("counted")
    def counted(source, *, deadline, max_pixels, num_frames=9):
        assert source == b"film" and deadline == 5 and max_pixels == 100
        return Counted(num_frames)

    check_backend("counted", {"num_frames": 20})
    with pytest.raises(UserError, match="video reader 'counted' has no option 'frames'"):
        check_backend("counted", {"frames": 20})
    make = partial(ClipViews, make_test_transform(size=2), frames=4, stride=1, count=1, reader="counted")
    for options, first in ((None, 2), ({"num_frames": 20}, 8)):
        (clip,) = make(reader_options=options, deadline=5, max_pixels=100)(b"film", WHOLE)
        assert clip[0, :, 0, 0].tolist() == [first, first + 1, first + 2, first + 3]
