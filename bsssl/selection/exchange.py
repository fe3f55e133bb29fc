"""Scores in the form that any tool reads and writes: Parquet, a row per (key, class, score)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bsssl import storage
from bsssl.errors import UserError, choices
from bsssl.selection.rows import Float32, Int64
from bsssl.selection.scores import open_scores, read_sample_scores
from bsssl.storage.arrow import read_parquet_file, refusing_damage

SCHEMA = pa.schema([("key", pa.string()), ("class", pa.string()), ("score", pa.float32())])


def write_parquet(paths: Sequence[str], path: str) -> int:
    """Write the scores of a whole pool, shard after shard, complete or not at all; return the number of rows.

    Args:
        paths: The score files of the pool.
        path: The Parquet file, local or remote.

    Raises:
        UserError: A score file is damaged, or does not go with the others, or the name does not end in .parquet.
    """
    if not path.endswith(".parquet"):
        raise UserError(f"{path}: scores are written as Parquet; give the file a name that ends in .parquet")
    rows = 0
    with storage.atomic_write(path) as output, pq.ParquetWriter(output, SCHEMA) as writer:
        for file in open_scores(paths):
            _, classes, scores = read_sample_scores(file.path)
            names = pa.array(file.common["class_names"], pa.string())
            key = np.repeat(np.arange(len(classes)), file.common["top_p"])
            columns = [
                file.samples()["key"].take(pa.array(key)),
                names.take(pa.array(classes.ravel())),
                pa.array(scores.ravel()),
            ]
            writer.write_table(pa.table(columns, schema=SCHEMA))
            rows += scores.size
    return rows


def read_parquet(
    path: str, *, keys: pa.Array | pa.ChunkedArray, class_names: Sequence[str], top_p: int
) -> tuple[Int64, Int64, Float32]:
    """Return the scores of the items called ``keys`` from a Parquet file that some tool wrote; it is held in memory.

    Args:
        path: The file, with the columns ``key`` and ``class`` (text) and ``score`` (in 0..1), rows in any order.
        keys: The names of the items of the pool.
        class_names: The classes.
        top_p: P: the best classes of each item that are kept; an item has at least so many rows, or none.

    Returns:
        The rows of ``keys`` that have scores, ascending int64 (N,); their P best classes, int64 (N, P), best first,
        equal ones by number; and the scores, float32 (N, P).

    Raises:
        UserError: The file is missing, damaged or lacks a column; a key is unknown or names several items, a class is
            unknown, a score is not in 0..1, a pair is there twice, or an item has fewer than P rows, or no score
            above 0.
    """
    table = _read(path)
    distinct = pc.unique(keys)
    item = _numbers(path, table["key"], distinct, what="item of the pool")
    if len(distinct) < len(keys):
        counts = np.bincount(pc.index_in(keys, distinct).to_numpy(zero_copy_only=False))
        if len(twice := np.intersect1d(item, np.flatnonzero(counts > 1))):
            raise UserError(
                f"{path}: {distinct[int(twice[0])].as_py()!r} names several items of the pool; name them apart"
            )
    place = pc.index_in(distinct, keys).to_numpy(zero_copy_only=False)
    item = place[item].astype(np.int64)
    label = _numbers(path, table["class"], pa.array(class_names, pa.string()), what="class")
    score = table["score"].to_numpy().astype(np.float32)
    if len(bad := np.flatnonzero(~((score >= 0) & (score <= 1)))):
        raise UserError(
            f"{path}: the score of {_name(table, bad[0])} is {score[bad[0]]}, not in 0..1; give probabilities "
            f"({len(bad)} of {len(score)} rows are wrong)"
        )
    order = np.lexsort((label, -score, item))
    item, label, score = item[order], label[order], score[order]
    pairs = np.sort(item * len(class_names) + label)
    if len(same := np.flatnonzero(np.diff(pairs) == 0)):
        twice = pairs[same[0]]
        name, kind = keys[int(twice // len(class_names))].as_py(), class_names[int(twice % len(class_names))]
        raise UserError(f"{path}: there are two scores of {name!r} for class {kind!r}; leave one")
    rows, starts, counts = np.unique(item, return_index=True, return_counts=True)
    if len(few := np.flatnonzero(counts < top_p)):
        raise UserError(
            f"{path}: {keys[int(rows[few[0]])].as_py()!r} has scores for {counts[few[0]]} classes, fewer than "
            f"score.top_p={top_p}; lower it, or give more classes"
        )
    if len(nothing := np.flatnonzero(score[starts] == 0)):
        raise UserError(
            f"{path}: all scores of {keys[int(rows[nothing[0]])].as_py()!r} are 0 ({len(nothing)} items in all); leave "
            "out the rows of what is of no class"
        )
    best = starts[:, None] + np.arange(top_p)
    return rows, label[best], score[best]


def _read(path: str) -> pa.Table:
    with refusing_damage(path, what="is not a readable Parquet file", remedy="write it again"):
        table = read_parquet_file(path)
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    with refusing_damage(path, what="must have text as key and class, and a number as score", remedy="write it again"):
        table = table.select(SCHEMA.names).cast(SCHEMA)
    if not len(table):
        raise UserError(f"{path} has no rows; give the scores of the items of the pool")
    if empty := [name for name in SCHEMA.names if table[name].null_count]:
        raise UserError(f"{path}: {empty[0]} is empty in {table[empty[0]].null_count} rows; leave these out")
    return table


def _numbers(path: str, column: pa.ChunkedArray, known: pa.Array, *, what: str) -> Int64:
    """Return the number in ``known`` of each value of a column."""
    numbers = pc.index_in(column, known)
    if numbers.null_count:
        unknown = pc.unique(column.filter(pc.is_null(numbers)))
        given = unknown[0].as_py()
        raise UserError(
            f"{path}: {len(unknown)} names are no {what}, such as {given!r}: {choices(given, known[:1000].to_pylist())}"
        )
    found: Int64 = numbers.to_numpy().astype(np.int64)
    return found


def _name(table: pa.Table, row: int) -> str:
    return f"{table['key'][int(row)].as_py()!r} for class {table['class'][int(row)].as_py()!r}"
