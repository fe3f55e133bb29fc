"""The evaluate stages: a trained network on the test set."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bsssl import data, fileio
from bsssl.engine.evaluate import Evaluation, evaluate
from bsssl.engine.predict import predict
from bsssl.log import logger, progress
from bsssl.recipe import Run, Stage
from bsssl.stages import inputs


def evaluate_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Test a trained network; metrics, per-class accuracy, the confusion matrix, and the prediction for every item."""
    name = next(need for need in stage.needs if need != "data")
    compute = inputs.make_compute(run.config.system)
    classes, records = inputs.class_list(run), inputs.split_records(run, "test")
    targets = data.class_indices(records, classes, what="the test set")
    dataset = data.ImageDataset(
        records, transform=inputs.test_transform(run.config.data.transforms), max_pixels=run.config.data.max_pixels
    )
    batches = data.EvalBatches(len(dataset), batch_size=run.config.score.batch_size)
    loader = inputs.loader(run, dataset, batches, compute)
    loader = progress(loader, total=len(batches), unit="batch", title=f"seed {run.seed}: {stage.name}")
    model = compute.place_model(inputs.trained_model(run, name))
    found = evaluate(
        predict(model, loader, normalize=inputs.normalize(run, compute), compute=compute),
        targets=targets,
        num_classes=len(classes),
        views=1,
        keys=records["key"].to_pylist(),
    )
    _write_evaluation(str(run.folder(stage.name)), found, records, classes)
    summary = found.summary()
    logger.info("seed %d: %s: top-1 %.2f %%, top-5 %.2f %%", run.seed, name, summary["top1"], summary["top5"])
    return summary


def _write_evaluation(folder: str, found: Evaluation, records: pa.Table, classes: list[str]) -> None:
    fileio.write_json(fileio.join(folder, "metrics.json"), found.summary())
    names = pa.array(classes)
    best = np.argsort(-found.probabilities, axis=1, kind="stable")[:, :5]
    predictions = pa.table(
        {
            "key": records["key"],
            "label": records["label"],
            "predicted": names.take(pa.array(best[:, 0])),
            "confidence": found.probabilities.max(1),
            "top_classes": pa.array([[classes[index] for index in row] for row in best]),
            "top_scores": pa.array(np.take_along_axis(found.probabilities, best, 1).tolist()),
        }
    )
    with fileio.atomic_write(fileio.join(folder, "predictions.parquet")) as file:
        pq.write_table(predictions, file)
    accuracies = zip(classes, found.confusion.sum(1).tolist(), found.per_class.tolist(), strict=True)
    _write_csv(fileio.join(folder, "per_class.csv"), [["class", "items", "top1"], *accuracies])
    confusion = [[name, *row] for name, row in zip(classes, found.confusion.tolist(), strict=True)]
    _write_csv(fileio.join(folder, "confusion.csv"), [["true \\ predicted", *classes], *confusion])


def _write_csv(path: str, rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    fileio.write_text(path, text.getvalue())
