"""Hashtags: how they are compared, which classes they mean, and the training set that tagged samples make."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.config.yaml_text import parse_yaml
from bsssl.data.loading.targets import SparseTargets
from bsssl.data.records import LARGE_SCHEMA, PLACE_SCHEMA, Records, tag_lists
from bsssl.errors import UserError, choices
from bsssl.runtime.console import logger
from bsssl.storage.tables import read_tables, reading_table

# The classes of a sample are ascending, one at least.
TAGGED_SCHEMA = pa.schema([*LARGE_SCHEMA, ("classes", pa.large_list(pa.int32()))])
_SEPARATING = {"Cc", "Cf", "Pc", "Pd", "Zl", "Zp", "Zs"}  # controls, invisible marks, underscores, dashes, blanks
_HASHES = "[#\uff03]"  # a new tag begins there, as in "#sea#sun"


@functools.lru_cache(maxsize=2**20)
def normalize(tag: str) -> str:
    """``tag`` as tags are compared: Unicode's NFKC and casefold, without ``#``, blanks, ``_``, ``-``, ``.`` and
    invisible characters. Accents stay; nothing may be left. ``" #Ice_Cream"`` and ``"icecream"`` are one tag.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tag).casefold())
    return "".join(
        character
        for character in folded
        if character not in "#." and unicodedata.category(character) not in _SEPARATING and not _is_selector(character)
    )


def _is_selector(character: str) -> bool:
    """Whether it only says how the character before it is drawn (as text or as a picture)."""
    return "\ufe00" <= character <= "\ufe0f"


def read_pairs(path: str) -> dict[str, str]:
    """Return what a file says of each tag.

    The file is YAML, ``tag: meaning``, or CSV, JSONL or Parquet of the columns ``tag`` and another.

    UserError for a file that is neither.
    """
    if path.endswith((".yaml", ".yml")):
        return _read_yaml(path)
    pairs: dict[str, str] = {}
    with reading_table(path):
        for table in read_tables(path, types={name: pa.string() for name in ("tag", "class", "spelling")}):
            names = table.column_names
            if len(names) != 2 or names[0] != "tag":
                raise UserError(
                    f"{path} has the columns {', '.join(names)}; it must have two, tag and class (or spelling)"
                )
            tags, meanings = (table[name].cast(pa.string()).to_pylist() for name in names)
            for tag, meaning in zip(tags, meanings, strict=True):
                if tag is None or meaning is None:
                    raise UserError(f"{path}: the row of '{tag or meaning}' has no {names[tag is not None]}; give both")
                if pairs.setdefault(tag, meaning) != meaning:
                    raise UserError(f"{path}: '{tag}' becomes '{pairs[tag]}' and '{meaning}'; keep one")
    return pairs


def _read_yaml(path: str) -> dict[str, str]:
    with storage.open_read(path) as file:
        pairs = parse_yaml(file.read(), origin=path, all_text=True)  # `no` is a tag, not False
    if not isinstance(pairs, dict):
        raise UserError(f"{path} is not a map: it must hold 'tag: meaning' lines")
    wrong = next((tag for tag, meaning in pairs.items() if not isinstance(meaning, str) or not meaning), None)
    if wrong is not None:
        raise UserError(f"{path}: '{wrong}' must become one text, not {pairs[wrong]!r}")
    return pairs


@dataclass(frozen=True)
class TagRules:
    """Which class a tag means; see ``tag_rules``. All tags are normalised."""

    spelling: Mapping[str, str]
    """variant -> tag"""
    meanings: Mapping[str, str] | None
    """tag -> class; None: every tag is a class of its own"""

    def spell(self, tag: str) -> str:
        """Return the tag that ``tag``, as somebody wrote it, stands for; empty when it is none."""
        name = normalize(tag)
        return self.spelling.get(name, name)

    def class_of(self, tag: str) -> str | None:
        """Return the class of one of ``spell``'s tags; None when it means none."""
        return tag if self.meanings is None else self.meanings.get(tag)


