"""The materialise stage: the selected samples in tars of their own."""

from typing import Any

from bsssl import data, storage
from bsssl.pipeline.run import Run, Stage, Task
from bsssl.runtime import distributed
from bsssl.runtime.console import progress
from bsssl.stages import inputs


def materialise_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Write the tars that no task has written yet, processes sharing them, and the selection that names them."""
    materialise_task(run, stage, Task(distributed.rank(), distributed.world_size()))
    distributed.barrier()
    plan = _plan(run, stage)
    if distributed.is_main():
        folder = str(run.folder(stage.name))
        data.write_places(plan, folder=folder, path=storage.join(folder, inputs.SELECTION))
    return {"pairs": len(plan.sample), "samples": len(plan.rows), "tars": plan.num_tars}


def materialise_task(run: Run, stage: Stage, task: Task) -> None:
    """Write the task's tars that are not there yet."""
    plan, folder, identity = _plan(run, stage), str(run.folder(stage.name)), run.identity(stage.name)
    mine = range(task.number, plan.num_tars, task.count)
    missing = [number for number in mine if not data.is_written(folder, number, identity=identity)]
    for number in progress(missing, unit="tar", title=f"seed {run.seed}: {stage.name}"):
        data.write_tar(plan, number, folder=folder, identity=identity)


def _plan(run: Run, stage: Stage) -> data.TarPlan:
    selection = str(run.folder(stage.needs[0]) / inputs.SELECTION)
    return data.plan_tars(selection, per_tar=stage.settings["samples_per_tar"], seed=run.seed)
