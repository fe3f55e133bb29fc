"""The reproduction of the paper: what to vary, on top of which recipe."""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from bsssl.config.experiment import Launcher
from bsssl.config.section import Section, without

Values = dict[str, Any]


class Option(Section):
    """Something that the paper does not have."""

    set: Values
    """keys of the recipe and their values"""
    against: Values = Field({})
    """those of the recipe that it is compared with, when that is not the plain one"""


class Reproduction(Section):
    """What to vary, and on top of which recipe. Keys of the recipe are written as in overrides: ``select.top_k``."""

    dotted: ClassVar[str] = r"set|weak|experiments\.[^.]+\.[^.]+|options\.[^.]+\.(set|against)"
    recipe: str
    """the recipe's config; its path starts from this file's folder"""
    output_dir: str
    """folder of all runs and of the page"""
    seeds: int = Field(3, ge=1)
    """of every point; with fewer than three nothing is decidable"""
    launcher: Launcher = Launcher()
    """of all runs: see the recipe's"""
    set: Values = Field({})
    """keys of the recipe and their values, in every run"""
    weak: Values = Field({})
    """those that add the pre-training on hashtags, for the column of weak pre-training"""
    experiments: dict[str, dict[str, Values] | None] = Field({})
    """by the experiment's name (students, teachers, self_training, pool_size, samples, top_k, top_p, variants, weak,
    videos, rounds or since_2019) and the point's label: the keys and values of the point; null leaves one out, or an
    experiment. The verdicts are about points called `balanced, ranked` and `unbalanced, ranked` (variants), `teacher
    from labels alone` and `teacher pre-trained on hashtags` (weak); other labels are free"""
    options: dict[str, Option | None] = Field({})
    """options beyond the paper, each compared with the recipe without it; null leaves one out"""

    @model_validator(mode="after")
    def _of_all_points(self) -> Self:
        own = {"seeds": "seeds", "output_dir": "output_dir", "seed": "set.seed"}
        problems = [
            f"{where} has '{key}', which is one for all points; set {name}"
            for where, values in self._values()
            for key, name in own.items()
            if key in values and f"{where}.{key}" != name
        ]
        labels = [label for points in self.experiments.values() for label in points or ()] + list(self.options)
        problems += [
            f"the label '{label}' has a dot, which overrides split; choose another" for label in labels if "." in label
        ]
        return without(problems, self)

    def _values(self) -> Iterator[tuple[str, Values]]:
        """Whatever has keys of the recipe."""
        yield "set", self.set
        yield "weak", self.weak
        for name, points in self.experiments.items():
            yield from ((f"experiments.{name}.{label}", values) for label, values in (points or {}).items())
        for label, option in self.options.items():
            if option is not None:
                yield f"options.{label}.set", option.set
                yield f"options.{label}.against", option.against

    @field_validator(
        "set", "weak", "experiments", "options", mode="before", json_schema_input_type=dict[str, Any] | None
    )
    @classmethod
    def _null_is_none_of_them(cls, values: Any) -> Any:
        return {} if values is None else values

    @field_validator("experiments", mode="before")
    @classmethod
    def _null_leaves_a_point_out(cls, experiments: Any) -> Any:
        if not isinstance(experiments, dict):
            return experiments
        return {name: _without_null(points) for name, points in experiments.items()}


def _without_null(points: Any) -> Any:
    if not isinstance(points, dict):
        return points
    return {label: point for label, point in points.items() if point is not None}
