"""A network for images as the teacher of videos, through the command line."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize

import bsssl as package
from bsssl.models import build_model
from tests.conftest import SHAPES, draw_shape

IMAGES = {"name": "small_resnet", "options": {"width": 4, "blocks": [1], "per_frame": True}}
SHORT = {"length": "6 steps", "batch_size": 8, "base_lr": 0.5, "schedule": "cosine", "warmup": "1 steps"}


def write_shape(path: Path, name: str, *, seed: int, frames: int = 8) -> None:
    """A video of a shape that jumps about."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "12"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_image(draw_shape(name, seed=100 * seed + number))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of three shapes: 8 of each to train on and 4 to test, in folders."""
    folder = tmp_path_factory.mktemp("moving")
    for name in SHAPES:
        for number in range(12):
            write_shape(folder / ("train" if number < 8 else "test") / name / f"{number}.mp4", name, seed=number)
    return folder


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> Path:
    """A recipe of a few steps with an image teacher of its own size and clips, 4 labels of each class."""
    values = {
        "output_dir": str(tmp_path / "run"),
        "data": {
            "train": {"dataset": "folder", "path": str(shapes / "train")},
            "test": {"dataset": "folder", "path": str(shapes / "test")},
            "num_classes": 3,
            "labels_per_class": 4,
            "near_duplicates": "off",
            "transforms": {"size": 24, "train_crop": "none", "flip": False},
            "clips": {"frames": 4, "stride": 2, "test_clips": 2, "score_clips": 2},
        },
        "models": {
            "teacher": {**IMAGES, "frames": 3, "stride": 1, "transforms": {"size": 16}},
            "student": {"name": "small_r2plus1d", "options": {"width": 4, "blocks": [1], "stem_stride": 1}},
        },
        "teacher": SHORT,
        "baseline": SHORT,
        "score": {"top_p": 3, "batch_size": 16},
        "select": {"top_k": 4},
        "pretrain": SHORT,
        "finetune": SHORT,
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    path = tmp_path / "frames.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def see(picture: Image.Image, seen: Any) -> torch.Tensor:
    """What the network is given of one frame."""
    small = resize(pil_to_tensor(picture), [seen.size, seen.size], antialias=True)
    return normalize(small / 255, list(seen.mean), list(seen.std))


def result(stage: Path) -> dict[str, Any]:
    return json.loads((stage / "done.json").read_text())["result"]  # type: ignore[no-any-return]


def test_the_whole_recipe(bsssl, config, shapes, tmp_path):
    """Trained with a frozen part and a rate for each layer, it scores the pool, leaves features, teaches live."""
    arguments = ["teacher.freeze=[bn1]", "teacher.layer_decay=0.8", "pretrain.targets=live"]
    arguments += ["select.open_set.method=distance", "data.near_duplicates=features", "data.near_cosine=1"]
    arguments += ["models.teacher.frames=4", "models.teacher.stride=2"]  # as the student, whose clips it sees
    done = bsssl("run", "--config", config, *arguments)
    assert done.status == 0, done.err
    run = tmp_path / "run" / "seed-0"
    assert result(run / "evaluate-teacher")["clips"] == 2
    described = json.loads((run / "teacher" / "config.json").read_text())
    assert described["per_frame"] is True and described["model_args"] == {"width": 4, "blocks": [1]}
    assert described["clips"] == {"frames": 4, "stride": 2} and described["pretrained_cfg"]["input_size"] == [3, 16, 16]
    student = json.loads((run / "finetune" / "config.json").read_text())
    assert "per_frame" not in student and student["clips"]["frames"] == 4


def test_the_scores_are_those_of_the_frames_one_by_one(bsssl, config, shapes, tmp_path):
    """The exported folder gives the network for images: its scores of single frames are averaged here by hand."""
    assert bsssl("train", "--config", config, "stage=teacher", "data.clips.test_clips=10").status == 0
    teacher, exported = tmp_path / "run" / "seed-0" / "teacher", tmp_path / "exported"
    done = bsssl("export", teacher, "--to", "hub-folder", "--path", exported)
    assert done.status == 0, done.err
    videos = sorted((shapes / "test").rglob("*.mp4"))[::3]
    said = [bsssl("predict", model, *videos) for model in (teacher, exported)]
    assert said[0].status == 0 and said[0].out == said[1].out, said[1].err

    model = package.load(exported)
    network = build_model("small_resnet", num_classes=3, width=4, blocks=[1]).eval()
    network.load_state_dict(model.network.state_dict())
    seen = model.preprocessing
    for video, found in zip(videos, model.predict(videos), strict=True):
        with av.open(str(video)) as container:
            frames = [Image.fromarray(one.to_ndarray(format="rgb24")) for one in container.decode(video=0)]
        images = torch.stack([see(frame, seen) for frame in frames])
        with torch.no_grad():
            scores = network(images).softmax(1)
        starts = np.linspace(0, len(frames) - 3, 10).round().astype(int)
        expected = torch.stack([scores[start : start + 3].mean(0) for start in starts]).mean(0)
        np.testing.assert_allclose(found.probabilities, expected.sort(descending=True).values, atol=1e-5)


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_a_trained_network_for_images_is_a_teacher_of_videos(bsssl, config, recipe, tmp_path, mode):
    """It sees frames as it saw pictures; where it starts, its folder or its file, is all the same."""
    images = tmp_path / "images"
    assert bsssl("train", "--config", recipe.config, f"output_dir={images}", "stage=teacher").status == 0
    teacher = {"name": f"local-dir:{images / 'seed-0' / 'teacher'}", "options": {"per_frame": True}}
    arguments = ["stage=teacher", f"models.teacher={json.dumps(teacher)}", f"teacher.mode={mode}"]
    done = bsssl("train", "--config", config, *arguments)
    assert done.status == 0, done.err
    described = json.loads((tmp_path / "run" / "seed-0" / "teacher" / "config.json").read_text())
    assert described["per_frame"] and described["pretrained_cfg"]["input_size"] == [3, 16, 16]
    assert described["clips"] == {"frames": 4, "stride": 2}
    file = images / "seed-0" / "teacher" / "model.safetensors"
    same = {**IMAGES, "weights": str(file), "transforms": {"size": 16, "test_resize": "whole"}}
    done = bsssl("train", "--config", config, *arguments, f"models.teacher={json.dumps(same)}", "--plan")
    assert done.status == 0 and str(file) in done.out, done.err


def test_a_network_that_saw_frames_sees_pictures(bsssl, config, recipe, tmp_path):
    assert bsssl("train", "--config", config, "stage=teacher").status == 0
    folder = f"local-dir:{tmp_path / 'run' / 'seed-0' / 'teacher'}"
    for network in ({"name": folder}, {**IMAGES, "options": {"width": 4, "blocks": [1]}, "weights": folder}):
        done = bsssl("run", "--config", recipe.config, f"models.teacher={json.dumps(network)}", "--plan")
        assert done.status == 0, done.err


def test_names_of_classes_are_enough(bsssl, config, shapes, clip, tmp_path):
    """A CLIP labels videos that it never saw, without one label; the student learns from clips."""
    values = yaml.safe_load(config.read_text())
    data = {
        key: value for key, value in values["data"].items() if key not in ("train", "num_classes", "labels_per_class")
    }
    data |= {"classes": [*SHAPES], "pool": [values["data"]["train"]]}
    teacher = {"name": f"open_clip/local-dir:{clip}", "options": {"per_frame": True}}
    sections = {"mode": "zeroshot", "zeroshot": {"templates": ["a photo of a {}."]}}
    path = tmp_path / "zeroshot.yaml"
    models = {**values["models"], "teacher": teacher}
    path.write_text(yaml.safe_dump({**values, "data": data, "models": models, "teacher": sections}))
    done = bsssl("run", "--config", path, "select.open_set=null")
    assert done.status == 0, done.err
    run = tmp_path / "run" / "seed-0"
    assert result(run / "evaluate-teacher")["top1"] > 80
    assert json.loads((run / "teacher" / "config.json").read_text())["per_frame"]


def test_the_plan_counts_every_frame(bsssl, config):
    whole = bsssl("run", "--config", config, "--plan", "models.teacher.frames=4").out
    half = bsssl("run", "--config", config, "--plan", "models.teacher.frames=2").out
    costs = [
        int(next(line for line in out.splitlines() if line.startswith("teacher ")).split()[3].replace(",", ""))
        for out in (whole, half)
    ]
    assert costs[0] == 2 * costs[1]


def test_also_the_student_may_see_frames(bsssl, config, tmp_path):
    done = bsssl("train", "--config", config, "stage=baseline", f"models.student={json.dumps(IMAGES)}")
    assert done.status == 0, done.err
    assert result(tmp_path / "run" / "seed-0" / "evaluate-baseline")["clips"] == 2


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "small_resnet"}, r"network for images, set options.per_frame=true, which averages the scores of"),
        ({"name": "r2plus1d_18", "options": {"per_frame": True}}, "network for videos, leave out options.per_frame"),
        ({"name": "small_resnet", "options": {"per_frame": 1}}, "models.teacher: options.per_frame is true or false"),
    ],
)
def test_what_cannot_be_is_one_line(bsssl, config, network, message):
    done = bsssl("run", "--config", config, f"models.teacher={json.dumps(network)}", "--plan")
    assert done.status == 1 and len(done.errors) == 1
    assert message in done.errors[0]


