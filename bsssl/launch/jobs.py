"""What the jobs of a launched run do. A job names its config file and its stage, so that one that is started again, on
whatever node, does what is still missing."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from bsssl.config import Config, Experiment, load_config
from bsssl.launch.base import REPORT, Job
from bsssl.pipeline.runner import execute
from bsssl.pipeline.stage import Task
from bsssl.recipes.runs import all_runs
from bsssl.recipes.sweep import Grid, Point
from bsssl.reports.grids import write_grid
from bsssl.reports.runs import write_results
from bsssl.runtime import console


@dataclass(frozen=True)
class StageJob(Job):
    """Runs a stage, this process being one of the job's."""

    config: str
    """the resolved config file"""
    config_path: str
    """the user's config and overrides, as in the commands that errors name"""
    seed: int
    name: str
    """that of the stage"""
    task: Task | None = None
    redo: bool = False
    debug: bool = False
    schema: type[Experiment] = Config

    @override
    def __call__(self) -> None:
        from bsssl.recipes.check import check  # imports torch

        console.setup(debug=self.debug)
        with errors_in_a_line(debug=self.debug):
            config = load_config(self.config, [], self.schema)
            check(config)
            run = next(run for run in all_runs(config, config_path=self.config_path) if run.seed == self.seed)
            execute(
                [run],
                wanted=lambda stage: stage.name == self.name,
                device=config.system.device,
                task=self.task,
                redo=self.redo,
            )


@dataclass(frozen=True)
class ReportJob(Job):
    """Makes the table of results of finished runs."""

    name = REPORT
    config: str
    schema: type[Experiment]
    debug: bool = False

    @override
    def __call__(self) -> None:
        with errors_in_a_line(debug=self.debug):
            config = load_config(self.config, [], self.schema)
            print(write_results(config, all_runs(config, config_path=self.config)))


@dataclass(frozen=True)
class GridJob(Job):
    """Writes the results of finished points."""

    name = REPORT
    grid: Grid
    points: list[Point]
    """as they were submitted, whatever becomes of the config"""
    debug: bool = False

    @override
    def __call__(self) -> None:
        with errors_in_a_line(debug=self.debug):
            print(write_grid(self.grid, self.points))


@contextlib.contextmanager
def errors_in_a_line(*, debug: bool) -> Iterator[None]:
    """End the process when there is an error, with the line that describes it as the last of the log."""
    try:
        yield
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(console.describe(error))


def join_process_group() -> None:
    """Take the place of this process among those of its Slurm job, for ``torch.distributed``."""
    import submitit

    environment = submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if environment.world_size == environment.local_world_size:
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # a host's own name need not resolve
