"""Looking at data: what there is of each class, how large items are, what cannot be read."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from bsssl import data, storage
from bsssl.config import Source
from bsssl.data.frames import Frames
from bsssl.data.labels import ordered
from bsssl.errors import UserError
from bsssl.runtime.console import logger, progress
from bsssl.stages.doubts import are_captions, of_captions
from bsssl.stages.sources import open_source

_OPENED = {"pictures": 100, "videos": 20}
"""how many items of each source are decoded"""
_LEAST_FRAMES = 8
"""how many pictures a folder must have to be taken for the frames of a video"""
_LISTED = 10_000
"""how many files of a source say whether it has pictures or videos"""
_OF_FRAMES = {"folder": "frames", "tars": "frame_tars"}
"""datasets of pictures, and those of videos whose frames the pictures are"""
_NO_CLASSES = {
    "": ("train", "training", "labels", "labeled"),
    "--pool ": ("pool", "unlabeled"),
    "--test ": ("test", "val", "valid", "validation"),
}
"""names of folders that are rarely those of classes, by the option that names them"""


@dataclass(frozen=True)
class Items:
    """What was seen of the items of a source."""

    source: Source
    counts: dict[str, int]
    """items of each class, by name"""
    unlabeled: int
    extents: tuple[data.Extent, ...]
    """the sizes of the items that were opened"""
    unreadable: tuple[tuple[str, str], ...]
    """the items that cannot be read, of those that were opened, with the reason"""

    @property
    def opened(self) -> int:
        """How many items were opened."""
        return len(self.extents) + len(self.unreadable)

    @property
    def total(self) -> int:
        """How many items there are."""
        return self.unlabeled + sum(self.counts.values())


@dataclass(frozen=True)
class Findings:
    """What was seen of labels, pool and test set."""

    videos: bool
    train: Items
    pool: tuple[Items, ...]
    test: Items | None

    @property
    def parts(self) -> tuple[Items, ...]:
        """The labels, the pool's sources and the test set."""
        return (self.train, *self.pool, *([] if self.test is None else [self.test]))

    @property
    def kind(self) -> str:
        """What the items are: pictures or videos."""
        return "videos" if self.videos else "pictures"

    @property
    def unlabeled(self) -> int:
        """How many items have no label, or one that is not read."""
        return self.train.unlabeled + sum(part.total for part in self.pool)


def look(train: str, *, pool: Sequence[str], test: str | None, frames: float | None = None) -> Findings:
    """Return what is seen at these paths, each a folder, a table of files or tars.

    Args:
        train: Labeled items; those without a label are a part of the pool.
        pool: Items without labels.
        test: Labeled items for the test.
        frames: The rate of the videos whose frames the pictures in each folder are; None where they are none.

    Raises:
        UserError: There is nothing to read somewhere, or the labeled items have less than two classes.
    """
    videos = frames is not None or _are_videos(train)
    if not videos and (folder := _numbered_folder(train)):
        logger.warning(
            "%s: the pictures in %s and other folders are numbered as the frames of videos are, and taken for single "
            "ones; if each folder is a video, give --frames and its rate, such as --frames 25",
            *(train, folder),
        )
    sources = {path: _source(path, frames) for path in (train, *pool, *([] if test is None else [test]))}
    held = [path for path in (train, test) if path is not None]
    places = data.Places(data.Records.concat(records for path in held for records in _records(sources[path], videos)))
    findings = Findings(
        videos,
        _items(sources[train], videos),
        tuple(_items(sources[path], videos, besides=places) for path in pool),
        None if test is None else _items(sources[test], videos),
    )
    _check(findings)
    return findings


def _source(path: str, frames: float | None = None) -> Source:
    dataset = data.dataset_at(path)
    if dataset is None:
        raise UserError(
            f"{path} is neither a folder nor a table of files (.csv, .jsonl, .parquet) nor tars; give one of these"
        )
    if frames is not None and dataset in _OF_FRAMES:
        return Source(dataset=_OF_FRAMES[dataset], path=path, options={"fps": frames})
    return Source(dataset=dataset, path=path)


def _are_videos(path: str) -> bool:
    """Return whether more of the files at ``path`` are videos than pictures, by the ends of their names."""
    source = _source(path)
    if source.dataset == "folder":
        names = list(itertools.islice(storage.walk(path), _LISTED))
    else:
        anything = source.model_copy(update={"options": {"extensions": "any"} if source.dataset == "tars" else {}})
        names = [name for records in _records(anything, False) for name in records.key.to_pylist()]
    endings = Counter(name.lower().rpartition(".")[2] for name in names)
    videos, pictures = (sum(endings[end] for end in ends) for ends in (data.VIDEO_EXTENSIONS, data.IMAGE_EXTENSIONS))
    if not videos and not pictures:
        common = ", ".join(f".{ending}" for ending, _ in endings.most_common(3))
        has = f"its files ({common}) are neither pictures nor videos" if names else "it has no files"
        raise UserError(f"there is nothing to learn from in {path}: {has}; check the path")
    return videos > pictures


