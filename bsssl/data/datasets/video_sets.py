"""Public sets of videos, as they are distributed: Kinetics, UCF-101 and HMDB-51."""

import os
import re
import string
from abc import abstractmethod
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from bsssl import storage
from bsssl.data.datasets.sources import Source
from bsssl.data.records import Records
from bsssl.data.segments import with_segment
from bsssl.errors import UserError, choices
from bsssl.registry import DATASETS
from bsssl.runtime.console import logger
from bsssl.storage.tables import column, read_tables, reading_table

_KINETICS_FIELDS = ("label", "label_underscored", "id", "start", "end")
_HMDB_PARTS = {"train": "1", "test": "2"}  # in the lists; 0 is neither


@DATASETS.register("kinetics")
class Kinetics(Source):
    """Kinetics-400, -600 or -700: its CSV (``label,youtube_id,time_start,time_end,split``; no label in some test sets).

    Args:
        path: the CSV, of one split.
        root: the folder of the videos, by default the CSV's.
        file: where in ``root`` the video of a row is, with the fields ``{label}``, ``{label_underscored}`` (spaces
            replaced), ``{id}``, ``{start}`` and ``{end}`` (seconds).
        segments: take only the row's segment of its video. By default so if ``file`` has no ``{start}``, since such
            videos are whole ones.
        missing: many of the videos are gone. ``keep`` has the rows whose file is not in ``root`` reported as files that
            cannot be read; ``skip`` leaves them out, counted, as may do for training but not for a test set.

    The key is the file's path in ``root``, with the segment if there is one.
    """

    def __init__(
        self,
        *,
        path: str,
        root: str | None = None,
        file: str = "{label}/{id}_{start:06d}_{end:06d}.mp4",
        segments: bool | None = None,
        missing: str = "keep",
    ) -> None:
        if missing not in ("skip", "keep"):
            raise UserError(f"kinetics: missing is '{missing}'; valid: keep, skip")
        self.path = storage.absolute(path)
        self._root = os.path.dirname(self.path) if root is None else storage.absolute(root)
        self._file = file
        self._fields = _fields(file)
        self._segments = "start" not in self._fields if segments is None else segments
        self._skip = missing == "skip"

    def batches(self) -> Iterator[Records]:
        """See ``Source``; UserError for a missing or malformed CSV, and when none of its videos is there."""
        # One walk instead of a question per row: hundreds of thousands of those take long on a network's file system.
        present = set(storage.walk(self._root)) if self._skip else None
        rows = found = 0
        first = None
        types = {"label": pa.string(), "youtube_id": pa.string(), "time_start": pa.float64(), "time_end": pa.float64()}
        with reading_table(self.path):
            for table in read_tables(self.path, types=types):
                names, records = self._to_records(table, first_row=rows)
                rows += len(table)
                first = first or next(iter(names), None)
                if present is not None:
                    records = records.filter([name in present for name in names])
                found += len(records)
                if len(records):
                    yield records
        if not rows:
            raise UserError(f"{self.path} has no rows; it needs one per video")
        tell_what_is_missing(self.path, root=self._root, first=str(first), found=found, total=rows)

    def _to_records(self, table: pa.Table, first_row: int) -> tuple[list[str], Records]:
        """Return the videos' paths in ``root``, and the records."""
        label, video = (column(table, name, pa.string()) for name in ("label", "youtube_id"))
        start, end = (column(table, name, pa.float64()) for name in ("time_start", "time_end"))
        needed = {"youtube_id": video, "time_start": start, "time_end": end}
        if self._fields & {"label", "label_underscored"}:
            needed["label"] = label
        for name, values in needed.items():
            if values is None:
                raise UserError(
                    f"{self.path} has no column '{name}'; columns found: {', '.join(table.column_names)}"
                    + ("; set file to where the videos are, without {label}" if name == "label" else "")
                )
            if values.null_count:
                row = first_row + pc.index(pc.is_null(values), True).as_py() + 1
                raise UserError(f"{self.path}: row {row} has no {name}; every row needs one")
        labels = [None] * len(table) if label is None else label.to_pylist()
        columns = (labels, video.to_pylist(), start.to_pylist(), end.to_pylist())
        names, segments = [], []
        for row, values in enumerate(zip(*columns, strict=True), first_row + 1):
            try:
                name = self._name(*values)
                segments.append(with_segment(name, *values[2:]) if self._segments else name)
            except (UserError, ValueError) as error:
                raise UserError(f"{self.path}: row {row}: {error}") from None
            names.append(name)
        paths = [storage.join(self._root, name) for name in segments]
        return names, Records.from_columns(key=segments, path=paths, label=labels)

    def _name(self, label: str | None, video: str, start: float, end: float) -> str:
        label = label or ""
        return self._file.format(
            label=label,
            label_underscored=label.replace(" ", "_"),
            id=video,
            start=int(start) if start.is_integer() else start,
            end=int(end) if end.is_integer() else end,
        )


