"""A tiny image recipe that runs in seconds, and the command line as a function."""

import contextlib
import io
import json
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image, ImageDraw

from bsssl import cli
from bsssl.runtime.console import logger
from tests.gate import Gate

torch.set_num_threads(1)
# Who starts the tests in the background of a shell has them ignore Ctrl-C, and with them every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHAPES = {"circle": "red", "square": "green", "triangle": "blue"}
SIDE = 32


@contextlib.contextmanager
def quiet_logger() -> Iterator[None]:
    """The logger as it was, afterwards: the command line sets it up for itself, but other tests listen to it."""
    before = (list(logger.handlers), logger.propagate, logger.level)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line left."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that tell what went wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture
def bsssl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``bsssl(command, *arguments)``: the command line as users call it, without the cost of a process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with quiet_logger(), pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        captured, code = capsys.readouterr(), caught.value.code
        if isinstance(code, str):  # the interpreter prints the text and makes it a 1
            return Outcome(1, captured.out, captured.err + code + "\n")
        return Outcome(int(code or 0), captured.out, captured.err)

    return call


def draw_shape(name: str, *, seed: int) -> Image.Image:
    """A coloured shape on a noisy ground, 32x32; no two seeds give the same picture."""
    generator = np.random.default_rng([len(name), seed])
    image = Image.fromarray(generator.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8))
    x, y = (int(value) for value in generator.integers(4, 12, 2))
    pen, box = ImageDraw.Draw(image), (x, y, x + 16, y + 16)
    if name == "circle":
        pen.ellipse(box, fill=SHAPES[name])
    elif name == "square":
        pen.rectangle(box, fill=SHAPES[name])
    else:
        pen.polygon([(x, y + 16), (x + 8, y), (x + 16, y + 16)], fill=SHAPES[name])
    return image


@pytest.fixture
def draw() -> Callable[..., Image.Image]:
    """``draw(shape, seed=...)``, see ``draw_shape``."""
    return draw_shape


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=92)
    return file.getvalue()


def _write_folder(folder: Path, count: int, *, first_seed: int) -> None:
    for name in SHAPES:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(_jpeg(draw_shape(name, seed=first_seed + number)))


def _write_loose(folder: Path) -> None:
    """18 pictures of unknown class, one grey and one CMYK, and a file that is no picture."""
    folder.mkdir()
    for number, name in enumerate(list(SHAPES) * 6):
        image = draw_shape(name, seed=300 + number)
        image = image.convert({0: "L", 1: "CMYK"}.get(number, "RGB"))
        (folder / f"{number:02d}-{name}.jpg").write_bytes(_jpeg(image))
    (folder / "broken.jpg").write_bytes(b"no picture")


def _write_manifest(folder: Path) -> None:
    (folder / "listed").mkdir(parents=True)
    lines = ["path"]
    for number, name in enumerate(list(SHAPES) * 5):
        (folder / "listed" / f"{number:02d}.jpg").write_bytes(_jpeg(draw_shape(name, seed=400 + number)))
        lines.append(f"listed/{number:02d}.jpg")
    (folder / "pool.csv").write_text("\n".join(lines) + "\n")


