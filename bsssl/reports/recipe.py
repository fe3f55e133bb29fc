"""The results of a finished recipe: one table, one picture, and the same figures as JSON and for Python."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bsssl import storage
from bsssl.config import Config, numbered
from bsssl.pipeline.run import Run
from bsssl.pipeline.stage import Stage
from bsssl.recipes.names import CHOOSE, CONTENTS, evaluation
from bsssl.reports.accuracy import Accuracy, measured
from bsssl.reports.plots import picture
from bsssl.reports.tables import Table
from bsssl.runtime.frames import import_pandas
from bsssl.stages.choose import described
from bsssl.stages.copied import told

if TYPE_CHECKING:
    import pandas

TITLES = {
    "weak": "teacher's network, on tags alone",
    "teacher": "teacher",
    "supervised": "student, labels only",
    "pretrained": "student, pre-trained on the selection",
    "finetuned": "student, then fine-tuned on the labels",
    "ceiling": "student, all labels",
}
_TOP = ("_top1", "_top5")
_STAGES = {"supervised": "baseline", "pretrained": "pretrain", "finetuned": "finetune"}  # where the name is another
_OF_A_ROUND = ("pretrained", "finetuned")


@dataclass(frozen=True)
class Selection:
    """The student's training set, means over the seeds."""

    pairs: int
    """of a sample and a class"""
    samples: int
    precision: float | None
    """percent of the pairs whose class is right; None where the true labels of the pool are unknown"""
    foreign: int | None = None
    """items of the pool that were left out as of no class; None without ``select.open_set``"""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``results.json`` has of it."""
        content = asdict(self)
        return content if self.foreign is not None else {name: content[name] for name in content if name != "foreign"}


@dataclass(frozen=True)
class Round:
    """The results of one of several rounds."""

    pretrained: Accuracy | None
    """None without a test set"""
    finetuned: Accuracy | None
    """None without labels"""
    selection: Selection


@dataclass(frozen=True)
class Results:
    """The results of a finished recipe over its seeds; a notebook shows them as a table."""

    networks: Mapping[str, Accuracy]
    """by role: ``supervised``, ``pretrained``, ``finetuned`` and, where there are such, ``teacher``, ``teacher-2`` ...,
    ``weak`` and ``ceiling``; of several rounds the last. Of data without labels there is no ``supervised`` and
    ``finetuned``, and nothing at all without a test set"""
    gain: Accuracy | None
    """of ``finetuned`` over ``supervised``, where there are labels"""
    selection: Selection
    """of the last round"""
    seeds: tuple[int, ...]
    rounds: tuple[Round, ...]
    paths: Mapping[str, tuple[Path, ...]]
    """the folders of the trained networks, by role, one per seed; of several rounds the last"""
    choices: tuple[Mapping[str, Any], ...] = ()
    """where K was chosen, of each seed ``top_k`` and the ``candidates``, each with ``top_k``, the ``pairs`` that it
    selects, ``top1`` of its student and the ``standard_error`` of that, percent, the ``true_score`` that decides
    between equals, and the ``items`` of the test"""
    contents: tuple[Mapping[str, Any], ...] = ()
    """of each seed what reading all items has told: how many there are (``records``), how many of which set cannot be
    read (``unreadable``), how many are ``copies`` of others in which pair of sets, with ``examples``, and how many of
    the pool are ``left_out`` as such; nothing of runs from before it was looked for"""

    @property
    def table(self) -> Table:
        """The networks with their figures, the gain, and notes on the selection and the seeds."""
        columns = _columns([*self.networks.values()][-1]) if self.networks else {}
        rows = [
            [label, accuracy.cell(), *(accuracy.mean_cell(column) for column in columns if column != "top1")]
            for label, accuracy in self.labelled()
        ]
        if self.gain is not None:
            nothing = [""] * (len(columns) - 1)
            rows.append(["gain of the fine-tuned student", self.gain.cell(sign="+"), *nothing])
        chosen = self.selection
        precision = "" if chosen.precision is None else f", {chosen.precision:.1f} % of them right"
        foreign = "" if chosen.foreign is None else f"; {chosen.foreign} items of the pool left out as of no class"
        notes = [
            *(f"seed {seed}: {described(one)}" for seed, one in zip(self.seeds, self.choices, strict=False)),
            f"selection: {chosen.pairs} pairs of {chosen.samples} samples{precision}{foreign}",
            f"seeds: {', '.join(map(str, self.seeds))}",
            *dict.fromkeys(accuracy.tested_on() for accuracy in self.networks.values()),
            *dict.fromkeys(line for one in self.contents for line in told(one)),
            *([] if self.networks else ["no network is tested: there is no data.test"]),
        ]
        return Table(["", *columns.values()], rows, notes, right=range(1, len(columns) + 1))

    def labelled(self) -> Iterator[tuple[str, Accuracy]]:
        """Yield the accuracy of every network of every round with its title."""
        for role, accuracy in self.networks.items():
            if len(self.rounds) > 1 and role in _OF_A_ROUND:
                for number, one in enumerate(self.rounds, start=1):
                    yield f"{title_of(role)}, round {number}", getattr(one, role)
            else:
                yield title_of(role), accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``results.json``; ``rounds`` is there when there are several."""
        networks = {role: accuracy.to_dict() for role, accuracy in self.networks.items()}
        gain = {} if self.gain is None else {"gain": self.gain.to_dict()}
        chosen = {**gain, "selection": self.selection.to_dict(), "seeds": list(self.seeds)}
        rounds = [
            {
                **{role: getattr(one, role).to_dict() for role in _OF_A_ROUND if role in networks},
                "selection": one.selection.to_dict(),
            }
            for one in self.rounds
        ]
        choices = [{"seed": seed, **one} for seed, one in zip(self.seeds, self.choices, strict=False)]
        further = {"rounds": rounds} if len(rounds) > 1 else {}
        if self.contents:
            further["contents"] = [{"seed": seed, **one} for seed, one in zip(self.seeds, self.contents, strict=True)]
        return {**networks, **chosen, **({"choices": choices} if choices else {}), **further}

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a row per network and round: the means, ``std``, and ``top1_seed_0`` and so on for every seed.

        Raises:
            UserError: pandas is not installed.
        """
        rows = {
            label: {
                **accuracy.means,
                "std": accuracy.std,
                **{f"top1_seed_{seed}": value for seed, value in zip(self.seeds, accuracy.per_seed, strict=True)},
            }
            for label, accuracy in self.labelled()
        }
        frame: pandas.DataFrame = import_pandas().DataFrame.from_dict(rows, orient="index")
        return frame

    def _repr_html_(self) -> str:
        return self.table.html()


def collect(config: Config, runs: Sequence[Run]) -> Results:
    """Return the results of the finished ``runs`` of ``config``, one for each seed."""
    rounds = []
    for number in range(1, config.rounds + 1):
        found = _measured(config, runs, _stages(_OF_A_ROUND, number))
        rounds.append(Round(found.get("pretrained"), found.get("finetuned"), _selection(runs, number)))
    stages = _stages(_roles(config), config.rounds)
    networks = _measured(config, runs, stages)
    there = networks if config.data.tests else [role for role, stage in stages.items() if stage in runs[0].stages]
    both = "finetuned" in networks and "supervised" in networks
    return Results(
        networks=networks,
        gain=networks["finetuned"].minus(networks["supervised"]) if both else None,
        selection=rounds[-1].selection,
        seeds=tuple(run.seed for run in runs),
        rounds=tuple(rounds),
        paths={role: tuple(run.path / stage for run in runs) for role, stage in stages.items() if role in there},
        choices=tuple(run.result(CHOOSE) for run in runs) if CHOOSE in runs[0].stages else (),
        contents=tuple(run.result(CONTENTS) for run in runs) if all(map(_knows_contents, runs)) else (),
    )


def _knows_contents(run: Run) -> bool:
    return CONTENTS in run.stages and run.record(CONTENTS) is not None


def tested_stages(config: Config, run: Run) -> dict[str, str]:
    """Return the names of the stages that train the networks which are tested, by role; of several rounds the last."""
    return _tested(config, run, _stages(_roles(config), config.rounds))


def _roles(config: Config) -> list[str]:
    """Return the roles of all networks that a recipe may have, in the order of the tables."""
    return [role for title in TITLES for role in (config.models.teachers if title == "teacher" else [title])]


def _stages(roles: Sequence[str], number: int) -> dict[str, str]:
    """Return the names of the stages that train the networks of these ``roles``; of a round, those of ``number``."""
    return {role: numbered(_STAGES.get(role, role), number if role in _OF_A_ROUND else 1) for role in roles}


def _measured(config: Config, runs: Sequence[Run], stages: Mapping[str, str]) -> dict[str, Accuracy]:
    """Return the accuracy of the networks that are tested, by role."""
    tests = tuple(config.data.tests)
    return {role: measured(runs, stage, tests) for role, stage in _tested(config, runs[0], stages).items()}


def _tested(config: Config, run: Run, stages: Mapping[str, str]) -> dict[str, str]:
    """Return those of the trained ``stages``, by role, that are tested."""
    first = tuple(config.data.tests)[:1]
    return {role: stage for role, stage in stages.items() if evaluation(stage, *first) in run.stages}


def write(config: Config, runs: Sequence[Run]) -> str:
    """Write ``results.json``, ``results.md`` and ``results.png`` into the output folder and return the table as text.

    There is no picture where no network is tested.

    Args:
        config: The recipe.
        runs: Its finished runs, one for each seed.
    """
    results = collect(config, runs)
    storage.write_json(os.path.join(config.output_dir, "results.json"), results.to_dict())
    storage.write_text(os.path.join(config.output_dir, "results.md"), results.table.markdown())
    if results.networks:
        _draw(results, os.path.join(config.output_dir, "results.png"))
    return results.table.text()


def _selection(runs: Sequence[Run], number: int) -> Selection:
    """Return what the student of a round is pre-trained on."""
    results = [run.result(selecting(run, number).name) for run in runs]
    foreign = [result["foreign"] for result in results if "foreign" in result]
    precisions = [result["precision"] for result in results if result.get("precision") is not None]
    return Selection(
        pairs=round(float(np.mean([result["pairs"] for result in results]))),
        samples=round(float(np.mean([result["samples"] for result in results]))),
        precision=round(float(np.mean(precisions)), 2) if precisions else None,
        foreign=round(float(np.mean(foreign))) if foreign else None,
    )


def selecting(run: Run, number: int) -> Stage[Any]:
    """Return the stage that selects what the student of a round is pre-trained on: `select`, or one in its place."""
    stages = run.stages
    stage = stages[stages[numbered("pretrain", number)].needs["selection"]]
    while stage.copies is not None:
        stage = stages[stage.needs[stage.copies]]
    return stage


def title_of(role: str) -> str:
    """Return what tables call a network; of several teachers each has a number."""
    name, _, number = role.partition("-")
    return f"{TITLES[name]} {number}".strip()


def _columns(accuracy: Accuracy) -> dict[str, str]:
    """Return the figures to show and their titles; the first is that of whole items."""
    units = [name.removesuffix("_top1") for name in accuracy.means if name.endswith("_top1")]
    unit, *views = units or [""]
    columns = {"top1": accuracy.titled(f"{unit} top-1 %".strip()), "top5": f"{unit} top-5 %".strip()}
    for view in views:
        columns |= {f"{view}_top1": f"{view} top-1 %", f"{view}_top5": f"{view} top-5 %"}
    columns = {name: title for name, title in columns.items() if name in accuracy.means}
    columns |= {"ece": "ECE %"} | ({"missing": "missing"} if accuracy.means.get("missing") else {})
    added = (name for name in accuracy.means if name not in columns and name != "missing" and not name.endswith(_TOP))
    return columns | {name: name.replace("_", " ") for name in added}


def _draw(results: Results, path: str) -> None:
    labels, accuracies = zip(*results.labelled(), strict=True)
    with picture(path, size=(7, 0.5 * len(labels) + 1)) as axes:
        bars = axes.barh(
            labels,
            [accuracy.top1 for accuracy in accuracies],
            xerr=[accuracy.std or 0 for accuracy in accuracies],
            color="tab:blue",
            height=0.6,
        )
        axes.bar_label(bars, fmt="%.1f", padding=6)
        axes.invert_yaxis()
        axes.set_xlabel("top-1 accuracy on the test set, %")
        axes.set_xlim(0, 112)  # room for the figures beside the bars
