"""Every copy-paste block of the README runs, and of the page about pictures the shell's."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bsssl.models import build_model, save_model
from tests.processes import run_to_end

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
PHOTOS = (ROOT / "docs" / "photos.md").read_text()
SHELL = [text for language, text in BLOCKS if language == "bash"]
SHELL += re.findall(r"^```bash\n(.*?)^```", PHOTOS, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
# The blocks' real sizes are for real machines; the commands themselves stay as they are.
SMALL = [
    *(f"{stage}.length='2 steps'" for stage in ("teacher", "baseline", "pretrain", "finetune")),
    *(f"{stage}.warmup='0 steps'" for stage in ("teacher", "baseline", "pretrain")),
    *(f"{stage}.batch_size=8" for stage in ("teacher", "baseline", "pretrain", "finetune")),
    "models.teacher='{name: small_resnet, options: {width: 4, blocks: [1]}, weights: weights.safetensors}'",
    "models.student='{name: small_resnet, options: {width: 4, blocks: [1]}}'",
    "data.labels_per_class=2",
    "data.transforms.size=8",
    "system.workers=0",
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a user has, with photographs."""
    for name in ("projects", "tools", "Makefile", "setup.py", "pyproject.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "bsssl"):
        script = tmp_path / ".venv" / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / name}" "$@"\n')
        script.chmod(0o755)
    weights = build_model("small_resnet", num_classes=5, width=4, blocks=[1]).state_dict()
    save_model(str(tmp_path / "weights.safetensors"), weights, name="small_resnet", classes=list("abcde"))
    random = np.random.default_rng(0)
    for folder, count in {"train/cat": 6, "train/dog": 6, "test/cat": 3, "test/dog": 3, "unlabeled/2021": 12}.items():
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / folder / f"{number}.jpg")
    shutil.copy(tmp_path / "photos" / "test" / "cat" / "0.jpg", tmp_path / "photo.jpg")
    return tmp_path


def test_the_readme_has_its_blocks() -> None:
    assert any("make quickstart" in block for block in SHELL)
    assert any("bsssl predict outputs/mine photo.jpg" in block for block in SHELL)
    assert any("own_folder.yaml" in block for block in SHELL) and any("round: {dataset: " in block for block in SHELL)
    assert len(PYTHON) == 1


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.split("\n")[0][:40])
def test_shell_blocks(block: str, checkout: Path) -> None:
    script = re.sub(r"\\\n\s*", "", block)
    # Running make here would install and test within the test: make's own word that the target exists must do.
    script = re.sub(r"^make ", "make --dry-run ", script, flags=re.MULTILINE)
    script = re.sub(r"^pip install \.$", "", script, flags=re.MULTILINE)
    # A reproduction's settings are of another kind, and it is long: its plan must do.
    script = re.sub(r"^(.*reproduce.py --config .*)$", r"\1 --plan", script, flags=re.MULTILINE)
    script = re.sub(
        r"^(.*(?:--config|bsssl run|bsssl sweep) (?!.*--plan).*)$",
        lambda match: f"{match[1]} {' '.join(SMALL)}",
        script,
        flags=re.MULTILINE,
    )
    environment = {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = run_to_end(["bash", "-e", "-c", script], cwd=checkout, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks(block: str, tmp_path: Path) -> None:
    done = run_to_end([sys.executable, "-c", block], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "selection.parquet").stat().st_size > 0
