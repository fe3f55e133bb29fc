"""What each stage does: the config's values handed to the parts, the results put into the stage's folder.

This is where the config meets the parts; they themselves take explicit arguments.
"""

from collections.abc import Callable
from typing import Any

from bsssl import storage
from bsssl.engine.checkpoints import Checkpoints
from bsssl.pipeline.run import Run, Stage, Task
from bsssl.runtime import distributed
from bsssl.stages.data import data_stage
from bsssl.stages.evaluate import evaluate_stage
from bsssl.stages.materialise import materialise_stage, materialise_task
from bsssl.stages.probe import probe_stage
from bsssl.stages.score import score_stage, score_task
from bsssl.stages.select import select_stage
from bsssl.stages.tags import tags_stage
from bsssl.stages.train import train_stage

Work = Callable[[Run[Any], Stage], dict[str, Any]]
SHARED: dict[str, Work] = {"train": train_stage, "score": score_stage, "materialise": materialise_stage}
ALONE: dict[str, Work] = {
    "data": data_stage,
    "tags": tags_stage,
    "select": select_stage,
    "probe": probe_stage,
    "evaluate": evaluate_stage,
}

IN_PARTS: dict[str, Callable[[Run[Any], Stage, Task], None]] = {"score": score_task, "materialise": materialise_task}
"""Stages of independent parts, which any number of tasks may share."""


def run_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Do the work of ``stage``; the figures to remember.

    Every process of the run calls this: they share training and scoring, the main one does the rest.
    """
    folder = run.folder(stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    if distributed.is_main():
        # Others may be at work on parts of the stage too, with their own files on their way.
        storage.remove_leftovers(str(folder), unchanged_for=3600.0 if stage.kind in IN_PARTS else 0.0)
    distributed.barrier()  # leftovers must be gone before another process writes files of its own
    if stage.kind in SHARED:
        return SHARED[stage.kind](run, stage)
    return ALONE[stage.kind](run, stage) if distributed.is_main() else {}


def run_task(run: Run, stage: Stage, task: Task) -> None:
    """Do the share of ``task`` of ``stage``, which must be one of ``IN_PARTS``."""
    run.folder(stage.name).mkdir(parents=True, exist_ok=True)
    IN_PARTS[stage.kind](run, stage, task)


def clean_up(run: Run, stage: Stage) -> None:
    """Remove what only an unfinished ``stage`` needs. Not before it is done: whatever stops a run, little is lost."""
    if stage.kind == "train":
        Checkpoints(folder=str(run.folder(stage.name)), fingerprint=run.identity(stage.name)).clear()
