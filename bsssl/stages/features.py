"""The features stage: what a network computes of the labeled items, kept for every classifier that is fitted to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn
from typing_extensions import override

from bsssl import data, storage
from bsssl.config import Model, Section
from bsssl.engine.features import extract
from bsssl.engine.train import Failures
from bsssl.errors import UserError
from bsssl.models import classifier
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage
from bsssl.registry import STAGES
from bsssl.runtime.device import Compute
from bsssl.stages.computing import Execution, class_list, normalize, split_records
from bsssl.stages.seen import TestView
from bsssl.stages.train import initial_model, start_state

FEATURES = "features.safetensors"


class FeaturesSettings(Section):
    """What decides the features, besides the items and the weights of another stage."""

    init_from: str | None = None
    model: Model
    seed: int
    precision: str
    seen: TestView


@STAGES.register("features")
@dataclass(frozen=True, kw_only=True, eq=False)
class FeaturesStage(Stage[FeaturesSettings]):
    """The features of the labeled items: ``features`` float32 (M, D) of the M that can be read, ``rows`` int64 (M,)."""

    kind = "features"
    outputs = {"features": (FEATURES,)}
    inputs = {"data": ("classes", "labeled"), "start": ("weights",)}
    resources = Resources(gpu=True)

    execution: Execution

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, folder = self.settings, run.input(self, "data")
        classes, records = class_list(folder), split_records(folder, "labeled")
        compute = self.execution.compute(settings.precision)
        network, _ = initial_model(run, self, classes, init_from=settings.init_from, new_classifier=True)
        model = compute.place_model(network)
        features, rows = compute_features(run, self, model, records, execution=self.execution, compute=compute)
        with storage.atomic_write(str(run.folder(self.name) / FEATURES)) as file:
            file.write(safetensors.torch.save({"features": features.cpu(), "rows": rows}))
        return {"rows": len(rows), "features": features.shape[1], "unreadable": len(records) - len(rows)}

    @override
    def outside(self) -> dict[str, Any]:
        return start_state(self, self.settings.init_from, self.settings.model)

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        rows = f"{sizes['labeled']:,}" if "labeled" in sizes else "unknown"
        return PlanRow(rows=rows, batch=str(self.execution.batch), samples=rows)


def read_features(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the features, float32 (M, D), and their rows, int64 (M,), that a features stage left in ``folder``."""
    tensors = safetensors.torch.load_file(folder / FEATURES)
    return tensors["features"], tensors["rows"]


def compute_features(
    run: Context,
    stage: Stage[FeaturesSettings],
    model: nn.Module,
    records: data.Records,
    *,
    execution: Execution,
    compute: Compute,
) -> tuple[Tensor, Tensor]:
    """Return the features of ``records`` as they are seen in testing, and the rows that can be read.

    Args:
        run: The run of ``stage``.
        stage: The stage that wants the features; its settings say how items are seen.
        model: The network, on its device.
        records: The items.
        execution: How to load the items, and how many may be unreadable.
        compute: The device, and how to compute on it.

    Returns:
        The features, float32 (M, D) on the device, and the rows in order, int64 (M,) on the CPU.

    Raises:
        UserError: Too many items cannot be read, or a feature is not a number.
    """
    seen = stage.settings.seen
    views = seen.views(deadline=execution.deadline)
    dataset, title = data.ItemDataset(records, views=views), f"seed {run.seed}: {stage.name}"
    features, rows = extract(
        model,
        classifier(model)[1],
        execution.eval_loader(dataset, views, compute, title=title),
        rows=len(records),
        normalize=normalize(seen.transforms, compute),
        compute=compute,
        failures=Failures(rows=len(records), max_rate=execution.max_failure_rate),
    )
    if not features.isfinite().all():
        raise UserError(f"{stage.name}: features are not numbers; the checkpoint is broken, or try precision=float32")
    return features, rows
