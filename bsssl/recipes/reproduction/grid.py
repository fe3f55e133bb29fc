"""The points of a reproduction: a recipe is varied as each experiment of the paper asks, in one thing at a time.

What several points have in common is done once, as in a sweep.
"""

import math
import os
import shlex
from collections import Counter
from collections.abc import Collection
from functools import cached_property
from typing import Any

import yaml
from typing_extensions import override

from bsssl import config as configs
from bsssl.config import Config, load_config, located
from bsssl.config.reproduction import Values
from bsssl.errors import Problems, UserError, choices
from bsssl.recipes.names import evaluation
from bsssl.recipes.reproduction.paper import (
    BALANCED,
    EXPERIMENTS,
    RANDOM,
    UNBALANCED,
    WEAK,
    WITH_TAGS,
    WITHOUT_TAGS,
)
from bsssl.recipes.runs import all_runs
from bsssl.recipes.sweep import Grid, Point, folder_name

OPTIONS = "options"


class ReproductionGrid(Grid):
    """All runs of a reproduction."""

    leaves = "reproduce.md"

    @cached_property
    def settings(self) -> configs.Reproduction:
        """The checked config.

        Raises:
            UserError: The config is wrong; a line per problem.
        """
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

    @override
    def output_dir(self) -> str:
        return self.settings.output_dir

    @override
    def points(self) -> list[Point]:
        """Return the points of every experiment, then the options; several may be the same runs under other names."""
        points: list[Point] = []
        common = self.settings.set
        recipe = self._config({}, common)  # a mistake in the recipe itself is reported once, not for every point
        if recipe.data.train is None:
            raise UserError(f"{self.config_path}: the recipe has no labels, and so nothing to compare; set data.train")
        for name, rows in self.settings.experiments.items():
            for label, values in (rows or {}).items():
                points.append(self._point({name: label}, {**common, **values}))
                _check(points[-1], where=f"{self.config_path}: {name}, {label}")
                if WEAK in EXPERIMENTS[name].figures:
                    points.append(self._weak_point(name, label, {**common, **values}))
        for label, option in self.settings.options.items():
            if option is not None:
                against = {**common, **option.against}
                points.append(self._point({OPTIONS: label}, {**against, **option.set}))
                points.append(self._point({OPTIONS: f"{label}, without"}, against))
        if not points:
            raise UserError(f"{self.config_path}: nothing to reproduce; name some experiments or options")
        for name, count in Counter(point.name for point in points).items():
            if count > 1:
                raise UserError(f"{self.config_path}: {count} points are called '{name}'; give them different labels")
        return points

    def _weak_point(self, name: str, label: str, values: Values) -> Point:
        """Return the point whose teacher is the student's own network pre-trained on hashtags; nothing else is run."""
        student = self._config({name: label}, values).models.student.model_dump()
        others = {key: value for key, value in values.items() if not key.startswith("models.teacher")}
        swapped = {**others, **self.settings.weak, **{f"models.teacher.{key}": student[key] for key in student}}
        tests = [evaluation("teacher", test) for test in self._config({name: label}, values).data.tests]
        return self._point({name: f"{label}, {WEAK}"}, swapped, only=tests)

    def _point(self, name: dict[str, str], values: Values, *, only: Collection[str] = ()) -> Point:
        config = self._config(name, values)
        command = shlex.join([self._recipe, *self._recipe_overrides(name, values)])
        return Point(name, config, all_runs(config, config_path=command, only=only))

    def _config(self, name: dict[str, str], values: Values) -> Config:
        try:
            return load_config(self._recipe, self._recipe_overrides(name, values))
        except UserError as error:
            where = "".join(f"{experiment}, {label}: " for experiment, label in name.items())
            raise Problems(
                "\n".join(f"{self.config_path}: {where}{line}" for line in str(error).splitlines())
            ) from None

    @property
    def _recipe(self) -> str:
        return os.path.normpath(os.path.join(os.path.dirname(located(self.config_path)), self.settings.recipe))

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
    """Refuse a point that is not what the verdict of its experiment takes it for."""
    ((name, label),) = point.values.items()
    teacher, student = point.config.models.teacher, point.config.models.student
    if (
        name == "self_training"
        and teacher is not None
        and (teacher.name, teacher.options) != (student.name, student.options)
    ):
        raise UserError(f"{where}: teacher and student are different networks; give both the same name and options")
    variant = {BALANCED: "balanced", UNBALANCED: "unbalanced", RANDOM: "random"}.get(label)
    if name == "variants" and variant is not None and point.config.select.variant != variant:
        raise UserError(f"{where}: select.variant is {point.config.select.variant}; set {variant}, or another label")
    has_tags = {WITH_TAGS: True, WITHOUT_TAGS: False}.get(label)
    if name == "weak" and has_tags is not None and (point.config.weak is not None) != has_tags:
        raise UserError(f"{where}: there is {'no' if has_tags else 'a'} weak section; correct it, or the label")


def _as_yaml(value: Any) -> str:
    """Return a value on one line, as an override has it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
