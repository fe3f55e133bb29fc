"""The project from Python: what notebooks call gives what the commands give."""

import json
import logging
import random
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import bsssl as package
from bsssl import data, selection, storage
from bsssl.api.examples import Examples
from bsssl.config import Config, Transfer, load_config
from bsssl.data.decoding.pictures import decode_image
from bsssl.engine.evaluate import evaluate
from bsssl.engine.predict import predict
from bsssl.errors import UserError
from bsssl.models import build_model, save_model
from bsssl.reports.transfer import TransferResults
from bsssl.runtime.device import Compute
from tests.data.videos import read_numbers, write_video
from tests.processes import run_to_end

ROOT = Path(__file__).parent.parent
CLASSES = ["circle", "square", "triangle"]
NAMES = ["a", "b", "c", "d", "e"]
COLUMNS = ["key", "path", "offset", "size", "class", "score", "rank"]


def run_python(program, *arguments, cwd=ROOT):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return run_to_end(command, cwd=cwd)


# The package


def test_importing_the_package_imports_nothing_else():
    program = "import sys, bsssl; print(sorted(name for name in sys.modules if name.startswith(('bsssl', 'torch'))))"
    assert run_python(program).stdout == "['bsssl']\n"


@pytest.mark.parametrize("names", ["Recipe, Results, UserError", "select, load, score, Model"])
def test_the_public_names_come_without_torch(names):
    program = f"import sys; from bsssl import {names}; print({{'torch', 'sklearn', 'matplotlib'}} & {{*sys.modules}})"
    assert run_python(program).stdout == "set()\n"


def test_the_public_names_are_listed():
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert package.UserError is UserError
    with pytest.raises(AttributeError, match="'bsssl' has no attribute 'lode'"):
        _ = package.lode


# Recipes


def test_a_recipe_is_a_file_its_content_or_a_config(recipe, tmp_path):
    expected = load_config(str(recipe.config), [f"output_dir={tmp_path}", "select.top_k=3", "score.top_p=1"])
    overrides = {"select.top_k": 3, "score": {"top_p": 1}}
    for config in (recipe.config, str(recipe.config), recipe.values, Config(**recipe.values)):
        made = package.Recipe(config, overrides, output_dir=tmp_path)
        assert made.config == expected
    assert recipe.values["select"]["top_k"] == 6, "the caller's dict was changed"


def test_a_recipe_of_the_package_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = package.Recipe("image/quickstart", {"select.top_k": 3})
    assert made.config.select.top_k == 3 and made.config.output_dir == "outputs/quickstart"


def test_a_mapping_changes_its_keys_and_a_dotted_name_replaces_all(recipe):
    made = package.Recipe(recipe.values, {"pretrain": {"base_lr": 0.5}})
    assert made.config.pretrain.base_lr == 0.5 and made.config.pretrain.schedule == "cosine"
    made = package.Recipe(recipe.values, {"pretrain": {"base_lr": 0.5}}, pretrain={"batch_size": 6})
    assert (made.config.pretrain.base_lr, made.config.pretrain.batch_size) == (0.5, 6)
    other = {"dataset": "manifest", "path": "x.csv"}
    with_options = {"data.test": {"dataset": "digits", "path": "y", "options": {"split": "test"}}}
    first = package.Recipe(recipe.values, with_options)
    assert package.Recipe(first.config, {"data.test": other}).config.data.test.options == {}
    assert package.Recipe(first.config, data={"test": other}).config.data.test.options == {"split": "test"}


@pytest.mark.parametrize(
    ("overrides", "arguments"),
    [
        ({"select.topk": 3}, ["select.topk=3"]),
        ({"select": {"top_k": "many"}, "seeds": 0}, ["select.top_k=many", "seeds=0"]),
        ({"score.top_p": 4}, ["score.top_p=4"]),
    ],
)
def test_what_is_wrong_is_said_as_on_the_command_line(bsssl, recipe, overrides, arguments):
    with pytest.raises(UserError) as caught:
        package.Recipe(recipe.config, overrides)
    outcome = bsssl("run", "--config", recipe.config, *arguments)
    assert outcome.errors == [f"error: {line}" for line in str(caught.value).splitlines()]


def test_configs_for_other_commands_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no such config: .*none.yaml"):
        package.Recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError) as caught:
        package.Recipe(ROOT / "projects" / "image" / "reproduce.yaml")
    assert "is a config of a reproduction" in str(caught.value) and "\n" not in str(caught.value)


