"""The one way to write a table: as text, as Markdown, as HTML, and as the rows of a CSV file."""

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from bsssl.errors import shortened
from bsssl.runtime.console import printable

_WIDEST = 200  # characters of a cell on a terminal


@dataclass(frozen=True)
class Table:
    """A header, rows of as many cells, and notes below them."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    """cells of any type, which are shown as ``str`` writes them"""
    notes: Sequence[str] = ()
    right: Collection[int] = ()
    """the columns that ``text`` aligns to the right; Markdown aligns all of them so, but the first"""
    caption: str = ""

    def text(self) -> str:
        """Return the table for a terminal, its columns aligned by spaces, very long cells shortened."""
        rows = [[shortened(cell, most=_WIDEST) for cell in row] for row in self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if number in self.right else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*([f"{self.caption}:"] if self.caption else []), *lines, *self.notes])

    def markdown(self) -> str:
        """Return the table in Markdown, with the notes as lines of a paragraph."""
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self._cells()]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        lines.insert(1, "|---|" + "---:|" * (len(self.header) - 1))
        caption = [f"{self.caption}:", ""] if self.caption else []
        return "\n".join([*caption, *lines, "", *(f"{note}  " for note in self.notes)]) + "\n"

    def html(self) -> str:
        """Return the table in HTML, every cell escaped."""
        caption = [f"<caption>{html.escape(self.caption)}</caption>"] if self.caption else []
        header, *others = self._cells()
        rows = [_html_row(header, "th"), *(_html_row(row, "td") for row in others)]
        notes = [f"<p>{'<br>'.join(map(html.escape, self.notes))}</p>"] if self.notes else []
        return "\n".join(["<table>", *caption, *rows, "</table>", *notes])

    def csv_rows(self) -> list[Sequence[Any]]:
        """Return the header and the rows as ``bsssl.storage.write_csv`` takes them, without the notes."""
        return [self.header, *self.rows]

    def _cells(self) -> list[list[str]]:
        """Return the header and the rows as text, what cannot be seen escaped."""
        return [[printable(str(cell)) for cell in row] for row in (self.header, *self.rows)]


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
