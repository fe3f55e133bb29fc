"""Folders of frames: which of a folder's pictures are the frames of a video, in which order, how many a second.

The path of such a video is that of its folder with a fragment, ``cat/v1#fps=25``, in which ``&frames=300`` may follow,
how many there are, and ``&names=img_*``, which files are frames.

The content of such a video is a tar: ``frames.json``, which has the rate, and the pictures by their numbers from 0. It
is the same wherever the pictures lie, in a folder or among the members of a tar, and whatever they are called there,
but for the endings.
"""

import errno
import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise

from typing_extensions import Self

from bsssl import storage
from bsssl.data.endings import IMAGE_EXTENSIONS, extension_of
from bsssl.data.members import members_in, tar_of
from bsssl.data.segments import decimal
from bsssl.errors import UserError
from bsssl.runtime.threads import map_ahead

FPS = 25.0
"""frames a second of what does not say it"""
FRAMES_EXTENSION = "frames"
"""how the name of a file ends that is the content of such a video"""
_FRAGMENT = re.compile(r"#fps=([0-9]+(?:\.[0-9]+)?)(?:&frames=([0-9]{1,9}))?(?:&names=([^#&/]+))?\Z")
_ENDS = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
_FACTS = "frames.json"
_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)
_CHOOSE = "say by options.names which are the frames, such as img_*"
_REMOTE_READS = 16  # at a time: nearly all of a remote read is waiting


@dataclass(frozen=True)
class Frames:
    """Which files of a folder are the frames of a video, and how many are shown in a second."""

    fps: float = FPS
    count: int | None = None
    """how many there were when the folder was listed"""
    names: str = "*"
    """a pattern of their names"""

    def __post_init__(self) -> None:
        """Refuse what cannot be written in a path.

        Raises:
            UserError: There is no such rate or pattern.
        """
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise UserError(f"options.fps is {self.fps:g}; give the frames per second, a number above 0")
        if not self.names or re.search("[#&/]", self.names):
            raise UserError(
                f"options.names is '{self.names}'; give a pattern of file names without #, & and /, such as img_*"
            )

    def __str__(self) -> str:
        """Return the fragment that says so."""
        count = "" if self.count is None else f"&frames={self.count}"
        return f"#fps={decimal(self.fps)}{count}" + (f"&names={self.names}" if self.names != "*" else "")

    def match(self, name: str) -> bool:
        """Return whether a file of this name is a frame."""
        # Of very many names: what takes the least time comes first.
        if not name.lower().endswith(_ENDS) or (self.names != "*" and not fnmatchcase(name, self.names)):
            return False
        return not name.startswith(".") and "/." not in name

    def of(self, count: int) -> Self:
        """Return the same with so many frames."""
        return replace(self, count=count)

    def ordered(self, names: Iterable[str]) -> list[str]:
        """Return those of the ``names`` that are frames, in the order of the last number in each.

        Raises:
            OSError: They are not all the frames of one video: the numbers do not go up by the same step throughout, or
                what else is in the names differs.
        """
        frames = [name for name in names if self.match(name)]
        if not frames:
            raise OSError("no pictures in it" + (f" with names like {self.names}" if self.names != "*" else ""))
        if len(frames) > 1:
            frames = _by_number(frames)
        if self.count not in (None, len(frames)):
            raise OSError(f"{len(frames)} frames, where {self.count} were listed")
        return frames


def split_frames(path: str) -> tuple[str, Frames | None]:
    """Return the path of a folder, or of a tar, and what its fragment says of the frames in it; None without one."""
    match = _FRAGMENT.search(path)
    if match is None or not 0 < float(match[1]) < math.inf:
        return path, None
    count = None if match[2] is None else int(match[2])
    return path[: match.start()], Frames(float(match[1]), count, match[3] or "*")


@dataclass(frozen=True)
class Pictures:
    """The frames of a video, each in the file of a picture."""

    fps: float
    names: Sequence[str]
    """in order"""
    read: Callable[[str], bytes]
    """returns the content of the file of that name; OSError when there is none any more"""


def shown(name: str) -> str:
    """Return the name of a picture as it is written in a reason: with question marks for what is not UTF-8."""
    return name.encode(errors="replace").decode()


