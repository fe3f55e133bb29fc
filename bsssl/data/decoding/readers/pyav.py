"""Videos by PyAV, which brings its own FFmpeg: the reader that is right on every kind of file we know of."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from bsssl.data.decoding.pictures import MAX_ASPECT, MAX_PIXELS, DecodeError, check_size
from bsssl.data.decoding.readers.base import Clock, VideoReader
from bsssl.data.decoding.readers.index import FrameIndex, index_place, keep_index, read_index
from bsssl.data.decoding.readers.matroska import broken_at, stated_size
from bsssl.errors import UserError
from bsssl.storage import open_file

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

# No playlists and no scripts: they would have other files opened, and addresses called.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h263,h264,hevc,vvc,obu,av1,ivf,flv,asf,ogg,"
    "mxf,dv,rm,nut,wtv,gif,apng,mjpeg,yuv4mpegpipe,swf,nsv,roq,smk"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_WORTH_A_SEEK = 4  # frames, which decode in the time of a seek
_ASSUMED_RATE = 25  # frames a second, of what has neither times nor a rate
_START = 1024  # bytes, in which a file states its size


def require_av() -> None:
    """Refuse to go on without PyAV.

    Raises:
        UserError: It is not installed, or does not work.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(f"cannot import PyAV, which reads videos ({error}): pip install 'bsssl[video]'") from None


