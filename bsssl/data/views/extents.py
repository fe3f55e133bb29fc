"""How large an item is, found by decoding it."""

from dataclasses import dataclass

from bsssl.data.decoding.pictures import decode_image
from bsssl.data.decoding.readers import open_video
from bsssl.data.records import Record
from bsssl.data.segments import split_segment
from bsssl.data.views.thumbnails import reading, video_of
from bsssl.data.views.views import frame_range


@dataclass(frozen=True)
class Extent:
    """The size of a picture, or of a video or its segment."""

    width: int
    height: int
    frames: int = 1

    @property
    def side(self) -> int:
        """The shorter side, pixels."""
        return min(self.width, self.height)


def extent_of(record: Record, *, videos: bool) -> Extent:
    """Return the size of an item; a picture is decoded as a whole, of a video its list of frames and one of them.

    Raises:
        Unreadable: The item is gone, or cannot be decoded.
    """
    with reading():
        if not videos:
            _, height, width = decode_image(record.read()).shape
            return Extent(width, height)
        with open_video(video_of(record)) as video:
            first, after = frame_range(video.seconds(), split_segment(record.path)[1:])
            _, height, width, _ = video.get([(first + after) // 2]).shape
            return Extent(width, height, after - first)
