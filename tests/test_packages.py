"""What a plain `pip install bsssl` is enough for, which extra a message names, and the packages that are released."""

import email
import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.processes import run_to_end

ROOT = Path(__file__).parent.parent
OF_EXTRAS = [
    *("av", "decord", "pytorchvideo", "torchcodec", "submitit", "s3fs", "open_clip", "transformers"),
    *("onnx", "onnxscript", "onnxruntime", "tensorboard", "wandb", "mlflow", "pillow_heif", "pillow_jxl"),
]
CALL = """
import sys
sys.modules.update(dict.fromkeys({absent}))  # which is as if they were not installed
import bsssl
from bsssl.cli import main
main({arguments})
"""
VIDEO = "models.{}={{name: pytorchvideo/x3d_xs}}"


@pytest.fixture
def without():
    """``without(packages, *arguments)``: a process of the command line where these packages are not installed."""

    def call(packages, *arguments):
        script = CALL.format(absent=[*packages], arguments=[*map(str, arguments)])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return run_to_end([sys.executable, "-c", script], env=environment)

    return call


def test_help_takes_nothing_that_computes(without):
    done = without([*OF_EXTRAS, "torch", "torchvision", "timm", "matplotlib", "sklearn", "pyarrow"], "--help")
    assert done.returncode == 0 and "predict" in done.stdout, done.stderr


def test_the_plan_of_an_image_recipe_takes_no_extra_nor_what_only_results_need(without, recipe, tmp_path):
    arguments = ("run", "--config", recipe.config, f"output_dir={tmp_path}", "--plan")
    done = without([*OF_EXTRAS, "matplotlib", "sklearn", "jinja2"], *arguments)
    assert done.returncode == 0 and "evaluate-finetune" in done.stdout, done.stderr


def test_an_image_recipe_and_its_predictions_take_no_extra(without, recipe, tmp_path):
    done = without(OF_EXTRAS, "run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}")
    assert done.returncode == 0 and (tmp_path / "run" / "report.html").exists(), done.stderr
    done = without(OF_EXTRAS, "predict", tmp_path / "run", recipe.folder / "test", "--workers", 0)
    assert done.returncode == 0 and "circle" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("package", "overrides", "message"),
    [
        ("av", ["data.clips.frames=4"], r"cannot import PyAV, .* pip install 'bsssl\[video\]'"),
        (
            "pytorchvideo",
            ["data.clips.frames=4", VIDEO.format("teacher"), VIDEO.format("student")],
            r"cannot import PyTorchVideo, .*: pip install 'bsssl\[video\]'",
        ),
        ("submitit", ["--launch", "launcher.kind=slurm"], r"cannot import submitit, .*: pip install 'bsssl\[slurm\]'"),
        (
            "s3fs",
            ["data.pool=[{dataset: folder, path: s3://bucket/photos}]"],
            r"cannot read s3://bucket/photos: .* \(pip install 'bsssl\[s3\]'\)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalnum() else "",
)
def test_a_message_names_the_extra(without, recipe, tmp_path, package, overrides, message):
    call = ("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", *overrides)
    plan = [] if "--launch" in overrides else ["--plan"]  # a plan is looked at where nothing need be submitted too
    for done in (without([package], *call), without([package], *call, *plan)):
        [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 1 and re.fullmatch(f"error: {message}", error), done.stderr


def test_what_is_released(tmp_path):
    for name in (
        "bsssl",
        "projects",
        "docs",
        "Makefile",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "setup.py",
        "pyproject.toml",
    ):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    # The environment of the tests stands for the one that would be installed.
    call = ["make", "--old-file=install", "package", f"BIN={Path(sys.executable).parent}"]
    done = run_to_end(call, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    with zipfile.ZipFile(*(tmp_path / "dist").glob("*.whl")) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        described = email.message_from_bytes(wheel.read(metadata))
    assert {f"{path.relative_to(ROOT)}" for path in (ROOT / "bsssl").rglob("*.py")} <= names
    text = described.get_payload()
    assert "pip install" in text and "## Licence" in text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith("https://") for link in links)
    with tarfile.open(*(tmp_path / "dist").glob("*.tar.gz")) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    assert "`docs/install.md`" in text and "docs/install.md" in names