class PyavReader(VideoReader):
    """Opens a video, a path or its bytes, and lists its frames, for which all packets are read but none is decoded.

    The list of a long file is kept in the user's cache for the next time that it is opened.

    A frame is known by its time stamp. The decoder starts at the keyframe before the first wanted frame, and again
    where a later keyframe saves work; frames that no other needs are decoded only if wanted. Where a frame does not
    come out (the keyframe was none, or the seek went astray), the keyframe before is tried, and last the whole video.

    Where time stamps are missing, double or made up, as for H.264 with B-frames in AVI, frames are counted: the video
    is decoded once when it is opened, and again from its start for every ``get``.

    A file that ends within a frame is refused; one cut elsewhere is as long as what is left of it. Of Matroska and WebM
    FFmpeg leaves out unseen what is damaged and what the last frame lacks: unless they do not state their size, being
    live streams, they are refused wherever they are cut, and where their frames do not follow each other. What a
    decoder had to guess is refused too, but not all damage is seen by it.
    Transparency is ignored. A frame of another size than the first is scaled.

    The decoder has one thread: with more it takes half as much again of the processors' time, and there are workers.
    """

    def __init__(self, source: str | bytes, clock: Clock, *, max_pixels: int = MAX_PIXELS) -> None:
        require_av()
        self._source, self._clock, self._max_pixels = source, clock, max_pixels
        with clock, self._reasons("not a video, or damaged"):
            # Where the list is kept is said by what the file is before it is read: it may change meanwhile.
            place = None if isinstance(source, bytes) else index_place(source)
            known = None if place is None else read_index(place)
            if known is None:
                with _content(source) as content:
                    _refuse_unwhole(content)
            self._open()
            try:
                self.index = known or self._list_frames()
            except BaseException:
                self.close()
                raise
        if known is None and place is not None:
            keep_index(place, self.index)
        self.num_frames = len(self.index.seconds)

    @property
    def kind(self) -> str:
        """The container, as FFmpeg names it."""
        return str(self._container.format.name)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as the file states them, before any turning."""
        return self._size

    @override
    def seconds(self) -> np.ndarray:
        # Counted frames without times are evenly spaced.
        return self.index.seconds

    @override
    def close(self) -> None:
        self._container.close()

    @contextlib.contextmanager
    def _reasons(self, invalid: str) -> Iterator[None]:
        """Turn FFmpeg's errors into DecodeErrors; ``invalid`` is what to call data that makes no sense."""
        from av.error import ExitError, FFmpegError, InvalidDataError

        try:
            yield
        except InvalidDataError:
            raise DecodeError(invalid) from None
        except ExitError:
            raise self._clock.error() from None
        except FFmpegError as error:
            raise DecodeError(f"{invalid} ({error.strerror})") from None

    def _open(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        # A path with a colon would be taken for an address.
        file = io.BytesIO(self._source) if isinstance(self._source, bytes) else f"file:{self._source}"
        version = int(av.__version__.split(".")[0])
        # Metadata can be in any encoding, which PyAV has to be told before version 19.
        lenient: dict[str, Any] = {"metadata_errors": "replace"} if version < 19 else {}
        # The time limit is for one packet, which may be sought through a whole file.
        self._container = av.open(file, "r", options=_OPTIONS, timeout=self._clock.left(), **lenient)
        try:
            self._stream = self._find_stream()
        except BaseException:
            self._container.close()
            raise
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1
        self._size = self._codec.width, self._codec.height
        self._reformatter = VideoReformatter()
        # For small pictures more than one thread takes longer. PyAV before 17 has but one.
        self._one_thread = {"threads": 1} if version >= 17 else {}
        self._turns: int | None = None

    def _find_stream(self) -> Any:
        """Return the first video stream, if it can be decoded."""
        from av.stream import Disposition

        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise DecodeError("there is no video in it" + (", only sound" if self._container.streams.audio else ""))
        if (codec := streams[0].codec_context) is None:
            raise DecodeError("no decoder for its video codec")
        check_size(codec.width, codec.height, self._max_pixels, MAX_ASPECT)
        return streams[0]

    def _packets(self) -> "Iterator[Packet[Any]]":
        """Yield the packets from where the container is, in the order in which they are stored."""
        for packet in self._container.demux(self._stream):
            self._clock.left()
            if packet.size:
                yield packet
            elif packet.dts is None:  # PyAV's mark of the end; else the place of a frame that was dropped
                return

    def _list_frames(self) -> FrameIndex:
        stamps: list[int] = []
        positions: list[int] = []
        keys: list[tuple[int, int, int]] = []  # time stamp, position, where to seek
        position, without, cut = -1, 0, False
        opening: tuple[int | None, ...] = ()  # the times of the first packet
        by_dts = self.kind in ("mpegts", "mpeg")  # containers that are searched by decoding times
        for position, packet in enumerate(self._packets()):
            stamp, cut = packet.pts, packet.is_corrupt
            opening = opening or (packet.dts, packet.pts)
            if packet.is_keyframe and stamp is not None:
                keys.append((stamp, position, packet.dts if by_dts and packet.dts is not None else stamp))
            if cut or packet.is_discard:  # what an edit list hides
                continue
            if stamp is None:
                without += 1
            else:
                stamps.append(stamp)
                positions.append(position)
        if cut:
            raise DecodeError(f"cut short after {position} frames")
        if not stamps and not without:
            raise DecodeError("no frames in it")
        packets = position + 1
        if without or not keys or len(set(stamps)) < len(stamps) or self._are_made_up(stamps):
            return self._count_frames(stamps, packets)
        # Without the first keyframe nothing can be decoded: neither what precedes it nor what leads up to it.
        start, first, _ = min(keys, key=lambda key: key[1])
        if first and self._has_keyframe_at(opening):
            raise DecodeError("damaged at frame 0")
        shown = [(s, p) for s, p in zip(stamps, positions, strict=True) if s >= start and p >= first]
        if not shown:
            raise DecodeError("no frame in it can be decoded")
        by_time, places = np.array(sorted(shown), np.int64).T
        seconds = (by_time - by_time[0]) * float(self._stream.time_base)
        return FrameIndex(seconds, by_time, places, np.array(sorted(keys), np.int64), np.array(packets))

    def _has_keyframe_at(self, times: tuple[int | None, ...]) -> bool:
        """Return whether by the file's own account, not its packets', its first keyframe is at one of ``times``.

        Older versions of PyAV do not tell that account.
        """
        account: Any = getattr(self._stream, "index_entries", ())
        return len(account) > 0 and account[0].is_keyframe and account[0].timestamp in times

    def _are_made_up(self, stamps: list[int]) -> bool:
        """Whether time stamps in the order of packets say nothing of the order of frames.

        AVI has no time stamps. FFmpeg makes them right for MPEG-4; for what else has B-frames it counts packets, and so
        it does for H.264 in MXF.
        """
        return self.kind in ("avi", "mxf") and self._codec.reorder_depth > 0 and stamps == sorted(stamps)

    def _count_frames(self, stamps: list[int], packets: int) -> FrameIndex:
        """Return the list of what can only be counted, ``stamps`` being the time stamps that there are."""
        frames = sum(1 for _ in self._all_frames())
        if not frames:
            raise DecodeError("no frame in it can be decoded")
        times = np.unique(stamps)
        if len(times) == frames:  # made up for the packets, but they are those of the frames
            seconds = (times - times[0]) * float(self._stream.time_base)
        else:
            seconds = np.arange(frames) / float(self._stream.guessed_rate or _ASSUMED_RATE)
        nothing = np.empty(0, np.int64)
        return FrameIndex(seconds, nothing, nothing, np.empty((0, 3), np.int64), np.array(packets))

    def _pictures(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        with self._clock, self._reasons("damaged"):
            if self.index.is_counted:
                yield from self._by_count(indices)
                return
            for keyframe, wanted in self._stretches(indices):
                yield from self._by_stamp(keyframe, wanted)

    def _by_count(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted = set(indices)
        for index, frame in enumerate(self._all_frames()):
            _refuse_guesses(index, frame)
            if index in wanted:
                yield index, self._picture(frame)
            if index == indices[-1]:
                return
        raise DecodeError("the file changed while it was read")

    def _stretches(self, indices: list[int]) -> list[tuple[int, dict[int, int]]]:
        """Return what to decode without a break: a keyframe, and the wanted frames by their time stamps."""
        stretches: list[tuple[int, dict[int, int]]] = []
        end = -1  # position of the last packet of the last stretch
        keyframes = np.searchsorted(self.index.keys[:, 0], self.index.stamps[indices], "right") - 1
        for index, keyframe in zip(indices, keyframes.tolist(), strict=True):
            if not stretches or self.index.keys[keyframe, 1] > end + _WORTH_A_SEEK:
                stretches.append((keyframe, {}))
            stretches[-1][1][int(self.index.stamps[index])] = index
            end = max(end, self.index.positions[index])
        return stretches

    def _by_stamp(self, keyframe: int, wanted: dict[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the frames ``wanted``, which is emptied, from a keyframe on, or an earlier one if they do not come."""
        from av.error import FFmpegError

        for start in dict.fromkeys((keyframe, max(keyframe - 1, 0))):
            with contextlib.suppress(FFmpegError, _Guessed):
                for frame in self._from_keyframe(start, wanted):
                    if frame.pts is None or frame.pts < self.index.keys[start, 0]:
                        continue  # what leads up to a keyframe may lack what it refers to
                    _refuse_guesses(self._number(frame.pts), frame)
                    if frame.pts in wanted:
                        yield wanted.pop(frame.pts), self._picture(frame)
            if not wanted:
                return
        yield from self._from_the_start(wanted)

    def _from_keyframe(self, keyframe: int, wanted: dict[int, int]) -> "Iterator[VideoFrame]":
        start, _, place = self.index.keys[keyframe].tolist()
        self._container.seek(place, stream=self._stream)
        unsent, begun = set(wanted), False
        for packet in self._packets():
            begun = begun or (packet.is_keyframe and packet.pts == start)
            if not begun:
                continue
            self._codec.skip_frame = "DEFAULT" if packet.pts in unsent else "NONREF"
            yield from self._codec.decode(packet)
            unsent.discard(packet.pts)
            if not unsent:
                break
        yield from self._codec.decode(None)

    def _from_the_start(self, wanted: dict[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the frames ``wanted``.

        For one that never comes, being hidden or empty, that is what is on the screen at its time.
        """
        stamps, shown = sorted(wanted), None
        for frame in self._all_frames():
            if frame.pts is None:
                continue
            while shown is not None and stamps and frame.pts > stamps[0]:
                yield wanted.pop(stamps.pop(0)), self._picture(shown)
            if not stamps:
                return
            _refuse_guesses(self._number(frame.pts), frame)
            shown = frame
        for stamp in stamps:
            if shown is None:
                raise DecodeError(f"frame {wanted[stamp]} cannot be decoded")
            yield wanted.pop(stamp), self._picture(shown)

    def _all_frames(self) -> "Iterator[VideoFrame]":
        """Every frame of the file, which is opened anew."""
        self._container.close()
        self._open()
        for packet in self._packets():
            yield from self._codec.decode(packet)
        yield from self._codec.decode(None)

    def _number(self, stamp: int) -> int:
        return int(np.searchsorted(self.index.stamps, stamp))

    def _picture(self, frame: "VideoFrame") -> np.ndarray:
        """uint8 (height, width, 3), upright."""
        if self._turns is None:
            self._turns = round(frame.rotation / 90)
        rgb = self._reformatter.reformat(frame, *self._size, format="rgb24", **self._one_thread)
        return np.rot90(rgb.to_ndarray(), self._turns)


@contextlib.contextmanager
def _content(source: str | bytes) -> "Iterator[IO[bytes]]":
    """Open a file, or its bytes; DecodeError when it cannot be read."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb", opener=open_file) as file:
            yield file
    except OSError as error:
        raise DecodeError(error.strerror or str(error)) from None


def _refuse_unwhole(file: IO[bytes]) -> None:
    """Refuse a file without content, and one that FFmpeg would take for a shorter one."""
    start = file.read(_START)
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise DecodeError("empty file")
    if start.startswith(b"GIF8") and not _ends_as_gif(file, size):
        raise DecodeError("cut short: the GIF lacks its end")
    if size < (stated := stated_size(start)):
        raise DecodeError(f"cut short: {size} of {stated} bytes are there")
    if place := broken_at(file):
        raise DecodeError(f"damaged at byte {place}")


def _ends_as_gif(file: IO[bytes], size: int) -> bool:
    """Return whether the last block of a GIF is the one that says so; zeros may fill the file up."""
    file.seek(max(size - _START, 0))
    return file.read().rstrip(bytes(1)).endswith(b";")


class _Guessed(DecodeError):
    """The decoder filled in what it could not read."""


def _refuse_guesses(index: int, frame: "VideoFrame") -> None:
    if frame.is_corrupt:
        raise _Guessed(f"damaged at frame {index}")
