"""The JSON schema of a config, by which editors complete keys, show what they mean and mark what is wrong."""

from typing import Any

from fvcore.common.config import BASE_KEY
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema
from typing_extensions import override

from bsssl.config.recipe import Config
from bsssl.config.reproduction import Reproduction
from bsssl.config.section import Length, Section
from bsssl.config.transfer import Transfer

_KINDS: dict[str, type[Section]] = {"models": Config, "checkpoints": Transfer, "recipe": Reproduction}
"""the kinds of config, each by a key that no other kind has"""
_INTEGER, _NUMBER = r"^[+-]?\d+(_\d+)*$", r"^[+-]?[\d_]*\.?\d+([eE][+-]?\d+)?$"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a config file: a recipe, a transfer or a reproduction, by the keys that are in it.

    No key is required: it may stand in a file that the config builds on, or be given on the command line.
    """
    refs, schema = models_json_schema(
        [(kind, "validation") for kind in _KINDS.values()], schema_generator=_OfFiles, title="A config of bsssl"
    )
    base = {"type": ["string", "array"], "items": {"type": "string"}, "description": "the configs that it builds on"}
    rule: dict[str, Any] = {"anyOf": [refs[kind, "validation"] for kind in _KINDS.values()]}
    for key, kind in _KINDS.items():
        schema["$defs"][kind.__name__]["properties"][BASE_KEY] = base
        rule = {"if": {"required": [key]}, "then": refs[kind, "validation"], "else": rule}
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, **rule}


class _OfFiles(GenerateJsonSchema):
    """The schema of what stands in files.

    PyYAML takes 20_000 for a number and 1e-3 for text, editors the other way round, and a config takes both.
    """

    @override
    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return {"anyOf": [super().int_schema(schema), {"type": "string", "pattern": _INTEGER}]}

    @override
    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), {"type": "string", "pattern": _NUMBER}]}

    @override
    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return {name: value for name, value in super().model_schema(schema).items() if name != "required"}

    @override
    def encode_default(self, dft: Any) -> Any:
        return str(dft) if isinstance(dft, Length) else super().encode_default(dft)

    @override
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
