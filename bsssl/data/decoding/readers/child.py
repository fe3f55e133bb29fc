"""The other side of ``helper``: a process that decodes one video after the other by a library that may hang or crash.

It is run as a script, because as a module of the package it would import all of PyTorch first, and imports nothing of
the package. Requests come by standard input, answers go to standard output, both as JSON of a stated length; pictures
follow their answer as bytes. The kernel ends the process by SIGALRM when a request takes longer than it may, whatever
the library is doing then, and the end of the parent process is the end of its input.
"""

import json
import os
import re
import signal
import struct
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

LENGTH = struct.Struct("<Q")
_SECONDS_TO_START = 300.0  # importing PyTorch from a slow disk
_AT_A_TIME = 32  # frames that are held here
_SOURCE = re.compile(r"\[[\d:]+\] \S+:\d+: |^\w+, \S+:\d+, ")  # "[12:19:04] /src/reader.cc:151: ", "scan, /a.cpp:2, "
_COMPLAINT = re.compile(r"^\[[\w:, ]+ @ 0x[0-9a-f]+\] ")  # "[h264 @ 0x55d295484b80] ", as FFmpeg says where it is
_COMPLAINTS_READ = 1 << 16  # bytes
_SECONDS_APART, _SHARE_APART = 1e-4, 2e-7  # between two ways of computing the same time, one of them in float32
_PADDED = "from_size == to_size"  # in decord's error, see ``_unpadded``


class Unusable(Exception):
    """The library does not work; the message says why."""


class Wrong(Exception):
    """Frames came that are damaged, or others than those asked for."""


@dataclass(frozen=True)
class Decoded:
    """Some frames of a video."""

    pictures: np.ndarray
    """uint8 (n, height, width, 3)"""
    times: np.ndarray | None
    """when each is shown, from the first of the video on: float64 (n,), seconds; None where they were counted"""

    def at(self, places: np.ndarray) -> "Decoded":
        """Return those at ``places``, int64 (m,)."""
        return Decoded(self.pictures[places], None if self.times is None else self.times[places])

    def are_shown_at(self, times: Sequence[float]) -> bool:
        """Return whether these are the frames that are shown at ``times``, as far as can be said."""
        return self.times is None or np.allclose(self.times, times, atol=_SECONDS_APART, rtol=_SHARE_APART)


class Video(ABC):
    """A video as a library opens it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.num_frames = self.open()

    @abstractmethod
    def open(self) -> int:
        """Open the file, anew if it is open, and return how many frames it has."""

    @abstractmethod
    def sought(self, indices: list[int]) -> Decoded | None:
        """Return the frames with these ascending numbers; None if the library cannot seek in such a video."""

    @abstractmethod
    def next(self, count: int) -> Decoded:
        """Return the next frames, ``count`` at most, of a file just opened."""


class Decord(Video):
    """A video by decord's ``VideoReader``."""

    def open(self) -> int:
        """See ``Video``."""
        import decord

        # Unless told otherwise decord repeats the last good frame in the place of one that does not come.
        self._video = decord.VideoReader(self._path, num_threads=1, fault_tol=1e-9)
        return len(self._video)

    def sought(self, indices: list[int]) -> Decoded | None:
        """See ``Video``; the times are those of decord's own list, by which it finds frames."""
        first, *times = self._video.get_frame_timestamp([0, *indices])[:, 0]
        try:
            return Decoded(self._video.get_batch(indices).asnumpy(), np.array(times) - first)
        except Exception as error:
            if _PADDED in str(error):
                return None
            raise

    def next(self, count: int) -> Decoded:
        """See ``Video``."""
        return Decoded(_unpadded(self._video.next().asnumpy())[None], None)  # ``skip_frames`` would seek


def _unpadded(picture: np.ndarray) -> np.ndarray:
    """Return a picture of decord's without the bytes that fill up its rows; no copy if there are none.

    decord takes the length of a row over the width for the number of channels. Rows of narrow pictures may be filled up
    so far that it finds more than three, 48x36 for one, and its batches, which have three, cannot hold such pictures.
    """
    height, width, _ = picture.shape
    return picture.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


class Torchcodec(Video):
    """A video by torchcodec's ``VideoDecoder``; "exact" lists the frames first, which it otherwise guesses."""

    def open(self) -> int:
        """See ``Video``."""
        from torchcodec.decoders import VideoDecoder

        self._video = VideoDecoder(self._path, seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1)
        self._place = 0
        return len(self._video)

    def sought(self, indices: list[int]) -> Decoded | None:
        """See ``Video``."""
        return self._frames(self._video.get_frames_at(indices))

    def next(self, count: int) -> Decoded:
        """See ``Video``; the library does not seek for frames that follow those before."""
        start, self._place = self._place, min(self._place + count, self.num_frames)
        return self._frames(self._video.get_frames_in_range(start, self._place))

    def _frames(self, batch: Any) -> Decoded:
        first = self._video.metadata.begin_stream_seconds_from_content or 0.0
        return Decoded(batch.data.numpy(), batch.pts_seconds.numpy() - first)


