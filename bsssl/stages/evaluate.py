"""The evaluate stages: a trained network on the test set."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bsssl import data, storage
from bsssl.engine.evaluate import Evaluation, evaluate
from bsssl.engine.predict import predict
from bsssl.pipeline.run import Run, Stage
from bsssl.runtime.console import logger, progress
from bsssl.stages import inputs


def evaluate_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Test a trained network; metrics, per-class accuracy, the confusion matrix, and the prediction for every item."""
    name = next(need for need in stage.needs if need != "data")
    compute = inputs.make_compute(run.config.system)
    classes, records = inputs.class_list(run), inputs.split_records(run, "test")
    targets = data.class_indices(records, classes, what="the test set")
    views = inputs.views(run, stage, "test")
    dataset = data.ItemDataset(records, views=views)
    batches = inputs.eval_batches(run, dataset, views)
    loader = inputs.loader(run, dataset, batches, compute)
    loader = progress(loader, total=len(batches), unit="batch", title=f"seed {run.seed}: {stage.name}")
    model = compute.place_model(inputs.trained_model(run, name))
    found = evaluate(
        predict(model, loader, normalize=inputs.normalize(run, compute), compute=compute),
        targets=targets,
        num_classes=len(classes),
        views=views.count,
        keys=records["key"].to_pylist(),
        max_missing_rate=run.config.data.max_missing_rate,
    )
    summary = found.summary(item=views.item, view=views.unit)
    _write_evaluation(str(run.folder(stage.name)), found, records, targets, classes, summary)
    if found.missing:
        logger.warning(
            "%d of %d test items cannot be read and count as wrong: see missing.jsonl", len(found.missing), len(records)
        )
    logger.info("seed %d: %s: top-1 %.2f %%, top-5 %.2f %%", run.seed, name, summary["top1"], summary["top5"])
    return summary


def _write_evaluation(
    folder: str,
    found: Evaluation,
    records: pa.Table,
    targets: np.ndarray,
    classes: list[str],
    summary: dict[str, Any],
) -> None:
    storage.write_json(storage.join(folder, "metrics.json"), summary)
    keys = records["key"].take(pa.array(sorted(found.missing), pa.int64())).to_pylist()
    reasons = [found.missing[row] for row in sorted(found.missing)]
    entries = [{"key": key, "reason": reason} for key, reason in zip(keys, reasons, strict=True)]
    storage.write_json_lines(storage.join(folder, "missing.jsonl"), entries)
    names = pa.array(classes)
    best = np.argsort(-found.probabilities, axis=1, kind="stable")[:, :5]
    missing = np.isin(np.arange(len(records)), list(found.missing))
    predictions = pa.table(
        {
            "key": records["key"],
            "label": records["label"],
            "predicted": names.take(pa.array(best[:, 0], mask=missing)),
            "confidence": pa.array(found.probabilities.max(1), mask=missing),
            "top_classes": _lists([[classes[index] for index in row] for row in best], missing),
            "top_scores": _lists(np.take_along_axis(found.probabilities, best, 1).tolist(), missing),
        }
    )
    with storage.atomic_write(storage.join(folder, "predictions.parquet")) as file:
        pq.write_table(predictions, file)
    items, lost = (np.bincount(chosen, minlength=len(classes)).tolist() for chosen in (targets, targets[missing]))
    accuracies = zip(classes, items, lost, found.per_class.tolist(), strict=True)
    storage.write_csv(storage.join(folder, "per_class.csv"), [["class", "items", "missing", "top1"], *accuracies])
    confusion = [[name, *row] for name, row in zip(classes, found.confusion.tolist(), strict=True)]
    storage.write_csv(storage.join(folder, "confusion.csv"), [["true \\ predicted", *classes], *confusion])


def _lists(rows: list[list[Any]], missing: np.ndarray) -> pa.Array:
    return pa.array([None if gone else row for row, gone in zip(rows, missing, strict=True)])
