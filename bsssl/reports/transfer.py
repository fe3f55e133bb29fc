"""The results of a transfer: every checkpoint in both settings, with the preprocessing that decides so much of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bsssl import storage
from bsssl.config import Transfer
from bsssl.pipeline.run import Run
from bsssl.recipes.runs import networks
from bsssl.reports.accuracy import Accuracy, measured
from bsssl.reports.plots import picture
from bsssl.reports.seen import numbers, preprocessing
from bsssl.reports.tables import Table

TITLES = {"full_ft": "full-ft", "fc_only": "fc-only"}


@dataclass(frozen=True)
class TransferResults:
    """The results of a finished transfer over its seeds; a notebook shows them as a table."""

    accuracies: Mapping[str, Mapping[str, Accuracy]]
    """by checkpoint and section: ``full_ft`` and ``fc_only``, as far as they were asked for"""
    table: Table
    """a row for every checkpoint, and notes on how it was compared"""
    content: Mapping[str, Any]
    """what ``to_dict`` returns"""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``transfer.json``.

        ``checkpoints`` has for each its ``model``, where it was ``init_from``, its ``preprocessing`` and its figures by
        section. Those of fc_only have the chosen ``c`` of each seed, whether one is ``at_edge`` of the values tried and
        whether all fits ``converged``. ``data`` (counts), the settings, the preprocessing of ``training`` and ``seeds``
        follow.
        """
        return dict(self.content)

    def _repr_html_(self) -> str:
        return self.table.html()


def collect(config: Transfer, runs: Sequence[Run]) -> TransferResults:
    """Return the results of the finished ``runs`` of ``config``, one for each seed."""
    accuracies = {
        name: {section: measured(runs, f"{section}-{name}", tuple(config.data.tests)) for section in _sections(config)}
        for name in config.checkpoints
    }
    content = _content(config, runs, accuracies)
    return TransferResults(accuracies, _table(config, content, accuracies), content)


def write(config: Transfer, runs: Sequence[Run]) -> str:
    """Write ``transfer.json``, ``.csv``, ``.md`` and ``.png`` into the output folder and return the table as text.

    Args:
        config: The transfer.
        runs: Its finished runs, one for each seed.
    """
    results, folder = collect(config, runs), config.output_dir
    storage.write_json(os.path.join(folder, "transfer.json"), results.to_dict())
    storage.write_csv(os.path.join(folder, "transfer.csv"), _figures(config, results).csv_rows())
    storage.write_text(os.path.join(folder, "transfer.md"), results.table.markdown())
    _draw(config, results.accuracies, os.path.join(folder, "transfer.png"))
    return results.table.text()


def _sections(config: Transfer) -> list[str]:
    return [section for section in TITLES if getattr(config, section) is not None]


def _content(config: Transfer, runs: Sequence[Run], accuracies: Mapping[str, Mapping[str, Accuracy]]) -> dict[str, Any]:
    models = networks(config, seed=runs[0].seed)
    checkpoints = {}
    for name, checkpoint in config.checkpoints.items():
        model = models[f"checkpoints.{name}.model"]
        entry: dict[str, Any] = {"init_from": checkpoint.init_from, "model": model.model_dump()}
        entry["preprocessing"] = model.view_of(config.data).preprocessing("test")
        entry |= {section: accuracy.to_dict() for section, accuracy in accuracies[name].items()}
        if config.fc_only is not None:
            results = [run.result(f"fc_only-{name}") for run in runs]
            entry["fc_only"] |= {
                "c": [result["c"] for result in results],
                "at_edge": any(result["at_edge"] for result in results),
                "converged": all(result["converged"] for result in results),
            }
        checkpoints[name] = entry
    sizes = runs[0].result("data")
    counts = {name: sizes[name] for name in ("classes", "labeled", *config.data.tests)}
    settings = {section: getattr(config, section).model_dump(mode="json") for section in _sections(config)}
    seen = {"training": config.data.preprocessing("train"), "seeds": [run.seed for run in runs]}
    return {"checkpoints": checkpoints, "data": counts, **settings, **seen}


