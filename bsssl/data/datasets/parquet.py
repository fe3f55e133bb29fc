"""Parquet files with the items inside, as the data sets of Hugging Face have them."""

import contextlib
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from bsssl import storage
from bsssl.data.datasets.packed import ITEM_COLUMNS, is_of_items
from bsssl.data.datasets.sources import Tars
from bsssl.data.endings import extension_of
from bsssl.data.members import add_member
from bsssl.data.unpacking import unpacked
from bsssl.errors import UserError, choices, is_misspelt
from bsssl.registry import DATASETS
from bsssl.storage.tables import reading_table

_ROWS = 64  # at a time
_SIGNS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif"}


@DATASETS.register("parquet")
class ParquetItems(Tars):
    """Parquet with the items inside: a file, a glob or a brace pattern, or a folder of them; local or by URL.

    The items are in ``column``, by default ``image`` or ``video``: their bytes, or a struct with a field ``bytes``, as
    Hugging Face's data sets have it.
    Labels are in ``label_column``; numbers become the names that such a data set has for them, -1 is no label. As
    single items cannot be read out of Parquet in any order, each file is unpacked once into a tar, to the folder
    ``unpacked``, by default in the user's cache. Keys are ``<file>/<row>``.
    """

    def __init__(
        self, *, path: str, column: str | None = None, label_column: str = "label", unpacked: str | None = None
    ) -> None:
        super().__init__(path=path, extensions="any", unpacked=unpacked)
        self._column, self._label_column = column, label_column

    @override
    def files(self) -> list[str]:
        if not storage.is_folder(self.path):
            return super().files()
        found = [storage.join(self.path, name) for name in storage.walk(self.path) if name.endswith(".parquet")]
        if not found:
            raise UserError(f"{self.path} has no .parquet files; check the path")
        return found

    @override
    def readable(self, file: str) -> str:
        settings = [self._column, self._label_column]
        return unpacked(file, partial(self._unpack, file), folder=self.unpacked, settings=settings)

    def _unpack(self, path: str, target: IO[bytes]) -> None:
        """Write the items of a file as a WebDataset tar."""
        with (
            reading_table(path),
            storage.open_read(path) as file,
            tarfile.open(fileobj=target, mode="w|") as tar,
        ):
            # By pages, where a group of rows may be the whole file.
            table = pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
            column = self._item_column(path, table.schema_arrow)
            names = self._class_names(path, table.schema_arrow)
            columns = [column] + [self._label_column] * (names is not None)
            for row, (content, name, label) in enumerate(_rows(table, columns)):
                if content is None and name is not None:
                    raise UserError(f"{path}: row {row + 1} names a file and has no bytes; use dataset: manifest")
                key = f"{row:09d}"
                try:
                    class_name = _class_name(label, names or [])
                except ValueError as error:
                    raise UserError(f"{path}: row {row + 1}: {error}; correct it, or name another column") from None
                if class_name is not None:
                    add_member(tar, f"{key}.cls", class_name.encode())
                add_member(tar, f"{key}.{_extension(name, content or b'')}", content or b"")

    def _item_column(self, path: str, schema: pa.Schema) -> str:
        usual = next((name for name in ITEM_COLUMNS if name in schema.names), ITEM_COLUMNS[0])
        column = self._column or usual
        if column not in schema.names:
            raise UserError(f"{path} has no column '{column}': {choices(column, schema.names)}; see options.column")
        if not is_of_items(schema.field(column).type):
            raise UserError(
                f"{path}: the column '{column}' holds neither bytes nor structs with bytes; name another by "
                "options.column"
            )
        return column

    def _class_names(self, path: str, schema: pa.Schema) -> list[str] | None:
        """Return the names of the classes, none where labels are names themselves; None where there are no labels."""
        if self._label_column not in schema.names:
            misspelt = [name for name in schema.names if is_misspelt(name, "label")]
            if misspelt or self._label_column != "label":
                raise UserError(
                    f"{path} has no column '{self._label_column}': {choices(self._label_column, schema.names)}; see "
                    "options.label_column"
                )
            return None
        if pa.types.is_nested(schema.field(self._label_column).type):
            raise UserError(
                f"{path}: the column '{self._label_column}' holds more than one label per row; name another"
            )
        features: Any = {}
        with contextlib.suppress(KeyError, TypeError, ValueError):  # of another program
            said = storage.parse_json((schema.metadata or {})[b"huggingface"])
            features = said["info"]["features"][self._label_column]
        names = features.get("names") if isinstance(features, dict) else None
        return [str(name) for name in names] if isinstance(names, list) else []


def _rows(table: pq.ParquetFile, columns: list[str]) -> Iterator[tuple[bytes | None, str | None, Any]]:
    """Yield the content, the name and the label of each row, None where there is none."""
    # Threads of Arrow's must not hold the file when a loader is forked: see ``bsssl.data.records.Records.read``.
    for batch in table.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
        items, *labels = (batch.column(name).to_pylist() for name in columns)
        for item, label in zip(items, labels[0] if labels else [None] * len(items), strict=True):
            if isinstance(item, dict):
                yield item["bytes"], item.get("path"), label
            else:
                yield item, None, label


def _class_name(label: Any, names: list[str]) -> str | None:
    """Return the class that a label stands for, of the ``names`` by number where there are such; None for no label.

    Raises:
        ValueError: There is no name for such a number.
    """
    if label is None or label != label:
        return None
    if not names or isinstance(label, str):
        return str(label)
    if label != int(label) or not -1 <= label < len(names):
        raise ValueError(f"the label {label} is of none of the {len(names)} classes that have names")
    return None if label == -1 else names[int(label)]


def _extension(name: str | None, content: bytes) -> str:
    extension = extension_of(name or "") or next(
        (kind for sign, kind in _SIGNS.items() if content.startswith(sign)), ""
    )
    return extension if extension.isalnum() and extension not in ("cls", "json", "txt") else "bin"
