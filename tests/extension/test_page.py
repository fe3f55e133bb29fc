"""What docs/extending.md shows is true: its parts run, and its table has every registry."""

import json
import os
import re
import sys

import numpy as np
import pytest

from bsssl.data.decoding.readers import open_video
from bsssl.registry import REGISTRIES
from tests.extension.conftest import ROOT
from tests.processes import run_to_end

PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def mine(plugin):
    """The parts of the page, as a module of one's own."""
    return plugin("my_parts", "\n\n".join(BLOCKS))


def test_the_parts_of_the_page_in_one_recipe(bsssl, recipe, mine, tmp_path):
    outcome = bsssl(
        *("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", f"plugins=[{mine}]"),
        *("pretrain.loss=my_focal", "pretrain.loss_options.gamma=1.5", "pretrain.schedule=my_line"),
        *("pretrain.schedule_options.end=0.001", "metrics={my_top2: {}}"),
        "system.loggers.my_lines.digits=1",
        "stages={sure: {kind: my_sure, needs: {selection: select}, instead_of: select, options: {min_score: 0.4}}}",
    )
    assert outcome.status == 0, outcome.err
    metrics = json.loads((tmp_path / "run" / "seed-0" / "evaluate-pretrain" / "metrics.json").read_text())
    assert metrics["top1"] <= metrics["my_top2"] <= 100 and "my top2" in outcome.out
    assert "seed 0: teacher begins at 0 of " in outcome.out and "seed 0: teacher 8 {'lr': 0.0, 'loss': " in outcome.out
    assert f"seed 0: evaluate-pretrain 8 {{'top1': {metrics['top1']:.1f}, " in outcome.out
    assert json.loads((tmp_path / "run" / "seed-0" / "sure" / "done.json").read_text())["kind"] == "my_sure"


def test_the_launcher_of_the_page(recipe, mine, tmp_path):
    script = tmp_path / "command.py"
    script.write_text("import os\nfrom bsssl.cli import main\nprint('niceness', os.nice(0))\nmain()\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "plugins"), str(ROOT)])}
    call = [sys.executable, script, "train", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", "--launch"]
    call += ["stage=teacher", f"plugins=[{mine}]", "launcher.kind=my_nice", "launcher.options.level=3"]
    done = run_to_end([*map(str, call)], env=environment)
    assert done.returncode == 0, done.stderr
    before, after = (int(level) for level in re.findall(r"niceness (\d+)", done.stdout))
    assert after == min(before + 3, 19)
    assert (tmp_path / "run" / "seed-0" / "teacher" / "done.json").exists()


def test_the_reader_of_the_page(mine, tmp_path):
    from bsssl.config.plugins import load_plugins

    load_plugins([mine])
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", frames)
    with open_video(str(tmp_path / "a.npy"), backend="my_frames", options={"rate": 10.0}) as video:
        assert (video.get([3, 1]) == frames[[3, 1]]).all()
        assert video.seconds().tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_the_page_names_every_registry():
    tables = set(re.findall(r"\| `([A-Z_]+)` \|", PAGE))
    assert tables == {name.upper() for name in REGISTRIES}
