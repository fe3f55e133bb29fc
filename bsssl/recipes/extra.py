"""Stages that a config adds to those of its recipe."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from bsssl.config import Experiment, ExtraStage
from bsssl.errors import Problems, UserError, choices
from bsssl.pipeline.stage import Stage
from bsssl.recipes.teacher_student import execution_of
from bsssl.registry import STAGES


def with_extra(planned: Sequence[Stage[Any]], config: Experiment, *, seed: int) -> list[Stage[Any]]:
    """Return the stages of a recipe and those that ``config`` adds, each after those it needs.

    An added stage comes right after the last stage it needs. Where it is ``instead_of`` another, the later stages of
    the recipe that need the other need the added one, in the same roles.

    Args:
        planned: The stages of the recipe.
        config: The config.
        seed: The seed of the run.

    Raises:
        UserError: Added stages are impossible: a line for each problem.
    """
    extras = config.stages
    if not extras:
        return list(planned)
    made, problems = _made(config, seed=seed)
    named = {stage.name: stage for stage in planned}
    problems += [f"stages.{name}: the recipe has a stage of that name; rename it" for name in extras if name in named]
    everything = {**made, **named}
    for name, extra in extras.items():
        problems += _misnamed(name, extra, [*named, *extras])
        if name in made:
            problems += _misfits(made[name], everything)
    replaced = [extra.instead_of for extra in extras.values() if extra.instead_of is not None]
    problems += [
        f"stages: {', '.join(name for name, extra in extras.items() if extra.instead_of == other)} are all instead_of "
        f"{other}; let each need the one before it, and stand instead of that"
        for other in dict.fromkeys(replaced)
        if replaced.count(other) > 1
    ]
    try:
        order = list(TopologicalSorter({name: _before(extra, extras) for name, extra in extras.items()}).static_order())
    except CycleError as error:
        problems.append(f"stages: {' -> '.join(error.args[1])} need each other; each must need earlier ones alone")
    if problems:
        raise Problems("\n".join(problems))
    placed = list(planned)
    for name in order:
        _place(made[name], extras[name].instead_of, placed, recipe=named)
    return placed


def _made(config: Experiment, *, seed: int) -> tuple[dict[str, Stage[Any]], list[str]]:
    """Return the added stages that can be made, and what is wrong with the others."""
    execution = execution_of(config, config.data, config.eval_batch())
    made: dict[str, Stage[Any]] = {}
    problems: list[str] = []
    for name, extra in config.stages.items():
        try:
            made[name] = STAGES.get(extra.kind).from_options(
                name=name, options=extra.options, needs=extra.needs, seed=seed, execution=execution
            )
        except UserError as error:
            problems += str(error).splitlines()
    return made, problems


def _before(extra: ExtraStage, extras: Mapping[str, ExtraStage]) -> list[str]:
    """Return the added stages that come before ``extra``."""
    return [name for name in (*extra.needs.values(), extra.instead_of) if name in extras]  # type: ignore[misc]


def _misnamed(name: str, extra: ExtraStage, valid: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the stages that an added one names."""
    for role, need in extra.needs.items():
        if need not in valid:
            yield f"stages.{name}.needs.{role}: there is no stage '{need}': {choices(need, valid)}"
    if extra.instead_of is not None and extra.instead_of not in valid:
        yield f"stages.{name}.instead_of: there is no stage '{extra.instead_of}': {choices(extra.instead_of, valid)}"


def _misfits(stage: Stage[Any], stages: Mapping[str, Stage[Any]]) -> Iterator[str]:
    """Yield what a stage needs that the stages it names do not leave."""
    where = f"stages.{stage.name}.needs"
    for role in stage.inputs.keys() - stage.needs.keys():
        yield f"{where}: '{stage.kind}' needs a stage as its {role}; add {role}: NAME"
    for role, need in stage.needs.items():
        try:
            outputs = stage.reads(role)
        except KeyError:
            yield f"{where}: '{stage.kind}' has no role '{role}': {choices(role, stage.inputs)}"
            continue
        left = stages[need].leaves() if need in stages else outputs
        for output in outputs:
            if output not in left:
                yield f"{where}.{role}: {need} leaves no {output}, which '{stage.kind}' reads: {choices(output, left)}"


def _place(stage: Stage[Any], instead_of: str | None, placed: list[Stage[Any]], *, recipe: Mapping[str, Any]) -> None:
    """Put an added stage into its place among those that are ``placed``, and before whatever is to read it."""
    names = [other.name for other in placed]
    place = 1 + max((names.index(need) for need in stage.needs.values()), default=-1)
    placed.insert(place, stage)
    if instead_of is None:
        return
    where, replaced = f"stages.{stage.name}.instead_of", next(other for other in placed if other.name == instead_of)
    readers = [
        number
        for number in range(place + 1, len(placed))
        if placed[number].name in recipe and instead_of in placed[number].needs.values()
    ]
    if not readers:
        raise UserError(f"{where}: no stage of the recipe after {stage.name} reads {instead_of}; leave it out")
    for number in readers:
        reader = placed[number]
        for role in (role for role, need in reader.needs.items() if need == instead_of):
            for output in reader.reads(role):
                if stage.leaves().get(output) != replaced.leaves()[output]:
                    files = " and ".join(replaced.leaves()[output])
                    raise UserError(
                        f"{where}: {reader.name} reads {output} ({files}), which '{stage.kind}' does not leave"
                    )
        needs = {role: stage.name if need == instead_of else need for role, need in reader.needs.items()}
        placed[number] = replace(reader, needs=needs)