def tell_what_is_missing(path: str, *, root: str, first: str, found: int, total: int) -> None:
    """Say how many of the videos that a list has are not there.

    Args:
        path: The list.
        root: The folder of the videos.
        first: The first of them that was looked for.
        found: How many are there.
        total: How many the list has.

    Raises:
        UserError: None is there.
    """
    if not found:
        raise UserError(
            f"none of the {total} videos of {path} is in {root}; the first one looked for was "
            f"{storage.join(root, first)}; check root and file"
        )
    if found < total:
        logger.warning("%s: %d of %d videos are not in %s, left out", path, total - found, total, root)


def _fields(file: str) -> set[str]:
    """Return the fields of the format string ``file``; UserError for one that is malformed or has other fields."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(file) if field is not None}
        unknown = sorted(fields - set(_KINETICS_FIELDS))
        if not unknown:
            file.format(label="", label_underscored="", id="", start=0, end=0)
    except (ValueError, LookupError) as error:
        raise UserError(f"kinetics: file is '{file}': {error}; write for example '{{id}}_{{start:06d}}.mp4'") from None
    if unknown:
        raise UserError(f"kinetics: file has the field '{unknown[0]}': {choices(unknown[0], _KINETICS_FIELDS)}")
    return fields


class _Listed(Source):
    """Videos below the folder ``path``, each in the folder of its class, that lists in ``lists`` name."""

    def __init__(self, *, path: str, lists: str) -> None:
        self.path = storage.absolute(path)
        self._lists = storage.absolute(lists)

    @abstractmethod
    def names(self) -> Iterator[str]:
        """``class/file`` of every video, in order; UserError for a list that is missing or malformed."""

    def batches(self) -> Iterator[Records]:
        """See ``Source``, all at once; UserError for a missing or malformed list and for videos that are missing."""
        names = list(self.names())
        present = set(storage.walk(self.path))
        missing = [name for name in names if name not in present]
        if missing:
            raise UserError(
                f"{len(missing)} of the {len(names)} videos that {self._lists} lists are not in {self.path} (such as "
                f"{missing[0]}); check the path"
            )
        if not names:
            raise UserError(f"{self._lists} lists no videos; check the path")
        paths = [storage.join(self.path, name) for name in names]
        yield Records.from_columns(key=names, path=paths, label=[name.split("/")[0] for name in names])


@DATASETS.register("ucf101")
class Ucf101(_Listed):
    """UCF-101: ``path`` is the folder of its ``<class>/v_<class>_g01_c01.avi``, ``split_file`` the list of a split.

    That is ``trainlist01.txt``, ``testlist01.txt`` or another of those that come with it.
    """

    def __init__(self, *, path: str, split_file: str) -> None:
        super().__init__(path=path, lists=split_file)

    def names(self) -> Iterator[str]:
        """See ``_Listed``; from lines such as ``Archery/v_Archery_g08_c01.avi 3``, in test lists without the number."""
        for line, text in _lines(self._lists):
            match = re.fullmatch(r"([^/\s]+/[^/\s]+)(\s+\d+)?", text)
            if match is None:
                raise UserError(f"{self._lists}: line {line} is not like 'Archery/v_Archery_g08_c01.avi 3': {text}")
            yield match[1]


@DATASETS.register("hmdb51")
class Hmdb51(_Listed):
    """HMDB-51: ``path`` is the folder of its ``<class>/*.avi``, ``splits`` that of its ``<class>_test_split1.txt``.

    ``split`` is 1, 2 or 3, ``part`` is ``train`` or ``test``; the other videos are in neither.
    """

    def __init__(self, *, path: str, splits: str, part: str, split: int = 1) -> None:
        super().__init__(path=path, lists=splits)
        if split not in (1, 2, 3):
            raise UserError(f"hmdb51 has no split '{split}'; valid: 1, 2, 3")
        if part not in _HMDB_PARTS:
            raise UserError(f"hmdb51 has no part '{part}'; valid: test, train")
        self._ending = f"_test_split{split}.txt"
        self._part = _HMDB_PARTS[part]

    def names(self) -> Iterator[str]:
        """See ``_Listed``; from lines such as ``April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1``."""
        lists = [name for name in storage.walk(self._lists) if name.endswith(self._ending)]
        if not lists:
            raise UserError(f"{self._lists} has no lists named <class>{self._ending}; check splits")
        for name in lists:
            path = storage.join(self._lists, name)
            folder = os.path.basename(name).removesuffix(self._ending)
            for line, text in _lines(path):
                match = re.fullmatch(r"([^/\s]+)\s+([012])", text)
                if match is None:
                    raise UserError(f"{path}: line {line} is not like 'brush_hair_0.avi 1': {text}")
                if match[2] == self._part:
                    yield f"{folder}/{match[1]}"


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of the lines of a file that are not blank."""
    with storage.open_read(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.decode(errors="replace").strip()
            if text:
                yield number, text
