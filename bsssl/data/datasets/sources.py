"""Sources: where the records of a labeled set, a test set or a pool come from. Each is one entry of DATASETS."""

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bsssl import storage
from bsssl.data.datasets.packed import holds_items
from bsssl.data.datasets.patterns import files_at
from bsssl.data.datasets.tars import index_tar, is_cut
from bsssl.data.endings import Endings, LeftOut, is_hidden
from bsssl.data.frames import Frames
from bsssl.data.records import Records, tag_lists
from bsssl.data.segments import with_segment
from bsssl.data.unpacking import decompressed
from bsssl.errors import UserError, is_misspelt
from bsssl.registry import DATASETS
from bsssl.runtime.console import logger
from bsssl.runtime.threads import map_ahead
from bsssl.storage.tables import BATCH_ROWS, column, read_tables, reading_table

_INDEX_THREADS = 8  # tars indexed at a time: over a network nearly all of that is waiting


class Source(ABC):
    """An ordered set of records. Streaming it twice gives the same records as long as the files are the same."""

    makes_files = False
    """whether the files at its path are of its own making: they then say nothing about the data"""
    levels = 1
    """how many levels of folders below its path show by their times that there are other items"""
    left_out: Mapping[str, int] = {}
    """files that are no items, by extension, once all records have been read"""

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
        self._endings = Endings(extensions)

    def batches(self) -> Iterator[Records]:
        """See ``Source``; UserError when the folder is missing or holds no file with one of the extensions."""
        if not storage.exists(self.path):
            raise UserError(f"no such folder: {self.path}; check the path")
        files, left_out, found = storage.walk(self.path), LeftOut(), 0
        while chunk := list(itertools.islice(files, BATCH_ROWS)):
            names = [name for name in chunk if not is_hidden(name)]
            keys = [name for name in names if self._endings.match(name)]
            left_out.add(name for name in names if not self._endings.match(name))
            found += len(keys)
            if keys:
                labels = [name.split("/", 1)[0] if "/" in name else None for name in keys]
                paths = [storage.join(self.path, name) for name in keys]
                yield Records.from_columns(key=keys, path=paths, label=labels)
        self.left_out = left_out
        tell_what_is_left_out(self.path, self._endings, left_out, found)


@DATASETS.register("manifest")
class Manifest(Source):
    """A CSV, JSONL or Parquet file with one row per item, streamed; of CSV see ``bsssl.storage.tables``.

    Columns: ``path``, and where present ``label``, ``tags`` (a list; in CSV joined by ``;``), ``start`` and ``end`` of
    a segment of a video (seconds; null: the video's own), ``offset`` and ``size`` (a range of bytes inside ``path``)
    and ``key`` (default: the path as written, with ``@offset`` and ``#t=start,end`` if there are such). Relative paths
    are relative to ``root``, by default the manifest's folder. A ``*_column`` option names another column; one that is
    named must exist. With ``fps`` the paths are those of folders of frames, so many pictures a second: see ``frames``.
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
        fps: float | None = None,
    ) -> None:
        self.path = storage.absolute(path)
        self._root = os.path.dirname(self.path) if root is None else root
        self._frames = "" if fps is None else str(Frames(fps))
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
        if not first_row:
            self._check_columns(table.column_names)
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
        files = pc.binary_join_element_wise(written, self._frames, "")
        paths = [self._resolve(name) for name in self._with_segments(files, table, first_row).to_pylist()]
        return Records.from_columns(
            key=key,
            path=paths,
            offset=offset,
            size=_numbers(table, "size", missing=-1),
            label=column(table, self._columns["label"], pa.string()),
            tags=tag_lists(table[tags]) if (tags := self._columns["tags"]) in table.column_names else None,
        )

    def _check_columns(self, names: Sequence[str]) -> None:
        """Refuse a table without a column that is needed, and one whose name is that of another in disorder."""
        for role, name in self._columns.items():
            if name not in names and (role == "path" or name != role):
                packed = role == "path" and holds_items(self.path)
                mend = "set dataset: parquet for items inside" if packed else f"rename one or set {role}_column"
                raise UserError(f"{self.path} has no column '{name}'; columns found: {', '.join(names)}; {mend}")
        for name in names:
            meant = next(iter(get_close_matches(name.lower(), self._types.keys() - {*names}, n=1, cutoff=0.8)), None)
            if name in self._types or meant is None:
                continue
            if is_misspelt(name, meant):
                raise UserError(
                    f"{self.path} has a column '{name}'; rename it to '{meant}' or, if it is something else, otherwise"
                )
            logger.warning("%s: the column '%s' is not read; if '%s' is meant, call it so", self.path, name, meant)

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

    A member with one of the ``extensions`` (see ``Folder``) is an item with the key ``<tar>/<member>``, one of each
    sample; see ``index_tar`` for which, and for where its label comes from. A tar that is cut short is refused in a
    labeled set; in a pool its whole members are used and the cut becomes an item that cannot be read, so that it is
    counted and listed. Compressed tars (``.tar.gz``, ``.tar.zst`` and so on) are decompressed once, to the folder
    ``unpacked``, by default in the user's cache.
    """

    def __init__(self, *, path: str, extensions: str | Sequence[str] = "images", unpacked: str | None = None) -> None:
        self.path = storage.absolute(path)
        self.unpacked = unpacked
        self._endings = Endings(extensions)

    def files(self) -> list[str]:
        """Return the absolute paths or URLs of the tars, in order; UserError when nothing matches."""
        return files_at(self.path)

    def readable(self, file: str) -> str:
        """Return the tar with the items of one of ``files()``: the file itself, or what it was unpacked into."""
        return decompressed(file, folder=self.unpacked)

    def shards(self) -> Iterator[tuple[str, Records]]:
        """Yield the name and the records of each of ``files()``; of a tar that is cut the last stands for the cut.

        Raises:
            UserError: A tar is missing or none, or there is no item in all of them.
        """
        files, left_out, found = self.files(), LeftOut(), 0
        for file, (records, others) in zip(files, map_ahead(self._index, files, threads=_INDEX_THREADS), strict=True):
            left_out.update(others)
            found += len(records)
            yield tar_name(file), records
        self.left_out = left_out
        tell_what_is_left_out(self.path, self._endings, left_out, found)

    def batches(self) -> Iterator[Records]:
        """See ``Source``; one batch per tar; UserError for a tar that is missing or cut short."""
        for file, (_, records) in zip(self.files(), self.shards(), strict=True):
            if is_cut(records):
                raise UserError(f"{file} is cut short; download or write it again")
            yield records

    def _index(self, file: str) -> tuple[Records, LeftOut]:
        return index_tar(self.readable(file), endings=self._endings, name=tar_name(file))


def tar_name(file: str) -> str:
    """Return the name that a tar has in the keys of its items."""
    return storage.inner_path(file).rsplit("/", 1)[-1]


def tell_what_is_left_out(path: str, endings: Endings, left_out: LeftOut, found: int) -> None:
    """Say which files of a source are no items.

    Raises:
        UserError: There is no item at all.
    """
    others = endings.left_out(left_out) if left_out else ""
    if not found:
        raise UserError(f"nothing to read in {path}: there are no {endings} in it; {others or 'check the path'}")
    if others:
        logger.info("%s: %s", path, others)


def _numbers(table: pa.Table, name: str, *, missing: int) -> Any:
    """Return a column of numbers, ``missing`` where there is none; None if the table has no such column."""
    values = column(table, name, pa.int64())
    return None if values is None else pc.fill_null(values, missing)
