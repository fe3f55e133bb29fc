"""Trained networks by their folder alone, in this project and in others; and what they say of files and pictures."""

import http.server
import json
import logging
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image

import bsssl as package
from bsssl import cli
from bsssl.api import predictor
from bsssl.data.decoding.pictures import decode_image
from bsssl.errors import UserError
from bsssl.models import build_model, classifier, save_model
from bsssl.models.weights.folder import describe
from bsssl.stages.card import plain
from tests.data.videos import write_video
from tests.processes import run_to_end, together

CLASSES = ["circle", "square", "triangle"]
SEEN = {"size": 16, "resize": 18, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bicubic"}


@pytest.fixture
def model(finished_once) -> package.Model:
    return package.load(finished_once / "seed-0" / "finetune")


@pytest.fixture(scope="session")
def timm_run(recipe, tmp_path_factory) -> Path:
    """A run whose teacher, a network of timm that started from weights with a licence, is trained and tested."""
    folder = tmp_path_factory.mktemp("timm")
    left_in(folder / "start", "timm/test_resnet", {}, ["a", "b"], licence="apache-2.0")
    models = {**recipe.values["models"], "teacher": {"name": f"local-dir:{folder / 'start'}"}}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**recipe.values, "models": models, "output_dir": str(folder / "run")}))
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--config", str(config), "stage=teacher"])
    assert caught.value.code == 0
    return folder / "run" / "seed-0"