def holds_pictures(content: bytes) -> bool:
    """Return whether the content of a video, of which the start will do, is that of a folder of frames: a tar."""
    return content[257:262] == b"ustar"


def pictures_of(source: str | bytes) -> Pictures:
    """Return the pictures that a video is made of.

    Args:
        source: The path of a folder of frames, without a segment; or the content of one, or a local file that has it.

    Raises:
        OSError: They are no frames of one video, or there are none, or the content is damaged.
    """
    if isinstance(source, bytes):
        if any(source[-tarfile.BLOCKSIZE :]):
            raise OSError("cut short: the tar lacks its end")
        files = dict(members_in(source))
        fps = _rate(files.pop(_FACTS, b"{}"))
        return Pictures(fps, Frames(fps).ordered(files), files.__getitem__)
    folder, frames = split_frames(source)
    return pictures_of(storage.read_whole(source)) if frames is None else _pictures_in(folder, frames)


def read_frames(path: str, folder: str, frames: Frames, members: bytes | None = None) -> bytes:
    """Return the content of a video whose frames are pictures.

    Args:
        path: What to call it.
        folder: The folder, local or a URL.
        frames: What are frames in it.
        members: Where it lies in a tar, the members of that from its first to its last.

    Raises:
        OSError: See ``pictures_of``.
    """
    try:
        pictures = _pictures_in(folder, frames) if members is None else _pictures_among(members, frames)
        if members is None and storage.is_remote(folder):
            return _packed(pictures, map_ahead(pictures.read, pictures.names, threads=_REMOTE_READS))
        return _packed(pictures, map(pictures.read, pictures.names))
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from None
        raise


def _pictures_in(folder: str, frames: Frames) -> Pictures:
    _, names = next(storage.walk_folders(folder), ("", []))
    if not names and not storage.exists(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    return Pictures(frames.fps, frames.ordered(names), lambda name: storage.read_whole(storage.join(folder, name)))


def _pictures_among(members: bytes, frames: Frames) -> Pictures:
    """Return the pictures in the folder of the first of some members of a tar."""
    files: dict[str, bytes] = {}
    first: str | None = None
    for name, content in members_in(members):
        folder, _, base = name.rpartition("/")
        first = folder if first is None else first
        if folder == first:
            files[base] = content
    return Pictures(frames.fps, frames.ordered(files), files.__getitem__)


def _packed(pictures: Pictures, contents: Iterable[bytes]) -> bytes:
    names = (f"{number:09d}.{extension_of(name)}" for number, name in enumerate(pictures.names))
    facts = json.dumps({"fps": pictures.fps}).encode()
    return tar_of([(_FACTS, facts), *zip(names, contents, strict=True)])


def _rate(facts: bytes) -> float:
    """Return the rate that ``frames.json`` says."""
    try:
        fps = storage.parse_json(facts.decode()).get("fps", FPS)
        return Frames(float(fps)).fps
    except (ValueError, TypeError, AttributeError, UserError):
        raise OSError(f"its {_FACTS} is damaged") from None


def _by_number(names: Sequence[str]) -> list[str]:
    numbered: dict[int, str] = {}
    first: tuple[str, str] | None = None
    for name in sorted(names):
        stem = name[: -len(extension_of(name)) - 1]
        match = _NUMBERED.fullmatch(stem)
        if match is None:
            raise OSError(f"{shown(name)} has no number that says which frame it is")
        around = match[1], match[3]
        if first is not None and around != first:
            raise OSError(f"pictures of several kinds, as {shown(min(names))} and {shown(name)}: {_CHOOSE}")
        first = around
        other = numbered.setdefault(int(match[2]), name)
        if other != name:
            raise OSError(f"{shown(other)} and {shown(name)} have the same number: {_CHOOSE}")
    numbers = sorted(numbered)
    step = min(after - before for before, after in pairwise(numbers))
    for before, after in pairwise(numbers):
        if after - before > step:
            raise OSError(f"frames are missing between {shown(numbered[before])} and {shown(numbered[after])}")
    return [numbered[number] for number in numbers]
