"""Which stages of a config a command runs."""

from collections.abc import Callable
from typing import Any

from bsssl.config import Experiment
from bsssl.errors import UserError
from bsssl.pipeline.stage import Stage
from bsssl.recipes.runs import stages

_SINGLE = ("train", "score", "select", "materialise", "evaluate")
"""the commands that run a single stage; the others run a whole recipe or transfer"""
_OPTIONAL = {
    "weak": "add weak.sources and teacher.init_from=weak",
    "ceiling": "add for example ceiling.length='90 epochs'",
    "materialise": "add for example materialise.samples_per_tar=10000",
}
"""what turns on the sections of a config that may be left out"""


def wanted_by(command: str, config: Experiment) -> Callable[[Stage[Any]], bool]:
    """Return whether ``command`` runs a stage of ``config``.

    A command that runs a single stage runs what prepares it too, and after a training its evaluation; one that tests
    a network runs that test alone.

    Raises:
        UserError: The config has no such stage, or does not say which.
    """
    if command not in _SINGLE:
        return lambda stage: True
    planned = stages(config, seed=config.seed)
    named = _chosen(command, config, planned)
    targets = [stage for stage in planned if stage.command in named]
    needed = {need for stage in targets for need in stage.needs.values()}
    names = {stage.name for stage in targets}
    if command != "evaluate":
        names |= {stage.name for stage in planned if stage.prepares and stage.name in needed}
    return lambda stage: stage.name in names


def _chosen(command: str, config: Experiment, planned: list[Stage[Any]]) -> list[tuple[str, ...]]:
    """Return the command lines that stand for stages which ``command`` runs."""
    if command in ("train", "evaluate"):
        section = getattr(config, "stage", None) or ("finetune" if command == "evaluate" else None)
        sections = list(dict.fromkeys(stage.section for stage in planned if stage.command[0] == command))
        if section not in sections:
            is_trained = any(stage.command == ("train", f"stage={section}") for stage in planned)
            raise UserError(_not_trained(command, section, sections, is_trained=is_trained))
        return [(verb, f"stage={section}") for verb in ("train", "evaluate") if verb != "train" or command == "train"]
    if not any(stage.command == (command,) for stage in planned):
        raise UserError(f"the config has no {command} section; {_OPTIONAL[command]}")
    return [(command,)]


def _not_trained(command: str, section: str | None, sections: list[str], *, is_trained: bool) -> str:
    if section == "weak" and command == "evaluate" and is_trained:
        return "weak has classes of its own, which data.test has not; set weak.tags.classes=targets"
    if section in _OPTIONAL:
        return f"the config has no {section}{' section' if section == 'weak' else ''}; {_OPTIONAL[section]}"
    return f"{command} needs a training stage, not stage={section}; add stage=NAME, one of {', '.join(sections)}"
