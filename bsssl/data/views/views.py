"""From an item's file to the network's inputs: one view of an image, one or more clips of a video."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bsssl.data.decoding.pictures import MAX_ASPECT, MAX_PIXELS, DecodeError, decode_image
from bsssl.data.decoding.readers import VideoReader, open_video
from bsssl.data.views.transforms import Transform

Segment = tuple[float | None, float | None]  # start and end, seconds; None: of the file
REPLACEMENTS = 10
_ROUNDING = 1e-4  # seconds; times are written with a few decimals


class Views(ABC):
    """Makes the views of an item: uint8 (3, H, W), or (3, T, H, W) for video, all of the same shape."""

    count = 1
    """views per item"""
    item, unit = "image", "view"
    """what an item, and one of its views, are called in results"""
    reads_files = False
    """whether it would rather have the path of a local file than its content"""
    replacements = 0
    """how many other items may be tried, in training, in the place of one that cannot be read"""

    @abstractmethod
    def __call__(self, source: bytes | str, segment: Segment) -> list[Tensor]:
        """Return the views of the item with the content, or in the file, ``source``; DecodeError if it has none.

        What is random about them is drawn from torch's default generator.
        """


class ImageViews(Views):
    """The picture as ``transform`` has it. An unreadable one is not replaced: a batch is then smaller."""

    def __init__(self, transform: Transform, *, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT) -> None:
        self._transform, self._max_pixels, self._max_aspect = transform, max_pixels, max_aspect

    @override
    def __call__(self, source: bytes | str, segment: Segment) -> list[Tensor]:
        # Pictures have no segments.
        assert isinstance(source, bytes)
        return [self._transform(decode_image(source, max_pixels=self._max_pixels, max_aspect=self._max_aspect))]


class ClipViews(Views):
    """Clips of ``frames`` frames, ``stride`` apart; ``transform`` sees all frames of a clip alike.

    Frames are those of the video, by number. With ``fps`` they are what is on the screen so many times a second,
    whatever the rate of the video: some of its frames are passed over, or come more than once.

    ``count`` clips are spread evenly over the video, the first and the last frame included; a single one is in its
    middle. With ``also`` each is there several times, cut by one transform after the other. With ``count`` None there
    is one clip, from a random place, whose stride is drawn from within ``stride_jitter`` of ``stride``. A video that is
    too short repeats its last frame.

    Args:
        transform: uint8 (T, 3, H, W) to (T, 3, size, size).
        also: further such transforms, of evenly spread clips.
        frames: T, of a clip.
        stride: from one frame of a clip to the next, in frames.
        fps: frames per second, or None for those that the video has.
        stride_jitter: of random clips.
        count: evenly spread clips, or None for a random one.
        reader: the name of a reader of ``VIDEO_READERS``.
        reader_options: further arguments of the reader.
        deadline: seconds after which reading a video is given up.
        max_pixels: videos with larger pictures are refused.
    """

    item, unit = "video", "clip"
    reads_files = True

    def __init__(
        self,
        transform: Transform,
        *,
        also: Sequence[Transform] = (),
        frames: int,
        stride: int,
        fps: float | None = None,
        stride_jitter: int = 0,
        count: int | None = None,
        reader: str = "av",
        reader_options: Mapping[str, Any] | None = None,
        deadline: float = 60.0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._places = count or 1
        self.count = self._places * (1 + len(also))
        if also:
            self.unit = "view"
        # Batches of clips are small; without this an unreadable video would leave a process with nothing to train on.
        self.replacements = REPLACEMENTS if count is None else 0
        self._random = count is None
        self._transforms, self._frames = (transform, *also), frames
        self._stride, self._stride_jitter, self._fps = stride, stride_jitter, fps
        self._open = partial(
            open_video, backend=reader, options=reader_options, deadline=deadline, max_pixels=max_pixels
        )

    @override
    def __call__(self, source: bytes | str, segment: Segment) -> list[Tensor]:
        with self._open(source) as video:
            clips = self._clips_of(video, segment)
            frames, places = np.unique(clips, return_inverse=True)
            # Every frame once, however many clips have it. What is not random can be done to some frames at a time, so
            # that the pictures of a large video are not all in memory.
            pixels = torch.from_numpy(video.get(frames.tolist(), None if self._random else self._shrink))
        if self._random:
            pixels = self._transforms[0](pixels.movedim(-1, 1)).movedim(1, -1)
        squares = pixels.movedim(-1, 0)
        squares = squares.reshape(-1, 3, *squares.shape[1:])
        return [square[:, torch.from_numpy(clip)] for square in squares for clip in places.reshape(clips.shape)]

    def _clips_of(self, video: VideoReader, segment: Segment) -> np.ndarray:
        """Return the numbers (count, T) of the video's frames that the clips are made of."""
        if self._fps is None and segment == (None, None):
            return self._chosen(video.num_frames)
        seconds = video.seconds()
        first, end = frame_range(seconds, segment)
        if self._fps is None:
            return first + self._chosen(end - first)
        began = seconds[first]
        chosen = self._chosen(max(1, int((_shown_until(seconds, end) - began + _ROUNDING) * self._fps)))
        shown: np.ndarray = np.searchsorted(seconds[:end], began + chosen / self._fps + _ROUNDING, "right") - 1
        return shown

    def _chosen(self, length: int) -> np.ndarray:
        """Return frame numbers (count, T) of clips out of ``length`` frames."""
        return self._random_clip(length) if self._random else self._even_clips(length)

    def _shrink(self, pictures: np.ndarray) -> np.ndarray:
        """Return what each transform makes of frames (N, H, W, 3), side by side: (N, size, size, 3 for each)."""
        frames = torch.from_numpy(pictures).movedim(-1, 1)
        shrunk: np.ndarray = torch.cat([cut(frames) for cut in self._transforms], dim=1).movedim(1, -1).numpy()
        return shrunk

    def _random_clip(self, length: int) -> np.ndarray:
        """Frame numbers (1, T) of a clip from anywhere in ``length`` frames."""
        jitter = int(torch.randint(-self._stride_jitter, self._stride_jitter + 1, ()))
        stride = max(1, self._stride + jitter)
        start = int(torch.randint(max(length - self._span(stride), 0) + 1, ()))
        return self._clips([start], stride, length)

    def _even_clips(self, length: int) -> np.ndarray:
        """Frame numbers (count, T) of clips spread over ``length`` frames."""
        room = max(length - self._span(self._stride), 0)
        starts = np.rint(np.linspace(0, room, self._places) if self._places > 1 else [room / 2]).astype(int)
        return self._clips(starts.tolist(), self._stride, length)

    def _span(self, stride: int) -> int:
        return (self._frames - 1) * stride + 1

    def _clips(self, starts: Sequence[int], stride: int, length: int) -> np.ndarray:
        return np.minimum(np.add.outer(starts, stride * np.arange(self._frames)), length - 1)


