"""The features stage: what a network computes of the labeled items, kept for every classifier that is fitted to it; and
what stages have in common that make a classifier for a network which otherwise stays as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import safetensors.torch
from torch import Tensor, nn
from typing_extensions import TypeVar, override

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


F = TypeVar("F", bound=FeaturesSettings, covariant=True, default=FeaturesSettings)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenStage(Stage[F], Generic[F]):
    """A stage that sees the labeled items with a network which stays as it is."""

    resources = Resources(gpu=True)

    execution: Execution
    labels: str = "labeled"
    """the output of the data stage that has the items"""

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        return ("classes", self.labels) if role == "data" else super().reads(role)

    def begin(self, run: Context) -> tuple[list[str], data.Records, nn.Module, Compute]:
        """Return the classes, the labeled items, the network on its device, and how to compute."""
        settings, folder = self.settings, run.input(self, "data")
        classes, compute = class_list(folder), self.execution.compute(settings.precision)
        network, _ = initial_model(run, self, classes, init_from=settings.init_from, new_classifier=True)
        return classes, split_records(folder, self.labels), compute.place_model(network), compute

    def compute_features(
        self, run: Context, model: nn.Module, records: data.Records, compute: Compute
    ) -> tuple[Tensor, Tensor]:
        """Return the features of items as they are seen in testing, and the rows that can be read.

        Args:
            run: The run.
            model: The network, on its device.
            records: The items.
            compute: The device, and how to compute on it.

        Returns:
            The features, float32 (M, D) on the device, and the rows in order, int64 (M,) on the CPU.

        Raises:
            UserError: Too many items cannot be read, or a feature is not a number.
        """
        seen, execution = self.settings.seen, self.execution
        views = seen.views(deadline=execution.deadline)
        dataset, title = data.ItemDataset(records, views=views), f"seed {run.seed}: {self.name}"
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
            raise UserError(
                f"{self.name}: features are not numbers; the checkpoint is broken, or try precision=float32"
            )
        return features, rows

    @override
    def outside(self) -> dict[str, Any]:
        return start_state(self, self.settings.init_from, self.settings.model)

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{sizes[self.labels]:,}" if self.labels in sizes else "unknown")


@STAGES.register("features")
@dataclass(frozen=True, kw_only=True, eq=False)
class FeaturesStage(FrozenStage[FeaturesSettings]):
    """The features of the labeled items: ``features`` float32 (M, D) of the M that can be read, ``rows`` int64 (M,)."""

    kind = "features"
    outputs = {"features": (FEATURES,)}
    inputs = {"start": ("weights",)}

    @override
    def work(self, run: Context) -> dict[str, Any]:
        _, records, model, compute = self.begin(run)
        features, rows = self.compute_features(run, model, records, compute)
        with storage.atomic_write(str(run.folder(self.name) / FEATURES)) as file:
            file.write(safetensors.torch.save({"features": features.cpu(), "rows": rows}))
        return {"rows": len(rows), "features": features.shape[1], "unreadable": len(records) - len(rows)}

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        rows = super().plan_row(run, sizes).rows
        return PlanRow(rows=rows, batch=str(self.execution.batch), samples=rows)


def read_features(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the features, float32 (M, D), and their rows, int64 (M,), that a features stage left in ``folder``."""
    tensors = safetensors.torch.load_file(folder / FEATURES)
    return tensors["features"], tensors["rows"]
