"""A grid of settings: the recipe at every point, stages that several points have in common done once.

Each point has a folder ``output_dir/<key=value,...>``. Its stages are links into ``output_dir/shared``, where stages
with the same fingerprint are one: one teacher and one scoring for every K.
"""

import itertools
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from bsssl.config import Config, load_config
from bsssl.errors import UserError
from bsssl.pipeline.run import Run, is_done
from bsssl.recipes.runs import all_runs

SHARED = "shared"


@dataclass(frozen=True)
class Point:
    """One combination of the values of all keys but the seed."""

    values: dict[str, str]
    config: Config
    runs: list[Run]
    """one per seed"""

    @property
    def name(self) -> str:
        """The name of the folder of the point."""
        return folder_name(self.values)


@dataclass(frozen=True)
class Grid(ABC):
    """Points that are run together, what they share once; made anew from the command line wherever they are needed."""

    leaves: ClassVar[str]
    """a file that the report leaves in ``output_dir``"""
    config_path: str
    overrides: tuple[str, ...]
    """``key=value``; of a sweep ``key=value,value,...`` for a key to vary"""

    @abstractmethod
    def output_dir(self) -> str:
        """Return the folder of all points."""

    @abstractmethod
    def points(self) -> list[Point]:
        """Return all points, in the order in which they are shown."""


class Sweep(Grid):
    """The combinations of some keys' values."""

    leaves = "sweep.md"

    @override
    def output_dir(self) -> str:
        return self._load({}).output_dir

    @override
    def points(self) -> list[Point]:
        """Return all points in the order of the command line, the last key varying fastest.

        Raises:
            UserError: No key varies, or there is no test set.
        """
        if not self._load({}).data.tests:  # what is wrong with the rest is told first
            raise UserError("the points of a sweep are compared on a test set, and there is none; set data.test")
        axes = [axis for axis in map(_axis, self.overrides) if len(axis[1]) > 1]
        if not axes:
            raise UserError("nothing to sweep: give at least one key several values, such as select.top_k=1000,2000")
        for key in ("output_dir", "seeds"):
            if any(key == axis for axis, _ in axes):
                raise UserError(
                    f"{key} cannot vary in a sweep; " + ("give seed=0,1,2" if key == "seeds" else "give one")
                )
        seeds = next((values for key, values in axes if key == "seed"), None)
        varied = [(key, values) for key, values in axes if key != "seed"]
        combinations = itertools.product(*(values for _, values in varied))
        grid = [dict(zip([key for key, _ in varied], values, strict=True)) for values in combinations]
        # A scoring pass that several points share leaves what any of them reads.
        left = sorted({kind for values in grid for kind in self._load(values).beside_scores()})
        return [self._point(values, seeds, left) for values in grid]

    def _point(self, values: dict[str, str], seeds: list[str] | None, left: Sequence[str]) -> Point:
        own = {"output_dir": os.path.join(self.output_dir(), folder_name(values)), "score.leave": f"[{','.join(left)}]"}
        values_of_all = {**values, **own}
        each = [{**values_of_all, "seed": seed} for seed in seeds] if seeds else [values_of_all]
        configs = [self._load(one) for one in each]
        # The commands that errors name must lead to the same run.
        texts = [shlex.join([self.config_path, *self._overrides(one)]) for one in each]
        pairs = zip(configs, texts, strict=True)
        return Point(values, configs[0], [run for config, text in pairs for run in all_runs(config, config_path=text)])

    def _load(self, values: dict[str, str]) -> Config:
        return load_config(self.config_path, self._overrides(values))

    def _overrides(self, values: dict[str, str]) -> list[str]:
        """Return the overrides that do not vary, then ``values``."""
        common = [override for override in self.overrides if len(_axis(override)[1]) == 1]
        return [*common, *(f"{key}={value}" for key, value in values.items())]


def folder_name(values: dict[str, str]) -> str:
    """Return the name of the folder of a point with these ``values``."""
    return ",".join(f"{key}={value}" for key, value in values.items()).replace("/", "-").replace(" ", "_") or "all"


def share(points: Sequence[Point]) -> None:
    """Make every stage's folder a link to one that all points have in common which ask for the very same stage.

    That one is ``shared/<fingerprint>/<stage>`` beside the points, or another one there that was done already of the
    same settings and inputs: what an edited grid no longer asks for stays there. Every run is introduced,
    also where nothing is left to compute.
    """
    for run in (run for point in points for run in point.runs):
        run.introduce()
    for run, name in _stages(points):
        folder = run.folder(name)
        if folder.exists() and not folder.is_symlink():
            continue  # what a run of its own has left stays
        shared = Path(os.path.dirname(run.output_dir)) / SHARED
        target = _place(run, name, shared)
        target.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            folder.unlink()
        folder.symlink_to(os.path.relpath(target, folder.parent))


def _place(run: Run, name: str, shared: Path) -> Path:
    """Return where the stage is or will be, the stages that it needs being in their places already."""
    wanted = shared / run.fingerprint(name) / name
    linked = run.folder(name)
    if is_done(wanted):
        return wanted
    if any(run.pending(need) is not None for need in run.stages[name].needs.values()):
        return wanted  # another's result may be of other inputs than those to come
    places = [linked.resolve()] if linked.is_symlink() else []
    for place in (*places, *sorted(shared.glob(f"*/{name}"))):
        if is_done(place) and run.pending(name, place) is None:
            return place
    return wanted


def _stages(points: Sequence[Point]) -> Iterator[tuple[Run, str]]:
    for point in points:
        yield from ((run, name) for run in point.runs for name in run.stages)


def parted(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Return the points that are finished, with every seed, and the others.

    Raises:
        UserError: None is finished.
    """
    parts: tuple[list[Point], list[Point]] = [], []
    for point in points:
        done = all(run.pending(name) is None for run in point.runs for name in run.stages)
        parts[0 if done else 1].append(point)
    if not parts[0]:
        raise UserError(f"none of the {len(points)} points in {os.path.dirname(points[0].config.output_dir)} is done")
    return parts


def _axis(override: str) -> tuple[str, list[str]]:
    """Return the key of an override and its values: those between commas outside brackets, braces and quotes."""
    key, _, text = override.partition("=")
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    return key.strip(), [part for value in values if (part := value.strip())] or [""]