def make_views(transform: Transform, *, max_pixels: int, clips: Mapping[str, Any] | None) -> Views:
    """Return views of images, or of videos if ``clips`` has the arguments of ``ClipViews``."""
    if clips is None:
        return ImageViews(transform, max_pixels=max_pixels)
    return ClipViews(transform, max_pixels=max_pixels, **clips)


def _shown_until(seconds: np.ndarray, end: int) -> float:
    """Return when the last of the frames before ``end`` is no longer shown; the last of all is as long as is usual."""
    if end < len(seconds):
        return float(seconds[end])
    return float(seconds[-1] + (np.median(np.diff(seconds)) if len(seconds) > 1 else 0.0))


def frame_range(seconds: np.ndarray, segment: Segment) -> tuple[int, int]:
    """First frame of a segment and the one after its last; what is on the screen throughout, if none begins in it."""
    start, end = segment
    first = 0 if start is None else int(np.searchsorted(seconds, start - _ROUNDING))
    after = len(seconds) if end is None else int(np.searchsorted(seconds, end - _ROUNDING))
    if first == after and 0 < first < len(seconds):
        return first - 1, first
    if first >= after:
        raise DecodeError(f"no frame from {start or 0:g} s to {seconds[-1] if end is None else end:g} s")
    return first, after
