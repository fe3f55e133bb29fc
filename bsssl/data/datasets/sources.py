"""Sources: where the records of a labeled set, a test set or a pool come from. Each is one entry of DATASETS."""

import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bsssl import storage
from bsssl.data.datasets.tars import index_tar, is_cut
from bsssl.data.records import Records, tag_lists
from bsssl.data.segments import with_segment
from bsssl.data.tables import BATCH_ROWS, column, read_tables, reading_table
from bsssl.errors import UserError, choices
from bsssl.registry import DATASETS
from bsssl.runtime.console import logger

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jfif", "jpe")
VIDEO_EXTENSIONS = (
    *("mp4", "mkv", "webm", "avi", "mov", "m4v", "mpg", "mpeg"),
    *("ts", "mts", "m2ts", "wmv", "flv", "3gp", "ogv"),
)
_ENDINGS = {
    "images": tuple(f".{extension}" for extension in IMAGE_EXTENSIONS),
    "videos": tuple(f".{extension}" for extension in VIDEO_EXTENSIONS),
    "any": ("",),
}
_SEPARATORS = {";": "semicolons", "\t": "tabs"}
"""what other programs put between the columns of a table"""


class Source(ABC):
    """An ordered set of records. Streaming it twice gives the same records as long as the files are the same."""

    makes_files = False
    """whether the files at its path are of its own making: they then say nothing about the data"""

    @abstractmethod
    def batches(self) -> Iterator[Records]:
        """Yield the records in order, in batches of bounded size, so that memory does not grow with the source."""

    def records(self) -> Records:
        """All records at once, for labeled and test sets; UserError when there are none."""
        return Records.concat(self.batches())


@DATASETS.register("folder")
class Folder(Source):
    """A folder of files, walked in sorted order, links followed, hidden names skipped; local or remote.

    The label is the first sub-folder below ``path`` (``path/cat/2021/7.jpg`` -> ``cat``), null for files directly in
    ``path``; the key is the path relative to ``path``. ``extensions`` is ``images``, ``videos``, ``any`` or a list of
    names without dots.
    """

    def __init__(self, *, path: str, extensions: str | Sequence[str] = "images") -> None:
        self.path = storage.absolute(path)
        self._endings = _endings(extensions)

    def batches(self) -> Iterator[Records]:
        """See ``Source``; UserError when the folder is missing or holds no file with one of the extensions."""
        if not storage.exists(self.path):
            raise UserError(f"no such folder: {self.path}; check the path")
        files, skipped, found = storage.walk(self.path), 0, 0
        while chunk := list(itertools.islice(files, BATCH_ROWS)):
            keys = [name for name in chunk if name.lower().endswith(self._endings)]
            skipped += len(chunk) - len(keys)
            found += len(keys)
            if keys:
                labels = [name.split("/", 1)[0] if "/" in name else None for name in keys]
                paths = [storage.join(self.path, name) for name in keys]
                yield Records.from_columns(key=keys, path=paths, label=labels)
        if not found:
            raise UserError(
                f"nothing to read in {self.path}: none of its {skipped} files ends in {', '.join(self._endings)}; "
                "check the path, or set the source's options.extensions (images, videos, any, or a list)"
            )
        if skipped:
            logger.info("%s: %d files with other extensions left out", self.path, skipped)