class Complaints:
    """What FFmpeg says of errors while it decodes: where it does, what it returns is guessed in part.

    The libraries do not say so themselves. FFmpeg writes to standard error, here a file.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile("a+b", buffering=0) as file:
            os.dup2(file.fileno(), 2)

    def forget(self) -> None:
        """Start anew."""
        os.ftruncate(2, 0)

    def first(self) -> str:
        """Return the first, without where in FFmpeg it comes from; nothing if there is none."""
        lines = os.pread(2, _COMPLAINTS_READ, 0).decode(errors="replace").splitlines()
        return next((_COMPLAINT.sub("", line) for line in lines if _COMPLAINT.match(line)), "")


def get(
    video: Video, indices: list[int], times: list[float], seek: bool, complaints: Complaints
) -> Iterator[np.ndarray]:
    """Yield the frames with these ascending numbers, which are shown at these times, some at a time.

    With ``seek`` they are sought. Where others come, or the decoder complains, as it may where frames refer to what
    precedes the place sought, the file is decoded from its start instead.

    Raises:
        Wrong: Others come, or the decoder complains, even so.
    """
    while seek and indices:
        complaints.forget()
        frames = video.sought(indices[:_AT_A_TIME])
        if frames is None or not frames.are_shown_at(times[:_AT_A_TIME]) or complaints.first():
            break
        yield frames.pictures
        indices, times = indices[_AT_A_TIME:], times[_AT_A_TIME:]
    if not indices:
        return
    video.open()
    complaints.forget()
    place = 0
    while indices:
        decoded = video.next(_AT_A_TIME)
        start, place = place, place + len(decoded.pictures)
        if complaint := complaints.first():
            raise Wrong(f"damaged before frame {place} ({complaint})")
        count = sum(index < place for index in indices)
        if count:
            wanted = decoded.at(np.array(indices[:count]) - start)
            if not wanted.are_shown_at(times[:count]):
                raise Wrong("other frames came than those asked for; the reader av may do better")
            yield wanted.pictures
        indices, times = indices[count:], times[count:]


def load(backend: str) -> Callable[[str], Video]:
    """Import a library; ImportError when it is not installed, ``Unusable`` when it does not work."""
    if backend == "decord":
        import decord

        decord.logging.set_level(decord.logging.ERROR)
        return Decord
    import torchcodec.decoders

    try:
        torchcodec.decoders.VideoDecoder(b"")
    except Exception as error:
        if "libtorchcodec" in str(error):  # else the video was at fault
            raise Unusable("it does not find the shared libraries of FFmpeg") from None
    return Torchcodec


def serve(backend: str, requests: BinaryIO, answers: BinaryIO, complaints: Complaints) -> None:
    """Answer requests until there are no more.

    ``{"open": path}`` is answered by ``{"num_frames"}``; ``{"get": indices, "times", "seek"}`` by any number of
    ``{"shape"}``, each followed by the pictures, and by ``{}``; ``{"close": True}`` by ``{}``. Each request has the
    ``seconds`` that it may take, each answer says whether it is the last (``done``), which one with an ``error`` is.
    """

    def answer(*, done: bool = True, **values: Any) -> None:
        message = json.dumps({"done": done, **values}).encode()
        answers.write(LENGTH.pack(len(message)) + message)
        answers.flush()

    try:
        library = load(backend)
    except ImportError as error:
        answer(missing=_line(error))
        return
    except (Unusable, OSError, RuntimeError) as error:
        answer(unusable=_line(error))
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    answer()
    video = None
    while header := requests.read(LENGTH.size):
        request = json.loads(requests.read(*LENGTH.unpack(header)))
        signal.setitimer(signal.ITIMER_REAL, request.pop("seconds"))
        try:
            if "open" in request:
                video = library(request["open"])
                answer(num_frames=video.num_frames)
            elif video is not None and "get" in request:
                for pictures in get(video, request["get"], request["times"], request["seek"], complaints):
                    answer(done=False, shape=pictures.shape)
                    answers.write(np.ascontiguousarray(pictures).data)
                answer()
            else:
                video = None
                answer()
        except Exception as error:  # the libraries raise almost anything on damaged files
            answer(error=_line(error))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _line(error: Exception) -> str:
    """Return the first line of an error's text, less the time and the place in a source file with which they begin."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return _SOURCE.sub("", lines[0]) if lines else type(error).__name__


def main() -> None:
    """Serve the library named on the command line."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_START)
    # Ctrl-C, and what Slurm sends to every process of a job, is the parent's affair.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    complaints = Complaints()
    os.dup2(2, 1)  # what libraries print must not get among the answers
    serve(sys.argv[1], sys.stdin.buffer, answers, complaints)


if __name__ == "__main__":
    main()
