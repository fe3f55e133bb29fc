"""The ``bsssl`` command. Each script in ``tools/`` is one of its sub-commands."""

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from bsssl import __version__
from bsssl.config import TRAIN_STAGES, Config, Experiment, Transfer, load_config
from bsssl.errors import UserError
from bsssl.registry import REGISTRIES
from bsssl.runtime import console
from bsssl.runtime.distributed import is_main

if TYPE_CHECKING:
    from bsssl.launch.base import Order
    from bsssl.pipeline.stage import Stage, Task
    from bsssl.recipes.sweep import Grid


@dataclass(frozen=True)
class Command:
    """A sub-command of ``bsssl``."""

    title: str
    text: str
    run: Callable[[argparse.Namespace, list[str]], None]
    """given the parsed arguments and the arguments as they were"""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    is_of_tags: bool = False
    """whether it is an action of `bsssl tags`"""


EPILOG = """several GPUs of one machine:
  add --launch launcher.gpus_per_node=8 (or start it by torchrun --nproc-per-node 8 --no-python bsssl ...)
a Slurm cluster:
  add --launch launcher.kind=slurm launcher.partition=gpu launcher.nodes=2 launcher.gpus_per_node=8 ...
  to submit what is not done as a chain of jobs; then `bsssl status OUTPUT_DIR` and `bsssl cancel OUTPUT_DIR`

`bsssl options` lists the keys of a config.
A command that was interrupted goes on where it stopped when it is given again.
"""
PREDICT_EPILOG = """several GPUs or processes of one machine share the work and leave one file:
  torchrun --nproc-per-node 8 --no-python bsssl predict MODEL photos --to predictions.parquet
a cluster: tasks, each with a file of its own (predictions-00003-of-00064.parquet), as an array of your scheduler's:
  bsssl predict MODEL photos --to predictions.parquet --task 3/64

What cannot be read is listed at the end, and in predictions.unreadable.jsonl beside predictions.parquet. The exit
status is 1 if nothing could be read, and with --strict if anything could not.
"""
_MOST = 20  # rows of each table of `tags inspect`


