"""The ``bsssl`` command. Each script in ``tools/`` is one of its sub-commands."""

import argparse
import os
import sys
import traceback
from typing import NoReturn

from bsssl import __version__
from bsssl.cli import configs, data, looking, results, running
from bsssl.cli.command import Command
from bsssl.runtime import console
from bsssl.runtime.secrets import hidden

COMMANDS: dict[str, Command] = {
    **running.COMMANDS,
    **looking.COMMANDS,
    **results.COMMANDS,
    **data.COMMANDS,
    **configs.COMMANDS,
}
"""every sub-command by its name, in the order of the help; an action of a group by both names"""
GROUPS = {"tags": "the hashtags of a config", "data": "the data of a config"}
"""sub-commands that have actions"""


def main(arguments: list[str] | None = None, *, command: str | None = None) -> NoReturn:
    """Run the command line and exit: 0 when all went well, 1 with one clear line when not, 2 for a wrong call.

    Args:
        arguments: The arguments instead of ``sys.argv``.
        command: The sub-command, for the scripts in ``tools/`` that stand for one.
    """
    console.open_what_is_closed()
    try:
        sys.exit(_status(sys.argv[1:] if arguments is None else arguments, command))
    finally:
        console.let_go_of_what_is_full()


def _status(given: list[str], command: str | None) -> int | str:
    """Run the command line that is ``given``, of one sub-command or of all; return what ``sys.exit`` is to take."""
    try:
        parsed = _parse(_parser(command), given)
        parsed.given = given
        name = command or " ".join(filter(None, [parsed.command, getattr(parsed, "action", None)]))
        COMMANDS[name].run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        console.complain("interrupted: the same command goes on from the last checkpoint")
        return 130
    except BrokenPipeError:  # whoever read the output, `head` for example, has had enough
        return 141
    except Exception as error:
        if "--debug" in given:
            console.complain(hidden(traceback.format_exc()))
        return console.describe(error)
    return 0


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Return what argparse makes of the arguments, overrides after an option included, which it leaves over."""
    try:
        parsed, others = parser.parse_known_args(arguments)
    except SystemExit:
        sys.stdout.flush()  # of --help and --version
        raise
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
    if command is not None:
        one = COMMANDS[command]
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
    places = {"": listed}
    for group, title in GROUPS.items():
        of_group = listed.add_parser(group, help=title, description=f"{title[0].upper()}{title[1:]}.")
        places[group] = of_group.add_subparsers(dest="action", required=True, metavar="action")
    for name, one in COMMANDS.items():
        group, _, action = name.rpartition(" ")
        _add_arguments(places[group].add_parser(action, help=one.title, description=one.text, allow_abbrev=False), one)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.add_arguments(parser)