def _numbered_folder(path: str) -> str | None:
    """Return a folder with pictures if all have such as frames of videos are: numbered, in several folders of a class.

    A class with one folder of numbered pictures is a usual way to keep single ones.
    """
    if _source(path).dataset != "folder":
        return None
    names = list(itertools.islice(storage.walk(path), _LISTED))
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    if len(names) == _LISTED and len(groups) > 1:
        groups.popitem()  # of the last folder not all names may be listed
    classes = {folder.split("/")[0] for folder in groups}
    if len(groups) <= len(classes) or not all(map(_are_frames, groups.values())):
        return None
    return next(iter(groups))


def _are_frames(names: Sequence[str]) -> bool:
    if len(names) < _LEAST_FRAMES:
        return False
    try:
        return bool(Frames().ordered(name.rpartition("/")[2] for name in names))
    except OSError:
        return False


def _records(source: Source, videos: bool) -> Iterator[data.Records]:
    return (records.tidied() for records in open_source(source, videos=videos).batches())


def _items(source: Source, videos: bool, *, besides: data.Places | None = None) -> Items:
    """Return what is seen of a source, without the items that lie at one of the places ``besides``."""
    kind = "videos" if videos else "pictures"
    counts, picked = Counter[str | None](), []
    for records in _records(source, videos):
        new = records if besides is None else records.filter(~besides.mask(records))
        counts.update({pair["values"]: pair["counts"] for pair in pc.value_counts(new.label).to_pylist()})
        picked.append(_spread(new, _OPENED[kind]))
    extents, unreadable = [], []
    for record in progress(list(_spread(data.Records.concat(picked), _OPENED[kind])), unit=kind, title="looking"):
        try:
            extents.append(data.extent_of(record, videos=videos))
        except data.Unreadable as error:
            unreadable.append((record.key, str(error)))
    named = {name: counts[name] for name in ordered(filter(None, counts))}
    return Items(source, named, counts[None], (*extents,), (*unreadable,))


def _spread(records: data.Records, most: int) -> data.Records:
    """Return ``most`` of the records at equal distances, or all of fewer."""
    return records.take(np.unique(np.linspace(0, len(records) - 1, min(most, len(records))).astype(int)))


def _check(findings: Findings) -> None:
    """Refuse data that no recipe can be made of."""
    path, counts = findings.train.source.path, findings.train.counts
    if not counts:
        raise UserError(
            f"{path} has no labels; put the {findings.kind} of each class in a folder of its own, {path}/CLASS/, or "
            "give a table of files with a column label"
        )
    if len(counts) == 1:
        raise UserError(f"{path} has a single class ({next(iter(counts))}), two at least are needed; check the path")
    if are_captions(counts):
        raise UserError(f"{path}: {of_captions(counts)}")
    no_classes = {name for names in _NO_CLASSES.values() for name in names}
    if findings.train.source.dataset == "folder" and counts.keys() <= no_classes:
        parts = [f"{option}{path}/{name}" for option, names in _NO_CLASSES.items() for name in names if name in counts]
        raise UserError(
            f"the folders in {path} seem to be no classes but parts ({', '.join(counts)}); give them one by one, such "
            f"as: bsssl init {' '.join(parts)}"
        )
    if findings.test is None and (single := [name for name, count in counts.items() if count == 1]):
        raise UserError(
            f"{path} has one item of {len(single)} classes (such as '{single[0]}'), of which none can be kept for a "
            "test; add some, or give a test set by --test"
        )
    if findings.test is not None and (others := sorted(findings.test.counts.keys() - counts.keys())):
        raise UserError(
            f"{findings.test.source.path} has classes that {path} has not (such as '{others[0]}'); call them alike"
        )
    if findings.test is not None and not findings.test.counts:
        raise UserError(f"{findings.test.source.path} has no labels, which a test needs; give labeled items by --test")
    for part in findings.parts:
        if not part.total:
            raise UserError(
                f"{part.source.path} has no items but those that are in {path} or the test set too; move them out of "
                "there, or give others by --pool"
            )
        if not part.extents:
            name, reason = part.unreadable[0]
            raise UserError(
                f"none of {part.opened} {findings.kind} of {part.source.path} can be read (such as {name}: {reason}); "
                "check the files"
            )
