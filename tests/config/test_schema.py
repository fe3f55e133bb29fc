"""The JSON schema for editors allows what the config allows, and marks what it refuses."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from bsssl.config import Config
from bsssl.config.schema import json_schema

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema()
VALIDATOR = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)


def problems(values):
    return [error.message for error in VALIDATOR.iter_errors(json.loads(json.dumps(values)))]


def test_it_is_a_schema_and_written_as_such(bsssl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    VALIDATOR.check_schema(SCHEMA)
    assert json.loads(bsssl("options", "--schema").out) == SCHEMA
    written = bsssl("options", "--schema", "bsssl.json")
    assert "# yaml-language-server: $schema=bsssl.json\n" in written.out
    assert json.loads((tmp_path / "bsssl.json").read_text()) == SCHEMA
    refused = bsssl("options", "--schema", "mine.yaml")
    assert refused.errors == [
        "error: a schema is written to a file that ends in .json, not to mine.yaml; give it such a name"
    ]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "projects").rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_it_allows_every_project(path):
    assert problems(yaml.safe_load(path.read_text())) == []


def test_it_allows_a_resolved_config(recipe):
    assert problems(recipe.values) == []
    assert problems(Config.model_validate(recipe.values).model_dump(mode="json")) == []


@pytest.mark.parametrize(
    "values",
    [
        {"models": {"teacher": [{"name": "resnet18"}, {"name": "resnet50"}]}},
        {"pretrain": {"length": "20_000 samples", "base_lr": "1e-3", "batch_size": "1_024"}, "ceiling": None},
        {"select": {"top_k": "auto"}, "_BASE_": "image/pretrained"},
        {
            "data": {
                "test": {"plain": {"dataset": "folder", "path": "a"}, "blurred": {"dataset": "folder", "path": "b"}}
            }
        },
        {"checkpoints": {"mine": "outputs/run/seed-0/finetune", "other": None}, "full_ft": None},
        {"recipe": "mine.yaml", "experiments": {"top_k": None, "rounds": {1: {"rounds": 1}}}, "options": None},
    ],
)
def test_it_allows_the_short_forms(values):
    assert problems(values) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"models": {}, "selct": {}}, "('selct' was unexpected)"),
        ({"models": {}, "select": {"topk": 1}}, "('topk' was unexpected)"),
        ({"models": {}, "pretrain": {"length": "3 weeks"}}, "'3 weeks' does not match"),
        ({"models": {}, "system": {"device": "gpu"}}, "'gpu' is not one of ['auto', 'cpu', 'cuda']"),
        ({"models": {}, "score": {"top_p": 0}}, "0 is not valid"),
        ({"checkpoints": {"mine": 3}}, "3 is not valid"),
        ({"recipe": "mine.yaml", "select": {}}, "('select' was unexpected)"),
    ],
)
def test_it_marks_what_is_wrong(values, problem):
    (found,) = problems(values)
    assert problem in found


def test_keys_say_what_they_mean():
    fields, keys = Config.model_fields, SCHEMA["$defs"]["Select"]["properties"]
    assert keys["top_k"]["description"].startswith("K: samples kept per class") and keys["top_k"]["default"] == 16_000
    assert SCHEMA["$defs"]["Pretrain"]["properties"]["length"]["default"] == str(fields["pretrain"].default.length)
