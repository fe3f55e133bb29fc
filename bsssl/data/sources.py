"""Sources: where the records of a labeled set, a test set or a pool come from. Each is one entry of DATASETS."""

import io
import itertools
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bsssl import fileio
from bsssl.data.records import (
    RECORD_SCHEMA,
    TAG_SEPARATOR,
    concat_records,
    make_records,
)
from bsssl.data.tars import index_tar, is_cut
from bsssl.log import logger
from bsssl.registry import DATASETS, UserError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jfif", "jpe")
DIGITS_TEST_ITEMS = 500
_BATCH_ROWS = 65_536  # records in memory at once while a source is streamed


class Source(ABC):
    """An ordered set of records. Streaming it twice gives the same records as long as the files are the same."""

    makes_files = False
    """whether the files at its path are of its own making: they then say nothing about the data"""

    @abstractmethod
    def batches(self) -> Iterator[pa.Table]:
        """The records in order, in tables of bounded size, so that memory does not grow with the source."""

    def records(self) -> pa.Table:
        """All records at once, for labeled and test sets; UserError when there are none."""
        return concat_records(list(self.batches()))


@DATASETS.register("folder")
class Folder(Source):
    """A folder of files, walked in sorted order, links followed, hidden names skipped; local or remote.

    The label is the first sub-folder below ``path`` (``path/cat/2021/7.jpg`` -> ``cat``), null for files directly in
    ``path``; the key is the path relative to ``path``. ``extensions`` without dots; ``["*"]`` takes every file.
    """

    def __init__(self, *, path: str, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> None:
        self.path = _absolute(path)
        self._endings = _endings(extensions)

    def batches(self) -> Iterator[pa.Table]:
        """See ``Source``; UserError when the folder is missing or holds no file with one of the extensions."""
        if not fileio.exists(self.path):
            raise UserError(f"no such folder: {self.path}; check the path")
        files, skipped, found = _walk(self.path), 0, 0
        while chunk := list(itertools.islice(files, _BATCH_ROWS)):
            keys = [name for name in chunk if name.lower().endswith(self._endings)]
            skipped += len(chunk) - len(keys)
            found += len(keys)
            if keys:
                labels = [name.split("/", 1)[0] if "/" in name else None for name in keys]
                yield make_records(key=keys, path=[fileio.join(self.path, name) for name in keys], label=labels)
        if not found:
            raise UserError(
                f"nothing to read in {self.path}: none of its {skipped} files ends in {', '.join(self._endings)}; "
                "check the path or set extensions"
            )
        if skipped:
            logger.info("%s: %d files with other extensions left out", self.path, skipped)


@DATASETS.register("manifest")
class Manifest(Source):
    """A CSV, JSONL or Parquet file with one row per item, streamed.

    Columns: ``path``, and where present ``label``, ``tags`` (a list; in CSV joined by ``;``), ``offset`` and ``size``
    (a range of bytes inside ``path``) and ``key`` (default: the path as written, with ``@offset`` if there is one).
    Relative paths are relative to ``root``, by default the manifest's folder. A ``*_column`` option names another
    column; one that is named must exist.
    """

    def __init__(
        self,
        *,
        path: str,
        root: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        tags_column: str = "tags",
    ) -> None:
        self.path = _absolute(path)
        self._root = os.path.dirname(self.path) if root is None else root
        self._columns = {"path": path_column, "label": label_column, "tags": tags_column}

    def batches(self) -> Iterator[pa.Table]:
        """See ``Source``; UserError for a missing file or column, a malformed row, a row without a path, no row."""
        rows = 0
        try:
            for table in _manifest_tables(self.path, text_columns=list(self._columns.values())):
                if len(table):
                    yield self._to_records(table, first_row=rows)
                rows += len(table)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path} cannot be read as a manifest: {_one_line(error)}") from None
        if not rows:
            raise UserError(f"{self.path} has no rows; a manifest needs one row per item")

    def _to_records(self, table: pa.Table, first_row: int) -> pa.Table:
        for role, name in self._columns.items():
            if name not in table.column_names and (role == "path" or name != role):
                raise UserError(
                    f"{self.path} has no column '{name}'; columns found: {', '.join(table.column_names)}; "
                    f"rename one or set {role}_column"
                )
        written = table[self._columns["path"]].cast(pa.string())
        if written.null_count:
            row = first_row + pc.index(pc.is_null(written), True).as_py() + 1
            raise UserError(f"{self.path}: row {row} has no path; every row needs one")
        offset = self._numbers(table, "offset", missing=0)
        key = _column(table, "key", pa.string())
        if key is None:
            key = written
            if "offset" in table.column_names:
                key = pc.binary_join_element_wise(written, offset.cast(pa.string()), "@")
        columns = {
            "key": key,
            "path": pa.array([self._resolve(name) for name in written.to_pylist()], pa.string()),
            "offset": offset,
            "size": self._numbers(table, "size", missing=-1),
            "label": _column(table, self._columns["label"], pa.string()),
            "tags": _tags(table, self._columns["tags"]),
        }
        empty = pa.nulls(len(table))
        arrays = [
            empty.cast(field.type) if columns[field.name] is None else columns[field.name] for field in RECORD_SCHEMA
        ]
        return pa.table(arrays, schema=RECORD_SCHEMA)

    def _numbers(self, table: pa.Table, name: str, *, missing: int) -> Any:
        column = _column(table, name, pa.int64())
        return pa.array(np.full(len(table), missing)) if column is None else pc.fill_null(column, missing)

    def _resolve(self, name: str) -> str:
        if fileio.is_remote(name) or os.path.isabs(name):
            return name
        if fileio.is_remote(self._root):
            return fileio.join(self._root, name)
        return os.path.abspath(os.path.join(self._root, name))


