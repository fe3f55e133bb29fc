"""The example package, and plugins that a test writes, as guests of this process: afterwards they are forgotten."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bsssl.config import plugins
from bsssl.registry import REGISTRIES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "plugin_package"
RECIPE = PACKAGE / "recipe.yaml"


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever plugins are imported, the registries and modules are afterwards as they were."""
    known = {registry: set(registry._parts) for registry in REGISTRIES.values()}
    loaded: list[str] = []
    monkeypatch.setattr(plugins, "_loaded", loaded)
    yield
    for registry, names in known.items():
        for name in registry._parts.keys() - names - registry._built_in.keys():  # what is built in may stay
            del registry._parts[name]
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.fixture
def plugin(guests: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """``plugin(name, text)``: a module of that name which can be imported; its name."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(name: str, text: str) -> str:
        (folder / f"{name}.py").write_text(text)
        return name

    return write


@pytest.fixture
def example(guests: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a command about the example recipe, which can be imported."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    return ["--config", str(RECIPE), *paths(tmp_path)]


def paths(folder: Path) -> list[str]:
    """The overrides that keep all files of the example recipe in ``folder``."""
    sets = [f"data.{name}.path={folder / name}" for name in ("train", "test")]
    return [f"output_dir={folder / 'run'}", *sets]
