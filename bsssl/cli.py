"""The ``bsssl`` command. Each script in ``tools/`` is one of its sub-commands."""

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from bsssl import __version__
from bsssl.config import TRAIN_STAGES, Config, load_config, options
from bsssl.distributed import is_main
from bsssl.registry import UserError

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
    "evaluate": (
        "test a trained stage",
        "Tests the stage named by the config's `stage` (default: finetune) on data.test.",
    ),
}


def main(arguments: list[str] | None = None, *, command: str | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all went well, 1 with one clear line when not, 2 for a wrong call.

    Args:
        arguments: instead of ``sys.argv``.
        command: the sub-command, for the scripts in ``tools/`` that stand for one.
    """
    parsed = _parse(_parser(command), arguments)
    chosen = command or parsed.command
    try:
        if chosen == "options":
            _print_options()
        else:
            _run(chosen, load_config(parsed.config, parsed.overrides), parsed)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, `head` for example, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if parsed.debug:
            traceback.print_exc()
        sys.exit(_one_line(error))
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
        title, text = COMMANDS[command]
        parser = argparse.ArgumentParser(description=f"{title[0].upper()}{title[1:]}. {text}")
        _add_arguments(parser)
        return parser
    parser = argparse.ArgumentParser(
        prog="bsssl", description="A few labels and a very large pool make a better small model."
    )
    parser.add_argument("--version", action="version", version=f"bsssl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (title, text) in COMMANDS.items():
        _add_arguments(commands.add_parser(name, help=title, description=text))
    listing = commands.add_parser("options", help="every key of a config, its default and what it means")
    listing.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    return parser


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a YAML file, e.g. projects/image/quickstart.yaml")
    parser.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. output_dir=outputs/try finetune.base_lr=0.001"
    )
    parser.epilog = (
        "Several GPUs: torchrun --nproc-per-node 8 tools/... ; `bsssl options` lists the keys of a config. "
        "A command that was interrupted goes on where it stopped when it is given again."
    )


def _run(command: str, config: Config, parsed: argparse.Namespace) -> None:
    wanted = _stage_names(command, config)
    # The commands that errors name must lead to the same run, so they carry the overrides too.
    kept = [override for override in parsed.overrides if not override.startswith("stage=")]
    config_path = shlex.join([parsed.config, *kept])
    if parsed.plan:
        from bsssl.plan import plan

        if is_main():
            print(plan(config, config_path=parsed.config, wanted=wanted))
        return
    from bsssl import report
    from bsssl.recipe import execute

    runs = execute(config, config_path=config_path, wanted=wanted, debug=parsed.debug)
    if command == "run" and is_main():
        print(report.write(runs))
        print(f"results.json, results.md and results.png are in {config.output_dir}")


def _stage_names(command: str, config: Config) -> Callable[[str], bool]:
    """Which of a recipe's stages ``command`` runs."""
    stage = config.stage
    if command == "run":
        return lambda name: True
    if command in ("score", "select"):
        return lambda name: name in ("data", command)
    if stage == "ceiling" and config.ceiling is None:
        raise UserError("the config has no ceiling; add for example ceiling.length='90 epochs'")
    if command == "evaluate":
        return lambda name: name == f"evaluate-{stage if stage in TRAIN_STAGES else 'finetune'}"
    if stage not in TRAIN_STAGES:
        raise UserError(
            f"train needs a training stage, not stage={stage}; add stage=NAME, one of {', '.join(TRAIN_STAGES)}"
        )
    return lambda name: name in ("data", stage, f"evaluate-{stage}")


def _one_line(error: Exception) -> str:
    """What is printed about ``error``: one line, but one per problem of a config."""
    if isinstance(error, UserError):
        # One raised in a process of the loader comes with its traceback, the message last.
        lines = str(error).rpartition("registry.UserError: ")[2].splitlines()
        return "\n".join(f"error: {line}" for line in lines if line)
    kind = type(error).__name__
    text = " ".join(str(error).split())[:300]
    if kind == "OutOfMemoryError":
        return f"error: the GPU's memory is full ({text[:80]}); lower batch_size or raise accumulate"
    if isinstance(error, OSError):
        return f"error: {text}; check the path, its permissions and the space left"
    return f"error: {kind}: {text} (not an error we foresaw: run again with --debug and report the traceback)"


def _print_options() -> None:
    for path, kind, default, meaning in options():
        print(f"{path}: {kind} = {default}" + (f"\n    {meaning}" if meaning else ""))
