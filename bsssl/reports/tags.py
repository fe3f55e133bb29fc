"""What the hashtags of a config mean, as text: ``bsssl tags inspect``."""

from collections.abc import Sequence
from typing import Any

from bsssl.config import Config
from bsssl.reports.tables import Table


def inspect_tags(config: Config, *, most: int | None) -> str:
    """Return counts, samples per class, unmapped tags, plurals and what is dropped, from the sources themselves.

    Args:
        config: The recipe, which has a section ``weak``.
        most: Rows of each table; None shows all.
    """
    from bsssl.stages.sources import OVERLAP_REMEDY  # imports torch
    from bsssl.stages.tags import summarise_tags

    summary = summarise_tags(config)
    lines = [
        f"samples: {summary.samples:,}; without tags {summary.untagged:,}; with tags that mean no class "
        f"{summary.unmapped:,}; of dropped classes alone {summary.dropped:,}; to train on {summary.used:,}",
        f"tags: {summary.tags:,}; with a class {summary.mapped_tags:,}",
        f"classes: {summary.classes:,}, {summary.classes_per_sample:.2f} per sample",
    ]
    if summary.tested:
        lines.append(f"refused: {summary.tested:,} samples are test items; {OVERLAP_REMEDY}")
    fate = "refused class" if summary.are_refused else "dropped class"
    tables = [
        _table(["class", "samples", "%", "% drawn"], summary.coverage, most),
        _table(["unmapped tag", "samples"], summary.unmapped_tags, most),
        _table(["perhaps a plural", "samples", "of", "samples"], summary.plurals, most),
        _table([fate, "samples"], [*summary.short.items()], most),
    ]
    return "\n\n".join(["\n".join(lines), *(table.text() for table in tables if table.rows)])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], most: int | None) -> Table:
    """Return a table of the first rows that says how many are not shown."""
    shown = [[_written(cell) for cell in row] for row in rows[:most]]
    left = len(rows) - len(shown)
    return Table(header, shown, [f"... {left:,} more, shown with --all"] if left else [])


def _written(cell: str | int | float) -> str:
    return cell if isinstance(cell, str) else f"{cell:,}" if isinstance(cell, int) else f"{cell:.2f}"