def tag_rules(
    *,
    spelling: Mapping[str, str],
    mapping: Mapping[str, str] | None,
    targets: Sequence[str] | None = None,
    spelling_name: str = "the spellings",
    mapping_name: str = "the map",
) -> TagRules:
    """Rules from what users write.

    Args:
        spelling: variant -> tag, applied once.
        mapping: tag -> class, after ``spelling``. None: every tag is a class; with ``targets``, their names alone.
        targets: the classes that there are; a tag that is the name of one of them means it unless ``mapping`` says
            otherwise, or another has the same name once normalised.
        spelling_name: what errors call the former.
        mapping_name: likewise.

    UserError for a tag with two meanings, one of which nothing is left, or a class that is not among ``targets``.
    """
    spelled = {tag: normalize(name) for tag, name in _normalize_keys(spelling, spelling_name).items()}
    meanings = None if mapping is None else _normalize_keys(mapping, mapping_name)
    if targets is not None:
        valid = set(targets)
        unknown = next(((tag, name) for tag, name in (meanings or {}).items() if name not in valid), None)
        if unknown is not None:
            raise UserError(
                f"{mapping_name}: tag '{unknown[0]}' means the unknown class '{unknown[1]}': "
                f"{choices(unknown[1], targets)}"
            )
        names = [normalize(name) for name in targets]
        counts = Counter(names)
        own = {tag: name for tag, name in zip(names, targets, strict=True) if tag and counts[tag] == 1}
        meanings = {**own, **(meanings or {})}
    return TagRules(spelled, meanings)


