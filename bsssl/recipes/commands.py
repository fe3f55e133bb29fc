"""Which stages of a recipe a command runs that is about one of them."""

from collections.abc import Callable
from typing import Any

from bsssl.config import Config
from bsssl.errors import UserError
from bsssl.pipeline.stage import Stage
from bsssl.recipes.runs import stages


def wanted_by(command: str, config: Config) -> Callable[[Stage[Any]], bool]:
    """Return whether ``command``, such as ``train`` or ``score``, runs a stage of ``config``.

    It runs what prepares its stage or has to come before it too, and what tests its result; one that tests a network
    runs that test alone.

    Raises:
        UserError: The config has no such stage, or does not say which.
    """
    planned = stages(config, seed=config.seed)
    targets = _targets(command, config, planned)
    names = {stage.name for stage in targets}
    earlier = {one for stage in targets for one in stage.after}
    needed = {need for stage in targets if not stage.follows for need in stage.needs.values()}
    beside = {
        stage.name
        for stage in planned
        if (stage.prepares and stage.name in needed) or (stage.follows and names & {*stage.needs.values()})
    }
    return lambda stage: stage.name in names | beside | earlier


def _targets(command: str, config: Config, planned: list[Stage[Any]]) -> list[Stage[Any]]:
    """Return the stages that are run alone by ``command``: all such, or those of the section that the config names."""
    own = [stage for stage in planned if stage.command[0] == command]
    if not own:
        raise UserError(config.left_out(command))
    if all(stage.command == (command,) for stage in own):
        return own
    section = config.stage or (config.result if all(stage.follows for stage in own) else None)
    targets = [stage for stage in own if stage.section == section]
    if not targets:
        training, sections = config.trainings().get(section or ""), dict.fromkeys(stage.section for stage in own)
        raise UserError(
            config.left_out(section)
            or (training and training.untested)
            or f"{command} needs a training stage, not stage={section}; add stage=NAME, one of {', '.join(sections)}"
        )
    return targets