def _table(config: Transfer, content: Mapping[str, Any], accuracies: Mapping[str, Mapping[str, Accuracy]]) -> Table:
    first = next(iter(accuracies.values()))
    titles = [first[section].titled(f"{TITLES[section]} top-1 %") for section in _sections(config)]
    rows = []
    for name, entry in content["checkpoints"].items():
        chosen = [] if config.fc_only is None else [_chosen(entry["fc_only"])]
        rows.append([name, *(accuracy.cell() for accuracy in accuracies[name].values()), *chosen])
    header = ["checkpoint", *titles, *([] if config.fc_only is None else ["C"])]
    return Table(header, rows, _notes(config, content))


def _chosen(figures: dict[str, Any]) -> str:
    return ", ".join(f"{c:g}" for c in sorted(set(figures["c"]))) + ("*" if figures["at_edge"] else "")


def _notes(config: Transfer, content: Mapping[str, Any]) -> list[str]:
    counts, checkpoints = content["data"], content["checkpoints"]
    tested = " / ".join(str(counts[test]) for test in config.data.tests)
    notes = [f"{counts['classes']} classes, {counts['labeled']} items to train on, {tested} to test on"]
    models = networks(config, seed=config.seed)
    seen = {name: preprocessing(models[f"checkpoints.{name}.model"].view_of(config.data)) for name in checkpoints}
    for line in dict.fromkeys(seen.values()):
        names = [name for name in seen if seen[name] == line]
        of = "" if len(names) == len(seen) else f" of {', '.join(names)}"
        notes.append(f"preprocessing{of}: {line}")
    if config.full_ft is not None:
        transforms = config.data.transforms
        notes.append(f"full-ft: {config.full_ft.length}, train_crop {transforms.train_crop}, flip {transforms.flip}")
    if config.fc_only is not None:
        share = f"{100 * config.fc_only.holdout:g} % of the training items"
        chosen = f"C chosen on {share}, then" if len(config.fc_only.c_values) > 1 else "C given,"
        notes.append(f"fc-only: standardised features, {chosen} fitted to all of them")
        if any(entry["fc_only"]["at_edge"] for entry in checkpoints.values()):
            notes.append("C with a star: at the edge of fc_only.c_values, widen them")
        if not all(entry["fc_only"]["converged"] for entry in checkpoints.values()):
            notes.append("not every fit of fc-only has converged: raise fc_only.max_iterations")
    return [*notes, f"seeds: {', '.join(map(str, content['seeds']))}"]


def _figures(config: Transfer, results: TransferResults) -> Table:
    """Return the content of ``transfer.csv``."""
    first = next(iter(results.accuracies.values()))
    header = ["checkpoint", *(title for section in _sections(config) for title in first[section].csv_header(section))]
    seen = ("size", "resize", "mean", "std")
    rows: list[list[Any]] = []
    for name, entry in results.content["checkpoints"].items():
        figures = [cell for accuracy in results.accuracies[name].values() for cell in accuracy.csv_cells()]
        chosen = [numbers(entry["fc_only"]["c"])] if config.fc_only else []
        transforms = entry["preprocessing"]["transforms"]
        cells = [numbers(cell) if isinstance(cell, tuple) else cell for cell in map(transforms.get, seen)]
        clips = entry["preprocessing"].get("clips")
        rows.append([name, *figures, *chosen, *cells, clips and f"{clips['count']}x{clips['frames']}"])
    return Table([*header, *(["c"] if config.fc_only else []), *seen, "clips"], rows)


def _draw(config: Transfer, accuracies: Mapping[str, Mapping[str, Accuracy]], path: str) -> None:
    sections = _sections(config)
    with picture(path, size=(7, 0.7 * len(accuracies) + 1.2)) as axes:
        height = 0.8 / len(sections)
        for number, section in enumerate(sections):
            figures = [of_checkpoint[section] for of_checkpoint in accuracies.values()]
            bars = axes.barh(
                [row + number * height for row in range(len(figures))],
                [accuracy.top1 for accuracy in figures],
                xerr=[accuracy.std or 0 for accuracy in figures],
                height=0.9 * height,
                label=TITLES[section],
            )
            axes.bar_label(bars, fmt="%.1f", padding=6)
        axes.set_yticks([row + (len(sections) - 1) * height / 2 for row in range(len(accuracies))], [*accuracies])
        axes.invert_yaxis()
        axes.set_xlabel("top-1 accuracy on the test set, %")
        axes.set_xlim(0, 112)  # room for the figures beside the bars
        axes.legend()
