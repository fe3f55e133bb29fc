"""The fc_only stages of a transfer: logistic regression on the features of a checkpoint."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from bsssl import config as configs
from bsssl import data
from bsssl.engine.features import extract
from bsssl.engine.logistic import Logistic, fit, standardisation
from bsssl.engine.train import Failures
from bsssl.errors import UserError
from bsssl.models import classifier
from bsssl.models.weights.files import save_model
from bsssl.pipeline.run import Run, Stage
from bsssl.runtime.console import logger, progress
from bsssl.runtime.device import Compute
from bsssl.stages import inputs
from bsssl.stages.train import initial_model


def probe_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Fit the classifier of a network that otherwise stays as it is; the network with it is the result.

    The standardisation of the features becomes a part of the classifier's weights.
    """
    settings: configs.FcOnly = getattr(run.config, stage.section)
    spec, classes, records = stage.settings["model"], inputs.class_list(run), inputs.split_records(run, "labeled")
    compute = inputs.make_compute(run.config.system)
    model = compute.place_model(initial_model(run, stage, classes))
    layer = classifier(model)[1]
    if layer.bias is None:
        raise UserError(f"the classifier of {spec['name']} has no bias, which fc_only needs; choose another model")
    failures = Failures(rows=len(records), max_rate=run.config.data.max_failure_rate)
    features, rows = _features(run, stage, model, layer, records, compute=compute, failures=failures)
    targets = torch.from_numpy(data.class_indices(records, classes, what="data.train"))[rows].to(features.device)
    found, figures = _fit(features, targets, settings, num_classes=len(classes), seed=run.seed, title=stage.name)
    with torch.no_grad():
        layer.weight.copy_(found.weight.reshape(layer.weight.shape))
        layer.bias.copy_(found.bias)
    path = str(run.folder(stage.name) / inputs.WEIGHTS)
    save_model(path, model.state_dict(), name=spec["name"], classes=classes, options=spec["options"])
    return {"rows": len(rows), "features": features.shape[1], **figures, "unreadable": len(failures.reasons)}


def _features(
    run: Run,
    stage: Stage,
    model: nn.Module,
    layer: nn.Module,
    records: pa.Table,
    *,
    compute: Compute,
    failures: Failures,
) -> tuple[Tensor, Tensor]:
    """Of ``records`` as they are seen in testing, and the rows that could be read: see ``extract``."""
    views = inputs.views(run, stage, "test")
    dataset = data.ItemDataset(records, views=views)
    batches = inputs.eval_batches(run, dataset, views)
    loader = inputs.loader(run, dataset, batches, compute)
    features, rows = extract(
        model,
        layer,
        progress(loader, total=len(batches), unit="batch", title=f"seed {run.seed}: {stage.name}"),
        rows=len(records),
        normalize=inputs.normalize(run, compute),
        compute=compute,
        failures=failures,
    )
    if not features.isfinite().all():
        raise UserError(f"{stage.name}: features are not numbers; the checkpoint is broken, or try precision=float32")
    return features, rows


def _fit(
    features: Tensor, targets: Tensor, settings: configs.FcOnly, *, num_classes: int, seed: int, title: str
) -> tuple[Logistic, dict[str, Any]]:
    """The classifier of features as they are, with the best value of C; and the figures to remember."""
    tried = _search(features, targets, settings, num_classes=num_classes, seed=seed)
    best = settings.c_values[0]
    if tried:
        best = max(tried, key=lambda one: (one["holdout_top1"], -one["holdout_loss"]))["c"]
    mean, std = standardisation(features)
    found = fit(
        (features - mean) / std, targets, num_classes=num_classes, c=best, max_iterations=settings.max_iterations
    )
    at_edge = bool(tried) and best in (settings.c_values[0], settings.c_values[-1])
    if at_edge:
        logger.warning("%s: the best C, %g, is at the edge of fc_only.c_values; widen them", title, best)
    if not found.converged:
        logger.warning("%s: not converged at C = %g; raise fc_only.max_iterations", title, best)
    converged = found.converged and all(one["converged"] for one in tried)
    figures = {"c": best, "at_edge": at_edge, "converged": converged, "tried": tried}
    return found.unstandardised(mean, std), figures


def _search(
    features: Tensor, targets: Tensor, settings: configs.FcOnly, *, num_classes: int, seed: int
) -> list[dict[str, Any]]:
    """For each value of C whether the fit converged, its accuracy (percent) and mean loss on items held out of it;
    nothing for one value."""
    if len(settings.c_values) == 1:
        return []
    held = hold_out(targets.cpu().numpy(), share=settings.holdout, seed=seed)
    if not held.any():
        raise UserError("fc_only cannot choose C: no class has two items; give one value, such as fc_only.c_values=[1]")
    held_out = torch.from_numpy(held).to(features.device)
    mean, std = standardisation(features[~held_out])
    fitted, tested = (features[~held_out] - mean) / std, (features[held_out] - mean) / std
    tried = []
    found: Logistic | None = None
    for c in settings.c_values:
        found = fit(
            fitted,
            targets[~held_out],
            num_classes=num_classes,
            c=c,
            max_iterations=settings.max_iterations,
            start=found,
        )
        logits = found.logits(tested)
        top1 = 100 * float((logits.argmax(1) == targets[held_out]).double().mean())
        loss = float(torch.nn.functional.cross_entropy(logits, targets[held_out]))
        figures = {"holdout_top1": round(top1, 2), "holdout_loss": round(loss, 4)}
        tried.append({"c": c, **figures, "converged": found.converged})
    return tried


def hold_out(targets: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """A random ``share`` of the items of each class, one at least but never all of them: bool (rows,)."""
    generator, held = np.random.default_rng(seed), np.zeros(len(targets), bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[generator.choice(members, size=count, replace=False)] = True
    return held
