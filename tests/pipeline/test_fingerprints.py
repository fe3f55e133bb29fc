"""The fingerprints of the stages of all project configs, pinned: what changes one makes everybody's stages run again.

After a change that is meant (a new version of a kind, an edited config), write them anew with

    python -m tests.pipeline.test_fingerprints
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, create_model

from bsssl.config import Config, Section, Transfer, load_config
from bsssl.pipeline.stage import identifying
from bsssl.recipes.runs import all_runs

ROOT = Path(__file__).parents[2]
PINNED = Path(__file__).with_name("fingerprints.json")


def fingerprints() -> dict[str, dict[str, str]]:
    """The fingerprint of every stage of the first seed, by config and stage."""
    of_all = {}
    for path in sorted((ROOT / "projects").rglob("*.yaml")):
        name, keys = str(path.relative_to(ROOT)), _keys(path)
        if "recipe" in keys:
            continue  # a reproduction, whose recipe is another config
        config = load_config(name, [], Transfer if "checkpoints" in keys else Config)
        run = all_runs(config, config_path=name)[0]
        of_all[name] = {stage: run.fingerprint(stage) for stage in run.stages}
    return of_all


def _keys(path: Path) -> set[str]:
    content = yaml.safe_load(path.read_text())
    base = _keys(path.parent / content["_BASE_"]) if "_BASE_" in content else set()
    return {*content, *base}


def test_no_stage_of_a_project_runs_again_by_accident(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert fingerprints() == json.loads(PINNED.read_text())


def test_an_option_more_in_every_section_changes_no_identity(monkeypatch):
    """Every section of the settings of every stage is given a new field that is off by default."""
    monkeypatch.chdir(ROOT)
    config = load_config("projects/image/quickstart_weak.yaml", ["materialise.samples_per_tar=10"])
    (run,) = all_runs(config, config_path="")
    for name, stage in run.stages.items():
        grown = _grown(type(stage.settings))
        settings = grown.model_validate(stage.settings.model_dump(mode="json"))
        assert "brand_new" in settings.model_dump()
        assert identifying(settings) == identifying(stage.settings), name


@pytest.mark.parametrize("name", ["image/quickstart_weak", "image/pretrained", "video/quickstart"])
def test_every_key_given_as_it_is_anyway_changes_no_identity(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    path = f"projects/{name}.yaml"
    config = load_config(path, [])
    given = load_config(path, as_overrides(config.model_dump(mode="json")))
    assert given == config
    before, after = (all_runs(one, config_path="")[0] for one in (config, given))
    assert {name: before.fingerprint(name) for name in before.stages} == {
        name: after.fingerprint(name) for name in after.stages
    }


def as_overrides(values: dict[str, Any], path: str = "") -> list[str]:
    """Every value of a resolved config as an override of its own."""
    given = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            given += as_overrides(value, f"{path}{key}.")
        else:
            given.append(f"{path}{key}={json.dumps(value)}")
    return given


def _grown(section: type[Section]) -> type[Section]:
    """The section with one field more, and so all sections in it."""
    inner = {
        name: (_grown(field.annotation), field)
        for name, field in section.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    return create_model(section.__name__, __base__=section, brand_new=(int, Field(0)), **inner)


@pytest.mark.parametrize("version", [2, 3])
def test_a_version_of_a_kind_changes_its_fingerprints_and_those_after_it(monkeypatch, version):
    from bsssl.stages.score import ScoreStage

    monkeypatch.chdir(ROOT)
    before = fingerprints()["projects/image/quickstart.yaml"]
    monkeypatch.setattr(ScoreStage, "version", version)
    after = fingerprints()["projects/image/quickstart.yaml"]
    same = {name for name in before if before[name] == after[name]}
    assert same == {
        "data",
        "contents",
        "teacher",
        "evaluate-teacher",
        "baseline",
        "evaluate-baseline",
        "ceiling",
        "evaluate-ceiling",
    }


if __name__ == "__main__":
    os.chdir(ROOT)
    PINNED.write_text(json.dumps(fingerprints(), indent=1) + "\n")
