"""The page of a reproduction: our tables and curves beside the paper's, as Markdown, as HTML and as JSON."""

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bsssl import storage
from bsssl.config import Reproduction
from bsssl.recipes.names import CHOOSE, evaluation
from bsssl.recipes.reproduction.grid import OPTIONS
from bsssl.recipes.reproduction.paper import EXPERIMENTS, FIGURES, WEAK
from bsssl.recipes.reproduction.verdicts import Verdict, judge
from bsssl.recipes.sweep import Point
from bsssl.reports import recipe
from bsssl.reports.plots import picture
from bsssl.reports.tables import Table

UNTRIED, UNFINISHED = "not tried", "not finished"
HOW_JUDGED = (
    "A difference is taken seed by seed, and given with its two-sided 95 % interval of Student's t, no narrower than "
    "one test item. The advice holds when that lies above 0, does not hold when it lies below, and is not decidable "
    "when it reaches 0, or with fewer than three seeds. All seeds share one test set, so the interval is about labels "
    "drawn and training, not about other test items; and of twenty comparisons without any effect, one comes out at "
    "this level by chance."
)
_PAPER_UNITS = {"pool_size": 1e6, "samples": 1e9, "top_k": 1e3}  # of the places on the paper's axes


PLACES: Mapping[str, Callable[[Point], int]] = {
    "pool_size": lambda point: int(point.runs[0].result("data")["pool"]),
    "samples": lambda point: int(point.runs[0].result("pretrain")["samples"]),
    "top_k": lambda point: point.config.select.top_k_of(1, rounds=1) or int(point.runs[0].result(CHOOSE)["top_k"]),
    "top_p": lambda point: point.config.score.top_p,
}
"""Where a point lies on the axis of an experiment that is a figure in the paper."""


