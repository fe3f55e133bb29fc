"""The probe stage: logistic regression on the features of a network that otherwise stays as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bsssl import data
from bsssl.config import FcOnly, Model, Section
from bsssl.engine.features import extract
from bsssl.engine.logistic import Logistic, fit, standardisation
from bsssl.engine.train import Failures
from bsssl.errors import UserError
from bsssl.models import WEIGHTS, classifier
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger
from bsssl.runtime.device import Compute
from bsssl.stages.computing import Execution, class_list, leave_model, normalize, split_records
from bsssl.stages.seen import TestView, earlier_view
from bsssl.stages.train import initial_model, start_state


class ProbeSettings(Section):
    """What decides the classifier, besides the features and the labels."""

    fc_only: FcOnly
    init_from: str | None = None
    model: Model
    seed: int
    precision: str
    seen: TestView


@STAGES.register("probe")
@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeStage(Stage[ProbeSettings]):
    """A classifier fitted to the features of a network; the network with it is the result.

    The standardisation of the features becomes a part of the classifier's weights.
    """

    kind = "probe"
    outputs = {"weights": (WEIGHTS,)}
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
        layer = classifier(model)[1]
        if layer.bias is None:
            raise UserError(
                f"the classifier of {settings.model.name} has no bias, which fc_only needs; choose another model"
            )
        failures = Failures(rows=len(records), max_rate=self.execution.max_failure_rate)
        features, rows = features_of(
            self, run, model, records, compute=compute, execution=self.execution, failures=failures
        )
        targets = torch.from_numpy(records.class_indices(classes, what="data.train"))[rows].to(features.device)
        fitted, figures = _fit(
            features, targets, settings.fc_only, num_classes=len(classes), seed=settings.seed, title=self.name
        )
        with torch.no_grad():
            layer.weight.copy_(fitted.weight.reshape(layer.weight.shape))
            layer.bias.copy_(fitted.bias)
        leave_model(run.folder(self.name), model, settings.model, classes, seen=settings.seen)
        return {"rows": len(rows), "features": features.shape[1], **figures, "unreadable": len(failures.reasons)}

    @override
    def outside(self) -> dict[str, Any]:
        return start_state(self, self.settings.init_from, self.settings.model)

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=f"{sizes['labeled']:,}" if "labeled" in sizes else "unknown")

    @classmethod
    @override
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        state, fc_only = settings.pop("init_from", None), dict(settings.pop("fc_only"))
        init_from, seen = fc_only.pop("init_from"), earlier_view(settings)
        today = {**settings, "fc_only": fc_only, "init_from": init_from, "seen": seen}
        return today, {"init_from": state} if state else {}


def features_of(
    stage: Stage[Any],
    run: Context,
    model: nn.Module,
    records: data.Records,
    *,
    compute: Compute,
    execution: Execution,
    failures: Failures,
) -> tuple[Tensor, Tensor]:
    """Return the features of ``records`` as ``stage`` sees them in testing, and the rows that could be read."""
    seen: TestView = stage.settings.seen
    views = seen.views(deadline=execution.deadline)
    dataset, title = data.ItemDataset(records, views=views), f"seed {run.seed}: {stage.name}"
    features, rows = extract(
        model,
        classifier(model)[1],
        execution.eval_loader(dataset, views, compute, title=title),
        rows=len(records),
        normalize=normalize(seen.transforms, compute),
        compute=compute,
        failures=failures,
    )
    if not features.isfinite().all():
        raise UserError(f"{stage.name}: features are not numbers; the checkpoint is broken, or try precision=float32")
    return features, rows


def _fit(
    features: Tensor, targets: Tensor, settings: FcOnly, *, num_classes: int, seed: int, title: str
) -> tuple[Logistic, dict[str, Any]]:
    """Return the classifier of features as they are, with the best value of C; and the figures to remember."""
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
    features: Tensor, targets: Tensor, settings: FcOnly, *, num_classes: int, seed: int
) -> list[dict[str, Any]]:
    """For each value of C whether the fit converged, its accuracy (percent) and mean loss on items held out of it;
    nothing for one value."""
    if len(settings.c_values) == 1:
        return []
    held = data.hold_out(targets.cpu().numpy(), share=settings.holdout, seed=seed)
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
