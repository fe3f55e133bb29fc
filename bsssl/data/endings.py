"""Which files are items: by how their names end, and what of others is to be said."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec

from bsssl.errors import UserError, choices, shortened

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jfif", "jpe"),
    *("avif", "heic", "heif", "hif", "jxl", "jp2", "j2k", "jpf", "jpx", "jpc", "j2c"),
    *("pbm", "pnm", "dib", "apng", "mpo", "tga", "qoi", "pcx"),
)
VIDEO_EXTENSIONS = (
    *("mp4", "mkv", "webm", "avi", "mov", "m4v", "mpg", "mpeg"),
    *("ts", "mts", "m2ts", "wmv", "flv", "3gp", "ogv", "vob", "mxf", "gif", "3g2", "f4v", "asf", "m1v", "m2v", "mpe"),
    *("y4m", "dv", "divx", "mj2", "mjpeg", "mjpg", "nut", "rm", "rmvb", "wtv"),
    *("apng", "h264", "264", "hevc", "h265", "265", "ivf", "frames"),
)
PICTURES_EXTRA = "pip install 'bsssl[pictures]'"
"""what reads the pictures that not every Pillow can read"""
_PACKAGES = {"avif": "PIL._avif", **dict.fromkeys(("heic", "heif", "hif"), "pillow_heif"), "jxl": "pillow_jxl"}
_SORTS = {"images": IMAGE_EXTENSIONS, "videos": VIDEO_EXTENSIONS, "any": ("",)}
_NO_ITEMS = {"__macosx", "thumbs.db", "desktop.ini"}
"""files and folders that systems leave beside others', in lower case"""
_NAMED = 6  # kinds of files


class Endings:
    """What the names of the wanted files end in.

    Args:
        extensions: ``images``, ``videos``, ``any`` or a list of extensions. Of pictures those that this Python has
            nothing to read with are not wanted, unless a list names them.

    Raises:
        UserError: There is no such sort.
    """

    def __init__(self, extensions: str | Sequence[str]) -> None:
        if isinstance(extensions, str) and extensions not in _SORTS:
            raise UserError(
                f"unknown extensions '{extensions}': {choices(extensions, _SORTS)}, or a list such as [mp4]"
            )
        is_sort = isinstance(extensions, str)
        listed = _SORTS[extensions] if isinstance(extensions, str) else extensions
        names = [str(extension).lower().lstrip(".") for extension in listed]
        self._without_reader = {name for name in names if is_sort and name in _PACKAGES and not _is_there(name)}
        self._ranks = {name: rank for rank, name in enumerate(names) if name not in self._without_reader}
        self._ends = tuple(f".{name}" if name else "" for name in self._ranks)
        self._name = (
            {"any": "files"}.get(extensions, extensions) if isinstance(extensions, str) else ", ".join(self._ends)
        )

    def match(self, name: str) -> bool:
        """Return whether a file with this name is wanted."""
        return name.lower().endswith(self._ends)

    def rank(self, extension: str) -> int | None:
        """Return the place of an extension among those that are wanted; None if it is none of them."""
        return self._ranks.get(extension) if extension else None

    def __str__(self) -> str:
        return self._name

    def left_out(self, counts: Mapping[str, int]) -> str:
        """Return one line on files that were left out, counted by extension: how many of what, and what takes them."""
        missing = sorted(self._without_reader & counts.keys())
        readers = f"{PICTURES_EXTRA} for {', '.join(f'.{name}' for name in missing)}; " if missing else ""
        taken = "the source's options.extensions says what is taken (images, videos, any, or a list)"
        if self._name == "videos" and not counts.keys().isdisjoint(IMAGE_EXTENSIONS):
            taken = "folders of pictures are read as videos by dataset: frames, tars of such by dataset: frame_tars"
        return f"{counted(counts)}; {readers}{taken}"


def counted(counts: Mapping[str, int]) -> str:
    """Return how many files of which kinds were left out, from their ``counts`` by extension."""
    kinds = sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{count:,} {_kind(extension)}" for extension, count in kinds[:_NAMED]]
    if others := kinds[_NAMED:]:
        named.append(f"{sum(count for _, count in others):,} of {len(others):,} other kinds")
    return f"left out: {', '.join(named)}"


class LeftOut(Counter[str]):
    """Files that were left out, by extension."""

    def add(self, names: Iterable[str]) -> None:
        """Count files."""
        self.update(map(extension_of, names))


def extension_of(name: str, *, whole: bool = False) -> str:
    """Return the extension of a file, in lower case and without its dot; nothing where it has none.

    Args:
        name: The file.
        whole: Whether all that follows the first dot is the extension, as in WebDataset, or what follows the last.
    """
    base = name.rpartition("/")[2].lower()
    return base.partition(".")[2] if whole else base.rpartition(".")[2] if "." in base else ""


def is_hidden(name: str) -> bool:
    """Return whether a file is never an item: its name or that of a folder begins with a dot, or is of a system."""
    parts = name.lower().split("/")
    return any(part in _NO_ITEMS or (part.startswith(".") and part not in (".", "..")) for part in parts)


def _kind(extension: str) -> str:
    return f".{shortened(extension, most=20)}" if extension else "without an extension"


def _is_there(extension: str) -> bool:
    return find_spec(_PACKAGES[extension]) is not None
