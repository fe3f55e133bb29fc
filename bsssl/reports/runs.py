"""The results of finished runs: a recipe and a transfer have a report each."""

import os
from collections.abc import Sequence
from typing import cast

from bsssl.config import Config, Experiment, Transfer
from bsssl.pipeline.run import Run
from bsssl.reports import recipe, transfer
from bsssl.reports.page import NAME
from bsssl.runtime import console
from bsssl.runtime.console import logger

_SECONDS = 30.0  # for the pictures of the report that comes with a run


def collect_results(config: Experiment, runs: Sequence[Run]) -> recipe.Results | transfer.TransferResults:
    """Return the results of the finished ``runs`` of ``config``, one for each seed."""
    if isinstance(config, Transfer):
        return transfer.collect(config, runs)
    return recipe.collect(cast(Config, config), runs)


def write_results(config: Experiment, runs: Sequence[Run]) -> str:
    """Write the results of the finished ``runs`` of ``config`` into its output folder and return what to print."""
    if isinstance(config, Transfer):
        table, files = transfer.write(config, runs), ["transfer.json", "transfer.csv", "transfer.md", "transfer.png"]
    else:
        recipe_config = cast(Config, config)
        table, files = recipe.write(recipe_config, runs), ["results.json", "results.md"]
        files += (["results.png"] if config.data.tests else []) + ([NAME] if _wrote_page(recipe_config, runs) else [])
    *others, last = files
    return f"{table}\n{', '.join(others)} and {last} are in {config.output_dir}"


def _wrote_page(config: Config, runs: Sequence[Run]) -> bool:
    """Write the report, and return whether that went well: a run whose results are there does not fail by it."""
    from bsssl.reports.page.opening import opened
    from bsssl.reports.page.writing import write_page

    try:
        write_page(opened(config, runs), os.path.join(config.output_dir, NAME), seconds=_SECONDS)
    except Exception as error:  # whatever it is, the results are there
        logger.warning("there is no %s: %s", NAME, console.describe(error))
        return False
    return True
