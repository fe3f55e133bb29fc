"""One part of each sort that a package of your own may bring: docs/extending.md says more of each.

The names begin with ``example_`` so that no other package has the same.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from bsssl import selection, storage
from bsssl.config import Section
from bsssl.data import Records, Source
from bsssl.data.datasets.sources import Folder
from bsssl.errors import UserError
from bsssl.models import TrainedNetwork
from bsssl.pipeline.stage import Context, Stage
from bsssl.registry import (
    AUGMENTATIONS,
    DATASETS,
    EXPORTERS,
    LOGGERS,
    LOSSES,
    METRICS,
    MODELS,
    SELECTION_RULES,
    STAGES,
)
from bsssl.selection import Picks, PoolScores


@MODELS.register("example_net")
def net(*, num_classes: int, width: int = 8) -> nn.Module:
    """Return one convolution, averaged over the picture, and a classifier.

    Args:
        num_classes: The number of classes.
        width: The channels of the convolution.
    """
    features = [nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(width, num_classes))


@DATASETS.register("example_stripes")
class Stripes(Source):
    """Noisy pictures of stripes, ``across`` or ``down``, which are drawn when they are first asked for.

    Args:
        path: The folder of the pictures.
        count: How many pictures each class has.
        seed: Where the noise comes from: another seed gives other pictures.
    """

    makes_files = True  # changes at ``path`` do not make stages run again

    def __init__(self, *, path: str, count: int = 20, seed: int = 0) -> None:
        self.path, self.count, self.seed = path, count, seed

    def batches(self) -> Iterator[Records]:
        """Yield the records of the pictures: a folder of folders that are named as the classes are."""
        stripes = np.indices((16, 16))[0] // 2 % 2 * 60
        for label, pattern in (("across", stripes), ("down", stripes.T)):
            for number in range(self.count):
                path = storage.join(self.path, label, f"{number}.png")
                if not storage.exists(path):
                    noise = np.random.default_rng([self.seed, number, len(label)]).integers(0, 150, (16, 16, 3))
                    with storage.atomic_write(path) as file:
                        Image.fromarray((noise + pattern[..., None]).astype(np.uint8)).save(file, format="PNG")
        yield from Folder(path=self.path).batches()


@LOSSES.register("example_focal")
class Focal(nn.Module):
    """Cross-entropy that weighs down what the network is sure of (Lin et al. 2017, arXiv 1708.02002).

    Args:
        gamma: How much it does; 0 is cross-entropy.
    """

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the mean loss of a batch; ``target`` is a class (B,) or a distribution (B, C)."""
        loss = functional.cross_entropy(logits.float(), target, reduction="none")
        return ((1 - (-loss).exp()) ** self.gamma * loss).mean()


@AUGMENTATIONS.register("example_noise")
class Noise:
    """Adds noise to a picture that has the size of the input already.

    Args:
        size: The side of the input, in pixels.
        strength: The most that a pixel changes by.
    """

    def __init__(self, *, size: int, strength: int = 10) -> None:
        self.size, self.strength = size, strength

    def __call__(self, picture: Tensor) -> Tensor:
        """Return the picture with noise, drawn from torch's default generator, as all augmentations draw."""
        noise = functional.dropout(picture.new_full(picture.shape, self.strength).float()).sub_(self.strength)
        return (picture + noise).clamp_(0, 255).to(picture.dtype)


@SELECTION_RULES.register("example_middle")
def middle(*, pool: PoolScores, top_k: int, seed: int, score: float = 0.5) -> Picks:
    """Select, per class, the K samples whose scores come nearest to a score.

    Args:
        pool: The scores of the whole pool.
        top_k: K.
        seed: Not used: nothing is drawn.
        score: The score.
    """
    return pool.first(lambda rows: np.abs(rows.scores - np.float32(score)).view(np.uint32), top_k=top_k)


class SureSettings(Section):
    """What decides the result of the stage below, besides what it reads. Each field is an option in a config."""

    min_score: float = 0.5
    """the least score with which a selected sample is kept"""


@STAGES.register("example_sure")
@dataclass(frozen=True, kw_only=True, eq=False)
class SureStage(Stage[SureSettings]):
    """A second look at a selection: what the teacher was not sure of is left out."""

    kind = "example_sure"
    version = 1  # a higher one when the same settings and inputs give another result than before
    settings_type = SureSettings
    inputs = {"selection": ("selection",)}
    outputs = {"selection": ("selection.parquet",)}

    def work(self, run: Context) -> dict[str, Any]:
        """Write the part of the selection that is good enough, and return what is worth remembering."""
        chosen = selection.read_selection(str(run.input(self, "selection") / "selection.parquet"))
        sure = chosen.filter(chosen.score.to_numpy() >= self.settings.min_score)
        if not len(sure):
            raise UserError(
                f"{self.name}: no selected sample has a score of {self.settings.min_score:g}; lower min_score"
            )
        sure.write(str(run.folder(self.name) / "selection.parquet"))
        return {"pairs": len(sure), "samples": sure.num_samples}


@EXPORTERS.register("example_text")
def export(model: TrainedNetwork, path: str, *, decimals: int = 4) -> None:
    """Write the weights of a network as JSON.

    Args:
        model: The network.
        path: The file.
        decimals: The digits that are kept of each number.
    """
    weights = {
        name: np.round(value.detach().double().cpu().numpy(), decimals).tolist()
        for name, value in model.network.named_parameters()
    }
    storage.write_text(path, json.dumps({"classes": model.classes, "weights": weights}))


@METRICS.register("example_worst_class")
def worst_class(*, probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Return the accuracy of the class that the network knows least, percent."""
    right = probabilities.argmax(1) == targets
    return float(100 * min(right[targets == label].mean() for label in np.unique(targets)))


@LOGGERS.register("example_csv")
class Csv:
    """Appends a line to ``metrics.csv`` in the folder of the stage, a training or a test.

    Args:
        folder: The folder.
        step: Where the training goes on; 0 where it begins.
        name: The figure to write: ``loss`` of a training, ``top1`` of a test, ...
    """

    def __init__(self, *, folder: str, step: int, name: str = "loss") -> None:
        self.path, self.name = os.path.join(folder, "metrics.csv"), name
        earlier = []
        if step and os.path.exists(self.path):
            with open(self.path, newline="") as file:
                earlier = [row for row in csv.reader(file) if int(row[0]) <= step]
        storage.write_csv(self.path, earlier)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append the figure as of the end of optimiser step ``step``, if it is one of the ``scalars``."""
        if self.name in scalars:
            with open(self.path, "a", newline="") as file:
                csv.writer(file).writerow([step, scalars[self.name]])

    def close(self) -> None:
        """Do nothing: every line is in the file."""