def left_in(folder: Path, name: str, options: dict[str, Any], classes: list[str], *, licence: str | None = None) -> str:
    """The path of a folder with a network and its description, as another tool might leave it."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = build_model(name, num_classes=len(classes), **options)
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    described = describe(name, options, classes=classes, transforms=SEEN)
    described["pretrained_cfg"]["license"] = licence
    (folder / "config.json").write_text(json.dumps(described))
    return str(folder)


def pictures(recipe) -> list[Path]:
    return sorted((recipe.folder / "test").glob("*/*.jpg"))


# The folder


@pytest.mark.parametrize("stage", ["teacher", "finetune"])
def test_a_network_needs_nothing_but_its_weights_and_their_description(recipe, finished_once, tmp_path, stage):
    there = finished_once / "seed-0" / stage
    for name in ("model.safetensors", "config.json"):
        shutil.copy(there / name, tmp_path)
    alone, whole = package.load(tmp_path), package.load(there)
    assert (alone.name, alone.options, alone.classes) == (whole.name, whole.options, whole.classes)
    assert (alone.preprocessing, alone.precision) == (whole.preprocessing, whole.precision)
    paths = pictures(recipe)
    np.testing.assert_array_equal(alone.predict_probabilities(paths), whole.predict_probabilities(paths))
    assert repr(package.load(f"local-dir:{tmp_path}")) == repr(alone)


def test_the_description_and_the_record_say_the_same(recipe, finished):
    folder = finished / "seed-0" / "finetune"
    by_description = package.load(folder)
    (folder / "config.json").unlink()
    by_record = package.load(folder)
    assert by_description._seen == by_record._seen and by_description.precision == by_record.precision


def test_timm_and_transformers_load_a_stage(recipe, timm_run):
    transformers = pytest.importorskip("transformers", reason="transformers, of the extra dev, is not installed")
    folder, paths = timm_run / "teacher", pictures(recipe)
    ours = package.load(folder).predict(paths, top=3)
    pipeline = transformers.pipeline("image-classification", model=str(folder))
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    for path, said, theirs in zip(paths, ours, pipeline([str(path) for path in paths], top_k=3), strict=True):
        assert {one["label"] for one in theirs} == set(CLASSES)
        scores = {one["label"]: one["score"] for one in theirs}
        # Pillow and torch resize to within a grey level.
        assert dict(zip(said.classes, said.probabilities, strict=True)) == pytest.approx(scores, abs=0.02)
        with torch.inference_mode():
            by_timm = network(transform(Image.open(path))[None]).softmax(1)[0].tolist()
        assert dict(zip(CLASSES, by_timm, strict=True)) == pytest.approx(scores, abs=0.02)


def test_a_folder_that_timm_wrote_is_loaded(recipe, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    timm.models.save_for_hf(network, tmp_path, model_config={"label_names": CLASSES}, safe_serialization=True)
    model = package.load(tmp_path)
    assert (model.name, model.classes, model.precision) == ("timm/test_resnet", CLASSES, "float32")
    path = pictures(recipe)[0]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        expected = network(transform(Image.open(path))[None]).softmax(1).numpy()
    np.testing.assert_allclose(model.predict_probabilities(path), expected, atol=0.01)


def test_a_folder_without_names_has_those_of_timm_and_transformers(tmp_path):
    for count, first in {5: "LABEL_0", 1000: "tench"}.items():
        folder = Path(left_in(tmp_path / str(count), "timm/test_resnet", {}, ["?"] * count))
        described = json.loads((folder / "config.json").read_text())
        del described["label_names"]
        (folder / "config.json").write_text(json.dumps(described))
        classes = package.load(folder).classes
        assert len(classes) == count and classes[0].split(",")[0] == first


def test_weights_with_a_name_are_loaded(monkeypatch, recipe, tmp_path):
    folder = left_in(tmp_path / "hub", "small_resnet", {"width": 4, "blocks": [1]}, CLASSES)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name: f"{folder}/{name}")
    model = package.load("hf-hub:me/shapes-of-a-test")
    assert model.folder is None and repr(model).endswith("from 'hf-hub:me/shapes-of-a-test')")
    path = pictures(recipe)[0]
    np.testing.assert_array_equal(model.predict_probabilities(path), package.load(folder).predict_probabilities(path))
    scores = package.score(model, recipe.folder / "test", to=tmp_path / "scores", workers=0)
    assert len(scores) == 1


# The card


def test_the_card_says_where_a_network_comes_from_and_how_good_it_is(recipe, finished_once):
    folder = finished_once / "seed-0" / "finetune"
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "unknown" and card.data.library_name == "bsssl"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.tags == ["bsssl", "semi-supervised-learning"]
    figures = json.loads((finished_once / "seed-0" / "evaluate-finetune" / "metrics.json").read_text())
    assert f"| test | 15 | {figures['top1']:.1f} | {figures['ece']:.1f} |" in card.text
    for line in (
        "- data: 12 labels of 3 classes of folder train; a pool of 52 items of folder loose, manifest pool.csv, tars",
        "- score: P = 2",
        "- select: K = 6, balanced: 18 pairs of",
        "- finetune: small_resnet from pretrain, 8 steps in batches of 12",
        "Results, seed 0",
        "circle, square, triangle.",
    ):
        assert line in card.text
    assert str(recipe.folder.parent) not in card.content and str(finished_once.parent) not in card.content


def test_the_card_has_the_licence_of_the_weights_and_no_place(timm_run):
    card = huggingface_hub.ModelCard.load(timm_run / "teacher" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "timm" and card.data.tags == ["bsssl"]
    assert "- teacher: timm/test_resnet from start, 8 steps" in card.text
    assert "Of the weights that it came from: apache-2.0." in card.text
    assert "transformers.pipeline" in card.text and str(timm_run.parent.parent) not in card.content


def test_an_evaluation_that_is_done_again_brings_the_card_up_to_date(bsssl, recipe, finished):
    folder = finished / "seed-0" / "finetune"
    assert bsssl("run", "--config", recipe.config, f"output_dir={finished}").status == 0  # has the times of the copy
    (folder / "README.md").unlink()
    before = (folder / "done.json").read_bytes()
    command = ("--config", recipe.config, f"output_dir={finished}", f"data.test.path={recipe.folder / 'train'}")
    outcome = bsssl("run", *command)
    assert outcome.status == 0 and "finetune is done already" in outcome.err, outcome.err
    assert "| test | 12 |" in (folder / "README.md").read_text()
    assert (folder / "done.json").read_bytes() == before
    (folder / "README.md").write_text("my own words")
    outcome = bsssl("run", *command)
    assert outcome.err.count("is done already") == 13 and (folder / "README.md").read_text() == "my own words"


def test_names_are_plain_markdown():
    assert plain("a|b <i>*x*</i>\n`y` $z$") == r"a\|b \<i\>\*x\*\</i\> \`y\` \$z\$"
    assert plain("_a_ b_c") == r"\_a\_ b_c"


# From Python


def test_predictions_are_the_best_of_the_probabilities(recipe, model):
    paths = pictures(recipe)
    probabilities = model.predict_probabilities(paths)
    found = model.predict(paths, top=2, batch_size=4)
    assert [one.path for one in found] == [str(path) for path in paths]
    for (_, classes, values), row in zip(found, probabilities, strict=True):
        assert values == tuple(sorted(row.tolist(), reverse=True)[:2])
        assert [row[CLASSES.index(name)] for name in classes] == list(values)
    assert len(model.predict(paths[:1], top=9)[0].classes) == 3 and model.predict([]) == []


def test_processes_that_read_and_small_chunks_change_nothing(recipe, model, monkeypatch):
    paths = pictures(recipe)
    expected = model.predict_probabilities(paths, workers=0)
    threads = torch.get_num_threads()
    monkeypatch.setattr(predictor, "ITEMS", 6)
    np.testing.assert_allclose(model.predict_probabilities(paths, workers=2, batch_size=2), expected, atol=1e-6)
    assert torch.get_num_threads() == threads


def test_pictures_of_every_kind_in_any_order(recipe, model):
    path = pictures(recipe)[0]
    pixels = decode_image(path.read_bytes())
    array = pixels.permute(1, 2, 0).numpy()
    given = [path, array, pixels, str(path), Image.fromarray(array), path.parent]
    found = model.predict(given)
    assert [one.path for one in found[:5]] == [str(path), None, None, str(path), None]
    assert len(found) == 5 + len(list(path.parent.iterdir())) and found[5].path == str(path)
    for one in (*found, *(single for kind in given[:5] for single in model.predict(kind))):
        if one.path in (None, str(path)):
            assert one.probabilities == pytest.approx(found[0].probabilities, abs=1e-6)
    with pytest.raises(UserError, match=r"image 6: give a path, .* not torch.float32 \(3, 8, 8\)"):
        model.predict([path.parent, pixels, torch.zeros(3, 8, 8)])


def test_an_item_that_cannot_be_read_is_told_by_its_number(recipe, model):
    with pytest.raises(UserError, match=r"image 2 cannot be read: .*broken.jpg: not a picture"):
        model.predict([*pictures(recipe)[:2], recipe.folder / "loose" / "broken.jpg"])
    with pytest.raises(UserError, match=r"image 18 cannot be read: .*broken.jpg"):
        model.features(sorted((recipe.folder / "loose").iterdir(), key=lambda path: path.name == "broken.jpg"))


def test_features_are_what_the_classifier_is_given(recipe, model):
    paths, seen = pictures(recipe), []
    layer = classifier(model.network)[1]
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numpy()))
    probabilities = model.predict_probabilities(paths)
    handle.remove()
    features = model.features(paths, batch_size=4)
    assert features.dtype == np.float32 and features.shape == (15, layer.in_features)
    np.testing.assert_allclose(features, np.concatenate(seen), atol=1e-6)
    with torch.inference_mode():
        np.testing.assert_allclose(layer(torch.from_numpy(features)).softmax(1), probabilities, atol=1e-6)
    in_memory = model.features([Image.open(path) for path in paths])
    np.testing.assert_allclose(in_memory, features, atol=1e-6)
    assert model.features([]).shape == (0, layer.in_features)


def test_scores_that_are_no_numbers_are_refused(finished, recipe):
    model = package.load(finished / "seed-0" / "finetune")
    with torch.no_grad():
        classifier(model.network)[1].bias.fill_(torch.nan)
    with pytest.raises(UserError, match="the network's scores are not numbers; its weights are broken"):
        model.predict(pictures(recipe))


# Videos


@pytest.fixture
def video_model(tmp_path) -> Path:
    """The folder of a network for clips of 4 frames, of which a test takes 3."""
    options = {"width": 4, "blocks": [1]}
    folder = tmp_path / "network"
    folder.mkdir()
    torch.manual_seed(0)
    state = build_model("small_r2plus1d", num_classes=2, **options).state_dict()
    save_model(str(folder / "model.safetensors"), state, name="small_r2plus1d", classes=["a", "b"], options=options)
    testing = {"precision": "float32", "max_pixels": 10**6, "clips": {"count": 3, "reader": "av", "reader_options": {}}}
    clips = {"frames": 4, "stride": 2}
    described = describe("small_r2plus1d", options, classes=["a", "b"], transforms=SEEN, clips=clips, testing=testing)
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def test_videos_by_file_segment_and_folder(bsssl, video_model, tmp_path):
    (tmp_path / "clips").mkdir()
    videos = [write_video(tmp_path / "clips" / f"{number}.mp4", frames=30 + 9 * number) for number in range(2)]
    model = package.load(video_model)
    assert model.preprocessing.clips.count == 3 and model._seen.max_pixels == 10**6
    found = model.predict([*videos, tmp_path / "clips", f"{videos[0]}#t=0,0.5"], batch_size=6)
    assert [one.path for one in found] == [*map(str, videos), *map(str, videos), f"{videos[0]}#t=0,0.5"]
    assert found[:2] == found[2:4] and found[4].probabilities != found[0].probabilities
    assert model.features(videos).shape[0] == 2
    outcome = bsssl("predict", video_model, *videos, "--device", "cpu")
    assert outcome.status == 0 and outcome.out.count(".mp4") == 2
    with pytest.raises(UserError, match="image 2: the network is for videos; give their paths"):
        model.predict([*videos, np.zeros((8, 8, 3), np.uint8)])


# The command


@pytest.fixture
def everything(recipe, tmp_path) -> list[Path]:
    """A picture, a folder with one that is broken, tars, and tables of paths."""
    jsonl = tmp_path / "list.jsonl"
    jsonl.write_text(json.dumps({"path": str(pictures(recipe)[1])}) + "\n")
    return [
        pictures(recipe)[0],
        recipe.folder / "loose",
        recipe.folder / "tars" / "part-{000..001}.tar",
        recipe.folder / "manifest" / "pool.csv",
        jsonl,
    ]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of predictions, as those of Parquet."""
    if path.suffix == ".csv":
        rows = pyarrow.csv.read_csv(path).to_pylist()
        names = [name for name in rows[0] if name.startswith("class_")]
        return [
            {
                "path": row["path"],
                "classes": [row[name] for name in names],
                "probabilities": [row[name.replace("class", "probability")] for name in names],
            }
            for row in rows
        ]
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else pyarrow.json.read_json(path).to_pylist()


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_every_kind_of_source_to_every_format(bsssl, recipe, finished_once, model, everything, tmp_path, ending):
    to = tmp_path / "new" / f"said.{ending}"
    outcome = bsssl("predict", finished_once / "seed-0" / "finetune", *everything, "--to", to, "--top", 2)
    assert outcome.status == 0 and outcome.out == f"{to} has been written: 53 items\n"
    rows = read(to)
    loose = [str(path) for path in sorted((recipe.folder / "loose").iterdir()) if path.name != "broken.jpg"]
    tars = [f"{recipe.folder}/tars/part-00{tar}.tar/{number:04d}.jpg" for tar in range(2) for number in range(9)]
    listed = [f"listed/{number:02d}.jpg" for number in range(15)]
    names = [row["path"] for row in rows]
    assert names == [str(everything[0]), *loose, *tars, *listed, str(pictures(recipe)[1])]
    with tarfile.open(recipe.folder / "tars" / "part-001.tar") as tar:
        member = tar.extractfile("0008.jpg").read()
    last = model.predict(decode_image(member), top=2)[0]
    in_tar = rows[names.index(tars[-1])]
    assert tuple(in_tar["classes"]) == last.classes
    assert in_tar["probabilities"] == pytest.approx(last.probabilities, abs=1e-6)
    for row, said in zip(rows, model.predict([everything[0], *loose], top=2), strict=False):
        assert row["classes"] == list(said.classes)
        assert row["probabilities"] == pytest.approx(said.probabilities, abs=1e-6)
    ledger = (tmp_path / "new" / "said.unreadable.jsonl").read_text().splitlines()
    broken = str(recipe.folder / "loose" / "broken.jpg")
    assert [json.loads(line)["key"] for line in ledger] == [broken]
    assert f"cannot read {broken}: " in outcome.err and "1 of 54 items cannot be read; " in outcome.err
    assert sorted(path.name for path in to.parent.iterdir()) == [to.name, "said.unreadable.jsonl"]


