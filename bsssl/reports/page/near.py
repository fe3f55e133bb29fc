"""The near copies in the pool, as pairs for people to look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bsssl import selection
from bsssl.errors import UserError
from bsssl.reports.page.opening import Opened
from bsssl.reports.recipe import selecting

if TYPE_CHECKING:
    from bsssl.data import Record

_MOST = 40
"""pairs that are shown of those with labeled and test items, and as many of those within the pool"""
_PLACE = ["key", "path", "offset", "size"]


@dataclass(frozen=True)
class Pairs:
    """Near copies of one run."""

    copies: selection.NearCopies
    counts: dict[str, Any]
    """the figures that the stage left"""

    def shown(self) -> pa.Table:
        """Return the rows of the pairs that are shown: the least alike first, as mistakes are among these."""
        is_held = np.array([name != selection.POOL_SET for name in self.copies.table["set"].to_pylist()], bool)
        ordered = [self.copies.table.filter(mask).sort_by([("distance", "descending")]) for mask in (is_held, ~is_held)]
        return pa.concat_tables([table[:_MOST] for table in ordered])


def read_pairs(run: Opened) -> Pairs | None:
    """Return the near copies of the run that is shown; None where none were looked for, or they cannot be read."""
    stage = selecting(run.shown, run.config.rounds)
    counts = run.result(stage.needs.get("near", ""))
    if counts is None or counts.get("method") == "off":
        return None
    near = run.shown.stage(stage.needs["near"])
    try:
        copies = selection.read_near(str(run.shown.folder(near.name) / near.leaves()["near"][0]))
    except (UserError, OSError):  # gone since: the page does without
        return None
    return Pairs(copies, counts)


def with_records(table: pa.Table) -> "Iterator[tuple[tuple[int, str], Record]]":
    """Yield both items of each pair of ``table``, as (number of the pair, prefix of the columns), and its record."""
    from bsssl.data.records import PLACE_SCHEMA, Records  # imports torch

    for prefix in ("", "near_"):
        places = table.select([f"{prefix}{name}" for name in _PLACE]).rename_columns(_PLACE).cast(PLACE_SCHEMA)
        yield from (((number, prefix), record) for number, record in enumerate(Records.unlabeled(places)))
