"""The evaluate stage: a trained network on a test set."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from bsssl import data, storage
from bsssl.config import Model, Section
from bsssl.engine.evaluate import Evaluation, evaluate
from bsssl.engine.predict import predict
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger
from bsssl.stages.card import plain, write_card
from bsssl.stages.choose import PREDICTIONS
from bsssl.stages.computing import Execution, class_list, normalize, open_metrics, split_records, trained_model
from bsssl.stages.seen import TestView, earlier_view


class EvaluateSettings(Section):
    """What decides the figures of a trained network, besides its weights and the test set."""

    model: Model
    precision: str
    seen: TestView
    max_missing_rate: float
    test: str = "test"
    """the test set, by the part of the data stage that holds it"""
    metrics: dict[str, dict[str, Any]] = {}
    """further figures, and the options of each"""


@STAGES.register("evaluate")
@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluateStage(Stage[EvaluateSettings]):
    """The test of a trained network: metrics, per-class accuracy, confusion matrix, a prediction for every item."""

    kind = "evaluate"
    outputs = {"figures": ("metrics.json", PREDICTIONS)}
    follows = True
    resources = Resources(gpu=True)

    execution: Execution

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        return {"data": ("classes", self.settings.test), "network": ("weights",)}[role]

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, execution = self.settings, self.execution
        compute = execution.compute(settings.precision)
        classes, records = class_list(run.input(self, "data")), split_records(run.input(self, "data"), settings.test)
        targets = records.class_indices(classes, what="the test set")
        views = settings.seen.views(deadline=execution.deadline)
        dataset, title = data.ItemDataset(records, views=views), f"seed {run.seed}: {self.name}"
        loader = execution.eval_loader(dataset, views, compute, title=title)
        model = compute.place_model(trained_model(run.input(self, "network"), settings.model, classes))
        found = evaluate(
            predict(model, loader, normalize=normalize(settings.seen.transforms, compute), compute=compute),
            targets=targets,
            num_classes=len(classes),
            views=views.count,
            keys=records.key.to_pylist(),
            max_missing_rate=settings.max_missing_rate,
            metrics=settings.metrics,
        )
        summary = found.summary(item=views.item, view=views.unit)
        _write(str(run.folder(self.name)), found, records, targets, classes, summary)
        if found.missing:
            logger.warning(
                "%d of %d test items cannot be read and count as wrong: see missing.jsonl",
                len(found.missing),
                len(records),
            )
        network = self.name.removeprefix("evaluate-")
        shown = [f"top-{k} {summary[f'top{k}']:.2f} %" for k in (1, 5) if f"top{k}" in summary]
        logger.info("seed %d: %s: %s", run.seed, network, ", ".join(shown))
        self._log(run, summary)
        return summary

    def _log(self, run: Context, summary: Mapping[str, float]) -> None:
        """Hand the figures to the loggers, but for that of lines, as of the last step of the network's training."""
        loggers = {name: options for name, options in self.execution.system.loggers.items() if name != "jsonl"}
        steps = run.result(self.needs["network"]).get("steps", 0)
        with contextlib.closing(open_metrics(run, self, loggers, steps=steps)) as metrics:
            metrics.write(steps, summary)

    @override
    def clean_up(self, run: Context) -> None:
        write_card(run, self.needs["network"])

    @override
    def summary(self, run: Context) -> str:
        return plain(self.settings.test)

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{sizes[self.settings.test]:,}" if self.settings.test in sizes else "unknown")

    @classmethod
    @override
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = earlier_view(settings)
        return {**settings, "seen": seen}, {}


def _write(
    folder: str,
    found: Evaluation,
    records: data.Records,
    targets: np.ndarray,
    classes: list[str],
    summary: dict[str, Any],
) -> None:
    storage.write_json(storage.join(folder, "metrics.json"), summary)
    records.write_ledger(storage.join(folder, "missing.jsonl"), found.missing)
    names = pa.array(classes)
    best = np.argsort(-found.probabilities, axis=1, kind="stable")[:, :5]
    missing = np.isin(np.arange(len(records)), list(found.missing))
    predictions = pa.table(
        {
            "key": records.key,
            "label": records.label,
            "predicted": names.take(pa.array(best[:, 0], mask=missing)),
            "confidence": pa.array(found.probabilities.max(1), mask=missing),
            "top_classes": _lists([[classes[index] for index in row] for row in best], missing),
            "top_scores": _lists(np.take_along_axis(found.probabilities, best, 1).tolist(), missing),
        }
    )
    with storage.atomic_write(storage.join(folder, PREDICTIONS)) as file:
        pq.write_table(predictions, file)
    items, lost = (np.bincount(chosen, minlength=len(classes)).tolist() for chosen in (targets, targets[missing]))
    accuracies = zip(classes, items, lost, found.per_class.tolist(), strict=True)
    storage.write_csv(storage.join(folder, "per_class.csv"), [["class", "items", "missing", "top1"], *accuracies])
    confusion = [[name, *row] for name, row in zip(classes, found.confusion.tolist(), strict=True)]
    storage.write_csv(storage.join(folder, "confusion.csv"), [["true \\ predicted", *classes], *confusion])


def _lists(rows: list[list[Any]], missing: np.ndarray) -> pa.Array:
    return pa.array([None if gone else row for row, gone in zip(rows, missing, strict=True)])