def test_the_table_on_the_terminal(bsssl, recipe, finished_once):
    paths = pictures(recipe)[:2]
    outcome = bsssl("predict", finished_once, *paths, "--workers", 0)
    assert outcome.status == 0, outcome.err
    header, *lines = outcome.out.splitlines()
    assert header.split() == ["class", "1", "%", "class", "2", "%", "class", "3", "%"]
    assert [line.split()[0] for line in lines] == list(map(str, paths))
    for line in lines:
        assert sorted(line.split()[1::2]) == CLASSES
        assert sum(map(float, line.split()[2::2])) == pytest.approx(100, abs=0.2)
    assert f"{finished_once}: the run is about the network in {finished_once / 'seed-0' / 'finetune'}" in outcome.err
    assert bsssl("predict", finished_once / "seed-0", *paths, "--workers", 0).out == outcome.out


def test_names_with_markup_blanks_and_control_characters_stay_in_their_line(bsssl, recipe, tmp_path):
    names = ["[bold]a[/bold]", " b\n| c ", "\x1b[31mred"]
    folder = left_in(tmp_path / "network", "small_resnet", {"width": 4, "blocks": [1]}, names)
    outcome = bsssl("predict", folder, pictures(recipe)[0])
    assert outcome.status == 0 and len(outcome.out.splitlines()) == 2 and "\x1b" not in outcome.out
    assert "[bold]a[/bold]" in outcome.out and r" b\n| c " in outcome.out
    for ending in ("csv", "jsonl", "parquet"):
        to = tmp_path / f"said.{ending}"
        assert bsssl("predict", folder, pictures(recipe)[0], "--to", to).status == 0
        if ending != "csv":
            assert sorted(read(to)[0]["classes"]) == sorted(names)


