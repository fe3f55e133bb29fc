"""The transfer: checkpoints compared on another labeled set."""

import itertools
import re
from typing import Any

from pydantic import Field, model_validator
from pydantic.functional_validators import BeforeValidator
from typing_extensions import Annotated, Self, override  # noqa: UP035 - with the rest of pydantic's

from bsssl.config.data import Model
from bsssl.config.experiment import Experiment
from bsssl.config.section import Length, LengthField, Section, without
from bsssl.config.training import ScheduleName, Train


class Checkpoint(Section):
    """A network to transfer: trained weights, released ones (``model.weights``), or with a model alone from scratch.

    A path alone stands for ``init_from``.
    """

    init_from: str | None = None
    """the folder of a trained stage, e.g. outputs/quickstart/seed-{seed}/finetune, or a file of weights; {seed} stands
    for the seed"""
    model: Model | None = None
    """the network; may be left out where init_from names weights that a stage left"""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"init_from": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.init_from is None and self.model is None:
            problems.append("give init_from (the folder of a trained stage or a file of weights), model, or both")
        if self.init_from is not None and self.model is not None and self.model.weights is not None:
            problems.append("init_from and model.weights are two origins; give one of them")
        return without(problems, self)


class FullFt(Train):
    """Fine-tuning of all layers, with a new classifier. The paper does not say how; these are common settings."""

    length: LengthField = Length(amount=100, unit="epochs")
    batch_size: int = Field(64, ge=1)
    base_lr: float = Field(0.04, gt=0)
    schedule: ScheduleName = "cosine"


class FcOnly(Section):
    """Multinomial logistic regression on the standardised inputs of a fixed network's classifier. The paper does not
    say how it regularises; here C is chosen on a part of `data.train`, then all of it is used."""

    c_values: list[float] = Field([1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 10, 100], min_length=1)
    """inverse strengths of regularisation to choose from, as scikit-learn's C (times the sum of the losses, against
    half the squared norm of the weights)"""
    holdout: float = Field(0.2, gt=0, lt=1)
    """share of each class of `data.train` that chooses C"""
    max_iterations: int = Field(2000, ge=1)
    """of L-BFGS, for each value of C"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rising = all(low < high for low, high in itertools.pairwise([0.0, *self.c_values]))
        return without([] if rising else [f"c_values {self.c_values} must be above 0 and rise"], self)


def _without_nulls(checkpoints: Any) -> Any:
    if not isinstance(checkpoints, dict):
        return checkpoints
    return {name: checkpoint for name, checkpoint in checkpoints.items() if checkpoint is not None}


class Transfer(Experiment):
    """Several checkpoints on another labeled set, each fine-tuned (full_ft) and as fixed features (fc_only)."""

    leaves = "transfer.md"

    checkpoints: Annotated[dict[str, Checkpoint], BeforeValidator(_without_nulls)] = Field(min_length=1)
    """what is compared, by the names of the table's rows; null leaves out one that the config file has"""
    full_ft: FullFt | None = FullFt()
    """null turns it off"""
    fc_only: FcOnly | None = FcOnly()
    """null turns it off"""
    batch_size: int = Field(256, ge=1)
    """samples per forward pass and process in testing and for features, of videos clips; at least those of one video"""

    @override
    def trainings(self) -> dict[str, Train]:
        return {} if self.full_ft is None else {"full_ft": self.full_ft}

    @override
    def eval_batch(self) -> int:
        return self.batch_size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = self._problems()
        if self.full_ft is None and self.fc_only is None:
            problems.append("nothing to do: give full_ft, fc_only or both")
        if self.full_ft is not None and self.full_ft.init_from is not None:
            problems.append("full_ft.init_from: `checkpoints` says what to start from; leave it out")
        for name, checkpoint in self.checkpoints.items():
            if not re.fullmatch(r"[\w+-]+", name):
                problems.append(f"checkpoints: '{name}' names folders too: use letters, digits, _, + and - alone")
            if checkpoint.model is not None and checkpoint.model.frames is not None and self.data.clips is None:
                problems.append(f"checkpoints.{name}.model.frames is for videos; set data.clips, or leave it out")
        return without(problems, self)
