"""The transfer: checkpoints compared on another labeled set."""

import re
from typing import Any

from pydantic import Field, model_validator
from pydantic.functional_validators import BeforeValidator
from typing_extensions import Annotated, Self, override  # noqa: UP035 - with the rest of pydantic's

from bsssl.config.data import Model
from bsssl.config.experiment import Experiment
from bsssl.config.section import Length, LengthField, Section, without
from bsssl.config.training import FcOnly, ScheduleName, Train


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
    batch_size: int = Field(64, ge=1, le=1_000_000)
    base_lr: float = Field(0.04, gt=0)
    schedule: ScheduleName = "cosine"


def _without_nulls(checkpoints: Any) -> Any:
    if not isinstance(checkpoints, dict):
        return checkpoints
    return {name: checkpoint for name, checkpoint in checkpoints.items() if checkpoint is not None}


class Transfer(Experiment):
    """Several checkpoints on another labeled set, each fine-tuned (full_ft) and as fixed features (fc_only)."""

    leaves = "transfer.md"

    checkpoints: Annotated[
        dict[str, Checkpoint],
        BeforeValidator(_without_nulls, json_schema_input_type=dict[str, Checkpoint | str | None]),
    ] = Field(min_length=1)
    """what is compared, by the names of the table's rows; null leaves out one that the config file has"""
    full_ft: FullFt | None = FullFt()
    """null turns it off"""
    fc_only: FcOnly | None = FcOnly()
    """null turns it off"""
    batch_size: int = Field(256, ge=1, le=1_000_000)
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
            if checkpoint.model is not None:
                problems += checkpoint.model.problems(f"checkpoints.{name}.model", self.data)
        return without(problems, self)