def test_unreadable_items_and_the_exit_status(bsssl, recipe, finished_once, tmp_path):
    network, broken, good = finished_once, recipe.folder / "loose" / "broken.jpg", pictures(recipe)[0]
    outcome = bsssl("predict", network, broken, good)
    assert outcome.status == 0 and "1 of 2 items cannot be read" in outcome.err
    outcome = bsssl("predict", network, broken, good, "--strict", "--to", tmp_path / "said.csv")
    assert outcome.status == 1 and outcome.errors[0].startswith("error: 1 of 2 items cannot be read (first: ")
    assert len(read(tmp_path / "said.csv")) == 1
    (tmp_path / "notes.txt").write_text("no picture")
    outcome = bsssl("predict", network, tmp_path / "notes.txt")
    assert outcome.status == 1 and "error: 1 of 1 items cannot be read" in outcome.err and outcome.out == ""
    assert "notes.txt: not a picture, or of an unknown kind" in outcome.err


def predict_here(arguments: list[str]) -> None:
    cli.main(arguments)


def test_two_processes_leave_the_file_of_one(bsssl, finished_once, everything, tmp_path):
    arguments = ["predict", finished_once, *everything, "--batch-size", 4, "--workers", 0, "--device", "cpu", "--to"]
    assert bsssl(*arguments, tmp_path / "one.csv").status == 0
    together(predict_here, [*map(str, arguments), str(tmp_path / "two.csv")], folder=tmp_path / "logs")
    for name in ("csv", "unreadable.jsonl"):
        assert (tmp_path / f"one.{name}").read_text() == (tmp_path / f"two.{name}").read_text()
    logs = [(tmp_path / "logs" / f"rank-{rank}.txt").read_text() for rank in range(2)]
    assert "has been written: 53 items" in logs[0] and "written" not in logs[1]


