"""The commands about a config: a first one, its keys, what its hashtags mean."""

import argparse
import json

from bsssl.cli.command import Command, add_config, add_plugins
from bsssl.config import load_config
from bsssl.errors import UserError
from bsssl.registry import REGISTRIES
from bsssl.runtime import console

_MOST = 20  # rows of each table of `tags inspect`


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "It reads text alone, in one process: no cluster is needed, a login node will do."
    parser.add_argument("--all", action="store_true", help="every class and tag, not the most frequent alone")
    add_config(parser)


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
    parser.add_argument(
        "--frames",
        type=float,
        metavar="FPS",
        help="the pictures in each folder are the frames of a video, so many for each of its seconds",
    )
    parser.add_argument("--to", default="mine.yaml", metavar="FILE", help="the config to write; default: mine.yaml")
    parser.add_argument("--list", action="store_true", help="list the configs that come with the package instead")


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
    add_plugins(parser)
    parser.add_argument("--config", help="a YAML file, whose plugins to import first")


def _inspect(parsed: argparse.Namespace) -> None:
    from bsssl.reports.tags import inspect_tags

    console.setup(debug=parsed.debug)
    print(inspect_tags(load_config(parsed.config, parsed.overrides), most=None if parsed.all else _MOST))


def _init(parsed: argparse.Namespace) -> None:
    from bsssl.reports.own import first_config, list_configs

    if not parsed.list and parsed.labels is None:
        parsed.refuse("name the labeled pictures or videos, or give --list")
    console.setup(debug=parsed.debug)
    if parsed.list:
        print(list_configs())
        return
    print(first_config(parsed.labels, pool=parsed.pool, test=parsed.test, to=parsed.to, frames=parsed.frames))


def _print_options(parsed: argparse.Namespace) -> None:
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


COMMANDS = {
    "tags inspect": Command(
        "what the hashtags of a config's `weak` section mean",
        "Reads weak.sources and prints counts, samples per class, unmapped tags and what is dropped; writes nothing.",
        _inspect,
        _add_inspect_arguments,
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
