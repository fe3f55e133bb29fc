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
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

LENGTH = struct.Struct("<Q")
_SECONDS_TO_START = 300.0  # importing PyTorch from a slow disk
_AT_A_TIME = 32  # frames that are held here
_SOURCE = re.compile(r"\[[\d:]+\] \S+:\d+: |^\w+, \S+:\d+, ")  # "[12:19:04] /src/reader.cc:151: ", "scan, /a.cpp:2, "
_TOLERANCE = 1e-4  # seconds, between two ways of computing the same time
_PADDED = "from_size == to_size"  # in decord's error, see ``_unpadded``


class Unusable(Exception):
    """The library does not work; the message says why."""


class Decord:
    """A video by decord's ``VideoReader``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()
        self.num_frames = len(self._video)

    def _open(self) -> None:
        import decord

        # Unless told otherwise decord repeats the last good frame in the place of one that does not come.
        self._video = decord.VideoReader(self._path, num_threads=1, fault_tol=1e-9)

    def pictures(self, indices: list[int], times: list[float] | None, seek: bool) -> Iterator[np.ndarray]:
        """Yield the frames with these ascending numbers.

        Without ``seek`` all that precede the last are decoded for them.
        """
        if seek:
            try:
                for start in range(0, len(indices), _AT_A_TIME):
                    yield self._video.get_batch(indices[start : start + _AT_A_TIME]).asnumpy()
                return
            except Exception as error:
                if _PADDED not in str(error):
                    raise
        yield from self._in_order(indices)

    def _in_order(self, indices: list[int]) -> Iterator[np.ndarray]:
        self._open()
        wanted = set(indices)
        for index in range(indices[-1] + 1):
            picture = self._video.next()  # ``skip_frames`` would seek
            if index in wanted:
                yield _unpadded(picture.asnumpy())[None]


def _unpadded(picture: np.ndarray) -> np.ndarray:
    """Return a picture of decord's without the bytes that fill up its rows; no copy if there are none.

    decord takes the length of a row over the width for the number of channels. Rows of narrow pictures may be filled up
    so far that it finds more than three, 48x36 for one, and its batches, which have three, cannot hold such pictures.
    """
    height, width, _ = picture.shape
    return picture.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


class Torchcodec:
    """A video by torchcodec's ``VideoDecoder``; "exact" lists the frames first, which it otherwise guesses."""

    def __init__(self, path: str) -> None:
        from torchcodec.decoders import VideoDecoder

        self._video = VideoDecoder(path, seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1)
        self.num_frames = len(self._video)

    def pictures(self, indices: list[int], times: list[float] | None, seek: bool) -> Iterator[np.ndarray]:
        """Yield the frames with these ascending numbers, which are shown at these times."""
        assert times is not None
        for start in range(0, len(indices), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            frames = self._video.get_frames_at(indices[part])
            if np.abs(frames.pts_seconds.numpy() - times[part]).max() > _TOLERANCE:
                raise RuntimeError("other frames came than those asked for; the reader av may do better")
            yield frames.data.numpy()


def load(backend: str) -> Callable[[str], Decord | Torchcodec]:
    """Import a library; ImportError when it is not installed, ``Unusable`` when it does not work."""
    if backend == "decord":
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        return Decord
    import torchcodec.decoders

    try:
        torchcodec.decoders.VideoDecoder(b"")
    except Exception as error:
        if "libtorchcodec" in str(error):  # else the video was at fault
            raise Unusable("it does not find the shared libraries of FFmpeg") from None
    return Torchcodec


def serve(backend: str, requests: BinaryIO, answers: BinaryIO) -> None:
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
                for pictures in video.pictures(request["get"], request["times"], request["seek"]):
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
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