def test_tasks_share_the_items(bsssl, finished_once, everything, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "ITEMS", 10)
    arguments = ["predict", finished_once, *everything, "--workers", 0, "--to"]
    assert bsssl(*arguments, tmp_path / "whole.parquet").status == 0
    for number in range(2):
        outcome = bsssl(*arguments, tmp_path / "said.parquet", "--task", f"{number}/2")
        assert outcome.status == 0, outcome.err
    parts = [tmp_path / f"said-0000{number}-of-00002.parquet" for number in range(2)]
    rows = [row for part in parts for row in read(part)]
    assert sorted(row["path"] for row in rows) == sorted(row["path"] for row in read(tmp_path / "whole.parquet"))
    assert all(len(read(part)) > 20 for part in parts)


def test_processes_of_a_launcher_leave_the_file_of_one(bsssl, finished_once, everything, tmp_path):
    arguments = ["predict", finished_once, *everything, "--batch-size", 4, "--workers", 0, "--device", "cpu", "--to"]
    assert bsssl(*arguments, tmp_path / "one.csv").status == 0
    command = [str(Path(sys.executable).parent / "bsssl"), *map(str, arguments), str(tmp_path / "two.csv")]
    done = run_to_end([*command, "--launch", "launcher.processes_per_node=2"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    assert done.stdout.count("has been written: 53 items") == 1


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["photos"], "--launch is followed by keys of launcher, such as launcher.kind=slurm, not by 'photos'"),
        (["launcher.array_tasks=2"], "each of launcher.array_tasks writes a table of its own; name it with --to"),
        (["launcher.tasks=2"], "launcher: unknown key 'tasks'"),
        (["--task", "0/2"], "--task is for schedulers of your own"),
    ],
)
def test_a_wrong_launch(bsssl, recipe, finished_once, arguments, error):
    outcome = bsssl("predict", finished_once, pictures(recipe)[0], "--launch", *arguments)
    assert outcome.status == 1 and error in outcome.err


