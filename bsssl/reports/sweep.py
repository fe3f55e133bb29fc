"""The results of a sweep: a row for every point, and a picture of top-1 over the first key that varies."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from bsssl import storage
from bsssl.recipes.sweep import Point
from bsssl.reports.accuracy import Accuracy
from bsssl.reports.plots import picture
from bsssl.reports.recipe import Results, collect
from bsssl.reports.tables import Table

_SHOWN = ("teacher", "supervised", "pretrained", "finetuned", "gain")


def write(points: Sequence[Point]) -> str:
    """Write ``sweep.csv``, ``sweep.json``, ``sweep.md`` and ``sweep.png`` and return the table as text.

    Args:
        points: The points that are finished, one at least; the files come into the folder that holds theirs.
    """
    folder = os.path.dirname(points[0].config.output_dir)
    results = [(point, collect(point.config, point.runs)) for point in points]
    table = _table(results)
    storage.write_csv(os.path.join(folder, "sweep.csv"), _figures(results).csv_rows())
    values = [{"values": point.values, **one.to_dict()} for point, one in results]
    storage.write_json(os.path.join(folder, "sweep.json"), values)
    storage.write_text(os.path.join(folder, "sweep.md"), table.markdown())
    _draw(results, os.path.join(folder, "sweep.png"))
    return f"{table.text()}\nsweep.csv, sweep.md, sweep.json and sweep.png are in {folder}"


def _shown(results: Results) -> dict[str, Accuracy]:
    """Return what is shown of the networks, as far as there are such."""
    gain = {} if results.gain is None else {"gain": results.gain}
    there = {**results.networks, **gain}
    return {name: there[name] for name in _SHOWN if name in there}


def _table(results: Sequence[tuple[Point, Results]]) -> Table:
    rows = [
        [
            *point.values.values(),
            *(accuracy.cell(sign="+" if name == "gain" else "") for name, accuracy in _shown(one).items()),
            one.selection.pairs,
        ]
        for point, one in results
    ]
    titles = [one.titled(name) for name, one in _shown(results[0][1]).items()]
    tested = dict.fromkeys(accuracy.tested_on() for _, one in results for accuracy in one.networks.values())
    return Table([*results[0][0].values, *titles, "pairs"], rows, [*tested])


def _figures(results: Sequence[tuple[Point, Results]]) -> Table:
    """Return the content of ``sweep.csv``."""
    rows = [
        [
            *point.values.values(),
            *(cell for accuracy in _shown(one).values() for cell in accuracy.csv_cells()),
            one.selection.pairs,
            one.selection.precision or "",
        ]
        for point, one in results
    ]
    titles = [title for name, one in _shown(results[0][1]).items() for title in one.csv_header(name)]
    header = [*results[0][0].values, *titles]
    return Table([*header, "pairs", "precision"], rows)


def _draw(results: Sequence[tuple[Point, Results]], path: str) -> None:
    """Draw top-1 over the first key's values, a line for each combination of the others; dashed without the pool."""
    lines: dict[str, list[tuple[str, Results]]] = defaultdict(list)
    for point, one in results:
        first, *others = point.values.items() or [("", "")]
        lines[", ".join(f"{key}={value}" for key, value in others)].append((first[1], one))
    with picture(path, size=(7, 4)) as axes:
        for label, line in lines.items():
            names = [name for name, _ in line]
            values: list[Any] = [json.loads(name) for name in names] if all(map(_is_number, names)) else names
            for role, style in _drawn(line[0][1]).items():
                accuracies = [one.networks[role] for _, one in line]
                mean, spread = [one.top1 for one in accuracies], [one.std or 0.0 for one in accuracies]
                axes.errorbar(values, mean, yerr=spread, fmt=style, capsize=3, label=f"{role} {label}".strip())
        axes.set_xlabel(next(iter(results[0][0].values), ""))
        axes.set_ylabel("top-1 accuracy on the test set, %")
        axes.legend()


def _drawn(results: Results) -> dict[str, str]:
    """Return the networks to draw and the styles of their lines."""
    styles = {"pretrained": "o-"} if results.gain is None else {"finetuned": "o-", "supervised": "--"}
    return {role: style for role, style in styles.items() if role in results.networks}


def _is_number(text: str) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except ValueError:
        return False
