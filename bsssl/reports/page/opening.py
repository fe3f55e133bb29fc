"""From the folder of a run to its config and its runs, wherever it lies by now and however far it came."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsssl.config import Config
from bsssl.config.reading import check_kind, checked, read_yaml
from bsssl.errors import UserError
from bsssl.pipeline.progress import CONFIG
from bsssl.pipeline.record import Record
from bsssl.pipeline.run import Run
from bsssl.recipes.runs import all_runs

_SEED = re.compile(r"seed-(\d+)\Z")


@dataclass(frozen=True)
class Opened:
    """A run as its folder has it: nothing is asked of the data that it was made from."""

    folder: Path
    """the output folder"""
    config: Config
    runs: tuple[Run, ...]
    """one for each seed"""
    shown: Run
    """the run of the seed whose pictures are shown"""
    records: Mapping[int, Mapping[str, Record]]
    """what the finished stages have left, by seed and stage"""

    @property
    def test(self) -> str:
        """The first test set, as the data stage calls it; its usual name where there is none."""
        return next(iter(self.config.data.tests), "test")

    @property
    def missing(self) -> list[str]:
        """The stages that are not done, with their seeds."""
        waiting: dict[str, list[str]] = {}
        for run in self.runs:
            for name in run.stages:
                if name not in self.records[run.seed]:
                    waiting.setdefault(name, []).append(str(run.seed))
        return [f"{name} (seed {', '.join(seeds)})" for name, seeds in waiting.items()]

    def result(self, stage: str, run: Run | None = None) -> dict[str, Any] | None:
        """Return the figures of a stage of a run, by default of the one shown; None while the stage is not done."""
        record = self.records[(run or self.shown).seed].get(stage)
        return None if record is None else record.result


def open_run(path: str, *, seed: int | None = None) -> Opened:
    """Return the run in a folder: the output folder of a recipe, or the folder of one of its seeds.

    Args:
        path: The folder, which may have been moved since.
        seed: The seed whose pictures are shown; by default the first with a selection, or the first.

    Raises:
        UserError: There is no run, or it is one of another kind or of another version of the program.
    """
    folders = _folders(Path(path))
    runs, configs = [], []
    for number, folder in folders.items():
        config = _config(folder, number)
        configs.append(config)
        runs += all_runs(config, config_path=str(folder / CONFIG))
    records = {run.seed: _records(run) for run in runs}
    if seed is not None and seed not in folders:
        raise UserError(f"{path} has no seed {seed}; it has {', '.join(map(str, folders))}")
    selected = [run for run in runs if any(name.startswith("select") for name in records[run.seed])]
    shown = next((run for run in runs if run.seed == seed), [*selected, *runs][0])
    return Opened(Path(configs[0].output_dir), configs[0], tuple(runs), shown, records)


def opened(config: Config, runs: Sequence[Run]) -> Opened:
    """Return finished ``runs`` of ``config`` as if they had been opened."""
    return Opened(Path(config.output_dir), config, tuple(runs), runs[0], {run.seed: _records(run) for run in runs})


def _folders(path: Path) -> dict[int, Path]:
    """Return the folders of the seeds, by seed."""
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give the output_dir of a run")
    # As it was called: the names of the seeds are those of their folders, also behind a link.
    places = [path] if (path / CONFIG).exists() else [*path.iterdir()]
    numbered = {int(match[1]): place for place in places if (match := _SEED.match(place.absolute().name))}
    folders = {number: numbered[number] for number in sorted(numbered) if (numbered[number] / CONFIG).exists()}
    if folders:
        return folders
    points = sorted(str(place.parent.parent) for place in path.glob(f"*/seed-*/{CONFIG}"))
    raise UserError(
        f"{path} is no run: there is no seed-N/{CONFIG} in it"
        + (f"; it has several, of which give one: {', '.join(dict.fromkeys(points))}"[:400] if points else "")
    )


def _config(folder: Path, seed: int) -> Config:
    path = str(folder / CONFIG)
    values = read_yaml(path)
    check_kind(path, values, Config)
    values |= {"output_dir": str(folder.parent), "seed": seed, "seeds": 1}
    return checked(values, Config, origin=path)


def _records(run: Run) -> dict[str, Record]:
    records = {name: run.record(name) for name in run.stages}
    return {name: record for name, record in records.items() if record is not None}
