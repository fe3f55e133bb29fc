"""The select stage: the student's training set from the scores."""

from typing import Any

import numpy as np
import pyarrow as pa

from bsssl import selection
from bsssl.config import Config
from bsssl.pipeline.run import Run, Stage
from bsssl.runtime.console import logger, progress
from bsssl.stages import inputs


def select_stage(run: Run[Config], stage: Stage) -> dict[str, Any]:
    """Choose the student's training set from the scores."""
    settings = run.config.select
    paths = selection.score_files(str(run.folder(stage.needs[0])))
    top_k: int = stage.settings["top_k"]  # of this round
    chosen = selection.select_samples(
        paths,
        top_k=top_k,
        variant=settings.variant,
        options=settings.variant_options,
        min_score=settings.min_score,
        seed=run.seed,
        progress=progress,
    )
    path = str(run.folder(stage.name) / inputs.SELECTION)
    selection.write_selection(path, chosen, progress=progress)
    summary, short = chosen.summary(), chosen.short_classes()
    if short:
        logger.warning("%d classes have fewer than K = %d samples: %s", len(short), top_k, inputs.some(short))
    if chosen.dropped:
        logger.info("%d pairs fewer than without select.min_score = %g", chosen.dropped, settings.min_score)
    return {
        "pairs": summary["pairs"],
        "samples": summary["samples"],
        "short_classes": len(short),
        "dropped": chosen.dropped,
        "precision": None if run.config.data.pool else _precision(run, selection.read_selection(path)),
    }


def _precision(run: Run, chosen: pa.Table) -> float:
    """Percent of the pairs whose class is the true one, for reporting alone.

    Every truth is known when the items whose labels the split set aside are the whole pool.
    """
    rest = inputs.split_records(run, "rest")
    truth = dict(zip(rest["key"].to_pylist(), rest["label"].to_pylist(), strict=True))
    classes = inputs.class_list(run)
    right = [
        truth[key] == classes[index]
        for key, index in zip(chosen["key"].to_pylist(), chosen["class"].to_pylist(), strict=True)
    ]
    return 100 * float(np.mean(right))
