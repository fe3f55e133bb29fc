"""The commands about the data of a config."""

import argparse

from bsssl.cli.command import Command, add_config
from bsssl.config import Config, Experiment, Transfer, load_config
from bsssl.config.reading import read_yaml
from bsssl.errors import Problems
from bsssl.runtime import console


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "It exits with 1 where a run would stop."
    parser.add_argument("--to", metavar="DIR", help="where data.html and data.json go; default: output_dir")
    parser.add_argument(
        "--sample", type=_count, metavar="N", help="open at most N items of each source, at random; default: 100,000"
    )
    parser.add_argument("--decode", action="store_true", help="decode what is opened, not its header alone")
    add_config(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of items, such as 1000")
    return int(text)


def _inspect(parsed: argparse.Namespace) -> None:
    from bsssl.recipes.inspection import SAMPLE, inspect_data
    from bsssl.reports.inspection import as_text, write_inspection

    console.setup(debug=parsed.debug)
    schema: type[Experiment] = Transfer if "checkpoints" in read_yaml(parsed.config) else Config
    config = load_config(parsed.config, parsed.overrides, schema)
    seen = inspect_data(config, path=parsed.config, sample=parsed.sample or SAMPLE, decode=parsed.decode)
    print(as_text(seen))
    print(f"\n{' and '.join(write_inspection(seen, parsed.to or config.output_dir))} have been written")
    if seen.stops:
        raise Problems("\n".join(seen.stops))


COMMANDS = {
    "data inspect": Command(
        "what the data is, and what may be wrong with it",
        "Reads every source of a config before a run: items, classes, sizes, formats, what is left out or cannot be "
        "read, exact copies, doubtful labels. Trains nothing.",
        _inspect,
        _add_inspect_arguments,
    ),
}
