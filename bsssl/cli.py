"""The ``bsssl`` command. Each script in ``tools/`` is one of its sub-commands."""

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from bsssl import __version__
from bsssl import config as configs
from bsssl.config import TRAIN_STAGES, Config, Experiment, Transfer, load_config, options
from bsssl.errors import UserError
from bsssl.runtime.console import describe
from bsssl.runtime.distributed import is_main

if TYPE_CHECKING:
    from bsssl.recipes.sweep import Grid

COMMANDS: dict[str, tuple[str, str]] = {
    "run": (
        "the whole recipe",
        "Runs every stage that is not done yet, for every seed, and prints the table of results.",
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
    "sweep": (
        "a grid of settings",
        "Runs the recipe for every combination of the keys that have several values (select.top_k=1000,2000 "
        "seed=0,1,2), what they share once, and prints one table.",
    ),
    "reproduce": (
        "the paper's tables and figures",
        "Runs the recipe for every point of the config's experiments, what they share once, and writes one page: our "
        "figures beside the paper's, and which of its recommendations hold.",
    ),
    "transfer": (
        "compare checkpoints on another labeled set",
        "Fine-tunes every checkpoint and fits logistic regression to its features, and prints one table.",
    ),
    "evaluate": (
        "test a trained stage",
        "Tests the stage named by the config's `stage` (default: finetune) on data.test.",
    ),
}


TABLES = {
    "run": "results.json, results.md and results.png",
    "transfer": "transfer.json, transfer.csv, transfer.md and transfer.png",
}
RUN_COMMANDS: dict[str, tuple[str, str]] = {
    "status": (
        "what a launched run is doing",
        "Shows what is done, running, waiting and failed, with the last lines of the logs.",
    ),
    "cancel": ("end a launched run", "Cancels the jobs of a run that are waiting or running."),
}
TAG_COMMANDS: dict[str, tuple[str, str]] = {
    "inspect": (
        "what the hashtags of a config's `weak` section mean",
        "Reads weak.sources and prints counts, samples per class, unmapped tags and what is dropped; writes nothing.",
    ),
}
_MOST = 20  # rows of each table of `tags inspect`
EPILOG = """several GPUs of one machine:
  add --launch launcher.gpus_per_node=8 (or call the script through torchrun)
a Slurm cluster:
  add --launch launcher.kind=slurm launcher.partition=gpu launcher.nodes=2 launcher.gpus_per_node=8 ...
  to submit what is not done as a chain of jobs; then `bsssl status OUTPUT_DIR` and `bsssl cancel OUTPUT_DIR`

`bsssl options` lists the keys of a config.
A command that was interrupted goes on where it stopped when it is given again.
"""


def main(arguments: list[str] | None = None, *, command: str | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all went well, 1 with one clear line when not, 2 for a wrong call.

    Args:
        arguments: instead of ``sys.argv``.
        command: the sub-command, for the scripts in ``tools/`` that stand for one.
    """
    given = sys.argv[1:] if arguments is None else arguments
    parsed = _parse(_parser(command), given)
    chosen = command or parsed.command
    try:
        if chosen == "options":
            _print_options()
        elif chosen in RUN_COMMANDS:
            _look_after(chosen, parsed)
        elif chosen == "sweep":
            from bsssl.recipes.sweep import Sweep

            _run_grid(Sweep(parsed.config, tuple(parsed.overrides)), parsed, given)
        elif chosen == "reproduce":
            from bsssl.recipes.reproduction.grid import ReproductionGrid

            _run_grid(ReproductionGrid(parsed.config, tuple(parsed.overrides)), parsed, given)
        elif chosen in ("tags", *TAG_COMMANDS):
            _inspect(load_config(parsed.config, parsed.overrides), parsed)
        else:
            schema = Transfer if chosen == "transfer" else Config
            _run(chosen, load_config(parsed.config, parsed.overrides, schema), parsed, given)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, `head` for example, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if parsed.debug:
            traceback.print_exc()
        sys.exit(describe(error))
    sys.exit(0)


def _parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """What argparse makes of the arguments, overrides after an option included, which it leaves over."""
    parsed, others = parser.parse_known_args(arguments)
    unknown = [other for other in others if other.startswith("-") or "overrides" not in parsed]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if others:
        parsed.overrides += others
    return parsed


def _parser(command: str | None) -> argparse.ArgumentParser:
    if command is not None:
        title, text = (COMMANDS | RUN_COMMANDS | TAG_COMMANDS)[command]
        parser = argparse.ArgumentParser(allow_abbrev=False, description=f"{title[0].upper()}{title[1:]}. {text}")
        _add_arguments(parser, command)
        return parser
    parser = argparse.ArgumentParser(
        prog="bsssl", allow_abbrev=False, description="A few labels and a very large pool make a better small model."
    )
    parser.add_argument("--version", action="version", version=f"bsssl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (title, text) in (COMMANDS | RUN_COMMANDS).items():
        _add_arguments(commands.add_parser(name, help=title, description=text, allow_abbrev=False), name)
    tags = commands.add_parser("tags", help="the hashtags of a config", description="The hashtags of a config.")
    actions = tags.add_subparsers(dest="action", required=True, metavar="action")
    for name, (title, text) in TAG_COMMANDS.items():
        _add_arguments(actions.add_parser(name, help=title, description=text, allow_abbrev=False), name)
    listing = commands.add_parser("options", help="every key of a config, its default and what it means")
    listing.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if command in RUN_COMMANDS:
        parser.epilog = "For runs on a Slurm cluster: call it where Slurm's commands work, such as a login node."
        parser.add_argument("output_dir", help="the run's folder, the config's output_dir")
        if command == "status":
            parser.add_argument(
                "--shards",
                action="store_true",
                help="every shard of the pool, and every tar of the copied selection, instead",
            )
        return
    parser.add_argument("--config", required=True, help="a YAML file, e.g. projects/image/quickstart.yaml")
    if command in TAG_COMMANDS:
        parser.epilog = "It reads text alone, in one process: no cluster is needed, a login node will do."
        parser.add_argument("--all", action="store_true", help="every class and tag, not the most frequent alone")
    else:
        parser.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
        parser.add_argument("--launch", action="store_true", help="start processes or submit jobs as `launcher` says")
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = EPILOG
    if command in ("sweep", "reproduce"):
        parser.add_argument(
            "--finished", action="store_true", help="run nothing; write the results of the points that are done"
        )
    if command in ("score", "materialise"):
        parser.add_argument(
            "--task", metavar="I/N", type=_task, help="do the I-th of N shares of the work (from 0), no more"
        )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. output_dir=outputs/try finetune.base_lr=0.001"
    )


def _task(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a task; write for example 0/16 for the first of 16")
    return int(number), int(count)


def _look_after(command: str, parsed: argparse.Namespace) -> None:
    from bsssl.launch.status import cancel, status

    print(cancel(parsed.output_dir) if command == "cancel" else status(parsed.output_dir, shards=parsed.shards))


def _inspect(config: Config, parsed: argparse.Namespace) -> None:
    from bsssl.reports.tags import inspect_tags
    from bsssl.runtime.console import setup

    setup(debug=parsed.debug)
    print(inspect_tags(config, most=None if parsed.all else _MOST))


def _run(command: str, config: Experiment, parsed: argparse.Namespace, given: list[str]) -> None:
    task = getattr(parsed, "task", None)
    if task and parsed.launch:
        raise UserError("--task is for schedulers of your own; with --launch set launcher.array_tasks instead")
    wanted = _stage_names(command, config) if task is None else lambda name: name == command
    # The commands that errors name must lead to the same run, so they carry the overrides too.
    kept = [override for override in parsed.overrides if not override.startswith("stage=")]
    config_path = shlex.join([parsed.config, *kept])
    if parsed.plan:
        from bsssl.reports.plan import plan

        processes = config.launcher.all_processes if parsed.launch else None
        if is_main():
            print(plan(config, config_path=parsed.config, wanted=wanted, processes=processes))
        return
    from bsssl.reports import recipe as report
    from bsssl.reports import transfer

    writers: dict[str, Callable[[Any, Any], str]] = {"run": report.write, "transfer": transfer.write}
    table = writers.get(command)
    if parsed.launch and config.launcher.kind == "slurm":
        from bsssl.launch.slurm import submit

        print(submit(config, config_path=config_path, wanted=wanted, table=table, debug=parsed.debug))
        return
    if parsed.launch and config.launcher.processes > 1:
        _run_in_processes(given, config.launcher.processes)
    from bsssl.pipeline.run import Task, all_seeds, execute

    runs = all_seeds(config, config_path=config_path)
    execute(runs, wanted=wanted, task=Task(*task) if task else None, debug=parsed.debug)
    if table is not None and is_main():
        print(table(config, runs))
        print(f"{TABLES[command]} are in {config.output_dir}")


def _run_grid(grid: "Grid", parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.recipes import sweep
    from bsssl.reports.grids import plan_grid, write_grid

    points = grid.points()
    launcher = points[0].config.launcher
    if parsed.plan:
        if is_main():
            print(plan_grid(points))
        return
    if parsed.finished:
        sweep.share(points)  # what a new point needs may be there already
        done, unfinished = sweep.parted(points)
        print(write_grid(grid, done, unfinished=unfinished))
        print(f"{len(done)} of {len(points)} points are done")
        return
    if parsed.launch and launcher.kind == "slurm":
        from bsssl.launch.slurm import submit_grid

        print(submit_grid(grid, debug=parsed.debug))
        return
    if parsed.launch and launcher.processes > 1:
        _run_in_processes(given, launcher.processes)
    from bsssl.pipeline.run import execute

    if is_main():
        sweep.share(points)
    execute([run for point in points for run in point.runs], wanted=lambda name: True, debug=parsed.debug)
    if is_main():
        print(write_grid(grid, points))


def _run_in_processes(given: list[str], processes: int) -> NoReturn:
    """The same command again, in each of several processes."""
    from bsssl.launch.slurm import run_locally

    again = [sys.executable, sys.argv[0], *(argument for argument in given if argument != "--launch")]
    sys.exit(run_locally(again, processes=processes))


def _stage_names(command: str, config: Experiment) -> Callable[[str], bool]:
    """Which of its stages ``command`` runs."""
    if command == "run" or not isinstance(config, Config):
        return lambda name: True
    stage = config.stage
    if command == "materialise":
        if config.materialise is None:
            raise UserError("the config has no materialise section; add for example materialise.samples_per_tar=10000")
        return lambda name: name == command
    if command in ("score", "select"):
        return lambda name: name in ("data", command)
    if stage == "weak" and config.weak is None:
        raise UserError("the config has no weak section; add weak.sources and teacher.init_from=weak")
    if stage == "ceiling" and config.ceiling is None:
        raise UserError("the config has no ceiling; add for example ceiling.length='90 epochs'")
    if command == "evaluate" and stage == "weak" and config.weak is not None and not config.weak.is_tested:
        raise UserError("weak has classes of its own, which data.test has not; set weak.tags.classes=targets")
    if command == "evaluate":
        return lambda name: name == f"evaluate-{stage if stage in TRAIN_STAGES else 'finetune'}"
    if stage not in TRAIN_STAGES:
        raise UserError(
            f"train needs a training stage, not stage={stage}; add stage=NAME, one of {', '.join(TRAIN_STAGES)}"
        )
    wanted = {"data", stage, f"evaluate-{stage}"} | ({"tags"} if stage == "weak" else set())
    return lambda name: name in wanted


def _print_options() -> None:
    keys = {path: line for path, *line in options()}
    of_transfers = {path: line for path, *line in options(Transfer) if path not in keys}
    of_reproductions = {path: line for path, *line in options(configs.Reproduction)}
    for title, listed in (
        ("", keys),
        ("\nof a transfer alone (`bsssl transfer`):\n\n", of_transfers),
        ("\nof a reproduction (`bsssl reproduce`), whose recipe has keys as above:\n\n", of_reproductions),
    ):
        print(title, end="")
        for path, (kind, default, meaning) in listed.items():
            print(f"{path}: {kind} = {default}" + (f"\n    {meaning}" if meaning else ""))
