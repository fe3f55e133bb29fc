"""The results of finished runs: a recipe and a transfer have a report each."""

from collections.abc import Sequence
from typing import cast

from bsssl.config import Config, Experiment, Transfer
from bsssl.pipeline.run import Run
from bsssl.reports import recipe, transfer


def collect_results(config: Experiment, runs: Sequence[Run]) -> recipe.Results | transfer.TransferResults:
    """Return the results of the finished ``runs`` of ``config``, one for each seed."""
    if isinstance(config, Transfer):
        return transfer.collect(config, runs)
    return recipe.collect(cast(Config, config), runs)


def write_results(config: Experiment, runs: Sequence[Run]) -> str:
    """Write the results of the finished ``runs`` of ``config`` into its output folder and return what to print."""
    if isinstance(config, Transfer):
        table, files = transfer.write(config, runs), "transfer.json, transfer.csv, transfer.md and transfer.png"
    else:
        table = recipe.write(cast(Config, config), runs)
        files = "results.json, results.md and results.png" if config.data.tests else "results.json and results.md"
    return f"{table}\n{files} are in {config.output_dir}"
