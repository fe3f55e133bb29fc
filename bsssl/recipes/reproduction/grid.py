"""Every table and figure of the paper on one's own data: runs that differ in one thing, and one page of results.

A recipe is varied as each experiment of ``bsssl.recipes.reproduction.paper`` asks; what several points have in common
is done once, as in a sweep. The page shows our figures beside the paper's, and for each of its six recommendations
whether it holds here.
"""

import math
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import yaml

from bsssl import config as configs
from bsssl.config import Config, load_config
from bsssl.config.reproduction import Values
from bsssl.errors import UserError, choices
from bsssl.recipes.reproduction.paper import (
    BALANCED,
    EXPERIMENTS,
    RANDOM,
    UNBALANCED,
    WEAK,
    WITH_TAGS,
    WITHOUT_TAGS,
    Found,
)
from bsssl.recipes.runs import all_runs
from bsssl.recipes.sweep import Grid, Point, folder_name
from bsssl.reports import recipe as report
from bsssl.reports import reproduction as page

OPTIONS = "options"
LEVEL = 0.95
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable at this size"
UNTRIED, UNFINISHED = "not tried", "not finished"


@dataclass(frozen=True)
class Verdict:
    """Whether a difference is there: Student's t on the paired differences of the seeds."""

    text: str
    mean: float | None = None
    """points of top-1"""
    half: float | None = None
    """half the width of the interval around the mean; None for a single seed"""


def judge(differences: np.ndarray, *, one_item: float = 0.0) -> Verdict:
    """The verdict on paired ``differences``, float64 (seeds,), of which those above 0 are in favour.

    It holds when the two-sided 95 % interval of Student's t, of half the width ``one_item`` at least, lies above 0,
    does not hold when it lies below, and is not decidable when it reaches 0, or with fewer than three seeds.
    """
    from scipy import stats

    count, mean = len(differences), float(np.mean(differences))
    if count < 2:
        return Verdict(OPEN, mean)
    error = float(np.std(differences, ddof=1)) / count**0.5
    half = max(one_item, float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error)
    if count < 3 or abs(mean) < half or math.isclose(abs(mean), half, abs_tol=1e-9):
        return Verdict(OPEN, mean, half)
    return Verdict(HOLDS if mean > 0 else FAILS, mean, half)


@dataclass(frozen=True)
class ReproductionGrid(Grid):
    """All runs of a reproduction, made anew from the command line wherever they are needed."""

    leaves = "reproduce.md"
    config_path: str
    overrides: tuple[str, ...]

    @cached_property
    def settings(self) -> configs.Reproduction:
        """The checked config; UserError with a line per problem."""
        settings = load_config(self.config_path, list(self.overrides), configs.Reproduction)
        for name, rows in settings.experiments.items():
            if name not in EXPERIMENTS:
                raise UserError(f"{self.config_path}: unknown experiment '{name}': {choices(name, EXPERIMENTS)}")
            if rows and WEAK in EXPERIMENTS[name].figures and not settings.weak:
                raise UserError(
                    f"{self.config_path}: experiment '{name}' compares with {WEAK}: say under `weak` which keys turn "
                    "that on"
                )
        return settings

    def output_dir(self) -> str:
        """The folder of all points and of the page."""
        return self.settings.output_dir

    def points(self) -> list[Point]:
        """Every point of every experiment, then the options; several may be the same runs under other names."""
        found: list[Point] = []
        common = self.settings.set
        self._config({}, common)  # what is wrong with the recipe is told as that, not of every point
        for name, rows in self.settings.experiments.items():
            for label, values in (rows or {}).items():
                found.append(self._point({name: label}, {**common, **values}))
                _check(found[-1], where=f"{self.config_path}: {name}, {label}")
                if WEAK in EXPERIMENTS[name].figures:
                    found.append(self._weak_point(name, label, {**common, **values}))
        for label, option in self.settings.options.items():
            if option is not None:
                against = {**common, **option.against}
                found.append(self._point({OPTIONS: label}, {**against, **option.set}))
                found.append(self._point({OPTIONS: f"{label}, without"}, against))
        if not found:
            raise UserError(f"{self.config_path}: nothing to reproduce; name some experiments or options")
        for name, count in Counter(point.name for point in found).items():
            if count > 1:
                raise UserError(f"{self.config_path}: {count} points are called '{name}'; give them different labels")
        return found

    def write(self, points: Sequence[Point], *, unfinished: Sequence[Point] = ()) -> str:
        """``reproduce.json``, ``reproduce.md`` and ``reproduce.html`` with their pictures; the verdicts as text."""
        return page.write(collect(self.settings, points, unfinished=unfinished), folder=self.output_dir())

    def _weak_point(self, name: str, label: str, values: Values) -> Point:
        """The student pre-trained on hashtags itself: it takes the place of the teacher, and nothing else is run."""
        student = self._config({name: label}, values).models.student.model_dump()
        kept = {key: value for key, value in values.items() if not key.startswith("models.teacher")}
        swapped = {**kept, **self.settings.weak, **{f"models.teacher.{key}": student[key] for key in student}}
        only = ("data", "tags", "weak", "teacher", "evaluate-teacher")
        return self._point({name: f"{label}, {WEAK}"}, swapped, only=only)

    def _point(self, name: dict[str, str], values: Values, *, only: tuple[str, ...] = ()) -> Point:
        config = self._config(name, values)
        command = shlex.join([self._recipe, *self._recipe_overrides(name, values)])
        return Point(name, config, all_runs(config, config_path=command, only=only))

    def _config(self, name: dict[str, str], values: Values) -> Config:
        try:
            return load_config(self._recipe, self._recipe_overrides(name, values))
        except UserError as error:
            where = "".join(f"{experiment}, {label}: " for experiment, label in name.items())
            raise UserError(
                "\n".join(f"{self.config_path}: {where}{line}" for line in str(error).splitlines())
            ) from None

    @property
    def _recipe(self) -> str:
        return os.path.normpath(os.path.join(os.path.dirname(self.config_path), self.settings.recipe))

    def _recipe_overrides(self, name: dict[str, str], values: Values) -> list[str]:
        launcher = self.settings.launcher.model_dump(mode="json", exclude_unset=True)
        chosen = {**values, **{f"launcher.{key}": launcher[key] for key in launcher}, "seeds": self.settings.seeds}
        chosen["output_dir"] = os.path.join(self.output_dir(), folder_name(name))
        for inner in chosen:
            outer = next((key for key in chosen if inner.startswith(f"{key}.")), None)
            if outer is not None:
                raise UserError(
                    f"'{outer}' would replace '{inner}' and all beside it; write {outer}.<key> for its keys"
                )
        return [f"{key}={_as_yaml(value)}" for key, value in chosen.items()]


