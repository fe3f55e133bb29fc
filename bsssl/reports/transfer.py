"""The table of a transfer: every checkpoint in both settings, with the preprocessing that decides so much of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bsssl import storage
from bsssl.config import LabeledData, Transfer
from bsssl.pipeline.run import Run, networks
from bsssl.reports import recipe as report
from bsssl.runtime.console import aligned

TITLES = {"full_ft": "full-ft", "fc_only": "fc-only"}


def collect(runs: Sequence[Run[Transfer]]) -> dict[str, Any]:
    """The figures of a finished transfer, ``runs`` being its seeds.

    Returns ``checkpoints``: for each its ``model``, where it was ``init_from``, its ``preprocessing``, and under
    ``full_ft`` and ``fc_only``, as far as they were asked for, the means over the seeds of ``top1``, ``top5`` and
    ``ece`` (percent), ``std`` and ``per_seed`` of top1 and, of fc_only, the chosen ``c`` of each seed, whether one is
    ``at_edge`` of the values tried and whether all fits ``converged``; besides, ``data`` (counts), the settings, and
    ``seeds``.
    """
    config = runs[0].config
    models = networks(config, seed=runs[0].seed)
    checkpoints = {}
    for name, checkpoint in config.checkpoints.items():
        model = models[f"checkpoints.{name}.model"]
        found: dict[str, Any] = {"init_from": checkpoint.init_from, "model": model.model_dump()}
        found["preprocessing"] = model.view_of(config.data).preprocessing("test")
        for section in _sections(config):
            found[section] = report.accuracy(runs, f"{section}-{name}")
        if config.fc_only is not None:
            results = [run.result(f"fc_only-{name}") for run in runs]
            found["fc_only"] |= {
                "c": [result["c"] for result in results],
                "at_edge": any(result["at_edge"] for result in results),
                "converged": all(result["converged"] for result in results),
            }
        checkpoints[name] = found
    counts = {name: runs[0].result("data")[name] for name in ("classes", "labeled", "test")}
    settings = {section: getattr(config, section).model_dump(mode="json") for section in _sections(config)}
    seen = {"training": config.data.preprocessing("train"), "seeds": [run.seed for run in runs]}
    return {"checkpoints": checkpoints, "data": counts, **settings, **seen}


def write(runs: Sequence[Run[Transfer]]) -> str:
    """Write ``transfer.json``, ``.csv``, ``.md`` and ``.png`` into the runs' common folder; the table as text."""
    config, results = runs[0].config, collect(runs)
    folder = Path(config.output_dir)
    rows, notes = _table(config, results), _notes(config, results)
    storage.write_json(str(folder / "transfer.json"), results)
    storage.write_csv(str(folder / "transfer.csv"), _csv(config, results))
    empty = [""] * (len(rows[0]) - 1)
    storage.write_text(str(folder / "transfer.md"), report.markdown([*rows, *([note, *empty] for note in notes)]))
    _draw(config, results["checkpoints"], str(folder / "transfer.png"))
    return "\n".join([*aligned(rows), *notes])


def preprocessing(data: LabeledData) -> str:
    """How items are seen in testing and for features, in one line."""
    transforms = data.transforms.for_testing()
    size, resize = transforms["size"], transforms["resize"]
    cut = "whole pictures" if resize is None else f"short side {resize}, centre crop"
    colours = f"mean {_numbers(transforms['mean'])}, std {_numbers(transforms['std'])}"
    clips = ""
    if data.clips is not None:
        clips = f"{data.clips.test_clips} clips of {data.clips.frames} frames, stride {data.clips.stride}, "
    return f"{clips}{cut} to {size}x{size}, {colours}"


def _sections(config: Transfer) -> list[str]:
    return [section for section in TITLES if getattr(config, section) is not None]


def _table(config: Transfer, results: dict[str, Any]) -> list[list[str]]:
    sections = _sections(config)
    chosen = ["C"] if "fc_only" in sections else []
    rows = [["checkpoint", *(f"{TITLES[section]} top-1 %" for section in sections), *chosen]]
    for name, found in results["checkpoints"].items():
        cells = [report.mean(found[section]) for section in sections]
        rows.append([name, *cells, *([_chosen(found["fc_only"])] if chosen else [])])
    return rows


def _chosen(found: dict[str, Any]) -> str:
    return ", ".join(f"{c:g}" for c in sorted(set(found["c"]))) + ("*" if found["at_edge"] else "")


def _notes(config: Transfer, results: dict[str, Any]) -> list[str]:
    counts, found = results["data"], results["checkpoints"]
    notes = [f"{counts['classes']} classes, {counts['labeled']} items to train on, {counts['test']} to test on"]
    models = networks(config, seed=config.seed)
    seen = {name: preprocessing(models[f"checkpoints.{name}.model"].view_of(config.data)) for name in found}
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
        if any(one["fc_only"]["at_edge"] for one in found.values()):
            notes.append("C with a star: at the edge of fc_only.c_values, widen them")
        if not all(one["fc_only"]["converged"] for one in found.values()):
            notes.append("not every fit of fc-only has converged: raise fc_only.max_iterations")
    return [*notes, f"seeds: {', '.join(map(str, results['seeds']))}"]


def _csv(config: Transfer, results: dict[str, Any]) -> list[list[Any]]:
    sections = _sections(config)
    header = ["checkpoint", *(f"{section} {part}" for section in sections for part in ("top1", "std"))]
    seen = ("size", "resize", "mean", "std")
    rows: list[list[Any]] = [[*header, *(["c"] if config.fc_only else []), *seen, "clips"]]
    for name, found in results["checkpoints"].items():
        figures = [found[section].get(part, "") for section in sections for part in ("top1", "std")]
        chosen = [_numbers(found["fc_only"]["c"])] if config.fc_only else []
        transforms = found["preprocessing"]["transforms"]
        cells = [_numbers(cell) if isinstance(cell, tuple) else cell for cell in map(transforms.get, seen)]
        clips = found["preprocessing"].get("clips")
        rows.append([name, *figures, *chosen, *cells, clips and f"{clips['count']}x{clips['frames']}"])
    return rows


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _draw(config: Transfer, checkpoints: dict[str, Any], path: str) -> None:
    sections = _sections(config)
    with report.picture(path, size=(7, 0.7 * len(checkpoints) + 1.2)) as axes:
        height = 0.8 / len(sections)
        for number, section in enumerate(sections):
            places = [row + number * height for row in range(len(checkpoints))]
            values = [found[section]["top1"] for found in checkpoints.values()]
            spread = [found[section].get("std", 0) for found in checkpoints.values()]
            bars = axes.barh(places, values, xerr=spread, height=0.9 * height, label=TITLES[section])
            axes.bar_label(bars, fmt="%.1f", padding=6)
        axes.set_yticks([row + (len(sections) - 1) * height / 2 for row in range(len(checkpoints))], [*checkpoints])
        axes.invert_yaxis()
        axes.set_xlabel("top-1 accuracy on the test set, %")
        axes.set_xlim(0, 112)  # room for the figures beside the bars
        axes.legend()