def main(arguments: list[str] | None = None, *, command: str | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all went well, 1 with one clear line when not, 2 for a wrong call.

    Args:
        arguments: The arguments instead of ``sys.argv``.
        command: The sub-command, for the scripts in ``tools/`` that stand for one.
    """
    given = sys.argv[1:] if arguments is None else arguments
    parsed = _parse(_parser(command), given)
    name = command or getattr(parsed, "action", None) or parsed.command
    try:
        _commands()[name].run(parsed, given)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, `head` for example, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if parsed.debug:
            traceback.print_exc()
        sys.exit(console.describe(error))
    sys.exit(0)


def _commands() -> dict[str, Command]:
    on_one_stage = {
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
    return {
        "run": Command(
            "the whole recipe",
            "Runs every stage that is not done yet, for every seed, and prints the table of results.",
            partial(_run_all, Config),
            _add_work_arguments,
        ),
        **{
            name: Command(title, text, partial(_run_stage, name), partial(_add_work_arguments, tasks=True))
            for name, (title, text) in on_one_stage.items()
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
        "report": Command(
            "one page of HTML about a run",
            "Writes what was selected and what came of it, with pictures: whether the student gained, the best and the "
            "last picks of each class, confusions, calibration, failures, time. `run` writes it too.",
            _report,
            _add_report_arguments,
        ),
        "status": Command(
            "what a launched run is doing",
            "Shows what is done, running, waiting and failed, with the last lines of the logs.",
            _status,
            _add_status_arguments,
        ),
        "watch": Command(
            "a run while it runs",
            "Shows the stages, the curves of trainings, speed, time left and the newest log lines, from the files in "
            "the run's folder alone: here, on a cluster, or of a run that is over. It refreshes in place until the "
            "run ends or Ctrl-C; where the output is no terminal it is shown once.",
            _watch,
            _add_watch_arguments,
        ),
        "cancel": Command(
            "end a launched run", "Cancels the jobs of a run that are waiting or running.", _cancel, _add_folder
        ),
        "inspect": Command(
            "what the hashtags of a config's `weak` section mean",
            "Reads weak.sources and prints counts, samples per class, unmapped tags and what is dropped; writes "
            "nothing.",
            _inspect,
            _add_inspect_arguments,
            is_of_tags=True,
        ),
        "export": Command(
            "write a trained network for another program",
            "Writes the network in the folder of a trained stage in another format, and checks what was written.",
            _export,
            _add_export_arguments,
        ),
        "predict": Command(
            "what a trained network says of pictures or videos",
            "Prints the most probable classes of each, or writes them to a table.",
            _predict,
            _add_predict_arguments,
        ),
        "scores": Command(
            "write the scores of the pool as Parquet, a row per item and class",
            "Columns key, class and score: what score.given reads.",
            _scores,
            _add_scores_arguments,
        ),
        "init": Command(
            "a first config for data of one's own",
            "Looks at the data and writes a config for it and for this machine, with the reasons beside the settings.",
            _init,
            _add_init_arguments,
        ),
        "options": Command(
            "every key of a config, its default and what it means",
            "With the name of a section, such as teacher: its keys. With that of a sort of parts, such as models or "
            "losses, or of one part: its names or options.",
            _print_options,
            _add_options_arguments,
        ),
    }


def _parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Return what argparse makes of the arguments, overrides after an option included, which it leaves over."""
    parsed, others = parser.parse_known_args(arguments)
    unknown = [other for other in others if other.startswith("-") or "overrides" not in parsed]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if others:
        parsed.overrides += others
    if "config" in parsed and "overrides" in parsed:
        _find_config(parsed)
    return parsed


def _find_config(parsed: argparse.Namespace) -> None:
    """Take the config out of the positional arguments, where it comes first if ``--config`` does not name it."""
    named = [argument for argument in parsed.overrides[:1] if "=" not in argument or os.path.isfile(argument)]
    if named and parsed.config is not None:
        parsed.refuse(f"two configs, {named[0]} and --config {parsed.config}; give one")
    if not named and parsed.config is None:
        parsed.refuse("no config; give a YAML file, or a name of `bsssl init --list`, before key=value")
    if named:
        parsed.config, *parsed.overrides = parsed.overrides


def _parser(command: str | None) -> argparse.ArgumentParser:
    commands = _commands()
    if command is not None:
        one = commands[command]
        parser = argparse.ArgumentParser(
            allow_abbrev=False, description=f"{one.title[0].upper()}{one.title[1:]}. {one.text}"
        )
        _add_arguments(parser, one)
        return parser
    parser = argparse.ArgumentParser(
        prog="bsssl", allow_abbrev=False, description="A few labels and a very large pool make a better small model."
    )
    parser.add_argument("--version", action="version", version=f"bsssl {__version__}")
    listed = parser.add_subparsers(dest="command", required=True, metavar="command")
    of_tags = listed.add_parser("tags", help="the hashtags of a config", description="The hashtags of a config.")
    actions = of_tags.add_subparsers(dest="action", required=True, metavar="action")
    for name, one in commands.items():
        group = actions if one.is_of_tags else listed
        _add_arguments(group.add_parser(name, help=one.title, description=one.text, allow_abbrev=False), one)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.add_arguments(parser)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "For runs on a Slurm cluster: call it where Slurm's commands work, such as a login node."
    parser.add_argument("output_dir", help="the run's folder, the config's output_dir")


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run's folder, the config's output_dir, or that of one of its seeds")
    parser.add_argument("--seed", type=int, help="the seed whose pictures are shown; default: the first")
    parser.add_argument("--to", metavar="FILE", help="the file to write; default: report.html in the run's folder")
    parser.add_argument(
        "--thumbnails-mb", type=_megabytes, default=20.0, metavar="N", help="room for pictures in the page; default: 20"
    )


def _megabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 30:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to below 30, the most that a page may have")
    return number


def _add_status_arguments(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument(
        "--shards", action="store_true", help="every shard of the pool, and every tar of the copied selection, instead"
    )


def _add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the folder of a run, a sweep or a reproduction, or that of a seed")
    parser.add_argument("--once", action="store_true", help="show it once")


def _add_options_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "part",
        nargs="?",
        help=f"a section or a key, such as teacher or data.transforms; or a sort of parts: {', '.join(REGISTRIES)}",
    )
    parser.add_argument("name", nargs="?", help="one of a sort of parts, of which to show the options")
    parser.add_argument(
        "--schema", nargs="?", const="-", metavar="FILE", help="write the JSON schema of a config, for editors, instead"
    )
    _add_plugins(parser)
    parser.add_argument("--config", help="a YAML file, whose plugins to import first")


def _add_init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(refuse=parser.error)
    parser.add_argument(
        "labels",
        nargs="?",
        help="labeled pictures or videos: a folder with a folder per class, whose loose files are of the pool; a table "
        "of files with a column label (.csv, .jsonl, .parquet); or tars",
    )
    parser.add_argument(
        "--pool", action="append", default=[], metavar="PATH", help="pictures or videos without labels, likewise"
    )
    parser.add_argument("--test", metavar="PATH", help="labeled ones for the test; default: some are set aside")
    parser.add_argument("--to", default="mine.yaml", metavar="FILE", help="the config to write; default: mine.yaml")
    parser.add_argument("--list", action="store_true", help="list the configs that come with the package instead")


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="the folder of a trained stage")
    parser.add_argument("--to", required=True, help="the format: a name in `bsssl options exporters`")
    parser.add_argument("--path", required=True, help="the file or folder to write; with --to hub USER/REPOSITORY")
    parser.add_argument(
        "--check", nargs="+", default=[], metavar="FILE", help="pictures or videos to compare it on; else generated"
    )
    _add_plugins(parser)
    parser.add_argument("overrides", nargs="*", metavar="option=value", help="options of the format")


