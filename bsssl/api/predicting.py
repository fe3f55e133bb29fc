"""Prediction of files, as many as there are, in one process or several: what ``bsssl predict`` does."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bsssl import storage
from bsssl.api.loading import load
from bsssl.api.model import Model
from bsssl.config import Config, load_config, numbered
from bsssl.config.reading import read_yaml
from bsssl.errors import UserError
from bsssl.pipeline.progress import CONFIG
from bsssl.reports.tables import Table
from bsssl.runtime import distributed
from bsssl.runtime.console import logger, printable, progress, show

if TYPE_CHECKING:
    import pyarrow as pa

    from bsssl.api.predictor import Predictor
    from bsssl.data import Records
    from bsssl.pipeline.stage import Task

Unreadable = list[tuple[str, str]]
"""items, by name, with the reason why each cannot be read"""
_SHOWN = 20
"""how many of them are listed on the terminal"""
_FRAGMENTS = ("#t=", "#fps=")
"""what begins those of the paths of segments, and of folders of frames"""


@dataclass(frozen=True)
class Outcome:
    """What became of the items."""

    items: int
    unreadable: int
    examples: Unreadable
    """the first of those that cannot be read"""
    to: str | None
    """the table that was written"""

    def tell(self, *, strict: bool) -> None:
        """Say what cannot be read, and what was written.

        Raises:
            UserError: Nothing can be read or, if ``strict``, something cannot.
        """
        listed = "" if self.to is None else f"; {ledger_of(self.to)} lists them"
        for name, reason in self.examples:
            logger.warning("cannot read %s: %s", name, reason)
        if self.to is not None:
            print(f"{self.to} has been written: {self.items - self.unreadable:,} items")
        if self.unreadable and (strict or self.unreadable == self.items):
            first = self.examples[0][1]
            raise UserError(f"{self.unreadable:,} of {self.items:,} items cannot be read (first: {first}){listed}")
        if self.unreadable:
            logger.warning("%s of %s items cannot be read%s", f"{self.unreadable:,}", f"{self.items:,}", listed)


def predict_files(
    model: Model | str,
    paths: Sequence[str],
    *,
    to: str | None = None,
    top: int = 3,
    batch_size: int = 64,
    workers: int = 2,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    task: "Task | None" = None,
) -> Outcome:
    """Predict the items at ``paths``, and print the predictions or write them; memory does not grow with the items.

    Under torchrun every process calls this; they share the batches, and the main one writes.

    Args:
        model: The network, or where ``load`` finds it; or the folder of a run, for the network that the run is about.
        paths: See ``bsssl.data.items_at``.
        to: The table to write, complete or not at all: a name that ends in .csv, .jsonl or .parquet. Beside it the
            items that cannot be read are listed, see ``ledger_of``.
        top: How many classes of each item.
        batch_size: Inputs that a process sees at a time.
        workers: Processes that read and decode files, for each process.
        device: Where the network computes; ``auto`` is a GPU where there is one.
        task: When given, its share of the items is predicted alone, into a table of its own, see ``part_of``.

    Raises:
        UserError: There is no such network or file, or a folder, a table or a tar cannot be read.
    """
    _check(paths, to, task)
    if to is not None and task is not None:
        to = part_of(to, task)
    distributed.init(device)
    network = model if isinstance(model, Model) else load(result_folder(model), device=device)
    predictor = network._predictor(batch_size=batch_size, workers=workers)
    top, items, unreadable, examples = min(top, len(network.classes)), 0, 0, Unreadable()
    chunks = _chunks(paths, task, videos=network.preprocessing.clips is not None)
    with _sink(to, top) as write, progress(iter(()), unit="item", title="predicting") as bar:
        while (records := distributed.from_main(lambda: next(chunks, None))) is not None:
            said = distributed.gather(_say(predictor, records, network.classes, top, advance=bar.update))
            if distributed.is_main():
                failures = {place: reason for _, part in said for place, reason in part.items()}
                lost = [(records[place].key, failures[place]) for place in sorted(failures)]
                write(_in_order([table for table, _ in said]), lost)
                unreadable += len(lost)
                examples += lost[: _SHOWN - len(examples)]
            items += len(records)
    distributed.shutdown()
    return Outcome(items, unreadable, examples, to)


def result_folder(path: str) -> str:
    """Return the folder of the network that the run at ``path`` is about, of its first seed; ``path`` if it is no run.

    Raises:
        UserError: The network is not trained yet.
    """
    folder = Path(path)
    seeds = sorted(folder.glob("seed-*"), key=lambda seed: (len(seed.name), seed.name))
    run = next((seed for seed in (folder, *seeds) if (seed / CONFIG).is_file()), None)
    if run is None or "checkpoints" in read_yaml(str(run / CONFIG)):  # a transfer is about no network
        return path
    config: Config = load_config(str(run / CONFIG), [])
    result = run / numbered(config.result, config.rounds)
    if not result.is_dir():
        raise UserError(
            f"{path}: the network that the run is about, {result}, is not trained yet; run the recipe, or give the "
            "folder of another of its stages"
        )
    logger.info("%s: the run is about the network in %s", path, result)
    return str(result)


def part_of(to: str, task: "Task") -> str:
    """Return the name of the table with the share of ``task`` of what would be in the table ``to``."""
    stem, _, ending = to.rpartition(".")
    return f"{stem}-{task.number:05d}-of-{task.count:05d}.{ending}"


def ledger_of(to: str) -> str:
    """Return the name of the list of items that cannot be read, JSON lines beside the table ``to``."""
    return f"{to.rpartition('.')[0]}.unreadable.jsonl"


def _check(paths: Sequence[str], to: str | None, task: "Task | None") -> None:
    """Refuse what can be seen to be wrong before anything is loaded."""
    if to is not None:
        storage.table_format(to)
        if to in paths:
            raise UserError(f"{to} is both read and to be written; name another table with --to")
    elif task is not None:
        raise UserError("a task writes a table of its own; name it with --to")
    for path in paths:
        if not any(mark in path for mark in _FRAGMENTS):  # of such paths the data room knows what is the file
            storage.require(path)


def _chunks(paths: Sequence[str], task: "Task | None", *, videos: bool) -> "Iterator[Records]":
    """Yield the items at ``paths``, some thousand at a time; of a task every so manyth of these."""
    from bsssl import data
    from bsssl.api.predictor import ALL, ITEMS

    share = task or ALL
    chunks = data.rechunked(data.items_at(paths, videos=videos), ITEMS)
    return itertools.islice(chunks, share.number, None, share.count)


def _say(
    predictor: "Predictor", records: "Records", classes: Sequence[str], top: int, *, advance: Callable[[int], Any]
) -> "tuple[pa.Table, dict[int, str]]":
    """Return what the network says of this process's share of a chunk, and why its other items cannot be read.

    Both are by the place of the item in the chunk: the table has the columns ``place``, ``path``, ``classes`` and
    ``probabilities``, the latter two lists.
    """
    import numpy as np
    import pyarrow as pa

    from bsssl.api.predictor import best_classes
    from bsssl.pipeline.stage import Task

    names, share = pa.array(classes, pa.string()), Task(distributed.rank(), distributed.world_size())
    schema = pa.schema([("place", pa.int64()), *_schema()])
    tables, failures = [schema.empty_table()], dict[int, str]()
    for said in predictor.said(predictor.of_records(records, share=share)):
        failures |= said.failures
        advance(share.count * (len(said.index) + len(said.failures)))
        if not len(said.index):
            continue
        best = best_classes(said.probabilities, top)
        scores = np.take_along_axis(said.probabilities, best, axis=1)
        bounds = pa.array(np.arange(len(best) + 1, dtype=np.int32) * top)
        columns = [
            pa.array(said.index),
            records.take(said.index).table["key"],
            pa.ListArray.from_arrays(bounds, names.take(pa.array(best.ravel()))),
            pa.ListArray.from_arrays(bounds, pa.array(scores.ravel())),
        ]
        tables.append(pa.table(columns, names=schema.names).cast(schema))
    return pa.concat_tables(tables), failures


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [("path", pa.string()), ("classes", pa.list_(pa.string())), ("probabilities", pa.list_(pa.float32()))]
    )


def _in_order(tables: "Sequence[pa.Table]") -> "pa.Table":
    """Return what the processes said of a chunk as one table, by place."""
    import pyarrow as pa

    return pa.concat_tables(tables).sort_by("place").drop_columns("place")


@contextlib.contextmanager
def _sink(to: str | None, top: int) -> "Iterator[Callable[[pa.Table, Unreadable], None]]":
    """Yield what takes predictions in order and what cannot be read, and writes or prints them."""
    if not distributed.is_main():
        yield lambda table, unreadable: None
    elif to is None:
        yield lambda table, unreadable: show(_shown(table, top).text()) if len(table) else None
    else:
        with _tables(to, top) as write:
            yield write


@contextlib.contextmanager
def _tables(to: str, top: int) -> "Iterator[Callable[[pa.Table, Unreadable], None]]":
    """Open the table ``to`` and its ledger for writing."""
    import pyarrow as pa

    from bsssl import data

    ledger = pa.schema([("key", pa.string()), ("reason", pa.string())])
    flat = to.lower().endswith(".csv")
    schema = _flat(_schema().empty_table(), top).schema if flat else _schema()
    with data.writing_table(to, schema) as predictions, data.writing_table(ledger_of(to), ledger) as list_lost:

        def write(table: pa.Table, unreadable: Unreadable) -> None:
            predictions(_flat(table, top) if flat else table)
            list_lost(pa.table([list(column) for column in zip(*unreadable, strict=True)] or [[], []], schema=ledger))

        yield write


def _flat(table: "pa.Table", top: int) -> "pa.Table":
    """Return predictions with a column for each class and for each probability: class_1, probability_1, ..."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {"path": table["path"]}
    for place in range(top):
        for name, lists in (("class", table["classes"]), ("probability", table["probabilities"])):
            columns[f"{name}_{place + 1}"] = pc.list_element(lists, place)
    return pa.table(columns)


def _shown(table: "pa.Table", top: int) -> Table:
    """Return predictions as people read them."""
    header = ["", *(cell for place in range(top) for cell in (f"class {place + 1}", "%"))]
    return Table(header, [*map(_cells, table.to_pylist())], right=range(2, 2 * top + 1, 2))


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [printable(row["path"])]
    for name, share in zip(row["classes"], row["probabilities"], strict=True):
        cells += [printable(name), f"{100 * share:.1f}"]
    return cells