@dataclass(frozen=True)
class _Section:
    """A part of the page, with its content in this order."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    picture: str | None = None
    """path of a PNG"""

    @property
    def picture_name(self) -> str:
        """The name of the picture, which lies beside the page."""
        return os.path.basename(self.picture or "")

    def embedded(self) -> str:
        """Return the picture as a URL that holds it."""
        if self.picture is None:
            return ""
        return f"data:image/png;base64,{base64.b64encode(Path(self.picture).read_bytes()).decode()}"


def write(settings: Reproduction, points: Sequence[Point], *, unfinished: Sequence[Point] = ()) -> str:
    """Write the page of a reproduction into its output folder and return the verdicts as text.

    ``reproduce.json`` has the figures of every seed, ``reproduce.md`` and ``reproduce.html`` are the page, and each
    experiment that is a curve in the paper has a picture ``<name>.png``.

    Args:
        settings: The config of the reproduction.
        points: The points that are finished.
        unfinished: The points that the page leaves out.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    figures, folder = collect(settings, points, unfinished=unfinished), settings.output_dir
    advice, options = _advice(figures["advice"]), _options(figures["options"])
    tries = any(EXPERIMENTS[name].advice is not None for name in settings.experiments)
    sections = [advice] if tries else []
    sections += [_experiment(name, rows, folder) for name, rows in figures["experiments"].items()]
    sections += [options] if figures["options"] else []
    changed = [f"{key} = {value}" for key, value in figures["settings"]["set"].items()]
    for name in ("reproduce.md", "reproduce.html"):
        environment = Environment(
            loader=PackageLoader("bsssl.reports"),
            autoescape=name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        text = environment.get_template(f"{name}.jinja").render(figures, sections=sections, changed=changed)
        storage.write_text(os.path.join(folder, name), text)
    storage.write_json(os.path.join(folder, "reproduce.json"), figures)
    told = [*([advice] if tries else []), options]
    tables = [table.text() for section in told for table in section.tables if table.rows]
    return "\n\n".join([*tables, f"reproduce.html, reproduce.md and reproduce.json are in {folder}"])


def collect(settings: Reproduction, points: Sequence[Point], *, unfinished: Sequence[Point] = ()) -> dict[str, Any]:
    """Return the content of ``reproduce.json``.

    ``settings``; ``seeds``; ``items`` of the test set; ``unfinished``: the names of the points left out;
    ``experiments``: by name, a list of points with ``label``, ``place`` on the axis (of figures), ``top1`` (by figure,
    a value per seed, percent) and ``one_item`` (of the test set, percent); ``advice``: the paper's recommendations with
    their verdicts; ``options``: the options with theirs, of the fine-tuned student.

    Args:
        settings: The config of the reproduction.
        points: The points that are finished.
        unfinished: The points to leave out.
    """
    by_name = {item: point for point in points for item in point.values.items()}
    top1 = {item: _top1(point) for item, point in by_name.items()}
    experiments: dict[str, list[dict[str, Any]]] = {}
    for (name, label), point in by_name.items():
        if name == OPTIONS or not _is_whole(point):
            continue
        row = {
            "label": label,
            "place": PLACES[name](point) if name in PLACES else None,
            "top1": top1[name, label] | top1.get((name, f"{label}, {WEAK}"), {}),
            "one_item": _one_item(point),
        }
        experiments.setdefault(name, []).append(row)
    for rows in experiments.values():
        rows.sort(key=lambda row: row["place"] or 0)  # along the axis; otherwise as they were given
    missing = {name for point in unfinished for name in point.values}
    return {
        "settings": settings.model_dump(mode="json"),
        "seeds": [run.seed for run in points[0].runs],
        "items": round(100 / _one_item(points[0])),
        "unfinished": [point.name for point in unfinished],
        "experiments": experiments,
        "advice": [
            _verdict(name, experiments.get(name, []), whole=name not in missing)
            for name in EXPERIMENTS
            if EXPERIMENTS[name].advice
        ],
        "options": [
            _compared(label, by_name[OPTIONS, label], by_name[OPTIONS, f"{label}, without"])
            for label in settings.options
            if {(OPTIONS, label), (OPTIONS, f"{label}, without")} <= by_name.keys()
        ],
    }


def _top1(point: Point) -> dict[str, list[float]]:
    """Return the top-1 accuracies of a point: by figure, a value per seed."""
    if not _is_whole(point):
        return {WEAK: [run.result(evaluation("teacher", _test(point)))["top1"] for run in point.runs]}
    results = recipe.collect(point.config, point.runs)
    assert results.gain is not None  # the recipe of a reproduction has labels
    found = {role: list(accuracy.per_seed) for role, accuracy in results.networks.items() if role in FIGURES}
    return found | {"gain": list(results.gain.per_seed)}


def _is_whole(point: Point) -> bool:
    """Return whether the whole recipe is run, not a teacher alone."""
    return point.config.result in point.runs[0].stages


def _one_item(point: Point) -> float:
    """Return what one item of the test set is worth, in points of top-1."""
    return 100 / float(point.runs[0].result("data")[_test(point)])


def _test(point: Point) -> str:
    """Return the test set that the page is about, the first of several."""
    return next(iter(point.config.data.tests))


def _verdict(name: str, points: Sequence[Mapping[str, Any]], *, whole: bool) -> dict[str, Any]:
    advice = EXPERIMENTS[name].advice
    assert advice is not None
    top1 = {point["label"]: {figure: np.array(values) for figure, values in point["top1"].items()} for point in points}
    if set(advice.points) <= top1.keys() if advice.points else whole and len(points) >= advice.min_points:
        verdict = judge(advice.difference(top1), one_item=max(point["one_item"] for point in points))
    else:
        verdict = Verdict(UNTRIED if whole else UNFINISHED)
    return {"advice": advice.text, "compared": advice.compared, **_as_json(verdict)}


def _compared(label: str, option: Point, plain: Point) -> dict[str, Any]:
    with_it, without = (_top1(point)["finetuned"] for point in (option, plain))
    verdict = judge(np.subtract(with_it, without), one_item=max(_one_item(option), _one_item(plain)))
    return {"label": label, "top1": {"with": with_it, "without": without}, **_as_json(verdict)}


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {"verdict": verdict.text, "difference": verdict.mean, "half_width": verdict.half}


def _advice(verdicts: Sequence[Mapping[str, Any]]) -> _Section:
    rows = [[entry["advice"], entry["compared"], _difference(entry), entry["verdict"]] for entry in verdicts]
    table = Table(["advice", "compared", "difference (95 %)", "verdict"], rows)
    return _Section("The six recommendations", HOW_JUDGED, [table])


def _options(options: Sequence[Mapping[str, Any]]) -> _Section:
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
    text = "The fine-tuned student with an option and without it, judged in the same way."
    return _Section(
        "Beyond the paper", text, [Table(["option", "with", "without", "difference (95 %)", "verdict"], rows)]
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
    picture_path = os.path.join(folder, f"{name}.png") if name in _PAPER_UNITS else None
    if picture_path is not None:
        _draw(name, points, picture_path)
    tables = [Table(header, rows, caption="here"), Table(experiment.header, theirs, caption=experiment.source)]
    return _Section(experiment.title, tables=tables, picture=picture_path)


def _theirs(header: Sequence[str], row: Sequence[str | float | None]) -> list[str]:
    """Return a row of the paper's table: a label or a place on an axis, then accuracies."""
    place, *accuracies = row
    cells = [place if isinstance(place, str) else f"{place:g}"]
    for title, value in zip(header[1:], accuracies, strict=True):
        cells.append(f"{value:{'+' if title == 'gain' else ''}.1f}" if isinstance(value, float) else value or "")
    return cells


def _difference(verdict: Mapping[str, Any]) -> str:
    mean, half = verdict["difference"], verdict["half_width"]
    return "" if mean is None else f"{mean:+.1f}" + (f" ± {half:.1f}" if half is not None else "")


def _mean(values: Sequence[float], *, signed: bool = False) -> str:
    """Return mean and standard deviation over the seeds; nothing for a figure that is not there yet."""
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):{'+' if signed else ''}.1f}{spread}"


def _draw(name: str, points: Sequence[Mapping[str, Any]], path: str) -> None:
    """Draw top-1 of the student over what varies, ours on the left and the paper's on the right."""
    experiment = EXPERIMENTS[name]
    with picture(path, size=(9, 3.5), columns=2) as (ours, theirs):
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