def _check(point: Point, *, where: str) -> None:
    """UserError when a point is not what its experiment's verdict takes it for."""
    ((name, label),) = point.values.items()
    teacher, student = point.config.models.teacher, point.config.models.student
    if name == "self_training" and (teacher.name, teacher.options) != (student.name, student.options):
        raise UserError(f"{where}: teacher and student are different networks; give both the same name and options")
    variant = {BALANCED: "balanced", UNBALANCED: "unbalanced", RANDOM: "random"}.get(label)
    if name == "variants" and variant is not None and point.config.select.variant != variant:
        raise UserError(f"{where}: select.variant is {point.config.select.variant}; set {variant}, or another label")
    has_tags = {WITH_TAGS: True, WITHOUT_TAGS: False}.get(label)
    if name == "weak" and has_tags is not None and (point.config.weak is not None) != has_tags:
        raise UserError(f"{where}: there is {'no' if has_tags else 'a'} weak section; correct it, or the label")


def _as_yaml(value: Any) -> str:
    """On one line, as an override has it."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


PLACES: Mapping[str, Any] = {
    "pool_size": lambda run: run.result("data")["pool"],
    "samples": lambda run: run.result("pretrain")["samples"],
    "top_k": lambda run: run.config.select.top_k,
    "top_p": lambda run: run.config.score.top_p,
}
"""Where a point lies on the axis of an experiment that is a figure in the paper."""


def collect(
    settings: configs.Reproduction, points: Sequence[Point], *, unfinished: Sequence[Point] = ()
) -> dict[str, Any]:
    """The figures of the finished ``points`` of a reproduction, as JSON.

    ``settings``; ``seeds``; ``unfinished``: the names of the points left out; ``experiments``: by name, a list of
    points with ``label``, ``place`` on the axis (of figures), ``top1`` (by figure, a value per seed, percent) and
    ``one_item`` (of the test set, percent); ``advice``: the paper's recommendations with their verdicts; ``options``:
    the options with theirs, of the fine-tuned student.
    """
    by_name = {item: point for point in points for item in point.values.items()}
    top1 = {item: _top1(point) for item, point in by_name.items()}
    experiments: dict[str, list[dict[str, Any]]] = {}
    for (name, label), point in by_name.items():
        if name == OPTIONS or not _is_whole(point):
            continue
        found = top1[name, label] | top1.get((name, f"{label}, {WEAK}"), {})
        place = PLACES[name](point.runs[0]) if name in PLACES else None
        one_item = _one_item(point)
        experiments.setdefault(name, []).append({"label": label, "place": place, "top1": found, "one_item": one_item})
    for rows in experiments.values():
        rows.sort(key=lambda row: row["place"] or 0)  # along the axis; otherwise as they were given
    missing = {name for point in unfinished for name in point.values}
    return {
        "settings": settings.model_dump(mode="json"),
        "seeds": [run.seed for run in points[0].runs],
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
    """By figure, a value per seed."""
    if not _is_whole(point):
        return {WEAK: [run.result("evaluate-teacher")["top1"] for run in point.runs]}
    found = report.collect(point.runs)
    figures = ("teacher", "supervised", "pretrained", "finetuned", "gain")
    return {name: found[name]["per_seed"] for name in figures}


def _is_whole(point: Point) -> bool:
    """Whether the whole recipe is run, not a teacher alone."""
    return "finetune" in point.runs[0].stages


def _one_item(point: Point) -> float:
    """What one item of the test set is worth, points of top-1."""
    return 100 / float(point.runs[0].result("data")["test"])


def _verdict(name: str, points: Sequence[Mapping[str, Any]], *, whole: bool) -> dict[str, Any]:
    advice = EXPERIMENTS[name].advice
    assert advice is not None
    found: Found = {
        point["label"]: {figure: np.array(values) for figure, values in point["top1"].items()} for point in points
    }
    told = {"advice": advice.text, "compared": advice.compared}
    enough = set(advice.points) <= found.keys() if advice.points else whole and len(points) >= advice.min_points
    if not enough:
        return told | _as_json(Verdict(UNTRIED if whole else UNFINISHED))
    return told | _as_json(judge(advice.difference(found), one_item=max(point["one_item"] for point in points)))


def _compared(label: str, option: Point, plain: Point) -> dict[str, Any]:
    with_it, without = (_top1(point)["finetuned"] for point in (option, plain))
    verdict = judge(np.subtract(with_it, without), one_item=max(_one_item(option), _one_item(plain)))
    return {"label": label, "top1": {"with": with_it, "without": without}, **_as_json(verdict)}


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {"verdict": verdict.text, "difference": verdict.mean, "half_width": verdict.half}
