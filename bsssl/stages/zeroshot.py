"""The zeroshot stage: the names of the classes as the classifier, by a network that knows texts too."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bsssl.config import ZeroShot
from bsssl.engine.temperature import fit_temperature
from bsssl.models import WEIGHTS, ClipClassifier, class_texts
from bsssl.pipeline.stage import Context
from bsssl.registry import STAGES
from bsssl.runtime.console import logger
from bsssl.stages.card import named_network
from bsssl.stages.computing import leave_model
from bsssl.stages.features import FeaturesSettings, FrozenStage


class ZeroShotSettings(FeaturesSettings):
    """What decides the features and the classifier, besides the names of the classes, the items and their labels."""

    zeroshot: ZeroShot


@STAGES.register("zeroshot")
@dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShotStage(FrozenStage[ZeroShotSettings]):
    """A classifier made of the names of the classes; labels, where there are some, set its temperature alone."""

    kind = "zeroshot"
    outputs = {"weights": (WEIGHTS,)}

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, (classes, records, model, compute) = self.settings, self.begin(run)
        weights = settings.init_from or settings.model.weights
        assert isinstance(model, ClipClassifier) and weights is not None  # the config sees to it
        texts = class_texts(
            weights,
            network=settings.model.name,
            options=settings.model.options,
            names=settings.zeroshot.called(classes),
            templates=settings.zeroshot.templates,
            device=compute.device,
        )
        model.compare_with(texts.embeddings, scale=texts.scale)
        temperature, figures, unreadable = 1.0, {"rows": 0}, 0
        if len(records):
            features, rows = self.compute_features(run, model, records, compute)
            unreadable = len(records) - len(rows)
            targets = torch.from_numpy(records.class_indices(classes, what="data.train"))[rows].to(features.device)
            with torch.inference_mode():
                temperature, figures = self._temperature(model.head(features), targets)
        model.compare_with(texts.embeddings, scale=texts.scale / temperature)
        leave_model(run, self, model, classes, execution=self.execution)
        return {"scale": texts.scale, "temperature": temperature, **figures, "unreadable": unreadable}

    @override
    def summary(self, run: Context) -> str:
        network = named_network(self.settings.model, self.settings.init_from)
        return f"{network}, with the names of the classes as its classifier"

    @override
    def key_of(self, setting: str) -> str:
        return re.sub("^zeroshot", f"{self.section}.zeroshot", setting)

    def _temperature(self, logits: Tensor, targets: Tensor) -> tuple[float, dict[str, Any]]:
        """Return the temperature that labels ask for, 1 where they ask for none, and the figures to remember."""
        found, rows = fit_temperature(logits, targets), {"rows": len(logits)}
        if found is None:
            logger.warning(
                "%s: the %d labels fit no temperature, and the network's own is kept: all of them are what it says, or "
                "no more than by chance",
                self.name,
                len(logits),
            )
            return 1.0, rows
        return found.value, {**rows, "nll_before": round(found.before, 4), "nll_after": round(found.after, 4)}
