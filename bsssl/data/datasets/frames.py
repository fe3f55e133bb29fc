"""Videos as folders of frames, on their own or in tars."""

import itertools
import os
import tarfile
from collections.abc import Iterator, Mapping

from typing_extensions import override

from bsssl import storage
from bsssl.data.datasets.sources import Source, Tars, tar_name, tell_what_is_left_out
from bsssl.data.datasets.tars import CUT_KEY, TarScan
from bsssl.data.endings import Endings, LeftOut, counted, is_hidden
from bsssl.data.frames import FPS, Frames
from bsssl.data.records import Records
from bsssl.errors import UserError, shortened
from bsssl.registry import DATASETS
from bsssl.runtime.console import logger
from bsssl.storage.tables import BATCH_ROWS


class _Pictures(Endings):
    """What the names of frames are like."""

    def __init__(self, fps: float, names: str) -> None:
        super().__init__("images")
        self.frames = Frames(fps, names=names)

    @override
    def match(self, name: str) -> bool:
        return self.frames.match(name)

    @override
    def left_out(self, counts: Mapping[str, int]) -> str:
        return f"{counted(counts)}; the source's options.names says which pictures are frames"


@DATASETS.register("frames")
class FrameFolders(Source):
    """A folder with a folder for each video, in which each frame is a picture: ``cat/v1/img_00001.jpg``.

    Every folder that has pictures is a video. Its frames are in the order of the last number in their names, 2 before
    10, which must go up by the same step throughout: where frames are missing, the video cannot be read. The label is
    the first folder below ``path``, null for a video directly in it; the key is the video's folder, relative to
    ``path``.

    Args:
        path: the folder, local or remote; or that of a single video.
        fps: how many of the pictures are shown in a second.
        names: a pattern of the names of the frames, where a folder has other pictures too, such as ``img_*``.
    """

    levels = 2

    def __init__(self, *, path: str, fps: float = FPS, names: str = "*") -> None:
        self.path = storage.absolute(path)
        self._wanted = _Pictures(fps, names)

    def batches(self) -> Iterator[Records]:
        """See ``Source``; UserError when the folder is missing, has no pictures, or some beside folders of pictures.

        What is wrong with the frames of a video is found when it is read.
        """
        if not storage.exists(self.path):
            raise UserError(f"no such folder: {self.path}; check the path")
        left_out, total = LeftOut(), 0
        videos = self._videos(left_out)
        while chunk := list(itertools.islice(videos, BATCH_ROWS)):
            total += len(chunk)
            yield Records.from_columns(
                key=[folder or os.path.basename(self.path) for folder, _ in chunk],
                path=[self._path(folder, count) for folder, count in chunk],
                label=[folder.split("/", 1)[0] if "/" in folder else None for folder, _ in chunk],
            )
        self.left_out = left_out
        tell_what_is_left_out(self.path, self._wanted, left_out, total)

    def _path(self, folder: str, count: int) -> str:
        return f"{storage.join(self.path, folder) if folder else self.path}{self._wanted.frames.of(count)}"

    def _videos(self, left_out: LeftOut) -> Iterator[tuple[str, int]]:
        """Yield the folders with frames in them, and how many; count other files, and say which folders have nothing.

        Raises:
            UserError: One lies in another.
        """
        video, last, empty = None, "", list[str]()  # the last folder with frames, the last without, and the empty ones
        for folder, files in storage.walk_folders(self.path):
            if last and not folder.startswith(f"{last}/"):
                empty.append(last)
            if is_hidden(folder):
                continue
            frames = [name for name in files if self._wanted.match(name)]
            if len(frames) < len(files):
                left_out.add(name for name in {*files}.difference(frames) if not is_hidden(name))
            last = "" if frames else folder
            if not frames:
                continue
            if video is not None and f"{folder}/".startswith(f"{video}/" if video else ""):
                raise UserError(
                    f"{self.path} has pictures in {video or '.'} and in {folder}, a folder in it; keep the frames of a "
                    "video in a folder of their own, or say by options.names which pictures are frames"
                )
            video = folder
            yield folder, len(frames)
        empty += [last] if last else []
        if empty:
            logger.warning("%s: %d folders have no frames, left out (first: %s)", self.path, len(empty), empty[0])


@DATASETS.register("frame_tars")
class FrameTars(Tars):
    """Tars whose members are the frames of videos, ``cat/v1/img_00001.jpg``: see ``frames`` and ``tars``.

    Each folder with pictures is an item, whose members must follow each other. Its label is the name of the folder that
    it lies in, its key ``<tar>/<folder>``. Of a tar that is cut the last video is left out with what is missing.

    Args:
        path: one tar, a glob or a brace pattern; local or by URL.
        fps: how many of the pictures are shown in a second.
        names: a pattern of the names of the frames, where a folder has other pictures too, such as ``img_*``.
        unpacked: where compressed tars are decompressed to, by default the user's cache.
    """

    def __init__(self, *, path: str, fps: float = FPS, names: str = "*", unpacked: str | None = None) -> None:
        super().__init__(path=path, unpacked=unpacked)
        self._endings = self._wanted = _Pictures(fps, names)

    @override
    def _index(self, file: str) -> tuple[Records, LeftOut]:
        return _index_videos(self.readable(file), self._wanted.frames, name=tar_name(file))


def _index_videos(path: str, frames: Frames, *, name: str) -> tuple[Records, LeftOut]:
    """Return records of the folders of frames in a tar, in its order, and how many other files there are.

    Raises:
        UserError: The file is missing or no tar, or what is in a folder lies in several places.
    """
    left_out, places, last = LeftOut(), dict[str, tuple[int, int]](), None
    with storage.open_read(path) as file:
        scan = TarScan(path, file)
        for member_name, member in scan:
            folder, _, base = member_name.rpartition("/")
            if not frames.match(base):
                left_out.add([base])
                continue
            if folder in places and folder != last:
                raise UserError(
                    f"{path}: the files in '{shortened(folder)}' do not follow each other; write the tar anew, folder "
                    "by folder"
                )
            start, _ = places.setdefault(folder, (member.offset, 0))
            places[folder] = start, _end(member, scan.length) - start
            last = folder
    labels = [folder.rpartition("/")[0].rpartition("/")[2] or None for folder in places]
    if scan.missing_from is not None:
        if last is not None:
            del places[last]
        places[CUT_KEY] = scan.missing_from, tarfile.BLOCKSIZE
        labels = [*labels[: len(places) - 1], None]
    records = Records.from_columns(
        key=[f"{name}/{folder}" if folder else name for folder in places],
        path=[f"{path}{frames}"] * len(places),
        offset=[start for start, _ in places.values()],
        size=[size for _, size in places.values()],
        label=labels,
    )
    return records, left_out


def _end(member: tarfile.TarInfo, length: int) -> int:
    """Return where the next member begins."""
    blocks = -(-min(member.size, length) // tarfile.BLOCKSIZE)
    return member.offset_data + blocks * tarfile.BLOCKSIZE
