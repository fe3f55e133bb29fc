"""The probe stage: logistic regression on the features of a network that otherwise stays as it is."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bsssl import data
from bsssl.config import FcOnly
from bsssl.engine.logistic import Logistic, fit, standardisation
from bsssl.errors import UserError
from bsssl.models import WEIGHTS, classifier
from bsssl.pipeline.stage import Context
from bsssl.registry import STAGES
from bsssl.runtime.console import logger
from bsssl.runtime.device import Compute
from bsssl.stages.card import named_network
from bsssl.stages.computing import leave_model
from bsssl.stages.features import FeaturesSettings, FrozenStage, read_features
from bsssl.stages.seen import earlier_view


class ProbeSettings(FeaturesSettings):
    """What decides the features and the classifier, besides the items, their labels and the weights of another
    stage."""

    fc_only: FcOnly


@STAGES.register("probe")
@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeStage(FrozenStage[ProbeSettings]):
    """A classifier fitted to the features of a network; the network with it is the result.

    The features are those of a stage that is needed as ``features``; without one they are computed here. Their
    standardisation becomes a part of the classifier's weights.
    """

    kind = "probe"
    outputs = {"weights": (WEIGHTS,)}
    inputs = {"start": ("weights",), "features": ("features",)}

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, (classes, records, model, compute) = self.settings, self.begin(run)
        layer = classifier(model)[1]
        if layer.bias is None:
            raise UserError(
                f"the classifier of {settings.model.name} has no bias, which {self._key} needs; choose another model"
            )
        features, rows = self._features(run, model, records, compute)
        targets = torch.from_numpy(records.class_indices(classes, what="data.train"))[rows].to(features.device)
        fitted, figures = _fit(
            features,
            targets,
            settings.fc_only,
            num_classes=len(classes),
            seed=settings.seed,
            stage=self.name,
            key=self._key,
        )
        with torch.no_grad():
            layer.weight.copy_(fitted.weight.reshape(layer.weight.shape))
            layer.bias.copy_(fitted.bias)
        leave_model(run, self, model, classes, execution=self.execution)
        return {"rows": len(rows), "features": features.shape[1], **figures, "unreadable": len(records) - len(rows)}

    @override
    def summary(self, run: Context) -> str:
        network = named_network(self.settings.model, self.settings.init_from)
        return f"{network}, with logistic regression on its features"

    @classmethod
    @override
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        state, fc_only = settings.pop("init_from", None), dict(settings.pop("fc_only"))
        init_from, seen = fc_only.pop("init_from"), earlier_view(settings)
        today = {**settings, "fc_only": fc_only, "init_from": init_from, "seen": seen}
        return today, {"init_from": state} if state else {}

    @override
    def key_of(self, setting: str) -> str:
        return re.sub("^fc_only", self._key, setting)

    @property
    def _key(self) -> str:
        """The key of the config that sets ``fc_only``."""
        return self.section if self.section == "fc_only" else f"{self.section}.probe"

    def _features(
        self, run: Context, model: nn.Module, records: data.Records, compute: Compute
    ) -> tuple[Tensor, Tensor]:
        """Return the features that were kept, else those computed here, on the device; and the rows they are of."""
        if "features" not in self.needs:
            return self.compute_features(run, model, records, compute)
        features, rows = read_features(run.input(self, "features"))
        return features.to(compute.device), rows


def _fit(
    features: Tensor, targets: Tensor, settings: FcOnly, *, num_classes: int, seed: int, stage: str, key: str
) -> tuple[Logistic, dict[str, Any]]:
    """Return the classifier of features as they are, with the best value of C; and the figures to remember.

    ``stage`` and ``key`` are the name of the stage and the key of ``settings``, for messages.
    """
    tried = _search(features, targets, settings, num_classes=num_classes, seed=seed, key=key)
    best = settings.c_values[0]
    if tried:
        best = max(tried, key=lambda one: (one["holdout_top1"], -one["holdout_loss"]))["c"]
    mean, std = standardisation(features)
    found = fit(
        (features - mean) / std, targets, num_classes=num_classes, c=best, max_iterations=settings.max_iterations
    )
    at_edge = bool(tried) and best in (settings.c_values[0], settings.c_values[-1])
    if at_edge:
        logger.warning("%s: the best C, %g, is at the edge of %s.c_values; widen them", stage, best, key)
    if not found.converged:
        logger.warning("%s: not converged at C = %g; raise %s.max_iterations", stage, best, key)
    converged = found.converged and all(one["converged"] for one in tried)
    figures = {"c": best, "at_edge": at_edge, "converged": converged, "tried": tried}
    return found.unstandardised(mean, std), figures


def _search(
    features: Tensor, targets: Tensor, settings: FcOnly, *, num_classes: int, seed: int, key: str
) -> list[dict[str, Any]]:
    """For each value of C whether the fit converged, its accuracy (percent) and mean loss on items held out of it;
    nothing for one value."""
    if len(settings.c_values) == 1:
        return []
    held = data.hold_out(targets.cpu().numpy(), share=settings.holdout, seed=seed)
    if not held.any():
        raise UserError(f"{key} cannot choose C: no class has two items; give one value, such as {key}.c_values=[1]")
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