def _add_scores_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="the folder of a score stage")
    parser.add_argument("--to", required=True, metavar="FILE", help="the Parquet file to write")


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, PREDICT_EPILOG
    parser.add_argument(
        "model",
        help="the folder of a trained network; of a run, for its student; hf-hub:USER/REPOSITORY; or weights with a "
        "name, e.g. timm/resnet50.a1_in1k",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="path",
        help="a picture or video, a folder of them, tars (x.tar, or a pattern 'x-{000..099}.tar'), or a table of paths "
        "(.csv, .jsonl, .parquet); all of them may be URLs",
    )
    parser.add_argument("--to", metavar="FILE", help="the table to write: FILE ends in .csv, .jsonl or .parquet")
    parser.add_argument("--top", type=_count, default=3, metavar="N", help="classes of each item (default: 3)")
    parser.add_argument("--batch-size", type=_count, default=64, metavar="N", help="inputs at a time (default: 64)")
    parser.add_argument(
        "--workers", type=_number, default=2, metavar="N", help="processes that read files (default: 2)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument(
        "--strict", action="store_true", help="fail if anything cannot be read, not if all of it cannot"
    )
    _add_task(parser, "do the I-th of N shares of the items (from 0), into a file of its own")
    _add_plugins(parser)


def _add_task(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--task", metavar="I/N", type=_task, help=meaning)


def _add_plugins(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugins", action="append", default=[], metavar="MODULE", help="import this first")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(refuse=parser.error)
    parser.add_argument("--config", metavar="CONFIG", help="the config, where it is not the first argument")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="CONFIG key=value",
        help="a YAML file, or the name of a config of the package (`bsssl init --list`), and keys of it, e.g. "
        "image/quickstart output_dir=outputs/try finetune.base_lr=0.001",
    )


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "It reads text alone, in one process: no cluster is needed, a login node will do."
    parser.add_argument("--all", action="store_true", help="every class and tag, not the most frequent alone")
    _add_config(parser)


def _add_work_arguments(parser: argparse.ArgumentParser, *, tasks: bool = False, points: bool = False) -> None:
    """Add the arguments of a command that runs stages, of which ``tasks`` may each do a share, or runs ``points``."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    _add_config(parser)
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
        _add_task(parser, "do the I-th of N shares of the work (from 0), no more, where it has parts such as shards")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return int(text)


def _count(text: str) -> int:
    if _number(text) == 0:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return int(text)


def _task(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a task; write for example 0/16 for the first of 16")
    return int(number), int(count)


def _report(parsed: argparse.Namespace, given: list[str]) -> None:
    import pyarrow

    from bsssl.reports.page import NAME
    from bsssl.reports.page.opening import open_run
    from bsssl.reports.page.writing import write_page

    console.setup(debug=parsed.debug)
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # which gives back what a large selection no longer needs
    run = open_run(parsed.run, seed=parsed.seed)
    written = write_page(run, parsed.to or os.path.join(run.folder, NAME), thumbnails_mb=parsed.thumbnails_mb)
    size = f"{written.bytes / 10**6:.1f} MB, {written.thumbnails:,} thumbnails"
    print(f"{written.path} has been written: {size}" + (f"; {written.lacks}" if written.lacks else ""))


def _status(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.launch.status import status

    print(status(parsed.output_dir, shards=parsed.shards))


def _watch(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.launch.watch import watch

    watch(parsed.run, once=parsed.once)


def _cancel(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.launch.status import cancel

    print(cancel(parsed.output_dir))


def _inspect(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.reports.tags import inspect_tags

    console.setup(debug=parsed.debug)
    print(inspect_tags(load_config(parsed.config, parsed.overrides), most=None if parsed.all else _MOST))


def _run_stage(command: str, parsed: argparse.Namespace, given: list[str]) -> None:
    """Do what a command does that is about one stage of a recipe."""
    config: Config = load_config(parsed.config, parsed.overrides)
    if parsed.task and parsed.launch:
        raise UserError("--task is for schedulers of your own; with --launch set launcher.array_tasks instead")
    from bsssl.pipeline.stage import Task
    from bsssl.recipes.commands import wanted_by

    wanted, task = wanted_by(command, config), Task(*parsed.task) if parsed.task else None
    _run(config, parsed, given, wanted=wanted, task=task)


def _run_all(schema: type[Experiment], parsed: argparse.Namespace, given: list[str]) -> None:
    _run(load_config(parsed.config, parsed.overrides, schema), parsed, given)


def _run(
    config: Experiment,
    parsed: argparse.Namespace,
    given: list[str],
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
            print(plan(config, config_path=parsed.config, wanted=chosen, launched=parsed.launch))
        return
    console.setup(debug=parsed.debug)
    # The commands that errors name must lead to the same run, so they carry the overrides too.
    kept = [override for override in parsed.overrides if not override.startswith("stage=")]
    runs = all_runs(config, config_path=shlex.join([parsed.config, *kept]))
    order = Order(
        command=_again(given),
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


def _sweep(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.recipes.sweep import Sweep

    _run_grid(Sweep(parsed.config, tuple(parsed.overrides)), parsed, given)


def _reproduce(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.recipes.reproduction.grid import ReproductionGrid

    _run_grid(ReproductionGrid(parsed.config, tuple(parsed.overrides)), parsed, given)


def _run_grid(grid: "Grid", parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.launch.base import Order
    from bsssl.launch.jobs import GridJob
    from bsssl.recipes import sweep
    from bsssl.reports.grids import plan_grid, write_grid

    points = grid.points()
    if parsed.plan:
        if is_main():
            print(plan_grid(points))
        return
    console.setup(debug=parsed.debug)
    if parsed.finished:
        sweep.share(points)  # what a new point needs may be there already
        done, unfinished = sweep.parted(points)
        print(write_grid(grid, done, unfinished=unfinished))
        print(f"{len(done)} of {len(points)} points are done")
        return
    order = Order(
        command=_again(given),
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


def _export(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.api import load
    from bsssl.config.plugins import load_plugins
    from bsssl.config.reading import parse_overrides

    load_plugins(parsed.plugins)
    options = parse_overrides(parsed.overrides)
    difference = load(parsed.folder).export(parsed.to, parsed.path, check=parsed.check, **options)
    print(f"{parsed.path} has been written")
    if difference is not None:
        print(f"loaded again, its probabilities differ from the network's by at most {difference:.1e}")


def _predict(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.api.predicting import predict_files
    from bsssl.config.plugins import load_plugins
    from bsssl.pipeline.stage import Task

    console.setup(debug=parsed.debug)
    load_plugins(parsed.plugins)
    outcome = predict_files(
        parsed.model,
        parsed.paths,
        to=parsed.to,
        top=parsed.top,
        batch_size=parsed.batch_size,
        workers=parsed.workers,
        device=parsed.device,
        task=Task(*parsed.task) if parsed.task else None,
    )
    if is_main():
        outcome.tell(strict=parsed.strict)


def _scores(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.selection import score_files, write_parquet

    rows = write_parquet(score_files(parsed.folder), parsed.to)
    print(f"{parsed.to} has been written: {rows:,} rows")


def _init(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.reports.own import first_config, list_configs

    if not parsed.list and parsed.labels is None:
        parsed.refuse("name the labeled pictures or videos, or give --list")
    console.setup(debug=parsed.debug)
    print(
        list_configs() if parsed.list else first_config(parsed.labels, pool=parsed.pool, test=parsed.test, to=parsed.to)
    )


def _print_options(parsed: argparse.Namespace, given: list[str]) -> None:
    from bsssl.config.plugins import load_plugins
    from bsssl.config.reading import plugins_of
    from bsssl.reports.keys import describe_keys, describe_part, describe_sort

    load_plugins([*parsed.plugins, *(plugins_of(parsed.config) if parsed.config else [])])
    if parsed.schema is not None:
        _write_schema(parsed.schema)
    elif parsed.part is None:
        print(describe_keys())
    elif parsed.part in REGISTRIES or parsed.name is not None:
        print(describe_sort(parsed.part, parsed.name))
    else:
        print(describe_part(parsed.part))


def _write_schema(file: str) -> None:
    from bsssl import storage
    from bsssl.config.schema import json_schema

    if file == "-":
        print(json.dumps(json_schema(), indent=1))
        return
    if not file.endswith(".json"):
        raise UserError(f"a schema is written to a file that ends in .json, not to {file}; give it such a name")
    storage.write_json(file, json_schema())
    print(f"{file} has been written; editors find it by a line in a config: # yaml-language-server: $schema={file}")


def _again(given: list[str]) -> list[str]:
    """Return the command line of this very command, less the launching."""
    return [sys.executable, sys.argv[0], *(argument for argument in given if argument != "--launch")]
