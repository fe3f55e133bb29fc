"""Items by what a user points at: a file, a folder, tars, or a table of files."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal

import pyarrow.compute as pc

from bsssl import storage
from bsssl.data.datasets.frames import FrameFolders
from bsssl.data.datasets.opening import open_source
from bsssl.data.datasets.packed import holds_items
from bsssl.data.datasets.sources import Folder, Source, Tars
from bsssl.data.endings import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, extension_of
from bsssl.data.records import Records
from bsssl.data.unpacking import COMPRESSED
from bsssl.storage.tables import BATCH_ROWS, TABLES

_FILES = tuple(f".{extension}" for extension in (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS))


def items_at(paths: Iterable[str], *, videos: bool) -> Iterator[Records]:
    """Yield the items at ``paths`` in order, in batches of bounded size; keys are the names by which a user knows them.

    What ends in .tar, .tar.gz and so on, and may then be a pattern, is tars; .csv, .tsv, .jsonl or .parquet is a
    manifest, but for Parquet with the items inside; a folder is walked; anything else is an item itself, called as it
    is written. Where videos are wanted, a folder of pictures is one, and the folders of such in a folder are. Every
    path may be a URL.

    Args:
        paths: What the user points at.
        videos: Whether the items of folders and tars are videos, or else pictures.

    Raises:
        UserError: A folder, a table or a tar cannot be read, or there is nothing in it.
    """
    sources = ((path, _source(path, videos=videos)) for path in paths)
    for is_item, group in itertools.groupby(sources, key=lambda one: one[1] is None):
        if is_item:
            while files := [path for path, _ in itertools.islice(group, BATCH_ROWS)]:
                yield Records.from_columns(key=files, path=files)
        else:
            for path, source in group:
                assert source is not None
                yield from _named(path, source)


def dataset_at(path: str) -> Literal["tars", "parquet", "manifest", "folder"] | None:
    """Return the name of the dataset that lies at ``path``, which may be a URL; None for what would be an item itself.

    Raises:
        UserError: A server does not let us know.
    """
    if not storage.is_remote(path) and storage.is_folder(path):  # whatever its name ends in
        return "folder"
    name = storage.inner_path(path).lower()
    if name.endswith((".tar", *COMPRESSED)):
        return "tars"
    if name.rpartition(".")[2] in TABLES:
        return "parquet" if holds_items(path) else "manifest"
    may_be_folder = storage.is_remote(path) and not name.endswith(_FILES)  # to ask a server takes time
    return "folder" if may_be_folder and storage.is_folder(path) else None


def _source(path: str, *, videos: bool) -> Source | None:
    """Return what lies at ``path``; None for a single item."""
    dataset = dataset_at(path)
    if dataset is None:
        return None
    is_of_frames = videos and dataset == "folder" and _has_pictures(path)
    return open_source("frames" if is_of_frames else dataset, path=path, options={}, videos=videos)


def _has_pictures(folder: str) -> bool:
    """Return whether there are pictures below a folder, and no video comes before the first of them."""
    first = next((name for name in storage.walk(folder) if name.lower().endswith(_FILES)), "")
    return extension_of(first) in IMAGE_EXTENSIONS and extension_of(first) not in VIDEO_EXTENSIONS


def _named(path: str, source: Source) -> Iterator[Records]:
    """Yield the records of the source at ``path`` with keys that say where they are; a manifest has its own."""
    if isinstance(source, Folder):
        yield from (_below(path, records) for records in source.batches())
    elif isinstance(source, FrameFolders):  # of which one may be that of a single video
        top = {"pattern": source.path.rstrip("/"), "replacement": path.rstrip("/"), "max_replacements": 1}
        yield from (records.with_keys(pc.replace_substring(records.files(), **top)) for records in source.batches())
    elif isinstance(source, Tars):
        for file, records in zip(source.files(), source.batches(), strict=True):
            yield _below(file.rpartition("/")[0], records)
    else:
        yield from source.batches()


def _below(folder: str, records: Records) -> Records:
    return records.with_keys(pc.binary_join_element_wise(storage.join(folder, ""), records.key, ""))
