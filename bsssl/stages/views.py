"""The views stage: what the teachers say of several augmented views of each selected sample.

The student sees the same views again, as the augmentation of a sample follows from a seed and numbers: the teachers
look at the very crop that the student sees, but only once (Shen and Xing 2021, arXiv 2112.01528; Wu et al. 2022,
arXiv 2207.10666).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from bsssl import data, storage
from bsssl.config import Section
from bsssl.engine.train import Failures
from bsssl.pipeline.record import Parts
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage, Task
from bsssl.registry import STAGES
from bsssl.runtime import distributed
from bsssl.runtime.console import progress
from bsssl.runtime.device import Compute
from bsssl.stages.computing import Execution, class_list, normalize, stage_seed
from bsssl.stages.live import LiveSettings, live_teachers
from bsssl.stages.seen import TrainView
from bsssl.stages.select import SELECTION, selected

VIEWS = "views.json"
_ROWS_PER_FILE = 4096
_SUFFIX = ".npy"


class ViewsSettings(Section):
    """What decides the stored scores, besides the selection and the teachers' weights."""

    num_views: int
    top_p: int
    live: tuple[LiveSettings, ...]
    seen: TrainView
    """how the student sees items"""
    randaugment: int | None = None
    seed: int
    precision: str


@STAGES.register("views")
@dataclass(frozen=True, kw_only=True, eq=False)
class ViewsStage(Stage[ViewsSettings]):
    """The P best scores of the teachers for some views of each selected sample, 4,096 samples to a file."""

    kind = "views"
    outputs = {"views": (VIEWS,)}  # and the files that it counts
    in_parts = True
    shared = True
    resources = Resources(gpu=True)

    execution: Execution

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        return {"data": ("classes",), "selection": ("selection",)}.get(role, ("weights",))

    @override
    def work(self, run: Context) -> dict[str, Any]:
        self.work_part(run, Task(distributed.rank(), distributed.world_size()))
        distributed.barrier()
        rows, folder = len(self._records(run)), str(run.folder(self.name))
        files, unreadable = -(-rows // _ROWS_PER_FILE), 0
        for number in range(files):
            unreadable += int((~np.load(_path(folder, number), mmap_mode="r")["score"].any(-1)).sum())
        figures = {"samples": rows, "views": self.settings.num_views, "files": files, "unreadable": unreadable}
        if distributed.is_main():
            digest = storage.digest(_path(folder, number) for number in range(files))
            storage.write_json(storage.join(folder, VIEWS), {**figures, "digest": digest})
        return figures

    @override
    def work_part(self, run: Context, task: Task) -> None:
        """Score the views of the rows of the task that have no file yet."""
        records, folder = self._records(run), str(run.folder(self.name))
        numbers = range(task.number, -(-len(records) // _ROWS_PER_FILE), task.count)
        missing = [number for number in numbers if not storage.exists(_path(folder, number))]
        if not missing:
            return
        settings, classes = self.settings, class_list(run.input(self, "data"))
        compute = self.execution.compute(settings.precision)
        teachers = live_teachers(run, self, settings.live, classes, student=settings.seen, compute=compute)
        assert teachers is not None  # the recipe sees to it
        failures = Failures(rows=len(records), max_rate=self.execution.max_failure_rate)
        for number in progress(missing, unit="file", title=f"seed {run.seed}: {self.name}"):
            rows = range(number * _ROWS_PER_FILE, min((number + 1) * _ROWS_PER_FILE, len(records)))
            best = self._score(records, rows, teachers, compute=compute, failures=failures)
            data.save_views(_path(folder, number), *best)

    @override
    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        return [VIEWS, *(Path(_path("", number)).name for number in range(result["files"]))]

    @override
    def num_parts(self, run: Context) -> Parts | None:
        record = run.record(self.needs["selection"])
        return None if record is None else Parts(-(-int(record.result["samples"]) // _ROWS_PER_FILE), _SUFFIX, "files")

    @override
    def key_of(self, setting: str) -> str:
        return {"num_views": "pretrain.soft_views", "randaugment": "pretrain.randaugment"}.get(setting, setting)

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        rows = selected(run, self.needs["selection"], sizes)
        return PlanRow(rows=rows, batch=str(self.execution.batch), samples=f"{self.settings.num_views} views each")

    def _records(self, run: Context) -> data.Records:
        path = storage.join(str(run.input(self, "selection")), SELECTION)
        return data.selected_training_set(path, mode="multi")[0]

    @torch.inference_mode()
    def _score(
        self, records: data.Records, rows: range, teachers: nn.Module, *, compute: Compute, failures: Failures
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the P best classes and their scores of all views of some rows: int32, float32 (rows, views, P)."""
        settings = self.settings
        views = settings.seen.views(randaugment=settings.randaugment, deadline=self.execution.deadline)
        views.replacements = 0  # what cannot be read has no scores
        dataset = data.ItemDataset(
            records, views=views, seed=stage_seed(settings.seed, self.name), fixed_views=settings.num_views
        )
        classes = np.zeros((len(rows), settings.num_views, settings.top_p), np.int32)
        scores = np.zeros(classes.shape, np.float32)
        to_floats = normalize(settings.seen.transforms, compute)
        for batch in self.execution.loader(dataset, list(self._batches(rows, len(records))), compute):
            failures.add(batch["failures"])
            if "input" not in batch:
                continue
            with compute.autocast():
                said = teachers(to_floats(compute.place(batch["input"])))
            best = said.topk(settings.top_p, dim=1)
            places = (batch["index"].numpy() - rows.start, batch["view"].numpy())
            classes[places], scores[places] = best.indices.cpu().numpy(), best.values.cpu().numpy()
        return classes, scores

    def _batches(self, rows: range, num_rows: int) -> Iterator[list[tuple[int, int]]]:
        """Yield every view of some rows, those of a row one after the other, as (row, draw)."""
        items = [(row, row + view * num_rows) for row in rows for view in range(self.settings.num_views)]
        for first in range(0, len(items), self.execution.batch):
            yield items[first : first + self.execution.batch]


def stored_views(folder: Path, num_rows: int, num_classes: int, *, temperature: float) -> data.StoredViews:
    """Return what a views stage left in ``folder`` as targets.

    Args:
        folder: That of the stage.
        num_rows: The number of selected samples.
        num_classes: The number of classes.
        temperature: Scores are raised to 1 / temperature and renormalised.
    """
    left = storage.read_json(str(folder / VIEWS))
    return data.StoredViews(
        paths=[_path(str(folder), number) for number in range(left["files"])],
        rows_per_file=_ROWS_PER_FILE,
        num_views=left["views"],
        num_rows=num_rows,
        num_classes=num_classes,
        temperature=temperature,
    )


def _path(folder: str, number: int) -> str:
    return storage.join(folder, f"{number:06d}{_SUFFIX}")
