"""Videos by decord and torchcodec, each in a helper process, since both hang or crash on some files.

A process keeps its helpers for the videos to come. One serves one open video at a time, so there is seldom more than
one, and processes forked later do not share it. What runs in a helper is ``child``.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from typing_extensions import override

from bsssl.data.decoding.pictures import MAX_PIXELS, DecodeError
from bsssl.data.decoding.readers import child
from bsssl.data.decoding.readers.base import Clock, VideoReader
from bsssl.data.decoding.readers.pyav import PyavReader
from bsssl.errors import UserError

_MISSING = {
    "decord": "pip install 'bsssl[video]', which has it for Linux on x86-64, or choose the reader av",
    "torchcodec": "pip install 'bsssl[torchcodec]', or choose the reader av",
}
_UNUSABLE = {
    "decord": "install it anew, or choose the reader av",
    "torchcodec": "install FFmpeg with its shared libraries (apt install ffmpeg, or conda install ffmpeg) and the "
    "torchcodec that belongs to this PyTorch, or choose the reader av",
}


_SECONDS_TO_CLOSE = 10.0


class HelperReader(VideoReader):
    """A video, a path or its bytes, decoded by another library in a helper process.

    PyAV lists the frames first, because neither library is right on all files, and refuses what it cannot read. A frame
    whose time is not that of the list, or at which FFmpeg complains, is decoded again from the start of the file, where
    decord counts; what goes wrong even so is a DecodeError, as another number of frames is. decord is not asked to seek
    in videos whose groups of pictures are open, as those of most HEVC, where it takes one frame for another without a
    sign of it, and is not given MPEG-TS, with which it hangs. torchcodec has nothing to tell frames without times by.
    """

    def __init__(self, source: str | bytes, backend: str, clock: Clock, *, max_pixels: int = MAX_PIXELS) -> None:
        self._backend, self._clock = backend, clock
        self._helper: _Helper | None = None
        self._file: IO[bytes] | None = None
        with PyavReader(source, clock, max_pixels=max_pixels) as listed:
            index, kind = listed.index, listed.kind
        self.num_frames, self._index = len(index.seconds), index
        if (backend == "decord" and kind == "mpegts") or (backend == "torchcodec" and index.is_counted):
            raise DecodeError(f"{backend} takes one frame for another in such files ({kind}); the reader av does not")
        self._seek = backend == "torchcodec" or index.is_plain
        try:
            self._helper = _Helper.take(backend)
            with clock:
                count = self._helper.ask(clock, open=self._path(source))["num_frames"]
            if count != self.num_frames:
                raise DecodeError(f"{backend} finds {count} frames, the reader av {self.num_frames}")
        except BaseException:
            self.close()
            raise

    def _path(self, source: str | bytes) -> str:
        if isinstance(source, str):
            return os.path.abspath(source)  # the helper keeps the working directory in which it was started
        try:
            self._file = tempfile.NamedTemporaryFile(prefix="bsssl-")  # noqa: SIM115 - removed when it is closed
            self._file.write(source)
            self._file.flush()
        except OSError as error:
            folder = tempfile.gettempdir()
            raise UserError(f"cannot write to {folder}: {error.strerror}; free space or set TMPDIR") from None
        return self._file.name

    @override
    def seconds(self) -> np.ndarray:
        return self._index.seconds

    def _pictures(self, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        assert self._helper is not None, "the reader is closed"
        times = self._index.seconds[indices].tolist()
        with self._clock:
            answer = self._helper.ask(self._clock, get=indices, times=times, seek=self._seek)
            count, *shape = answer["shape"]
            for index in indices:
                if not count:
                    count, *shape = self._helper.answer(self._clock)["shape"]
                count -= 1
                yield index, self._helper.picture(self._clock, shape)
            self._helper.answer(self._clock)

    @override
    def close(self) -> None:
        if self._helper is not None:
            self._helper.give_back()
            self._helper = None
        if self._file is not None:
            self._file.close()
            self._file = None


def check_helper(backend: str) -> None:
    """UserError when the library is not installed or does not work."""
    _Helper.take(backend).give_back()


_idle: "dict[str, list[_Helper]]" = {}  # by library
_helpers: "weakref.WeakSet[_Helper]" = weakref.WeakSet()


class _Helper:
    """A helper process, which answers one request after the other."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        # By its path: as a module of the package it would import PyTorch, which takes seconds. Without buffers, so that
        # nothing of them is locked in a process forked meanwhile.
        self._process = subprocess.Popen(
            [sys.executable, child.__file__, backend],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHCODEC_FFMPEG_LOG_LEVEL": "ERROR"},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._is_busy = True
        _helpers.add(self)
        self._wait_for_start()

    def _wait_for_start(self) -> None:
        try:
            answer = self._receive()
        except EOFError:
            answer = {"unusable": "it crashes when it is imported"}
        if "missing" in answer:
            self._kill()
            raise UserError(
                f"cannot import the video reader {self._backend} ({answer['missing']}); {_MISSING[self._backend]}"
            )
        if "unusable" in answer:
            self._kill()
            raise UserError(f"the video reader {self._backend}: {answer['unusable']}; {_UNUSABLE[self._backend]}")
        self._is_busy = False

    @classmethod
    def take(cls, backend: str) -> "_Helper":
        """Return an idle helper, or a new one; UserError when the library is not there or does not work."""
        idle = _idle.setdefault(backend, [])
        while idle:
            try:
                helper = idle.pop()
            except IndexError:
                break  # another thread has taken it
            if helper._process.poll() is None:
                return helper
            helper._kill()  # the system may have ended it, for memory
        return cls(backend)

    def give_back(self) -> None:
        """Close the video and keep the helper for the next one, if it is still well."""
        if self._process.returncode is not None:
            return
        if self._is_busy:
            self._kill()
            return
        try:
            clock = Clock(_SECONDS_TO_CLOSE)
            with clock:
                self.ask(clock, close=True)
        except DecodeError:
            return
        _idle[self._backend].append(self)

    def ask(self, clock: Clock, **request: Any) -> dict[str, Any]:
        """Make a request and return the first answer, see ``answer``."""
        message = json.dumps({**request, "seconds": clock.left()}).encode()
        self._is_busy = True
        try:
            unsent = memoryview(child.LENGTH.pack(len(message)) + message)
            while unsent:
                unsent = unsent[self._requests.write(unsent) :]
        except BrokenPipeError:
            pass  # it has ended; why is found out next
        return self.answer(clock)

    def answer(self, clock: Clock) -> dict[str, Any]:
        """Return an answer; DecodeError if it tells of an error, or when the helper had to be ended, or crashed."""
        try:
            answer = self._receive()
        except EOFError:
            raise self._end(clock) from None
        self._is_busy = not answer["done"]
        if "error" in answer:
            raise DecodeError(f"{self._backend}: {answer['error']}")
        return answer

    def picture(self, clock: Clock, shape: list[int]) -> np.ndarray:
        """Return a picture that follows an answer: uint8 of this shape."""
        picture = np.empty(shape, np.uint8)
        try:
            self._fill(picture.data.cast("B"))
        except EOFError:
            raise self._end(clock) from None
        return picture

    def _receive(self) -> dict[str, Any]:
        length = bytearray(child.LENGTH.size)
        self._fill(memoryview(length))
        message = bytearray(*child.LENGTH.unpack(length))
        self._fill(memoryview(message))
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _fill(self, buffer: memoryview) -> None:
        while buffer:
            count = self._answers.readinto(buffer)  # type: ignore[attr-defined] # a FileIO, being without a buffer
            if not count:
                raise EOFError
            buffer = buffer[count:]

    def _end(self, clock: Clock) -> DecodeError:
        """Return what to raise when the helper has ended."""
        status = self._process.wait()
        self._kill()
        return clock.error() if status == -signal.SIGALRM else DecodeError("the decoder crashed")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()

    def forget(self) -> None:
        """Close what a forked process has inherited; the helper would not see the end of the process it serves."""
        self._process.returncode = 0  # not ours to wait for
        self._requests.close()
        self._answers.close()


def _forget_all() -> None:
    for helper in _helpers:
        helper.forget()
    _idle.clear()


os.register_at_fork(after_in_child=_forget_all)