def _normalize_keys(pairs: Mapping[str, str], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for tag, meaning in pairs.items():
        key = normalize(tag)
        if not key:
            raise UserError(f"{name}: '{tag}' is no tag, nothing is left of it without '#' and separators; take it out")
        if found.setdefault(key, meaning) != meaning:
            raise UserError(f"{name}: the tag '{key}' becomes '{found[key]}' and '{meaning}'; keep one")
    return found


def tags_from_file(batches: Iterable[Records], path: str) -> Iterator[Records]:
    """Yield records with the tags that the file at ``path`` gives their keys, instead of their own.

    The file (CSV, JSONL, Parquet) has the columns ``key`` and ``tags``, a list, in CSV joined by ``;``. It is held in
    memory: about 200 bytes a row. A sample without a row has no tags; rows without a sample are counted and warned of.
    UserError for a missing column, a key that is there twice, or when no key at all is a sample's.
    """
    places, tags = _read_tag_file(path)
    used = np.zeros(len(tags), bool)
    first_key = None
    for records in batches:
        keys = records.key.to_pylist()
        first_key = first_key or next(iter(keys), None)
        rows = pa.array([places.get(key) for key in keys], pa.int64())
        used[rows.drop_null().to_numpy()] = True
        yield records.with_tags(tags.take(rows))
    if not used.any():
        raise UserError(
            f"{path}: none of its {len(used)} keys is a sample's (the file has '{next(iter(places), '')}', the samples "
            f"'{first_key}'); write the keys of the samples"
        )
    if not used.all():
        lost = next(key for key, row in places.items() if not used[row])
        logger.warning("%s: %d of %d keys are no sample's (such as %s)", path, (~used).sum(), len(used), lost)


def _read_tag_file(path: str) -> tuple[dict[str, int], pa.ChunkedArray]:
    places: dict[str, int] = {}
    chunks = []
    kind = pa.large_list(pa.large_string())
    with reading_table(path):
        for table in read_tables(path, types={"key": pa.string(), "tags": pa.string()}):
            if not {"key", "tags"} <= set(table.column_names):
                raise UserError(f"{path} has the columns {', '.join(table.column_names)}; it must have key and tags")
            for key in table["key"].cast(pa.string()).to_pylist():
                if key is None:
                    raise UserError(f"{path}: row {len(places) + 1} has no key; give every row one")
                if key in places:
                    raise UserError(f"{path}: the key '{key}' is there twice; give each sample one row")
                places[key] = len(places)
            chunks += tag_lists(table["tags"]).cast(kind).chunks
    return places, pa.chunked_array(chunks, kind)


@dataclass(frozen=True)
class TaggedSamples:
    """What the tags of a stream of samples mean. Tags and classes are numbered in the order they appeared."""

    tags: list[str]
    tag_samples: np.ndarray
    """samples with each tag: int64"""
    tag_classes: np.ndarray
    """the class of each tag, -1 for none: int64"""
    classes: list[str]
    class_samples: np.ndarray
    """samples of each class: int64"""
    untagged: int
    """samples without any tag"""
    counts: np.ndarray
    """how many classes each sample has: int32 (samples,)"""
    sample_classes: np.ndarray
    """those of the first sample, then those of the next, ...: int32"""

    def samples_of(self, names: Sequence[str]) -> dict[str, int]:
        """How many samples each of some classes has."""
        found = dict(zip(self.classes, self.class_samples.tolist(), strict=True))
        return {name: found.get(name, 0) for name in names}

    def of_classes(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the samples with one of the classes ``names`` at least.

        Returns their numbers in the stream, ascending: int64 (n,); where the classes of each begin and end in the last:
        int64 (n + 1,); and these, as indices in ``names``: int32.
        """
        position = {name: number for number, name in enumerate(names)}
        renumbered = np.array([position.get(name, -1) for name in self.classes], np.int32)[self.sample_classes]
        owners = np.repeat(np.arange(len(self.counts)), self.counts)[renumbered >= 0]
        kept = renumbered[renumbered >= 0]
        rows, starts = np.unique(owners, return_index=True)
        return rows, np.append(starts, len(kept)).astype(np.int64), kept


class _Numbers:
    """Numbers names in the order in which they are asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number


def read_tags(batches: Iterable[Records], rules: TagRules) -> TaggedSamples:
    """Go once through a stream of records and see what their tags mean.

    A ``#`` inside a tag begins another; a tag that a sample has twice counts once. Memory grows with the samples, by
    about 30 bytes each at the end, and with the distinct tags, by about 200 bytes each.
    """
    tag_number, class_number = _Numbers(), _Numbers()
    tag_classes: list[int] = []
    tag_samples = np.zeros(0, np.int64)
    counts, sample_classes, untagged = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
    for records in batches:
        rows, tags = _tags_of(records.tags, rules, tag_number)
        for name in tag_number.names[len(tag_classes) :]:
            meaning = rules.class_of(name)
            tag_classes.append(-1 if meaning is None else class_number(meaning))
        seen = np.bincount(tags, minlength=len(tag_classes))
        seen[: len(tag_samples)] += tag_samples
        tag_samples = seen
        untagged += len(records) - int(np.count_nonzero(np.diff(rows, prepend=-1)))
        classes = np.array(tag_classes, np.int64)[tags]
        rows, classes = _distinct(rows[classes >= 0], classes[classes >= 0])
        counts.append(np.bincount(rows, minlength=len(records)).astype(np.int32))
        sample_classes.append(classes.astype(np.int32))
    classes = np.concatenate(sample_classes)
    return TaggedSamples(
        tags=tag_number.names,
        tag_samples=tag_samples,
        tag_classes=np.array(tag_classes, np.int64),
        classes=class_number.names,
        class_samples=np.bincount(classes, minlength=len(class_number.names)),
        untagged=untagged,
        counts=np.concatenate(counts),
        sample_classes=classes,
    )


def _tags_of(column: pa.ChunkedArray, rules: TagRules, number: _Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct (row, tag) pairs of a column of tags, by row: both int64."""
    lists = column.combine_chunks()
    pieces = pc.split_pattern_regex(lists.flatten(), _HASHES)
    rows = pc.list_parent_indices(lists).take(pc.list_parent_indices(pieces))
    encoded = pieces.flatten().dictionary_encode()  # so that each spelling is looked at once
    names = [rules.spell(tag) for tag in encoded.dictionary.to_pylist()]
    numbers = np.array([number(name) if name else -1 for name in names], np.int64)
    tags = numbers[encoded.indices.to_numpy()]
    return _distinct(rows.to_numpy()[tags >= 0], tags[tags >= 0])


def _distinct(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs without repetition, by row and value."""
    base = int(values.max(initial=0)) + 1
    pairs = np.sort(rows * base + values)
    rows, values = np.divmod(pairs[np.diff(pairs, prepend=-1) != 0], base)
    return rows, values


def copy_batches(batches: Iterable[Records], path: str) -> Iterator[Records]:
    """Yield ``batches``, which are written to ``path`` without their labels and tags as they pass."""
    with pq.ParquetWriter(path, PLACE_SCHEMA) as writer:
        for records in batches:
            writer.write_table(records.table.select(PLACE_SCHEMA.names))
            yield records


def read_copy(path: str) -> Iterator[Records]:
    """Yield what ``copy_batches`` has written."""
    for batch in pq.ParquetFile(path).iter_batches():
        yield Records.unlabeled(pa.Table.from_batches([batch]))


def write_tagged(
    path: str, batches: Iterable[Records], *, rows: np.ndarray, offsets: np.ndarray, classes: np.ndarray
) -> None:
    """Write those of a stream of records that have a class, with their classes, as Parquet, complete or not at all.

    ``rows``, ``offsets`` and ``classes`` are what ``TaggedSamples.of_classes`` gives for the same stream.
    """
    first = 0
    with storage.atomic_write(path) as file, pq.ParquetWriter(file, TAGGED_SCHEMA) as writer:
        for records in batches:
            start, end = np.searchsorted(rows, [first, first + len(records)])
            table = records.take(rows[start:end] - first).table
            span = offsets[start : end + 1]
            lists = pa.LargeListArray.from_arrays(span - span[0], pa.array(classes[span[0] : span[-1]], pa.int32()))
            places = table.select(LARGE_SCHEMA.names).cast(LARGE_SCHEMA)
            writer.write_table(places.append_column(TAGGED_SCHEMA.field("classes"), lists))
            first += len(records)


def tagged_training_set(path: str, *, num_classes: int) -> tuple[Records, SparseTargets]:
    """Return records and targets for training on what ``write_tagged`` wrote.

    Each target spreads evenly over the classes.

    All of it is held in memory by every process of a training: about 60 bytes a sample besides the text of its key and
    path: for the paper's 940 million, with 50 characters each, 150 GB.
    """
    table = pq.read_table(path)
    classes = pa.concat_arrays(table["classes"].chunks)
    offsets = classes.offsets.to_numpy().astype(np.int64)
    counts = np.diff(offsets)
    weights = np.repeat(1 / counts, counts).astype(np.float32)
    return Records.unlabeled(table), SparseTargets(offsets, classes.values.to_numpy(), weights, num_classes)


def resampling(targets: SparseTargets, *, power: float) -> np.ndarray:
    """How often each sample is drawn relative to the others: float32 (rows,).

    1 / the frequency of the rarest of its classes, to ``power``: the replication factor of Mahajan et al. 2018 (arXiv
    1805.00932), whose square root is ``power`` 0.5, without the threshold above which tags stay as they are.
    """
    frequency = np.bincount(targets.classes, minlength=targets.num_classes)
    rarest = np.minimum.reduceat(frequency[targets.classes], targets.offsets[:-1])
    factors: np.ndarray = (rarest.astype(np.float64) ** -power).astype(np.float32)
    return factors
