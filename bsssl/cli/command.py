"""A command of ``bsssl``, and the arguments that several have."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A sub-command of ``bsssl``."""

    title: str
    text: str
    run: Callable[[argparse.Namespace], None]
    """given the parsed arguments, with the arguments as they were in ``given``"""
    add_arguments: Callable[[argparse.ArgumentParser], None]


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the config, by its place or by ``--config``, and the overrides."""
    parser.set_defaults(refuse=parser.error)
    parser.add_argument("--config", metavar="CONFIG", help="the config, where it is not the first argument")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="CONFIG key=value",
        help="a YAML file, or the name of a config of the package (`bsssl init --list`), and keys of it, e.g. "
        "image/quickstart output_dir=outputs/try finetune.base_lr=0.001",
    )


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add the modules that are imported first."""
    parser.add_argument("--plugins", action="append", default=[], metavar="MODULE", help="import this first")


def add_task(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add the share of the work that is done."""
    parser.add_argument("--task", metavar="I/N", type=_task, help=meaning)


def _task(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a task; write for example 0/16 for the first of 16")
    return int(number), int(count)


def again(given: list[str]) -> list[str]:
    """Return the command line of this very command, whose arguments were ``given``, less the launching."""
    launching = given.index("--launch") if "--launch" in given else len(given)
    return [sys.executable, sys.argv[0], *given[:launching], *given[launching + 1 :]]
