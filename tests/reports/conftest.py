"""A finished run whose classes have names that try to be markup, and what a page holds."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsssl import cli
from tests.conftest import SHAPES, Recipe, draw_shape, quiet_logger

ODD_NAMES = ("<script>document.title='taken'</script>", "\"a\" & 'b' <!-- \u2028  c", "x" * 10_000)


def call(*arguments: object) -> None:
    """A call of the command line that goes well."""
    with quiet_logger(), pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert not caught.value.code


@pytest.fixture(scope="session")
def odd(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run with pictures of its own, beside it in ``pictures``; the pool's labels are known."""
    folder = tmp_path_factory.mktemp("odd")
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number, (shape, name) in enumerate(zip(SHAPES, ODD_NAMES, strict=True)):
        for part, count in (("train", 14), ("test", 5)):
            for place in range(count):
                path = folder / "pictures" / part / f"{number}-{place:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_shape(shape, seed=100 * (part == "test") + place).save(path)
                lines[part].append(json.dumps({"path": str(path), "label": name}))
    for part, rows in lines.items():
        (folder / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
    values = {
        "output_dir": str(folder / "run"),
        "data": {
            **{part: {"dataset": "manifest", "path": str(folder / f"{part}.jsonl")} for part in lines},
            "pool": [],
            "labels_per_class": 4,
        },
        "score": {"top_p": 3},
        "select": {"top_k": 6, "min_score": 0.0},
    }
    path = folder / "odd.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": str(recipe.config), **values}))
    call("run", "--config", path)
    return folder / "run"


@dataclass(frozen=True)
class Content:
    """What a page holds."""

    text: str

    @property
    def data(self) -> dict[str, Any]:
        """Its figures."""
        return self.block("data")

    @property
    def pictures(self) -> list[str]:
        """Its thumbnails, in base64."""
        count = len(re.findall(r'id="pictures-\d+"', self.text))
        return [one for number in range(count) for one in self.block(f"pictures-{number}")]

    def block(self, name: str) -> Any:
        """The value of a block of JSON."""
        found = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', self.text, re.S)
        assert len(found) == 1
        return json.loads(found[0])


def content(path: Path) -> Content:
    """What the page at ``path`` holds."""
    return Content(path.read_text())
