"""A recipe or a transfer, planned and run from Python."""

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bsssl.config import Config, Section, Transfer
from bsssl.config.reading import check_kind, checked, lay_over, read_yaml
from bsssl.errors import UserError
from bsssl.pipeline.progress import CONFIG
from bsssl.reports.recipe import Results
from bsssl.reports.runs import collect_results, write_results
from bsssl.runtime import distributed

if TYPE_CHECKING:
    from bsssl.pipeline.run import Run
    from bsssl.reports.plan import Plan
    from bsssl.reports.transfer import TransferResults


class Recipe:
    """A config, ready to be planned and run in this process.

    ``Recipe("quickstart.yaml", {"select.top_k": 100}, output_dir="outputs/try")``

    Args:
        config: The path of a YAML file, the name of a config of the package such as image/quickstart, the content of a
            config as a mapping, or a ``Config`` or ``Transfer``.
        overrides: What is set on top of that. A name with dots sets that key, as ``select.top_k=100`` does on the
            command line; a mapping under a name without dots sets the keys that are in it and leaves the others.
        settings: Likewise, for keys at the top of the config.

    Raises:
        UserError: Something is wrong with the config; the message has one line per problem.
    """

    config: Config | Transfer
    """the resolved config"""

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | Config | Transfer,
        overrides: Mapping[str, Any] | None = None,
        /,
        **settings: Any,
    ) -> None:
        if isinstance(config, Mapping | Section):
            values, self._origin = _plain(config), "config"
        else:
            self._origin = os.fspath(config)
            values = read_yaml(self._origin)
        schema: type[Config | Transfer] = Transfer if "checkpoints" in values else Config
        check_kind(self._origin, values, schema)
        lay_over(values, _plain(overrides or {}))
        lay_over(values, _plain(settings))
        self.config = checked(values, schema, origin=self._origin)

    def __repr__(self) -> str:
        return f"Recipe({self._origin!r} -> {self.config.output_dir})"

    def plan(self) -> "Plan":
        """Return what would run, with sizes, costs and what is done already; it prints as what ``--plan`` prints."""
        from bsssl.reports.plan import plan

        return plan(self.config, config_path=self._origin, wanted=lambda stage: True)

    def run(self, *, seeds: int | None = None, redo: bool = False) -> "Results | TransferResults":
        """Run every stage that is not done yet, write the tables of results as the command line does, and return them.

        A run that was interrupted goes on where it stopped when it is called again.

        Args:
            seeds: How many seeds run, instead of what the config says.
            redo: Whether work of other settings is replaced instead of kept aside.

        Raises:
            UserError: Something is wrong with the config or the data.
        """
        from bsssl.pipeline.runner import execute
        from bsssl.recipes.check import check
        from bsssl.runtime.device import torch_as_it_was

        config = self._of(seeds)
        with torch_as_it_was(config.system.device):
            check(config)
            runs = self._runs(config)
            execute(runs, wanted=lambda stage: True, device=config.system.device, redo=redo)
        if distributed.is_main():
            write_results(config, runs)
        return collect_results(config, runs)

    def results(self, *, seeds: int | None = None) -> "Results | TransferResults":
        """Return the results of a run that is finished, without running anything.

        Args:
            seeds: Of how many seeds, instead of what the config says.

        Raises:
            UserError: A stage is not done with these settings.
        """
        config = self._of(seeds)
        runs = self._runs(config)
        for run in runs:
            for name in run.stages:
                if (reason := run.pending(name)) is not None:
                    raise UserError(f"there are no results yet: {name} in {run.path} is to do ({reason}); call run()")
        return collect_results(config, runs)

    def _of(self, seeds: int | None) -> Config | Transfer:
        if seeds is None:
            return self.config
        values = {**self.config.model_dump(mode="json"), "seeds": seeds}
        return checked(values, type(self.config), origin=self._origin)

    def _runs(self, config: Config | Transfer) -> "list[Run]":
        from bsssl.recipes.runs import all_runs

        # The commands that errors name must lead to the same run: its folder has the config with all overrides.
        return all_runs(config, config_path=os.path.join(config.output_dir, f"seed-{config.seed}", CONFIG))


def _plain(value: Any) -> Any:
    """Return a value as a YAML file would have it: without sections, paths, tuples and keys that are no text."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else copy.deepcopy(value)
