"""What people look at when a recipe is done: one table, one picture, and the same figures as JSON."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bsssl import storage
from bsssl.config import Config
from bsssl.pipeline.run import Run

TITLES = {
    "weak": "teacher's network, on tags alone",
    "teacher": "teacher",
    "supervised": "student, labels only",
    "pretrained": "student, pre-trained on the selection",
    "finetuned": "student, then fine-tuned on the labels",
    "ceiling": "student, all labels",
}


def collect(runs: Sequence[Run[Config]]) -> dict[str, Any]:
    """The figures of finished runs that differ in their seed alone.

    Returns ``teacher``, ``supervised``, ``pretrained``, ``finetuned`` and, where it was asked for, ``weak`` and
    ``ceiling``, each with the mean over the seeds of ``top1``, ``top5`` and ``ece`` (percent), the standard deviation
    ``std`` of top1 and its values ``per_seed``; ``gain`` of finetuned over supervised (points of top1); ``selection``
    (means of ``pairs``, ``samples`` and, where the pool's true labels are known, ``precision`` in percent); ``seeds``;
    and with several rounds ``rounds``, one pretrained / finetuned / selection each. The unnumbered ones are of the last
    round. Where items have several views, ``clip_top1``, ``clip_top5``, ``video_top1`` and ``video_top5`` stand beside
    them.
    """
    config = runs[0].config
    suffixes = ["", *(f"-{number}" for number in range(2, config.rounds + 1))]
    rounds = [
        {
            "pretrained": accuracy(runs, f"pretrain{suffix}"),
            "finetuned": accuracy(runs, f"finetune{suffix}"),
            "selection": _selection(runs, f"select{suffix}"),
        }
        for suffix in suffixes
    ]
    results: dict[str, Any] = (
        {"weak": accuracy(runs, "weak")} if config.weak is not None and config.weak.is_tested else {}
    )
    results |= {"teacher": accuracy(runs, "teacher"), "supervised": accuracy(runs, "baseline")}
    results |= {name: rounds[-1][name] for name in ("pretrained", "finetuned")}
    if config.ceiling is not None:
        results["ceiling"] = accuracy(runs, "ceiling")
    gains = np.subtract(results["finetuned"]["per_seed"], results["supervised"]["per_seed"])
    results["gain"] = {"top1": round(float(gains.mean()), 2), **_spread(gains)}
    results["selection"] = rounds[-1]["selection"]
    results["seeds"] = [run.seed for run in runs]
    return results | ({"rounds": rounds} if config.rounds > 1 else {})


def write(runs: Sequence[Run[Config]]) -> str:
    """Write ``results.json``, ``results.md`` and ``results.png`` into the runs' common folder; the table as text."""
    folder = Path(runs[0].config.output_dir)
    results = collect(runs)
    table = _table(results)
    storage.write_json(str(folder / "results.json"), results)
    storage.write_text(str(folder / "results.md"), markdown(table))
    _draw(results, str(folder / "results.png"))
    return _aligned(table)


def accuracy(runs: Sequence[Run], stage: str) -> dict[str, Any]:
    """Of the trained ``stage`` on the test set: means over the seeds, and top-1's spread."""
    found = [run.result(f"evaluate-{stage}") for run in runs]
    names = [name for name in found[0] if name.endswith(("top1", "top5", "ece", "missing"))]
    means = {name: round(float(np.mean([result[name] for result in found])), 2) for name in names}
    return means | _spread([result["top1"] for result in found])


def _spread(values: Any) -> dict[str, Any]:
    deviation = {"std": round(float(np.std(values, ddof=1)), 2)} if len(values) > 1 else {}
    return {**deviation, "per_seed": [round(float(value), 2) for value in values]}


def _selection(runs: Sequence[Run[Config]], stage: str) -> dict[str, Any]:
    found = [run.result(stage) for run in runs]
    means = {name: round(float(np.mean([result[name] for result in found]))) for name in ("pairs", "samples")}
    precisions = [result["precision"] for result in found if result["precision"] is not None]
    return means | {"precision": round(float(np.mean(precisions)), 2) if precisions else None}


def _table(results: dict[str, Any]) -> list[list[str]]:
    """Header, then one row per network, then the gain and the selection, as text."""
    columns = _columns(results["teacher"])
    rows = [["", *columns.values()]]
    for name, title in TITLES.items():
        for number, figures in _by_round(results, name):
            label = title + (f", round {number}" if number else "")
            others = [f"{figures[column]:.1f}" for column in columns if column != "top1"]
            rows.append([label, mean(figures), *others])
    nothing = [""] * len(columns)
    rows.append(["gain of the fine-tuned student", mean(results["gain"], sign="+"), *nothing[1:]])
    selection = results["selection"]
    precision = "" if selection["precision"] is None else f", {selection['precision']:.1f} % of them right"
    rows.append([f"selection: {selection['pairs']} pairs of {selection['samples']} samples{precision}", *nothing])
    rows.append([f"seeds: {', '.join(map(str, results['seeds']))}", *nothing])
    return rows


def _columns(figures: dict[str, Any]) -> dict[str, str]:
    """The figures shown and their titles; the first is that of whole items."""
    of_items = next((name.removesuffix("_top1") for name in figures if name.endswith("_top1")), "")
    of_views = [name.removesuffix("_top1") for name in figures if name.endswith("_top1")][1:]
    columns = {"top1": f"{of_items} top-1 %".strip(), "top5": f"{of_items} top-5 %".strip()}
    for view in of_views:
        columns |= {f"{view}_top1": f"{view} top-1 %", f"{view}_top5": f"{view} top-5 %"}
    return columns | {"ece": "ECE %"} | ({"missing": "missing"} if figures.get("missing") else {})


def _by_round(results: dict[str, Any], name: str) -> list[tuple[int | None, dict[str, Any]]]:
    if name not in results:
        return []
    if "rounds" in results and name in results["rounds"][0]:
        return [(number, found[name]) for number, found in enumerate(results["rounds"], start=1)]
    return [(None, results[name])]


def mean(figures: dict[str, Any], *, sign: str = "") -> str:
    """``top1`` and, of several seeds, its spread."""
    spread = f" ± {figures['std']:.1f}" if "std" in figures else ""
    return f"{figures['top1']:{sign}.1f}{spread}"


def _aligned(table: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in table if any(row[1:])) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(table: list[list[str]]) -> str:
    """A table with a header; rows with nothing but a first cell are notes below it."""
    lines = ["| " + " | ".join(row) + " |" for row in table if any(row[1:])]
    lines.insert(1, "|---|" + "---:|" * (len(table[0]) - 1))
    notes = [row[0] for row in table if not any(row[1:])]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]) + "\n"


@contextlib.contextmanager
def picture(path: str, *, size: tuple[float, float], columns: int = 1) -> Iterator[Any]:
    """Matplotlib's axes to draw on, an array of them with several ``columns``; then written to ``path`` as PNG.

    ``size`` is width and height in inches, at 120 dots each.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=size, layout="constrained")
    yield axes
    for one in figure.axes:
        one.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    pyplot.close(figure)
    with storage.atomic_write(path) as file:
        file.write(drawn.getbuffer())


def _draw(results: dict[str, Any], path: str) -> None:
    bars = [(title, number, figures) for name, title in TITLES.items() for number, figures in _by_round(results, name)]
    labels = [title + (f", round {number}" if number else "") for title, number, _ in bars]
    values = [figures["top1"] for _, _, figures in bars]
    with picture(path, size=(7, 0.5 * len(bars) + 1)) as axes:
        drawn = axes.barh(
            labels, values, xerr=[figures.get("std", 0) for _, _, figures in bars], color="tab:blue", height=0.6
        )
        axes.bar_label(drawn, fmt="%.1f", padding=6)
        axes.invert_yaxis()
        axes.set_xlabel("top-1 accuracy on the test set, %")
        axes.set_xlim(0, 112)  # room for the figures beside the bars
