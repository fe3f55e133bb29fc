"""What every part of the config is made of."""

import re
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.functional_validators import AfterValidator, BeforeValidator
from typing_extensions import Annotated  # noqa: UP035 - with the rest of pydantic's

from bsssl.errors import choices
from bsssl.registry import Registry


class Length(BaseModel):
    """How long something lasts, in one unit; written ``30 epochs``, ``5000 steps`` or ``1_000_000_000 samples``."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    amount: float = Field(ge=0)
    unit: Literal["samples", "steps", "epochs"]

    def steps(self, *, batch_size: int, rows: int) -> int:
        """Return the same length in optimiser steps, rounded to the nearest; at least 1 unless the length is 0."""
        if self.amount == 0:
            return 0
        per_unit = {"samples": 1 / batch_size, "steps": 1.0, "epochs": rows / batch_size}[self.unit]
        return max(1, round(self.amount * per_unit))

    def in_samples(self, batch_size: int) -> "Length":
        """Return a length in samples or steps as one in samples."""
        return Length(amount=self.amount * (batch_size if self.unit == "steps" else 1), unit="samples")

    def __str__(self) -> str:
        """Return the text that reads back as the very same length."""
        return f"{int(self.amount) if self.amount == int(self.amount) else self.amount!r} {self.unit}"


_LENGTH = r"\s*([\d_]*\.?\d+(?:e[+-]?\d+)?)\s*(samples?|steps?|epochs?)\s*"


def _parse_length(value: Any) -> Any:
    if isinstance(value, Length):
        return value
    match = re.fullmatch(_LENGTH, str(value))
    if not match:
        raise ValueError(f"'{value}' is not a length; write for example '30 epochs', '5000 steps' or '1e9 samples'")
    return Length(amount=float(match[1].replace("_", "")), unit=match[2].rstrip("s") + "s")


LengthField = Annotated[
    Length,
    BeforeValidator(_parse_length, json_schema_input_type=Annotated[str, Field(pattern=f"^{_LENGTH}$")]),
    PlainSerializer(str),
]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # in the options of a part; else they would be written as null
    )
    dotted: ClassVar[str] = ""
    """a pattern of those keys, if any, that hold keys of another config: dots and all they are one key in overrides"""


def known_to(registry: Registry) -> AfterValidator:
    """Return the validator of a key that names a part of ``registry``; the part is not imported."""

    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(f"unknown {registry.sort} '{name}': {choices(name, registry.names())}")
        return name

    return AfterValidator(check)


S = TypeVar("S", bound=Section)


def without(problems: list[str], section: S) -> S:
    """``section``, a validator's answer, unless there are problems: each becomes a line of the error."""
    if problems:
        raise ValueError("\n".join(problems))
    return section