def _write_tars(folder: Path) -> None:
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"part-{shard:03d}.tar", "w") as tar:
            for number, name in enumerate(list(SHAPES) * 3):
                content = _jpeg(draw_shape(name, seed=500 + 100 * shard + number))
                member = tarfile.TarInfo(f"{number:04d}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@dataclass(frozen=True)
class Recipe:
    """A config file over generated pictures, below one folder."""

    folder: Path
    config: Path
    values: dict[str, Any]

    def write(self, path: Path, values: dict[str, Any]) -> Path:
        """``values`` as a config file that builds on this one."""
        path.write_text(yaml.safe_dump({"_BASE_": str(self.config), **values}))
        return path


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Three shapes, 4 labels and 5 test items each; a pool of a folder, a manifest and two tars with 52 items.

    Nobody may write to its folders; ``output_dir`` has to be given.
    """
    folder = tmp_path_factory.mktemp("shapes")
    _write_folder(folder / "train", 4, first_seed=0)
    _write_folder(folder / "test", 5, first_seed=100)
    _write_loose(folder / "loose")
    _write_manifest(folder / "manifest")
    _write_tars(folder / "tars")
    network = {"name": "small_resnet", "options": {"width": 4, "blocks": [1]}}
    short = {"length": "8 steps", "batch_size": 12, "base_lr": 2.0, "schedule": "cosine", "warmup": "2 steps"}
    values = {
        "output_dir": str(folder / "unused"),
        "data": {
            "train": {"dataset": "folder", "path": str(folder / "train")},
            "test": {"dataset": "folder", "path": str(folder / "test")},
            "pool": [
                {"dataset": "folder", "path": str(folder / "loose")},
                {"dataset": "manifest", "path": str(folder / "manifest" / "pool.csv")},
                {"dataset": "tars", "path": str(folder / "tars" / "part-{000..001}.tar")},
            ],
            "num_classes": 3,
            "shard_size": 12,
            "max_failure_rate": 0.05,
            "transforms": {"size": 16, "train_crop": "none", "flip": False},
        },
        "models": {"teacher": network, "student": network},
        "teacher": short,
        "baseline": short,
        "score": {"top_p": 2, "batch_size": 8},
        "select": {"top_k": 6},
        "pretrain": short,
        "finetune": {**short, "base_lr": 0.2},
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    config = folder / "shapes.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    return Recipe(folder, config, values)


@dataclass(frozen=True)
class Gated:
    """The recipe with a gate before one of its 12 labels, which each step of its trainings reads once, and one item of
    the pool's second shard. The networks trained on the labels are the very same."""

    gate: Gate
    config: Path


@pytest.fixture
def gated(recipe: Recipe, tmp_path: Path) -> Iterator[Gated]:
    """The gate is open; the data stage passes it once."""
    gate, folder = Gate(recipe.folder), tmp_path / "gated"
    folder.mkdir()
    labels = sorted((recipe.folder / "train").glob("*/*.jpg"))
    pool = sorted((recipe.folder / "manifest" / "listed").iterdir())
    lines = [f"{gate.url(path) if path == labels[5] else path},{path.parent.name}\n" for path in labels]
    (folder / "train.csv").write_text("path,label\n" + "".join(lines))
    lines = [f"{gate.url(path) if path == pool[-1] else path}\n" for path in pool]
    (folder / "pool.csv").write_text("path\n" + "".join(lines))
    values = {
        "data": {
            "train": {"dataset": "manifest", "path": str(folder / "train.csv")},
            "pool": [
                {"dataset": "manifest", "path": str(folder / "pool.csv")},
                *(source for source in recipe.values["data"]["pool"] if source["dataset"] != "manifest"),
            ],
        }
    }
    yield Gated(gate, recipe.write(folder / "gated.yaml", values))
    gate.end()


@pytest.fixture(scope="session")
def finished_once(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the whole recipe, run once; for reading alone."""
    output = tmp_path_factory.mktemp("finished") / "run"
    with quiet_logger(), pytest.raises(SystemExit) as caught:
        cli.main(["run", "--config", str(recipe.config), f"output_dir={output}"])
    assert caught.value.code == 0
    return output


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to change at will."""
    return Path(shutil.copytree(finished_once, tmp_path / "run"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of open_clip's with a tiny CLIP for 16x16 that knows the shapes by the prompt "a photo of a {}."."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    tower = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    config = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}
    seen = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    prepare = open_clip.image_transform(16, is_train=False, **seen)
    pictures = torch.stack([prepare(draw_shape(name, seed=1000 + seed)) for name in SHAPES for seed in range(20)])
    texts, targets = (
        open_clip.tokenize([f"a photo of a {name}." for name in SHAPES]),
        torch.arange(3).repeat_interleave(20),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.get_logits(pictures, texts)[0], targets).backward()
        optimizer.step()
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": seen}))
    return folder
