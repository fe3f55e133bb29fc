"""What a stranger does: installs the wheel alone, with no clone around, and goes from photographs to a prediction."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bsssl.models import build_model, save_model
from tests.processes import run_to_end

ROOT = Path(__file__).parent.parent
NETWORK = "{name: small_resnet, options: {width: 4, blocks: [1]}}"
SMALL = [
    *(f"models.teacher={NETWORK}", "teacher.init_from=weights.safetensors", f"models.student={NETWORK}"),
    *(f"{stage}.length=4 steps" for stage in ("baseline", "pretrain", "finetune")),
    *(f"{stage}.warmup=0 steps" for stage in ("baseline", "pretrain")),
    *("data.transforms.size=16", "system.workers=0", "system.threads=1"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that the wheel is installed into; what it needs comes from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("bsssl", "projects"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(file, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    subprocess.run([*pip, "install", *alone, "--target", folder / "site", *folder.glob("*.whl")], check=True)
    shutil.rmtree(source)
    return folder / "site"


@pytest.fixture
def call(site, tmp_path, monkeypatch):
    """``call(argument, ...)``: the installed command in a folder of its own, and what it printed."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, str(site / "bin" / "bsssl"), *arguments]
        done = run_to_end(command, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_from_photographs_to_a_prediction(call, tmp_path, draw):
    for place, name, count in (("labels/circle", "circle", 4), ("labels/square", "square", 4), ("pool", "square", 6)):
        (tmp_path / "photos" / place).mkdir(parents=True)
        for number in range(count):
            seed = number + 10 * (place == "pool")
            draw(name, seed=seed).save(tmp_path / "photos" / place / f"{number}.jpg")
    weights = build_model("small_resnet", num_classes=5, width=4, blocks=[1]).state_dict()
    save_model(str(tmp_path / "weights.safetensors"), weights, name="small_resnet", classes=list("abcde"))

    steps = call("init", "photos/labels", "--pool", "photos/pool")
    run, predict = re.findall(r"^    bsssl (.+)$", steps, re.MULTILINE)
    assert (run, predict) == ("run mine.yaml", "predict outputs/mine photo.jpg")
    assert "gain of the fine-tuned student" in call(*run.split(), *SMALL)
    assert (tmp_path / "outputs" / "mine" / "report.html").is_file()
    said = call(*predict.split()[:2], "photos/pool/0.jpg")
    assert re.search(r"photos/pool/0\.jpg .*(circle|square)", said)


def test_it_brings_the_configs_and_the_files_that_they_name(call, site):
    listed = call("init", "--list")
    assert f"are in {site}/bsssl/projects\n" in listed and "\nimage/quickstart  " in listed
    assert "tags: 49; with a class 40\n" in call("tags", "inspect", "projects/image/quickstart_weak.yaml")