def test_the_plan_is_that_of_the_command_line(bsssl, recipe, tmp_path):
    plan = package.Recipe(recipe.config, {"finetune.length": "3 steps"}, output_dir=tmp_path).plan()
    arguments = ("finetune.length=3 steps", f"output_dir={tmp_path}", "--plan")
    assert bsssl("run", "--config", recipe.config, *arguments).out == f"{plan}\n"
    html = plan._repr_html_()
    assert html.count("<table>") == 2 and "<td>small_resnet</td>" in html and "<td>to do (not done yet)</td>" in html
    assert list(tmp_path.iterdir()) == []


def test_a_run_from_python_is_that_of_the_command_line(recipe, finished_once, tmp_path):
    loggers = [logging.getLogger(name) for name in ("bsssl", "")]
    handlers = [(list(logger.handlers), logger.level) for logger in loggers]
    torch.manual_seed(3)
    states = (torch.get_rng_state(), torch.get_num_threads(), random.getstate(), np.random.get_state()[1].tolist())
    threads = states[1] + 2
    torch.set_num_threads(threads)
    made = package.Recipe(recipe.config, output_dir=tmp_path / "run")
    with pytest.raises(UserError, match=r"there are no results yet: data in .*seed-0 is to do .*; call run\(\)"):
        made.results()
    try:
        results = made.run()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(states[1])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[2:]
    assert [(list(logger.handlers), logger.level) for logger in loggers] == handlers
    assert isinstance(results, package.Results) and made.results() == results
    for name in ("results.json", "results.md", "seed-0/finetune/model.safetensors", "seed-0/select/selection.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (finished_once / name).read_bytes(), name
    assert results.paths["finetuned"] == (tmp_path / "run" / "seed-0" / "finetune",)


def test_a_finished_run_is_read_and_not_run_again(recipe, finished, monkeypatch):
    def work(*_, **__):
        raise AssertionError("a stage has run")

    monkeypatch.setattr("bsssl.pipeline.runner._work", work)
    made = package.Recipe(recipe.config, output_dir=finished)
    assert made.run() == made.results()
    assert {row[-1] for row in made.plan().stages.rows} == {"done"}
    with pytest.raises(UserError, match=r"select in .* is to do \(top_k: 6 -> 5\)"):
        package.Recipe(recipe.config, {"select.top_k": 5}, output_dir=finished).results()
    with pytest.raises(UserError, match=r"seed-1 is to do"):
        made.results(seeds=2)
    with pytest.raises(UserError, match="seeds: Input should be greater than or equal to 1"):
        made.run(seeds=0)


def test_the_command_that_an_error_names_leads_to_the_same_run(bsssl, recipe, finished):
    made = package.Recipe(recipe.values, {"baseline.base_lr": 1.0}, output_dir=finished)
    (run,) = made._runs(made.config)
    command = run.command("baseline").split()
    assert command[:2] == ["bsssl", "train"] and bsssl(*command[1:]).status == 0
    assert made.config.baseline.base_lr == 1.0
    assert package.Recipe(recipe.config, output_dir=finished).results().seeds == (0,)


def test_a_transfer_is_a_recipe_too(recipe, finished_once, tmp_path):
    values = {
        "output_dir": tmp_path / "transfer",
        "data": {key: recipe.values["data"][key] for key in ("train", "test", "num_classes", "transforms")},
        "checkpoints": {"student": finished_once / "seed-0" / "finetune"},
        "full_ft": {"length": "2 steps", "batch_size": 6},
        "fc_only": None,
        "system": recipe.values["system"],
    }
    made = package.Recipe(values)
    assert isinstance(made.config, Transfer)
    results = made.run()
    assert isinstance(results, TransferResults) and made.results() == results
    assert json.loads((tmp_path / "transfer" / "transfer.json").read_text()) == storage.as_json(results.to_dict())


# Trained networks


def predictions_of(folder):
    return pq.read_table(folder / "predictions.parquet").to_pylist()


def assert_predicted(probabilities, rows, classes):
    expected = np.array([[dict(zip(row["top_classes"], row["top_scores"], strict=True))[name] for name in classes]
                         for row in rows])  # fmt: skip
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert expected.std() > 0.01


@pytest.mark.parametrize("stage", ["teacher", "finetune"])
def test_a_loaded_network_predicts_what_its_test_has(recipe, finished_once, stage):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    model = package.load(finished_once / "seed-0" / stage)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert (model.name, model.options, model.classes) == ("small_resnet", {"width": 4, "blocks": [1]}, CLASSES)
    assert (model.preprocessing.size, model.preprocessing.resize, model.preprocessing.clips) == (16, None, None)
    assert model.preprocessing.mean == (0.485, 0.456, 0.406) and not model.network.training
    assert repr(model).startswith("Model('small_resnet', 3 classes, inputs 3x16x16, from ")
    rows = predictions_of(finished_once / "seed-0" / f"evaluate-{stage}")
    paths = [recipe.folder / "test" / row["key"] for row in rows]
    assert_predicted(model.predict_probabilities(paths, batch_size=4), rows, CLASSES)
    arrays = [decode_image(path.read_bytes()).permute(1, 2, 0).numpy() for path in paths]
    assert_predicted(model.predict_probabilities(iter(arrays)), rows, CLASSES)
    assert_predicted(model.predict_probabilities([Image.fromarray(array) for array in arrays]), rows, CLASSES)
    assert model.predict_probabilities([]).shape == (0, 3)


def test_the_preprocessing_is_that_of_the_test_with_a_crop_too(recipe, tmp_path):
    made = package.Recipe(
        recipe.config,
        {"data.transforms": {"size": 16, "train_crop": "random_resized", "mean": [0.4, 0.5, 0.6]}},
        output_dir=tmp_path / "run",
    )
    made.run()
    model = package.load(tmp_path / "run" / "seed-0" / "baseline")
    assert (model.preprocessing.resize, model.preprocessing.mean) == (18, (0.4, 0.5, 0.6))
    rows = predictions_of(tmp_path / "run" / "seed-0" / "evaluate-baseline")
    assert_predicted(model.predict_probabilities([recipe.folder / "test" / row["key"] for row in rows]), rows, CLASSES)


def test_pillow_s_pictures_are_turned_upright_and_may_be_of_any_kind(finished_once, tmp_path, draw):
    model, upright = package.load(finished_once / "seed-0" / "teacher"), draw("triangle", seed=0)
    exif = Image.Exif()
    exif[0x0112] = 3  # to be turned by 180 degrees
    upright.rotate(180).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    upright.convert("L").save(tmp_path / "grey.png")
    paths = [tmp_path / f"{name}.png" for name in ("turned", "upright", "grey")]
    by_path = model.predict_probabilities(paths)
    np.testing.assert_array_equal(model.predict_probabilities([Image.open(path) for path in paths]), by_path)
    np.testing.assert_array_equal(by_path[0], by_path[1])
    assert np.abs(by_path[1] - model.predict_probabilities([upright.rotate(180)])[0]).max() > 1e-4
    assert np.abs(by_path[1] - by_path[2]).max() > 1e-4


def test_an_image_that_cannot_be_used_is_named(recipe, finished_once, tmp_path):
    model = package.load(finished_once / "seed-0" / "teacher")
    good = recipe.folder / "test" / "circle" / "0.jpg"
    with pytest.raises(UserError, match=r"image 1 cannot be read: .*broken.jpg: not a picture"):
        model.predict_probabilities([good, recipe.folder / "loose" / "broken.jpg"])
    with pytest.raises(UserError, match=r"image 0 cannot be read: .*none.jpg"):
        model.predict_probabilities([tmp_path / "none.jpg"])
    with pytest.raises(UserError, match=r"image 0: .* not float32 \(8, 8, 3\)"):
        model.predict_probabilities([np.zeros((8, 8, 3), np.float32)])
    with pytest.raises(UserError, match=r"image 0: .* not uint8 \(3, 8, 9\)"):
        model.predict_probabilities([np.zeros((3, 8, 9), np.uint8)])
    with Image.open(good) as image:
        image.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    with pytest.raises(UserError, match="image 0 cannot be read"):
        model.predict_probabilities([Image.open(tmp_path / "cut.png")])


def as_format_1(folder):
    """Rewrite the record of a training as the first version of the program wrote it."""
    record = json.loads((folder / "done.json").read_text())
    settings = record["settings"]
    seen = settings.pop("seen")
    transforms = {key: value for key, value in seen["transforms"].items() if not key.endswith("_options")}
    first = {key: settings[key] for key in ("model", "seed", "precision")}
    first |= {"transforms": transforms, "max_pixels": seen["max_pixels"], "teacher": settings["training"]}
    kept = ("stage", "result", "seconds", "finished", "processes", "versions", "git", "digests")
    old = {**{key: record[key] for key in kept}, "settings": first, "read": {}}
    (folder / "done.json").write_text(json.dumps(old))


def test_records_of_the_first_version_are_read(recipe, finished):
    folder = finished / "seed-0" / "teacher"
    now = package.load(folder)
    (folder / "config.json").unlink()
    as_format_1(folder)
    then = package.load(folder)
    assert "format" not in json.loads((folder / "done.json").read_text())
    assert then.preprocessing == now.preprocessing and then.precision == now.precision
    picture = [recipe.folder / "test" / "square" / "1.jpg"]
    np.testing.assert_array_equal(then.predict_probabilities(picture), now.predict_probabilities(picture))


def only(folder, *names):
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def test_folders_that_cannot_be_loaded_are_told_in_one_line(finished):
    seed = finished / "seed-0"

    def refused(folder):
        with pytest.raises(UserError) as caught:
            package.load(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in refused(seed / "techer")
    assert "not the folder of a trained stage" in refused(seed)
    assert "choose one of the folders in it: baseline, finetune, pretrain, teacher" in refused(seed)
    assert "choose one of the folders in it: seed-0/baseline, seed-0/finetune, " in refused(finished)
    for stage in ("data", "score"):
        assert "not the folder of a trained stage (there is no model.safetensors); give" in refused(seed / stage)
    (seed / "teacher" / "model.safetensors").unlink()
    assert "the training is not finished or the file was deleted; run the stage" in refused(seed / "teacher")
    only(seed / "baseline", "model.safetensors")
    assert "has weights but no config.json" in refused(seed / "baseline")
    weights = seed / "pretrain" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert f"{weights} is damaged" in refused(seed / "pretrain")
    weights.write_bytes(whole[:100])
    assert f"{weights} is damaged or not a file of weights" in refused(seed / "pretrain")
    (seed / "pretrain" / "config.json").unlink()  # as earlier versions left it
    assert "another tool wrote them, or they are damaged" in refused(seed / "pretrain")
    weights.write_bytes(whole)
    record = json.loads((seed / "pretrain" / "done.json").read_text())
    del record["settings"]["precision"]
    (seed / "pretrain" / "done.json").write_text(json.dumps(record))
    assert "is not the record of a training" in refused(seed / "pretrain")
    (seed / "pretrain" / "done.json").write_text("{")
    assert "is not valid JSON" in refused(seed / "pretrain")
    storage.write_json(str(seed / "pretrain" / "done.json"), {**record, "format": 3})
    assert "newer bsssl" in refused(seed / "pretrain")
    torch.save({"weight": torch.zeros(2)}, seed / "finetune" / "model.safetensors")
    assert "damaged or not a file of weights" in refused(seed / "finetune")


CLIPS = {"frames": 4, "stride": 2, "reader": "av", "stride_jitter": 0}


@pytest.fixture
def video_stage(finished, tmp_path):
    """The folder of a stage of an earlier version whose network is for clips of 4 frames."""
    network = build_model("small_r2plus1d", num_classes=3, width=4, blocks=[1])
    folder = tmp_path / "videos" / "seed-0" / "finetune"
    shutil.copytree(finished / "seed-0" / "finetune", folder)
    (folder / "config.json").unlink()
    options = {"width": 4, "blocks": [1]}
    weights = str(folder / "model.safetensors")
    save_model(weights, network.state_dict(), name="small_r2plus1d", classes=CLASSES, options=options)
    record = json.loads((folder / "done.json").read_text())
    record["settings"]["model"] = {"name": "small_r2plus1d", "options": options}
    record["settings"]["seen"]["clips"] = {**CLIPS, "count": None, "stride_jitter": 1}
    (folder / "done.json").write_text(json.dumps(record))
    return folder


def test_a_network_for_videos_averages_clips(finished, video_stage, tmp_path):
    videos = [write_video(tmp_path / f"{number}.mp4", frames=20 + 9 * number) for number in range(2)]
    assert package.load(video_stage).preprocessing.clips.count == 10
    tested = json.loads((finished / "seed-0" / "evaluate-finetune" / "done.json").read_text())
    tested["settings"]["seen"]["clips"] = {**CLIPS, "count": 3}
    beside = video_stage.parent / "evaluate-finetune.hard"
    beside.mkdir()
    (beside / "done.json").write_text(json.dumps(tested))
    model = package.load(video_stage)
    assert model.preprocessing.clips.count == 3 and model.preprocessing.clips.stride_jitter == 0
    assert "inputs 3x4x16x16" in repr(model)
    views = data.make_views(data.test_transform(size=16), max_pixels=10**6, clips={**CLIPS, "count": 3})
    records = data.Records.from_columns(key=["a", "b"], path=list(map(str, videos)))
    dataset = data.ItemDataset(records, views=views)
    loader = data.make_loader(dataset, data.EvalBatches(2, batch_size=2), workers=0)
    normalize = data.Normalize(mean=model.preprocessing.mean, std=model.preprocessing.std)
    predictions = predict(model.network, loader, normalize=normalize, compute=Compute(torch.device("cpu")))
    expected = evaluate(predictions, targets=np.zeros(2, int), num_classes=3, views=3, keys=["a", "b"])
    found = model.predict_probabilities(videos, batch_size=4)
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-6)
    with pytest.raises(UserError, match="image 0: the network is for videos; give their paths"):
        model.predict_probabilities([np.zeros((8, 8, 3), np.uint8)])
    paths = package.score(model, tmp_path, to=tmp_path / "scores", clips=2, workers=0)
    header = selection.read_header(str(paths[0]))
    assert header.num_records == 2 and header.preprocessing["clips"]["count"] == 2


# Exports


def test_export_from_the_command_line_and_from_python(bsssl, recipe, finished_once, tmp_path, recwarn):
    folder, files = finished_once / "seed-0" / "finetune", [tmp_path / "cli.pt2", tmp_path / "python.pt2"]
    outcome = bsssl("export", folder, "--to", "torch-export", "--path", files[0])
    assert outcome.status == 0, outcome.err
    written, difference = outcome.out.splitlines()
    assert written == f"{files[0]} has been written"
    assert re.fullmatch(
        r"loaded again, its probabilities differ from the network's by at most \d\.\de[-+]\d\d", difference
    )
    assert [str(warning.message) for warning in recwarn] == []
    model = package.load(folder)
    assert model.export("torch-export", files[1]) < 1e-5
    picture = recipe.folder / "loose" / "02-triangle.jpg"
    pixels = decode_image(picture.read_bytes()).permute(1, 2, 0)
    for file in files:
        extra = {"classes.json": "", "preprocessing.json": ""}
        program = torch.export.load(str(file), extra_files=extra).module()
        assert json.loads(extra["classes.json"]) == CLASSES
        assert json.loads(extra["preprocessing.json"])["input_shape"] == [3, 16, 16]
        expected = torch.from_numpy(model.predict_probabilities([picture]))
        torch.testing.assert_close(program(pixels[None]), expected, atol=1e-5, rtol=0)


def test_an_export_is_compared_on_pictures_of_ones_own(bsssl, recipe, finished_once, tmp_path):
    folder, pictures = finished_once / "seed-0" / "finetune", sorted((recipe.folder / "test" / "circle").iterdir())
    to = ("export", folder, "--to", "onnx", "--path", tmp_path / "net.onnx", "layout=nchw", "--check")
    outcome = bsssl(*to, *pictures)
    assert outcome.status == 0 and "differ from the network's by at most" in outcome.out, outcome.err
    (tmp_path / "net.onnx").unlink()
    outcome = bsssl(*to, pictures[0], recipe.folder / "loose" / "broken.jpg")
    assert outcome.errors[0].startswith("error: image 1 cannot be read: ") and list(tmp_path.iterdir()) == []


def test_an_export_of_a_network_for_videos_is_compared_on_clips(video_stage, tmp_path):
    videos = [write_video(tmp_path / "short.mp4", frames=3), write_video(tmp_path / "wide.mp4", frames=20, width=96)]
    model = package.load(video_stage)
    assert model.export("hub-folder", tmp_path / "folder", check=videos) < 1e-5
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["clips"] == {"frames": 4, "stride": 2}
    examples = list(Examples(model._seen, list(map(str, videos))))
    assert [tuple(example.pixels.shape) for example in examples] == [(4, 48, 64, 3), (4, 48, 96, 3)]
    assert read_numbers(examples[1].pixels.numpy()) == [6, 8, 10, 12]
    views = data.make_views(data.test_transform(size=16), max_pixels=10**6, clips={**CLIPS, "count": 1})
    normalize = data.Normalize(mean=model.preprocessing.mean, std=model.preprocessing.std)
    for example, video in zip(examples, videos, strict=True):
        assert torch.equal(example.input[None], normalize(views(str(video), (None, None))[0][None]))


def test_a_card_beside_the_network_goes_with_it(finished, tmp_path):
    (finished / "seed-0" / "finetune" / "README.md").write_text("# Näme\n", encoding="utf-8")
    package.load(finished / "seed-0" / "finetune").export("hub-folder", tmp_path / "folder")
    assert (tmp_path / "folder" / "README.md").read_text(encoding="utf-8") == "# Näme\n"


def test_of_a_run_the_student_is_exported(bsssl, finished_once, tmp_path):
    outcome = bsssl("export", finished_once, "--to", "hub-folder", "--path", tmp_path / "student")
    assert outcome.status == 0, outcome.err
    weights = [folder / "model.safetensors" for folder in (finished_once / "seed-0" / "finetune", tmp_path / "student")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_cannot_be_exported_is_told_in_one_line(bsssl, finished_once, tmp_path):
    folder, path = finished_once / "seed-0" / "finetune", tmp_path / "x"
    outcome = bsssl("export", folder, "--to", "onyx", "--path", path)
    assert outcome.status == 1 and outcome.errors[0].startswith("error: unknown exporter 'onyx': ")
    outcome = bsssl("export", folder, "--to", "torch-export", "--path", path, "opset=3")
    assert outcome.status == 1 and "has no option 'opset'" in outcome.errors[0]
    (tmp_path / "gathered").symlink_to(finished_once / "seed-0")  # no run, but a folder with folders of stages
    outcome = bsssl("export", tmp_path, "--to", "torch-export", "--path", path)
    assert outcome.status == 1 and "not the folder of a trained stage" in outcome.errors[0] and not path.exists()
    assert "choose one of the folders in it: gathered/baseline, gathered/finetune, " in outcome.errors[0]
    outcome = bsssl("export", finished_once / "seed-0" / "score", "--to", "torch-export", "--path", path)
    assert "seed-0/score is not the folder of a trained stage (there is no model.safetensors)" in outcome.errors[0]
    for name in ("timm", "torchvision"):
        outcome = bsssl("export", folder, "--to", name, "--path", path)
        expected = f"error: model 'small_resnet' is none of {name}'s; hub-folder, onnx, torch-export take any network"
        assert outcome.errors == [expected] and not path.exists()
    outcome = bsssl("export", folder, "--to", "onnx", "--path", path, "layout=hwc")
    assert "exporter 'onnx': layout='hwc'" in outcome.errors[0] and len(outcome.errors) == 1
    outcome = bsssl("export", folder, "--to", "hub", "--path", path)
    assert "is no repository of the Hugging Face Hub" in outcome.errors[0]


def test_a_folder_without_its_description_or_of_another_tool_is_told_in_one_line(bsssl, finished, tmp_path):
    folder = finished / "seed-0" / "finetune"

    def refusal():
        outcome = bsssl("export", folder, "--to", "onnx", "--path", tmp_path / "net.onnx")
        assert outcome.status == 1 and len(outcome.err.splitlines()) == 1 and not (tmp_path / "net.onnx").exists()
        return outcome.errors[0]

    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert "its config.json names no architecture" in refusal()
    (folder / "config.json").unlink()
    (folder / "done.json").write_text('{"architectures": ["BertModel"]}')
    assert str(folder) in refusal()
    (folder / "done.json").unlink()
    assert "has weights but no config.json" in refusal()


# Scoring


@pytest.fixture
def pool(recipe):
    """The recipe's manifest of 15 pictures."""
    return recipe.folder / "manifest" / "pool.csv"


def by_key(paths):
    """The classes and scores of every scored sample."""
    scores = {}
    for path in paths:
        keys = selection.scores.ScoreFile(str(path)).samples()["key"].to_pylist()
        _, classes, values = selection.read_sample_scores(str(path))
        scores |= {key: (*row, *each) for key, row, each in zip(keys, classes.tolist(), values.tolist(), strict=True)}
    return scores


def test_scores_are_those_of_the_stage(finished_once, pool, tmp_path):
    teacher = finished_once / "seed-0" / "teacher"
    options = {"dataset": "manifest", "top_p": 2, "shard_size": 6, "workers": 0}
    paths = package.score(teacher, pool, to=tmp_path / "scores", **options)
    assert [path.name for path in paths] == ["000000.scores", "000001.scores", "000002.scores"]
    of_stage = by_key((finished_once / "seed-0" / "score").glob("*.scores"))
    found = by_key(paths)
    assert len(found) == 15
    for key, values in found.items():
        assert values == pytest.approx(of_stage[key], abs=1e-6)
    header = selection.read_header(str(paths[0]))
    stage = selection.read_header(str(finished_once / "seed-0" / "score" / "000000.scores"))
    assert header.teacher == stage.teacher and header.class_names == stage.class_names
    assert header.preprocessing == {**stage.preprocessing, "pool_overlap": "allow"}


def test_scoring_goes_on_where_it_was(finished_once, pool, tmp_path, monkeypatch):
    model = package.load(finished_once / "seed-0" / "teacher")
    options = {"dataset": "manifest", "to": tmp_path / "scores", "shard_size": 6, "workers": 0}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    paths = package.score(model, pool, **options)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert selection.read_header(str(paths[0])).top_p == 3  # all the classes
    content = [path.read_bytes() for path in paths]
    batches = []
    model.network.register_forward_hook(lambda module, inputs, output: batches.append(len(output)))
    package.score(model, pool, **options)
    assert batches == []
    paths[1].unlink()
    assert package.score(model, pool, **options) == paths and batches == [6]
    assert [path.read_bytes() for path in paths] == content
    package.score(model, pool, **options, top_p=1)
    assert batches == [6, 6, 6, 3]
    assert len(package.score(model, pool, **{**options, "shard_size": 15})) == 1, "files of a larger pool are left"


def test_scoring_lists_what_cannot_be_read_and_refuses_too_much_of_it(recipe, finished_once, tmp_path):
    teacher, loose = finished_once / "seed-0" / "teacher", recipe.folder / "loose"
    with pytest.raises(UserError, match=r"1 of the pool's 19 items cannot be read"):
        package.score(teacher, loose, to=tmp_path / "none", workers=0)
    (path,) = package.score(teacher, loose, to=tmp_path / "scores", workers=0, max_failure_rate=0.1)
    assert [key for key, _ in storage.read_ledger(selection.ledger_path(str(path)))] == ["broken.jpg"]
    assert len(by_key([path])) == 18
    for top_p in (0, 4):
        with pytest.raises(UserError, match="top_p must be from 1 to the network's 3 classes"):
            package.score(teacher, loose, to=tmp_path / "none", top_p=top_p)
    with pytest.raises(UserError, match="unknown dataset 'foldr'"):
        package.score(teacher, loose, dataset="foldr", to=tmp_path / "none")
    with pytest.raises(UserError, match="dataset 'folder' has no option 'exts'"):
        package.score(teacher, loose, to=tmp_path / "none", options={"exts": "any"})


# Selecting


@pytest.fixture
def arrays(tmp_path):
    """Keys, classes and scores of 60 samples with many equal scores, and a folder with the same in three shards."""
    random = np.random.default_rng(0)
    classes = np.argsort(random.random((60, 5)), axis=1)[:, :2]
    scores = -np.sort(-random.integers(0, 9, (60, 2)) / 16, axis=1)
    keys = [f"{number}.jpg" for number in random.permutation(60)]
    folder = tmp_path / "scores"
    for number, (start, end) in enumerate([(0, 25), (25, 26), (26, 60)]):
        rows = slice(start, end)
        header = selection.ScoreHeader(
            teacher="",
            class_names=tuple(NAMES),
            top_p=2,
            num_shards=3,
            shard=f"shard-{number}",
            number=number,
            base=start,
            num_records=end - start,
        )
        samples = data.Records.from_columns(key=keys[rows], path=keys[rows]).table.select(
            ["key", "path", "offset", "size"]
        )
        samples = samples.add_column(0, "position", [list(range(end - start))])
        path = selection.score_path(str(folder), number)
        selection.write_scores(path, header=header, samples=samples, classes=classes[rows], scores=scores[rows])
    return keys, classes, scores, folder


@pytest.mark.parametrize("variant", ["balanced", "unbalanced", "random"])
@pytest.mark.parametrize("options", [{"top_k": 7}, {"top_k": 30, "min_score": 0.2}, {"top_k": 3, "seed": 4}])
def test_arrays_give_what_files_give(arrays, variant, options):
    keys, classes, scores, folder = arrays
    of_files = package.select(folder, variant=variant, **options)
    in_memory = package.select(scores, keys=keys, classes=classes, class_names=NAMES, variant=variant, **options)
    assert in_memory.to_table().select(COLUMNS).equals(of_files.to_table().select(COLUMNS))
    summaries = [one.summary() for one in (in_memory, of_files)]
    for name in ("pairs", "samples", "records", "scored", "short_classes", "dropped", "classes", "top_p"):
        assert summaries[0][name] == summaries[1][name], name
    paths = [Path(path) for path in selection.score_files(str(folder))]
    assert package.select(paths[::-1], variant=variant, **options).to_table().equals(of_files.to_table())


def test_a_selection_is_written_as_by_the_command(finished_once, tmp_path):
    chosen = package.select(finished_once / "seed-0" / "score", top_k=6)
    chosen.write(tmp_path / "selection.parquet")
    for name in ("selection.parquet", "selection.json"):
        assert (tmp_path / name).read_bytes() == (finished_once / "seed-0" / "select" / name).read_bytes()
    table = selection.read_selection(str(tmp_path / "selection.parquet")).table
    assert chosen.to_table().equals(table) and chosen.to_table().schema.metadata == table.schema.metadata


def test_a_selection_in_memory_is_written_too(arrays, tmp_path):
    keys, classes, scores, _ = arrays
    chosen = package.select(scores, keys=keys, classes=classes, class_names=NAMES, top_k=2)
    chosen.write(tmp_path / "new" / "selection.parquet")
    written = selection.read_selection(str(tmp_path / "new" / "selection.parquet"))
    assert written.table.equals(chosen.to_table()) and written.facts["class_names"] == NAMES


def test_a_selection_as_a_frame(arrays):
    pandas = pytest.importorskip("pandas")
    frame = package.select(arrays[3], top_k=2).to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == selection.SELECTION_SCHEMA.names


def test_a_frame_needs_pandas(arrays, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas, which is not installed: pip install pandas"):
        package.select(arrays[3], top_k=2).to_dataframe()


def test_what_cannot_be_selected_from_is_told(arrays, tmp_path):
    keys, classes, scores, folder = arrays
    good = {"keys": keys, "classes": classes, "class_names": NAMES, "top_k": 2}
    for changed, message in [
        ({"keys": None}, "need keys, classes and class_names too"),
        ({"keys": keys[1:]}, r"59 keys, classes \(60, 2\) and scores \(60, 2\) do not fit together"),
        ({"classes": classes[:, :1]}, "do not fit together"),
        ({"class_names": NAMES[:4]}, r"classes of the scores in memory must be in \[0, 4\)"),
        ({"classes": np.zeros_like(classes)}, "must be distinct"),
        ({"top_k": 0}, "top_k must be from 1 to 4294967296, not 0"),
        ({"variant": "best"}, "unknown selection rule 'best'"),
    ]:
        with pytest.raises(UserError, match=message):
            package.select(scores, **{**good, **changed})
    with pytest.raises(UserError, match=rf"not in \[0, 1\] \(first: '{keys[0]}'"):
        package.select(scores + 1, **good)
    with pytest.raises(UserError, match="go with an array of scores"):
        package.select(folder, **good)
    with pytest.raises(UserError, match="no score files"):
        package.select(tmp_path / "nowhere", top_k=2)


# The tutorial

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def test_the_tutorial_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
    (tmp_path / "projects").symlink_to(ROOT / "projects")
    done = run_python("\n".join(blocks), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(blocks) == 8
    for shown in ("unknown key 'select.topk'", "gain of the fine-tuned student", "'key': 'digit-", "inputs 3x8x8"):
        assert shown in done.stdout
    written = {path.name for path in (tmp_path / "outputs" / "tutorial").iterdir()}
    assert {"results.md", "student.onnx", "scores", "selection.parquet", "seed-0"} <= written
    config = yaml.safe_load((tmp_path / "outputs" / "tutorial" / "seed-0" / "config.yaml").read_text())
    assert config["select"]["top_k"] == 50 and config["teacher"]["batch_size"] == 50
