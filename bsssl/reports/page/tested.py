"""The test of the networks in figures: what is taken for what, how right the confidences are, which items to show."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bsssl.recipes.names import evaluation
from bsssl.reports.page.opening import Opened
from bsssl.reports.recipe import tested_stages, title_of
from bsssl.stages.choose import PREDICTIONS

if TYPE_CHECKING:
    from bsssl.data import Record, Records

BINS = 15
"""the bins of confidence, as the expected calibration error has them"""
_FEWEST = 5
"""the fewest items of a bin that is shown"""
_WRONG, _RIGHT = 6, 2  # items of each cell of the confusion matrix that are shown
_CELLS = 20_000  # cells that the page has at most: those with most items


@dataclass(frozen=True)
class Tested:
    """The test of the fine-tuned student, or of the best that there is, on the first test set."""

    title: str
    """what the network is called"""
    records: "Records"
    cells: list[dict[str, Any]]
    """``true`` and ``predicted`` class, ``count``, and the ``rows`` of items to show, most confident first"""
    left_out: int
    """how many cells are not among them"""
    confidence: list[float | None]
    """the confidence in each item's predicted class; None for one that cannot be read"""
    top1: list[float | None]
    """the accuracy of each class, percent; None where it has no test items"""
    unreadable: int


def read_tested(run: Opened, names: list[str]) -> Tested | None:
    """Return the test of the student; None where none is done.

    Args:
        run: The run.
        names: The classes.
    """
    from bsssl.stages.computing import split_records  # imports torch

    roles = tested_stages(run.config, run.shown)
    done = [role for role in roles if run.result(evaluation(roles[role], run.test)) is not None]
    role = next((role for role in ("finetuned", "pretrained", "supervised", *done) if role in done), None)
    if role is None:
        return None
    table = pq.read_table(run.shown.folder(evaluation(roles[role], run.test)) / PREDICTIONS)
    true, predicted = (_numbers(table[name], names) for name in ("label", "predicted"))
    confidence = pc.fill_null(table["confidence"], 0).to_numpy()
    is_read = predicted >= 0
    cells, left_out = _cells(true, predicted, confidence, len(names))
    right = np.bincount(true[true == predicted], minlength=len(names))
    items = np.bincount(true, minlength=len(names))
    return Tested(
        title=title_of(role),
        records=split_records(run.shown.folder("data"), run.test),
        cells=cells,
        left_out=left_out,
        confidence=[round(float(one), 4) if there else None for one, there in zip(confidence, is_read, strict=True)],
        top1=[round(100 * one / of, 1) if of else None for one, of in zip(right.tolist(), items.tolist(), strict=True)],
        unreadable=int((~is_read).sum()),
    )


def rows_to_show(tested: Tested) -> "Iterator[tuple[int, Record]]":
    """Yield the rows and records of the test items whose pictures matter, of all cells in turn, wrong ones first."""
    cells = sorted(tested.cells, key=lambda cell: (cell["true"] == cell["predicted"], -cell["count"]))
    for level in range(_WRONG):
        rows = [cell["rows"][level] for cell in cells if level < len(cell["rows"])]
        yield from zip(rows, tested.records.take(rows), strict=True)


def calibration(run: Opened) -> list[dict[str, Any]]:
    """Return of every network that was tested its title, and items, confidence and accuracy of each bin."""
    curves = []
    for role, stage in tested_stages(run.config, run.shown).items():
        result = run.result(evaluation(stage, run.test))
        if result is None:
            continue
        path = run.shown.folder(evaluation(stage, run.test)) / PREDICTIONS
        table = pq.read_table(path, columns=["label", "predicted", "confidence"])
        table = table.filter(pc.is_valid(table["predicted"]))
        confidence = table["confidence"].to_numpy()
        right = pc.equal(table["label"], table["predicted"]).to_numpy()
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        items, sums, rights = (
            np.bincount(bins, weights=weights, minlength=BINS) for weights in (None, confidence, right.astype(float))
        )
        there = items >= min(_FEWEST, items.max())
        curves.append(
            {
                "title": title_of(role),
                "ece": result["ece"],
                "items": items[there].astype(int).tolist(),
                "confidence": (100 * sums[there] / items[there]).round(1).tolist(),
                "accuracy": (100 * rights[there] / items[there]).round(1).tolist(),
            }
        )
    return curves


def _cells(
    true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], confidence: Any, num_classes: int
) -> tuple[list[dict[str, Any]], int]:
    order = np.lexsort((-confidence, predicted, true))
    order = order[predicted[order] >= 0]
    codes, starts, counts = np.unique(
        true[order] * num_classes + predicted[order], return_index=True, return_counts=True
    )
    most = np.sort(np.argsort(-counts, kind="stable")[:_CELLS])
    cells = []
    for one in most.tolist():
        of, taken_for = divmod(int(codes[one]), num_classes)
        rows = order[starts[one] : starts[one] + min(counts[one], _RIGHT if of == taken_for else _WRONG)]
        cells.append({"true": of, "predicted": taken_for, "count": int(counts[one]), "rows": rows.tolist()})
    return cells, len(codes) - len(cells)


def _numbers(column: pa.ChunkedArray, names: list[str]) -> npt.NDArray[np.int64]:
    numbers = pc.index_in(column, pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(numbers, -1).to_numpy(), np.int64)
