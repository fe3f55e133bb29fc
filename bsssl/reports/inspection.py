"""What was seen of the data of a config: tables for the terminal, a page and a file for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bsssl import storage
from bsssl.reports.page.writing import render
from bsssl.reports.tables import Table

if TYPE_CHECKING:  # it imports torch
    from bsssl.recipes.inspection import Inspection, Seen

PAGE, FIGURES = "data.html", "data.json"
_MOST = 20  # classes on the terminal


def write_inspection(inspection: "Inspection", folder: str) -> list[str]:
    """Write the page and the file for programs into ``folder``, and return their paths."""
    page, figures = (storage.join(folder, name) for name in (PAGE, FIGURES))
    storage.write_text(page, render("data.html.jinja", inspection=inspection, tables=_tables(inspection)))
    storage.write_json(figures, asdict(inspection))
    return [page, figures]


def as_text(inspection: "Inspection") -> str:
    """Return all tables for a terminal, the classes of each source cut short."""
    tables = [table.text() for table in _tables(inspection, most=_MOST).values() if table.rows]
    remarks = Table(["to look at"], [[line] for line in inspection.doubts])
    return "\n\n".join([*tables, *([remarks.text()] if inspection.doubts else [])])


def _tables(inspection: "Inspection", *, most: int | None = None) -> dict[str, Table]:
    """Return the tables by the title of the part of the page that they are in."""
    sources = inspection.sources
    how = "decoded" if inspection.decoded else "opened, headers alone"
    return {
        "Sources": Table(
            ["source", "items", "labeled", "tagged", "classes", how, "cannot be read", "bytes", "formats", "path"],
            [_source_row(one) for one in sources],
        ),
        "Sizes": Table(
            ["source", "of", "least", "quarter", "half", "three quarters", "most"],
            [[one.name, what, *map(_number, spread)] for one in sources for what, spread in _spreads(one) if spread],
        ),
        "Left out": Table(
            ["source", "extension", "files"],
            [[one.name, ending, f"{count:,}"] for one in sources for ending, count in one.left_out.items()],
        ),
        "Cannot be read": Table(
            ["source", "such as", "reason"], [[one.name, *each] for one in sources for each in one.unreadable_examples]
        ),
        "Copies": Table(
            ["content of", "again in", "items", "such as"],
            [
                [pair.first, pair.second, f"{pair.count:,}", f"{pair.examples[0][1]} of {pair.examples[0][0]}"]
                for pair in inspection.copies
            ],
        ),
        **{f"Classes of {one.name}": _classes(one, most) for one in sources if one.classes},
    }


def _source_row(one: "Seen") -> Sequence[Any]:
    if one.error:
        return [one.name, *["–"] * 8, one.path]
    formats = ", ".join(f"{count:,} {name}" for name, count in one.formats.items())
    counts = [f"{number:,}" for number in (one.items, one.labeled, one.tagged, len(one.classes))]
    return [one.name, *counts, f"{one.opened:,}", f"{one.unreadable:,}", _size(one.bytes), formats, one.path]


def _spreads(one: "Seen") -> list[tuple[str, Sequence[Any]]]:
    return [
        ("bytes", [_size(number) for number in one.bytes_spread]),
        ("pixels", one.pixels_spread),
        ("seconds", one.seconds_spread),
        ("frames per second", one.rate_spread),
    ]


def _classes(one: "Seen", most: int | None) -> Table:
    names = list(one.classes)[:most]
    more = len(one.classes) - len(names)
    notes = [f"and {more:,} classes more"] if more else []
    return Table([f"class of {one.name}", "items"], [[name, f"{one.classes[name]:,}"] for name in names], notes)


def _size(number: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
