"""The materialise stage: the selected samples in tars of their own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from bsssl import data, storage
from bsssl.config import Section
from bsssl.pipeline.record import Parts
from bsssl.pipeline.stage import Context, PlanRow, Stage, Task
from bsssl.registry import STAGES
from bsssl.runtime import distributed
from bsssl.runtime.console import progress
from bsssl.stages.select import SELECTION, selected


class MaterialiseSettings(Section):
    """What decides the tars, besides the selection."""

    samples_per_tar: int
    seed: int


@STAGES.register("materialise")
@dataclass(frozen=True, kw_only=True, eq=False)
class MaterialiseStage(Stage[MaterialiseSettings]):
    """The copy of the selected samples in shuffled tars."""

    kind = "materialise"
    outputs = {"selection": (SELECTION,)}  # and the tars that it names
    inputs = {"selection": ("selection",)}
    copies = "selection"
    in_parts = True
    shared = True

    @override
    def work(self, run: Context) -> dict[str, Any]:
        self.work_part(run, Task(distributed.rank(), distributed.world_size()))
        distributed.barrier()
        plan = self._plan(run)
        if distributed.is_main():
            folder = str(run.folder(self.name))
            data.write_places(plan, folder=folder, path=storage.join(folder, SELECTION))
        return {"pairs": len(plan.sample), "samples": len(plan.rows), "tars": plan.num_tars}

    @override
    def work_part(self, run: Context, task: Task) -> None:
        """Write the tars of the task that are not there yet."""
        plan, folder, identity = self._plan(run), str(run.folder(self.name)), run.identity(self.name)
        mine = range(task.number, plan.num_tars, task.count)
        missing = [number for number in mine if not data.is_written(folder, number, identity=identity)]
        for number in progress(missing, unit="tar", title=f"seed {run.seed}: {self.name}"):
            data.write_tar(plan, number, folder=folder, identity=identity)

    @override
    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        return [SELECTION, *(Path(data.tar_path("", number)).name for number in range(result["tars"]))]

    @override
    def num_parts(self, run: Context) -> Parts | None:
        record = run.record(self.needs["selection"])
        if record is None:
            return None
        return Parts(-(-int(record.result["samples"]) // self.settings.samples_per_tar), ".tar", "tars")

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=selected(run, self.name, sizes))

    def _plan(self, run: Context) -> data.TarPlan:
        selection = str(run.input(self, "selection") / SELECTION)
        return data.plan_tars(selection, per_tar=self.settings.samples_per_tar, seed=self.settings.seed)
