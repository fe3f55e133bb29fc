"""The page of a reproduction: our tables and curves beside the paper's, as Markdown, as HTML and as JSON."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bsssl import storage
from bsssl.recipes.reproduction.paper import EXPERIMENTS, FIGURES
from bsssl.reports import recipe as report
from bsssl.runtime.console import aligned

HOW_JUDGED = (
    "A difference is taken seed by seed, and given with its two-sided 95 % interval of Student's t, no narrower than "
    "one test item. The advice holds when that lies above 0, does not hold when it lies below, and is not decidable "
    "when it reaches 0, or with fewer than three seeds. All seeds share one test set, so the interval is about labels "
    "drawn and training, not about other test items; and of twenty comparisons without any effect, one comes out at "
    "this level by chance."
)
_PAPER_UNITS = {"pool_size": 1e6, "samples": 1e9, "top_k": 1e3}  # of the places on the paper's axes
_Rows = Sequence[Sequence[str]]


@dataclass
class _Section:
    """A part of the page, in this order."""

    title: str
    text: str = ""
    tables: list[tuple[str, _Rows]] = field(default_factory=list)
    """caption, then header and rows"""
    picture: str | None = None
    """path of a PNG"""

    @property
    def picture_name(self) -> str:
        """Beside the page."""
        return os.path.basename(self.picture or "")

    def embedded(self) -> str:
        """The picture as a URL that holds it."""
        if self.picture is None:
            return ""
        return f"data:image/png;base64,{base64.b64encode(Path(self.picture).read_bytes()).decode()}"


def write(found: Mapping[str, Any], *, folder: str) -> str:
    """Write ``found``, as ``bsssl.recipes.reproduction.grid.collect`` makes it, into ``folder``; the verdicts as text.

    ``reproduce.json`` has the figures of every seed, ``reproduce.md`` and ``reproduce.html`` the page, and each
    experiment that is a curve in the paper a picture ``<name>.png``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    advice, options = _advice(found["advice"]), _options(found["options"])
    sections = [advice, *(_experiment(name, points, folder) for name, points in found["experiments"].items())]
    sections += [options] if found["options"] else []
    changed = [f"{key} = {value}" for key, value in found["settings"]["set"].items()]
    for name in ("reproduce.md", "reproduce.html"):
        environment = Environment(
            loader=PackageLoader("bsssl.reports"),
            autoescape=name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        text = environment.get_template(f"{name}.jinja").render(found, sections=sections, changed=changed)
        storage.write_text(os.path.join(folder, name), text)
    storage.write_json(os.path.join(folder, "reproduce.json"), dict(found))
    tables = [rows for section in (advice, options) for _, rows in section.tables if len(rows) > 1]
    files = f"reproduce.html, reproduce.md and reproduce.json are in {folder}"
    return "\n\n".join([*("\n".join(aligned(rows)) for rows in tables), files])


def _advice(verdicts: Sequence[Mapping[str, Any]]) -> _Section:
    header = ["advice", "compared", "difference (95 %)", "verdict"]
    rows = [[entry["advice"], entry["compared"], _difference(entry), entry["verdict"]] for entry in verdicts]
    return _Section("The six recommendations", HOW_JUDGED, [("", [header, *rows])])


def _options(options: Sequence[Mapping[str, Any]]) -> _Section:
    header = ["option", "with", "without", "difference (95 %)", "verdict"]
    rows = [
        [
            entry["label"],
            _mean(entry["top1"]["with"]),
            _mean(entry["top1"]["without"]),
            _difference(entry),
            entry["verdict"],
        ]
        for entry in options
    ]
    return _Section(
        "Beyond the paper",
        "The fine-tuned student with an option and without it, judged in the same way.",
        [("", [header, *rows])],
    )


def _experiment(name: str, points: Sequence[Mapping[str, Any]], folder: str) -> _Section:
    experiment = EXPERIMENTS[name]
    header = ["", *([experiment.axis] if experiment.axis else []), *(FIGURES[name] for name in experiment.figures)]
    rows = [
        [
            point["label"],
            *([f"{point['place']:,}"] if experiment.axis else []),
            *(_mean(point["top1"].get(figure, ()), signed=figure == "gain") for figure in experiment.figures),
        ]
        for point in points
    ]
    theirs = [_theirs(experiment.header, row) for row in experiment.rows]
    picture = os.path.join(folder, f"{name}.png") if name in _PAPER_UNITS else None
    if picture is not None:
        _draw(name, points, picture)
    return _Section(
        experiment.title,
        tables=[("here", [header, *rows]), ("the paper", [experiment.header, *theirs])],
        picture=picture,
    )


def _theirs(header: Sequence[str], row: Sequence[str | float]) -> list[str]:
    """A row of the paper's: a label or a place on an axis, then accuracies."""
    place, *accuracies = row
    cells = [place if isinstance(place, str) else f"{place:g}"]
    for title, value in zip(header[1:], accuracies, strict=True):
        cells.append(value if isinstance(value, str) else f"{value:{'+' if title == 'gain' else ''}.1f}")
    return cells


def _difference(verdict: Mapping[str, Any]) -> str:
    mean, half = verdict["difference"], verdict["half_width"]
    return "" if mean is None else f"{mean:+.1f}" + (f" ± {half:.1f}" if half is not None else "")


def _mean(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and standard deviation over the seeds; nothing for a figure that is not there yet."""
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):{'+' if signed else ''}.1f}{spread}"


def _draw(name: str, points: Sequence[Mapping[str, Any]], path: str) -> None:
    """Top-1 of the student over what varies, ours on the left and the paper's on the right."""
    experiment = EXPERIMENTS[name]
    with report.picture(path, size=(9, 3.5), columns=2) as (ours, theirs):
        places = [point["place"] for point in points]
        for kind, style in (("finetuned", "o-"), ("supervised", "--")):
            values = [point["top1"][kind] for point in points]
            spread = [np.std(value, ddof=1) if len(value) > 1 else 0.0 for value in values]
            ours.errorbar(places, np.mean(values, axis=1), yerr=spread, fmt=style, capsize=3, label=FIGURES[kind])
        ours.set_title("here")
        ours.legend()
        x, y = (np.array(column, float) for column in zip(*experiment.rows, strict=True))
        theirs.plot(x * _PAPER_UNITS[name], y, "o-", color="tab:green")
        theirs.set_title("the paper, ImageNet")
        for axes in (ours, theirs):
            axes.set_xscale("log")
            axes.set_xlabel(experiment.axis)
            axes.set_ylabel("top-1 accuracy, %")
