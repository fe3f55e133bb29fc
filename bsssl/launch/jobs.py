"""What the jobs of a launched run do. A job names its config file and its stage, so that one that is started again, on
whatever node, does what is still missing."""

import os
import sys
import traceback
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
        # The last line of the log says what is wrong.
        from bsssl.recipes.check import check  # imports torch

        console.setup(debug=self.debug)
        try:
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
        except Exception as error:
            if self.debug:
                traceback.print_exc()
            sys.exit(console.describe(error))


@dataclass(frozen=True)
class ReportJob(Job):
    """Makes the table of results of finished runs."""

    name = REPORT
    config: str
    schema: type[Experiment]

    @override
    def __call__(self) -> None:
        config = load_config(self.config, [], self.schema)
        print(write_results(config, all_runs(config, config_path=self.config)))


@dataclass(frozen=True)
class GridJob(Job):
    """Writes the results of finished points."""

    name = REPORT
    grid: Grid
    points: list[Point]
    """as they were submitted, whatever becomes of the config"""

    @override
    def __call__(self) -> None:
        print(write_grid(self.grid, self.points))


def join_process_group() -> None:
    """Take the place of this process among those of its Slurm job, for ``torch.distributed``."""
    import submitit

    environment = submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if environment.world_size == environment.local_world_size:
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # a host's own name need not resolve
