"""From a config to its runs: one for each seed, with the stages that the kind of config asks for."""

from collections.abc import Collection
from typing import Any, cast

import yaml

from bsssl.config import Config, Experiment, Model, Transfer
from bsssl.pipeline.run import Run
from bsssl.pipeline.stage import Stage
from bsssl.runtime.secrets import hidden


def stages(config: Experiment, *, seed: int) -> list[Stage[Any]]:
    """Return all stages of ``config`` for one seed, those that it adds included, each after those it needs."""
    from bsssl.recipes import teacher_student, transfer  # import torch
    from bsssl.recipes.extra import with_extra

    if isinstance(config, Transfer):
        planned = transfer.stages(config, seed=seed)
    else:
        planned = teacher_student.stages(cast(Config, config), seed=seed)
    return with_extra(planned, config, seed=seed)


def networks(config: Experiment, *, seed: int) -> dict[str, Model]:
    """Return every network of ``config``, by the key that sets it."""
    from bsssl.recipes import teacher_student, transfer  # import torch

    if isinstance(config, Transfer):
        return transfer.networks(config, seed=seed)
    return teacher_student.networks(cast(Config, config))


def all_runs(config: Experiment, *, config_path: str, only: Collection[str] = ()) -> list[Run]:
    """Return one run per seed of ``config``, of the stages that ``only`` names and those that they need, or of all.

    ``config_path``: the file the config came from and its overrides, as in the commands that errors name.
    """
    return [
        Run(
            _needed(stages(config, seed=seed), only),
            seed=seed,
            output_dir=config.output_dir,
            config_path=config_path,
            config=_dumped(hidden(config.model_dump(mode="json"))),
        )
        for seed in range(config.seed, config.seed + config.seeds)
    ]


def _needed(planned: list[Stage[Any]], only: Collection[str]) -> list[Stage[Any]]:
    needed = {*only}
    for stage in reversed(planned):  # each comes after those it needs
        if stage.name in needed:
            needed |= {*stage.needs.values()}
    return [stage for stage in planned if not only or stage.name in needed]


def as_yaml(config: Experiment) -> str:
    """Return the resolved config as YAML, secrets of URLs included: what is made of it must be kept from others."""
    return _dumped(config.model_dump(mode="json"))


def _dumped(values: Any) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text