def test_frames_are_of_videos(bsssl, recipe, tmp_path):
    done = bsssl("run", "--config", recipe.config, "models.student.options.per_frame=true", "--plan")
    assert done.status == 1
    assert "models.student.options.per_frame is for videos; set data.clips, or leave it out" in done.errors[0]


def as_ucf101(shapes: Path, folder: Path) -> None:
    """The videos in the folders and with the lists of UCF101."""
    (folder / "ucf101_splits").mkdir(parents=True)
    for part in ("train", "test"):
        lines = []
        for video in sorted((shapes / part).rglob("*.mp4")):
            name = f"{video.parent.name}/v_{video.parent.name}_g{int(video.stem) + 1:02}_c01.avi"
            (folder / "ucf101" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "ucf101" / name).write_bytes(video.read_bytes())
            lines.append(name + (" 1" if part == "train" else ""))
        (folder / "ucf101_splits" / f"{part}list01.txt").write_text("\n".join(lines) + "\n")


def test_the_project_for_actions_on_a_few_videos(bsssl, shapes, tmp_path, monkeypatch):
    """As it stands the plan of the whole; then everything but its networks and its lengths."""
    as_ucf101(shapes, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    common = ("run", "projects/video/actions.yaml", "data.num_classes=null", "seeds=1")
    planned = bsssl(*common, "data.labels_per_class=2", "score.top_p=3", "--plan")
    assert planned.status == 0, planned.err
    assert "R2Plus1D_18_Weights.KINETICS400_V1" in planned.out and "16 frames, stride 2" in planned.out
    small = {"name": "small_r2plus1d", "options": {"width": 4, "blocks": [1]}}
    sections = [f"{section}.length=3 steps" for section in ("baseline", "pretrain", "finetune")]
    sections += [f"{section}.warmup=0 steps" for section in ("baseline", "pretrain")]
    done = bsssl(
        *(*common, "data.labels_per_class=1", "teacher.probe.c_values=[1]", "score.top_p=3", *sections),
        *(f"models.teacher={json.dumps(IMAGES)}", "teacher.mode=scratch", "teacher.length=3 steps"),
        *("teacher.warmup=0 steps", "teacher.batch_size=4"),
        *(f"models.student={json.dumps(small)}", "data.transforms.size=24", "data.transforms.test_resize=24"),
        *("data.transforms.short_side=[24, 28]", "system.workers=0", "system.device=cpu", "data.near_duplicates=off"),
    )
    assert done.status == 0, done.err
    assert "\n12 test items\n" in done.out