@pytest.fixture
def forbidden() -> Iterator[str]:
    """The address of a server that refuses everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def forbid(path: str) -> dict[str, Any]:
    raise PermissionError(13, "no rights", path)


def test_what_is_wrong_is_one_line(bsssl, recipe, finished, forbidden, tmp_path, monkeypatch):
    network, picture = finished / "seed-0" / "finetune", pictures(recipe)[0]

    def refused(*arguments: object) -> str:
        outcome = bsssl("predict", *arguments)
        assert outcome.status == 1 and len(outcome.errors) == 1 and "Traceback" not in outcome.err
        assert "not an error we foresaw" not in outcome.err and not list(tmp_path.glob("*.tmp"))
        return outcome.errors[0].removeprefix("error: ")

    (tmp_path / "empty").mkdir()
    assert refused(network, tmp_path / "empty").startswith(f"nothing to read in {tmp_path / 'empty'}: there are no im")
    assert refused(network, tmp_path / "none.jpg") == f"no such file or folder: {tmp_path / 'none.jpg'}; check the path"
    assert "no file matches" in refused(network, tmp_path / "x-*.tar")
    (tmp_path / "bad.csv").write_text("file\na.jpg\n")
    assert "bad.csv has no column 'path'; columns found: file; " in refused(network, tmp_path / "bad.csv")
    (tmp_path / "notes.tar").write_text("no tar" * 1000)
    assert "notes.tar is not a tar" in refused(network, tmp_path / "notes.tar")
    for name in ("photos", "photo.jpg"):
        assert "1 of 1 items cannot be read (first: [Errno 13] 403" in refused(network, f"{forbidden}/{name}")
    with monkeypatch.context() as patch:  # as a store of objects has it, which knows folders
        patch.setattr("bsssl.storage.reading.remote_info", forbid)
        assert "/photos: no rights; check the path and the permissions" in refused(network, f"{forbidden}/photos")
    assert "said.txt: the name of a table must end in .csv, .jsonl or" in refused(network, picture, "--to", "said.txt")
    assert "bad.csv is both read and to be written; " in refused(
        network, tmp_path / "bad.csv", "--to", tmp_path / "bad.csv"
    )
    assert refused(network, picture, "--task", "0/2") == "a task writes a table of its own; name it with --to"
    assert "no such folder: " in refused(tmp_path / "none", picture)
    assert "is not the folder of a trained stage (there is no model.safetensors)" in refused(tmp_path, picture)
    assert "unknown weights 'timm/resnet51.a1': did you mean " in refused("timm/resnet51.a1", picture)
    config = (network / "config.json").read_text()
    for content, message in {
        "{": "config.json is not JSON",
        '{"model_type": "bert"}': "its config.json names no architecture; give a folder that timm or this project",
        '{"architecture": "resnet18", "num_classes": 3}': "does not say how the network sees pictures",
        '{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 8, 8]}}': "of another architecture",
        '{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 8, 9]}}': "networks here see squares",
        config.replace('"float32"', '"float31"'): "unknown precision 'float31' in config.json: did you mean 'float32'?",
    }.items():
        (network / "config.json").write_text(content)
        (network / "done.json").unlink(missing_ok=True)
        assert message in refused(network, picture)
    (network / "config.json").unlink()
    assert "has weights but no config.json" in refused(network, picture)
    shutil.rmtree(network)
    assert "the network that the run is about, " in refused(finished, picture)


@pytest.mark.parametrize("arguments", [["--top", "0"], ["--top", "x"], ["--workers", "-1"], ["--device", "tpu"]])
def test_a_wrong_call_shows_the_usage(bsssl, arguments):
    assert bsssl("predict", "network", "a.jpg", *arguments).status == 2


def test_the_logger_is_told_what_is_left_out(recipe, model, tmp_path, caplog):
    shutil.copytree(recipe.folder / "test", tmp_path / "mixed")
    (tmp_path / "mixed" / "clip.mp4").write_bytes(b"")
    with caplog.at_level(logging.INFO, logger="bsssl"):
        assert len(model.predict(tmp_path / "mixed")) == 15
    assert ": left out: 1 .mp4; " in caplog.text