@DATASETS.register("manifest")
class Manifest(Source):
    """A CSV, JSONL or Parquet file with one row per item, streamed.

    Columns: ``path``, and where present ``label``, ``tags`` (a list; in CSV joined by ``;``), ``start`` and ``end`` of
    a segment of a video (seconds; null: the video's own), ``offset`` and ``size`` (a range of bytes inside ``path``)
    and ``key`` (default: the path as written, with ``@offset`` and ``#t=start,end`` if there are such). Relative paths
    are relative to ``root``, by default the manifest's folder. A ``*_column`` option names another column; one that is
    named must exist.
    """

    def __init__(
        self,
        *,
        path: str,
        root: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        tags_column: str = "tags",
        start_column: str = "start",
        end_column: str = "end",
    ) -> None:
        self.path = storage.absolute(path)
        self._root = os.path.dirname(self.path) if root is None else root
        self._columns = {"path": path_column, "label": label_column, "tags": tags_column}
        self._columns |= {"start": start_column, "end": end_column}
        self._types = {name: pa.string() for name in ("key", path_column, label_column, tags_column)}
        self._types |= {"offset": pa.int64(), "size": pa.int64(), start_column: pa.float64(), end_column: pa.float64()}

    def batches(self) -> Iterator[Records]:
        """See ``Source``; UserError for a missing file or column, a malformed row, a row without a path, no row."""
        rows = 0
        with reading_table(self.path):
            for table in read_tables(self.path, types=self._types):
                if len(table):
                    yield self._to_records(table, first_row=rows)
                rows += len(table)
        if not rows:
            raise UserError(f"{self.path} has no rows; a manifest needs one row per item")

    def _to_records(self, table: pa.Table, first_row: int) -> Records:
        for role, name in self._columns.items():
            if name not in table.column_names and (role == "path" or name != role):
                raise UserError(
                    f"{self.path} has no column '{name}'; columns found: {', '.join(table.column_names)}; "
                    + (_separated_otherwise(table.column_names) or f"rename one or set {role}_column")
                )
        wanted = {*self._types} - {*table.column_names}
        if padded := [name for name in table.column_names if name.strip() in wanted]:
            raise UserError(f"{self.path}: blanks around the name of the column '{padded[0]}'; take them out")
        written = table[self._columns["path"]].cast(pa.string())
        if written.null_count:
            row = first_row + pc.index(pc.is_null(written), True).as_py() + 1
            raise UserError(f"{self.path}: row {row} has no path; every row needs one")
        offset = _numbers(table, "offset", missing=0)
        key = column(table, "key", pa.string())
        if key is None:
            key = written
            if "offset" in table.column_names:
                key = pc.binary_join_element_wise(written, offset.cast(pa.string()), "@")
            key = self._with_segments(key, table, first_row)
        paths = [self._resolve(name) for name in self._with_segments(written, table, first_row).to_pylist()]
        return Records.from_columns(
            key=key,
            path=paths,
            offset=offset,
            size=_numbers(table, "size", missing=-1),
            label=column(table, self._columns["label"], pa.string()),
            tags=tag_lists(table[tags]) if (tags := self._columns["tags"]) in table.column_names else None,
        )

    def _with_segments(self, names: Any, table: pa.Table, first_row: int) -> Any:
        """``names`` (strings, one per row) with the rows' segments, if the table has any."""
        bounds = [column(table, self._columns[role], pa.float64()) for role in ("start", "end")]
        if all(bound is None for bound in bounds):
            return names
        nothing = [None] * len(table)
        starts, ends = (nothing if bound is None else bound.to_pylist() for bound in bounds)
        named = []
        for row, (name, start, end) in enumerate(zip(names.to_pylist(), starts, ends, strict=True), first_row + 1):
            try:
                named.append(with_segment(name, start, end))
            except UserError as error:
                raise UserError(f"{self.path}: row {row}: {error}") from None
        return pa.array(named, pa.string())

    def _resolve(self, name: str) -> str:
        if storage.is_remote(name) or os.path.isabs(name):
            return name
        if storage.is_remote(self._root):
            return storage.join(self._root, name)
        return os.path.abspath(os.path.join(self._root, name))


@DATASETS.register("tars")
class Tars(Source):
    """WebDataset tars: one path, a glob or a brace pattern (``train-{000..099}.tar``); local or by URL.

    Every member with one of the ``extensions`` (see ``Folder``) is an item with the key ``<tar>/<member>``; see
    ``index_tar`` for where its label comes from. A tar that is cut short is refused in a labeled set; in a pool its
    whole members are used and the cut becomes an item that cannot be read, so that it is counted and listed.
    """

    def __init__(self, *, path: str, extensions: str | Sequence[str] = "images") -> None:
        self.path = storage.absolute(path)
        self._endings = _endings(extensions)

    def tars(self) -> list[str]:
        """Return the tars' absolute paths or URLs, in order; UserError when nothing matches."""
        found = []
        for pattern in _expand_braces(self.path):
            matches = storage.glob(pattern) if re.search(r"[*?\[]", pattern) else [pattern]
            found += matches
        if not found:
            raise UserError(f"no tar matches {self.path}; check the pattern")
        return found

    def index(self, tar: str) -> Records:
        """Return the records of one of ``tars()``; the last one stands for the cut if the tar is cut short."""
        return index_tar(tar, endings=self._endings)

    def batches(self) -> Iterator[Records]:
        """See ``Source``; one batch per tar; UserError for a tar that is missing or cut short."""
        for tar in self.tars():
            records = self.index(tar)
            if is_cut(records):
                raise UserError(f"{tar} is cut short; download or write it again")
            yield records


def _separated_otherwise(columns: Sequence[str]) -> str:
    """Return how to mend a table whose columns are not separated by commas; nothing where they are."""
    other = next((name for sign, name in _SEPARATORS.items() if len(columns) == 1 and sign in columns[0]), None)
    return f"they are separated by {other}: write commas instead" if other else ""


def _numbers(table: pa.Table, name: str, *, missing: int) -> Any:
    """Return a column of numbers, ``missing`` where there is none; None if the table has no such column."""
    values = column(table, name, pa.int64())
    return None if values is None else pc.fill_null(values, missing)


def _endings(extensions: str | Sequence[str]) -> tuple[str, ...]:
    """Return what the names of the wanted files end in, lower case."""
    if not isinstance(extensions, str):
        return tuple(f".{str(extension).lower().lstrip('.')}" for extension in extensions)
    if extensions not in _ENDINGS:
        raise UserError(f"unknown extensions '{extensions}': {choices(extensions, _ENDINGS)}, or a list such as [mp4]")
    return _ENDINGS[extensions]


def _expand_braces(pattern: str) -> list[str]:
    """``a-{08..10}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``; ``{x,y}`` -> both; any number of braces."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    first, last, names = match.groups()
    if first is None:
        options = names.split(",")
    else:
        options = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [
        expanded
        for option in options
        for expanded in _expand_braces(pattern[: match.start()] + option + pattern[match.end() :])
    ]
