"""The transfer: every checkpoint fine-tuned on another labeled set, and as fixed features.

data -> full_ft-NAME, fc_only-NAME         evaluate-* after each of them
"""

from typing import Any

from bsssl.config import Model, Transfer
from bsssl.pipeline.stage import Stage
from bsssl.recipes.origins import origin
from bsssl.recipes.teacher_student import DATA, data_stage, evaluations, execution_of
from bsssl.stages.probe import ProbeSettings, ProbeStage
from bsssl.stages.seen import TestView, TrainView
from bsssl.stages.train import TrainStage, train_settings

COMMAND = ("transfer",)


def stages(config: Transfer, *, seed: int) -> list[Stage[Any]]:
    """Return all stages of ``config`` for one seed, each after those it needs."""
    data, precision = config.data, config.system.precision
    execution = execution_of(config, data, config.batch_size)
    planned: list[Stage[Any]] = [data_stage(data, None, seed=seed)]
    shared: dict[str, Any] = {"needs": {"data": DATA}, "command": COMMAND, "execution": execution}
    for name, checkpoint in config.checkpoints.items():
        start = origin(name, checkpoint, data, seed=seed)
        common = {"model": start.model.without_view(), "seed": seed, "precision": precision}
        trained: list[Stage[Any]] = []
        if config.full_ft is not None:
            training = config.full_ft.model_copy(update={"init_from": start.path})
            settings = train_settings(training, seen=TrainView.of(start.model, data), new_classifier=True, **common)
            trained.append(TrainStage(name=f"full_ft-{name}", section="full_ft", settings=settings, **shared))
        if config.fc_only is not None:
            seen = TestView.of(start.model, data, "test")
            probe = ProbeSettings(fc_only=config.fc_only, init_from=start.path, seen=seen, **common)
            trained.append(ProbeStage(name=f"fc_only-{name}", section="fc_only", settings=probe, **shared))
        for stage in trained:
            tested = evaluations(stage, start.model, config, execution=execution, runs_alone=False)
            planned += [stage, *tested]
    return planned


def networks(config: Transfer, *, seed: int) -> dict[str, Model]:
    """Return every network of ``config``, by the key that sets it, with what its weights say of it."""
    origins = {name: origin(name, one, config.data, seed=seed) for name, one in config.checkpoints.items()}
    return {f"checkpoints.{name}.model": start.model for name, start in origins.items()}