@DATASETS.register("tars")
class Tars(Source):
    """WebDataset tars: one path, a glob or a brace pattern (``train-{000..099}.tar``); local or by URL.

    Every member with one of the ``extensions`` is an item with the key ``<tar>/<member>``; see ``index_tar`` for where
    its label comes from. A tar that is cut short is refused in a labeled set; in a pool its whole members are used and
    the cut becomes an item that cannot be read, so that it is counted and listed.
    """

    def __init__(self, *, path: str, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> None:
        self.path = _absolute(path)
        self._endings = _endings(extensions)

    def tars(self) -> list[str]:
        """The tars' absolute paths or URLs, in order; UserError when nothing matches."""
        found = []
        for pattern in _expand_braces(self.path):
            matches = fileio.glob(pattern) if re.search(r"[*?\[]", pattern) else [pattern]
            found += matches
        if not found:
            raise UserError(f"no tar matches {self.path}; check the pattern")
        return found

    def index(self, tar: str) -> pa.Table:
        """The records of one of ``tars()``; the last one stands for the cut if the tar is cut short."""
        return index_tar(tar, endings=self._endings)

    def batches(self) -> Iterator[pa.Table]:
        """See ``Source``; one table per tar; UserError for a tar that is missing or cut short."""
        for tar in self.tars():
            records = self.index(tar)
            if is_cut(records):
                raise UserError(f"{tar} is cut short; download or write it again")
            yield records


@DATASETS.register("digits")
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits (8x8, grey), written once as PNGs into two tars in the folder ``path``.

    ``split`` is ``train`` (1,297 items) or ``test`` (500, stratified, the same ones always).
    """

    makes_files = True

    def __init__(self, *, path: str, split: str) -> None:
        if split not in ("train", "test"):
            raise UserError(f"digits has no split '{split}'; valid: test, train")
        self._tar = fileio.join(path, f"digits-{split}.tar")
        self._folder = path

    def batches(self) -> Iterator[pa.Table]:
        """See ``Source``; writes the tars first if they are not there."""
        if not fileio.exists(self._tar):
            _write_digits(self._folder)
        yield from Tars(path=self._tar).batches()


def _write_digits(folder: str) -> None:
    import tarfile

    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(pixels)), test_size=DIGITS_TEST_ITEMS, stratify=digits.target, random_state=0
    )
    for split, rows in (("train", np.sort(train)), ("test", np.sort(test))):
        with (
            fileio.atomic_write(fileio.join(folder, f"digits-{split}.tar")) as file,
            tarfile.open(fileobj=file, mode="w") as tar,
        ):
            for row in rows:
                png = io.BytesIO()
                Image.fromarray(pixels[row]).save(png, format="PNG")
                member = tarfile.TarInfo(f"{digits.target[row]}/{row:04d}.png")
                member.size = png.tell()
                png.seek(0)
                tar.addfile(member, png)


def _absolute(path: str) -> str:
    """The absolute path; of a URL itself, once it is sure that its protocol can be read."""
    if not fileio.is_remote(path):
        return os.path.abspath(path)
    fileio.remote_filesystem(path)
    return path


def _endings(extensions: Sequence[str]) -> tuple[str, ...]:
    return ("",) if "*" in extensions else tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)


def _walk(root: str) -> Iterator[str]:
    """Paths of all files below ``root``, relative to it, with forward slashes, in an order that never varies."""
    if fileio.is_remote(root):
        filesystem, top = fileio.remote_filesystem(root)
        top = top.rstrip("/")
        walk = filesystem.walk(top)
    else:
        top, walk = root, os.walk(root, followlinks=True)
    for folder, subfolders, files in walk:
        # os.walk descends in the order in which it finds this list; remote walks give theirs in listing order.
        subfolders_kept = sorted(name for name in subfolders if not name.startswith("."))
        if isinstance(subfolders, list):
            subfolders[:] = subfolders_kept
        prefix = folder[len(top) :].strip("/").replace(os.sep, "/")
        for name in sorted(files):
            if not name.startswith("."):
                yield f"{prefix}/{name}" if prefix else name


def _manifest_tables(path: str, *, text_columns: list[str]) -> Iterator[pa.Table]:
    ending = path.rsplit(".", 1)[-1].lower()
    if ending not in ("csv", "jsonl", "parquet"):
        raise UserError(f"{path}: a manifest must end in .csv, .jsonl or .parquet")
    with fileio.open_read(path) as file:
        if ending == "csv":
            yield from _csv_tables(file, text_columns)
        elif ending == "jsonl":
            yield from _jsonl_tables(path, file)
        else:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
                yield pa.Table.from_batches([batch])


def _csv_tables(file: IO[bytes], text_columns: list[str]) -> Iterator[pa.Table]:
    # Without the types, a class called "007" would become the number 7.
    types = {name: pa.string() for name in ["key", *text_columns]} | {"offset": pa.int64(), "size": pa.int64()}
    options = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
    for batch in pa.csv.open_csv(file, convert_options=options):
        yield pa.Table.from_batches([batch])


def _jsonl_tables(path: str, file: IO[bytes]) -> Iterator[pa.Table]:
    numbered = enumerate(file, start=1)
    while chunk := list(itertools.islice(numbered, _BATCH_ROWS)):
        rows = []
        for number, line in chunk:
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}: line {number} is not valid JSON ({error})") from None
                if not isinstance(row, dict):
                    raise UserError(f'{path}: line {number} is not an object such as {{"path": "cat.jpg"}}')
                rows.append(row)
        names = list(dict.fromkeys(name for row in rows for name in row))
        yield pa.table({name: _json_column([row.get(name) for row in rows]) for name in names})


def _json_column(values: list[Any]) -> pa.Array:
    if any(isinstance(value, str) for value in values):  # "3" and 3 may both stand for the class "3"
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(values)


def _column(table: pa.Table, name: str, kind: pa.DataType) -> Any:
    return table[name].cast(kind) if name in table.column_names else None


def _tags(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return None
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.split_pattern(column.cast(pa.string()), TAG_SEPARATOR)
    return column.cast(pa.list_(pa.string()))


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
