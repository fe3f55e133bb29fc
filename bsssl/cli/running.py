"""The commands that run stages: a whole recipe or transfer, one stage, a grid of settings."""

import argparse
import os
import shlex
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from bsssl.cli.command import Command, add_config, add_task, again
from bsssl.config import TRAIN_STAGES, Config, Experiment, Transfer, load_config
from bsssl.errors import UserError
from bsssl.runtime import console
from bsssl.runtime.distributed import is_main

if TYPE_CHECKING:
    from bsssl.launch.base import Order
    from bsssl.pipeline.stage import Stage, Task
    from bsssl.recipes.sweep import Grid

_EPILOG = """several GPUs of one machine:
  add --launch launcher.gpus_per_node=8 (or start it by torchrun --nproc-per-node 8 --no-python bsssl ...)
a Slurm cluster:
  add --launch launcher.kind=slurm launcher.partition=gpu launcher.nodes=2 launcher.gpus_per_node=8 ...
  to submit what is not done as a chain of jobs; then `bsssl status OUTPUT_DIR` and `bsssl cancel OUTPUT_DIR`

`bsssl options` lists the keys of a config.
A command that was interrupted goes on where it stopped when it is given again.
"""


def _add_work_arguments(parser: argparse.ArgumentParser, *, tasks: bool = False, points: bool = False) -> None:
    """Add the arguments of a command that runs stages, of which ``tasks`` may each do a share, or runs ``points``."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EPILOG
    add_config(parser)
    parser.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    parser.add_argument("--launch", action="store_true", help="start processes or submit jobs as `launcher` says")
    parser.add_argument(
        "--redo", action="store_true", help="replace work of other settings instead of keeping it aside"
    )
    if points:
        parser.add_argument(
            "--finished", action="store_true", help="run nothing; write the results of the points that are done"
        )
    if tasks:
        add_task(parser, "do the I-th of N shares of the work (from 0), no more, where it has parts such as shards")


def _run_stage(command: str, parsed: argparse.Namespace) -> None:
    """Do what a command does that is about one stage of a recipe."""
    config: Config = load_config(parsed.config, parsed.overrides)
    if parsed.task and parsed.launch:
        raise UserError("--task is for schedulers of your own; with --launch set launcher.array_tasks instead")
    from bsssl.pipeline.stage import Task
    from bsssl.recipes.commands import wanted_by

    wanted, task = wanted_by(command, config), Task(*parsed.task) if parsed.task else None
    _run(config, parsed, wanted=wanted, task=task)


def _run_all(schema: type[Experiment], parsed: argparse.Namespace) -> None:
    _run(load_config(parsed.config, parsed.overrides, schema), parsed)


def _run(
    config: Experiment,
    parsed: argparse.Namespace,
    *,
    wanted: "Callable[[Stage[Any]], bool] | None" = None,
    task: "Task | None" = None,
) -> None:
    """Run the stages that are ``wanted``; where none are named, run all and print the results."""
    from bsssl.launch.base import Order
    from bsssl.launch.jobs import ReportJob
    from bsssl.recipes.runs import all_runs
    from bsssl.reports.plan import plan
    from bsssl.reports.runs import write_results

    if parsed.plan:
        if is_main():
            chosen = wanted or (lambda stage: True)
            planned = plan(config, config_path=parsed.config, wanted=chosen, launched=parsed.launch)
            print(planned)
            _stop_at(planned.missing)
        return
    console.setup(debug=parsed.debug)
    # The commands that errors name must lead to the same run, so they carry the overrides too.
    kept = [override for override in parsed.overrides if not override.startswith("stage=")]
    runs = all_runs(config, config_path=shlex.join([parsed.config, *kept]))
    order = Order(
        command=again(parsed.given),
        output_dir=config.output_dir,
        runs=[(config, run) for run in runs],
        wanted=wanted or (lambda stage: True),
        last=partial(ReportJob, schema=type(config), debug=parsed.debug) if wanted is None else None,
        leaves=config.leaves,
        redo=parsed.redo,
        debug=parsed.debug,
    )
    if _carry_out(order, launched=parsed.launch, task=task) and wanted is None:
        print(write_results(config, runs))


def _stop_at(reasons: Collection[str]) -> None:
    """End the command where there are reasons why a run would stop."""
    if reasons:
        raise UserError("; ".join(line for reason in reasons for line in reason.splitlines()))


def _sweep(parsed: argparse.Namespace) -> None:
    from bsssl.recipes.sweep import Sweep

    _run_grid(Sweep(parsed.config, tuple(parsed.overrides)), parsed)


def _reproduce(parsed: argparse.Namespace) -> None:
    from bsssl.recipes.reproduction.grid import ReproductionGrid

    _run_grid(ReproductionGrid(parsed.config, tuple(parsed.overrides)), parsed)


def _run_grid(grid: "Grid", parsed: argparse.Namespace) -> None:
    from bsssl.launch.base import Order
    from bsssl.launch.jobs import GridJob
    from bsssl.recipes import sweep
    from bsssl.reports.grids import missing_of, plan_grid, write_grid

    points = grid.points()
    if parsed.plan:
        if is_main():
            print(plan_grid(points))
            _stop_at(missing_of(points, here=not parsed.launch))
        return
    console.setup(debug=parsed.debug)
    if parsed.finished:
        sweep.share(points)  # what a new point needs may be there already
        done, unfinished = sweep.parted(points)
        print(write_grid(grid, done, unfinished=unfinished))
        print(f"{len(done)} of {len(points)} points are done")
        return
    order = Order(
        command=again(parsed.given),
        output_dir=os.path.abspath(grid.output_dir()),
        runs=[(point.config, run) for point in points for run in point.runs],
        wanted=lambda stage: True,
        prepare=lambda: sweep.share(points),
        last=lambda path: GridJob(grid, points, debug=parsed.debug),
        leaves=grid.leaves,
        redo=parsed.redo,
        debug=parsed.debug,
    )
    if _carry_out(order, launched=parsed.launch):
        print(write_grid(grid, points))


def _carry_out(order: "Order", *, launched: bool, task: "Task | None" = None) -> bool:
    """Have an order done, by a launcher if it is to be ``launched``; return whether this process is to tell of it."""
    from bsssl.launch.submission import launch
    from bsssl.pipeline.runner import execute
    from bsssl.recipes.check import check

    outcome = launch(order) if launched else None
    if outcome is not None:
        print(outcome)
        return False
    for config in order.configs:
        check(config)
    if is_main():
        order.prepare()
    runs, device = [run for _, run in order.runs], order.configs[0].system.device
    execute(runs, wanted=order.wanted, device=device, task=task, redo=order.redo)
    return is_main()


_ON_ONE_STAGE = {
    "contents": (
        "read every item once, before anything is trained",
        "Finds what is damaged, and what is there twice, in the labels, the tests and the pool. What has been read is "
        "not read again. Every command that trains does it first, unless it is done.",
    ),
    "train": (
        "one training stage",
        f"Trains and evaluates the stage named by the config's `stage`: {', '.join(TRAIN_STAGES)}.",
    ),
    "score": (
        "score the pool with the teacher",
        "Writes one score file per pool shard; shards that are done are left alone.",
    ),
    "select": ("choose the student's training set", "Reads the score files and writes the selection."),
    "materialise": (
        "copy the selected samples into tars",
        "Writes them shuffled; tars that are done are left alone. The config needs a `materialise` section.",
    ),
    "evaluate": (
        "test a trained stage",
        "Tests the stage named by the config's `stage` (default: the student's last) on data.test.",
    ),
}
COMMANDS = {
    "run": Command(
        "the whole recipe",
        "Runs every stage that is not done yet, for every seed, and prints the table of results.",
        partial(_run_all, Config),
        _add_work_arguments,
    ),
    **{
        name: Command(title, text, partial(_run_stage, name), partial(_add_work_arguments, tasks=True))
        for name, (title, text) in _ON_ONE_STAGE.items()
    },
    "sweep": Command(
        "a grid of settings",
        "Runs the recipe for every combination of the keys that have several values (select.top_k=1000,2000 "
        "seed=0,1,2), what they share once, and prints one table.",
        _sweep,
        partial(_add_work_arguments, points=True),
    ),
    "reproduce": Command(
        "the paper's tables and figures",
        "Runs the recipe for every point of the config's experiments, what they share once, and writes one page: "
        "our figures beside the paper's, and which of its recommendations hold.",
        _reproduce,
        partial(_add_work_arguments, points=True),
    ),
    "transfer": Command(
        "compare checkpoints on another labeled set",
        "Fine-tunes every checkpoint and fits logistic regression to its features, and prints one table.",
        partial(_run_all, Transfer),
        _add_work_arguments,
    ),
}
