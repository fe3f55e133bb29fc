"""Networks of transformers for videos, and their weights by name."""

import copy
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import EntryNotFoundError

from bsssl import load
from bsssl.config.training import Supervised
from bsssl.errors import UserError
from bsssl.models import (
    build_model,
    classifier,
    implied_weights,
    is_named,
    load_named,
    load_weights,
    local_weights,
    named_weights,
    profile,
)
from bsssl.models.weights.folder import describe
from bsssl.optim import parameter_groups
from tests.data.videos import write_video

TINY = {
    "image_size": 32,
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
PATCHES = {"VideoMAE": {"patch_size": 8}, "Timesformer": {"patch_size": 8}, "Vivit": {"tubelet_size": [2, 8, 8]}}
CLASSES = ["running", "swimming", "walking"]
KINDS = pytest.mark.parametrize("kind", [*PATCHES])


def saved(kind: str, folder: Path, *, head: str = "VideoClassification", **seen: Any) -> Any:
    """A tiny network of transformers with random weights in ``folder``, as transformers saves it."""
    torch.manual_seed(0)
    named = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    pooled = {} if head == "VideoClassification" else {"use_mean_pooling": False}  # as released
    config = getattr(transformers, f"{kind}Config")(**TINY, **PATCHES[kind], **named, **pooled)
    model = getattr(transformers, f"{kind}For{head}")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    seen = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, **seen}
    processor(kind)(**seen).save_pretrained(folder)
    return model


def processor(kind: str) -> Any:
    return transformers.VivitImageProcessor if kind == "Vivit" else transformers.VideoMAEImageProcessor


@KINDS
def test_predictions_are_those_of_transformers_on_the_same_pixels(kind: str, tmp_path: Path) -> None:
    theirs = saved(kind, tmp_path / "net", image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    video = write_video(tmp_path / "clip.mp4", frames=7, width=80, height=64)
    ours = load(f"transformers/local-dir:{tmp_path / 'net'}")
    assert (ours.classes, ours.preprocessing.clips.frames, ours.preprocessing.clips.stride) == (CLASSES, 4, 2)
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::2]
    inputs = processor(kind).from_pretrained(tmp_path / "net")(frames, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).logits.softmax(-1)[0]
    [found] = ours.predict([video])
    assert expected.std() > 0.01
    probabilities = dict(zip(found.classes, found.probabilities, strict=True))
    # Resizing differs by a level of grey in some pixels: transformers' for ViViT is Pillow's.
    np.testing.assert_allclose([probabilities[name] for name in CLASSES], expected, atol=5e-3)


@KINDS
def test_the_network_gives_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs, name = saved(kind, tmp_path), f"transformers/local-dir:{tmp_path}"
    assert is_named(name) and implied_weights(name, pretrained=False) == name
    assert local_weights(name) == str(tmp_path / "model.safetensors")
    weights = named_weights(name)
    assert (weights.network, weights.num_classes) == (f"transformers/{kind}ForVideoClassification", 3)
    ours = build_model(weights.network, num_classes=3, **weights.options).eval()
    assert load_weights(ours, load_named(name, weights.options), classes=CLASSES).missing == ()
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips), theirs(clips.transpose(1, 2)).logits)
        for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert torch.equal(twin(clips), ours(clips))
    assert classifier(ours)[0] == "classifier"
    measured = profile(weights.network, num_classes=3, input_shape=(3, 4, 32, 32), **weights.options)
    assert measured.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    other = build_model(weights.network, num_classes=5, **weights.options)
    assert set(load_weights(other, weights.load({}), new_head=True).missing) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({}, {"size": 32, "test_resize": 36, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ({"size": {"height": 32, "width": 32}, "resample": 3}, {"test_resize": "whole", "interpolation": "bicubic"}),
        ({"size": {"height": 40, "width": 40}, "do_center_crop": False}, {"size": 40, "test_resize": "whole"}),
        ({"do_normalize": False}, {"mean": (0, 0, 0), "std": (1, 1, 1)}),
        ({"do_rescale": False, "image_mean": [51.0] * 3}, {"mean": (0.2,) * 3, "std": (0.001960784,) * 3}),
    ],
)
def test_how_the_processor_sees_frames(seen: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path, **seen)
    found = named_weights(f"transformers/local-dir:{tmp_path}").transforms
    assert {key: found[key] for key in expected} == expected


def test_the_pixels_of_vivit_lie_on_both_sides_of_zero(tmp_path: Path) -> None:
    """Its processor takes 1 from what it has made of 0..2, and then normalises; the released files do not say the 1."""
    saved("Vivit", tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    released = {**content, "image_processor_type": "ViViTImageProcessor"}
    assert released.pop("offset") is True
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(released))
    found = named_weights(f"transformers/local-dir:{tmp_path}").transforms
    assert (found["mean"], found["std"]) == ((0.75,) * 3, (0.25,) * 3)


def test_a_video_processor_says_as_much_as_one_for_images(tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path)
    expected = named_weights(f"transformers/local-dir:{tmp_path}")
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "video_preprocessor_config.json")
    assert named_weights(f"transformers/local-dir:{tmp_path}").transforms == expected.transforms


@pytest.mark.parametrize(
    "seen",
    [
        {"do_resize": False},
        {"do_center_crop": False},
        {"resample": 0},
        {"crop_size": {"height": 32, "width": 24}},
        {"size": {"height": 40, "width": 40}},
    ],
)
def test_frames_seen_in_another_way_are_refused(seen: dict[str, Any], tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path, **seen)
    with pytest.raises(UserError, match="sees frames in a way that no network here does; choose another"):
        named_weights(f"transformers/local-dir:{tmp_path}")


def test_what_was_trained_without_classes_has_no_classifier(tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path, head="PreTraining")
    weights = named_weights(f"transformers/local-dir:{tmp_path}")
    assert weights.num_classes == 0 and weights.classes is None
    network = build_model(weights.network, num_classes=3, **weights.options)
    report = load_weights(network, load_named(weights.name, weights.options), new_head=True)
    assert set(report.missing) == {"classifier.weight", "classifier.bias"}


def test_layers_and_what_does_not_decay() -> None:
    network = build_model("transformers/TimesformerForVideoClassification", num_classes=3, **TINY, patch_size=8)
    groups: Any = parameter_groups(Supervised(layer_decay=0.5, decay_norms=False), network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    scales = {names[id(one)]: group["lr_scale"] for group in groups for one in group["params"]}
    assert scales["classifier.weight"] == scales["timesformer.layernorm.weight"] == 1
    assert {scales[name] for name in scales if ".layer.1." in name} == {0.5}
    assert {scales[name] for name in scales if ".embeddings." in name} == {0.125}
    decays = {names[id(one)]: group["weight_decay"] for group in groups for one in group["params"]}
    assert decays["timesformer.embeddings.time_embeddings"] == 0 < decays["classifier.weight"]


def test_another_size_of_pictures(tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path)
    weights = named_weights(f"transformers/local-dir:{tmp_path}")
    network = build_model(weights.network, num_classes=3, **weights.options, img_size=48)
    load_weights(network, weights.load({}))
    assert network(torch.randn(1, 3, 4, 48, 48)).shape == (1, 3)


@KINDS
def test_transformers_reads_a_trained_network(kind: str, tmp_path: Path) -> None:
    """What a stage leaves, ``config.json`` and the weights, is what transformers saves, but for the processor."""
    name, options = f"transformers/{kind}ForVideoClassification", {**TINY, **PATCHES[kind]}
    ours = build_model(name, num_classes=3, **options).eval()
    seen = {"size": 32, "resize": 36, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    content = describe(name, options, classes=CLASSES, transforms=seen, clips={"frames": 4, "stride": 4})
    (tmp_path / "config.json").write_text(json.dumps(content))
    from bsssl.models import save_model

    save_model(str(tmp_path / "model.safetensors"), ours.state_dict(), name=name, classes=CLASSES, options=options)
    theirs = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    assert [theirs.config.id2label[number] for number in range(3)] == CLASSES
    clips = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(theirs(clips.transpose(1, 2)).logits, ours(clips))
    again = load(tmp_path)
    assert again.classes == CLASSES and again.name == name
    torch.testing.assert_close(again.network(clips), ours(clips))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frame": 8}, "has no option 'num_frame': did you mean 'num_frames'"),
        ({"num_labels": 8}, "has no option 'num_labels'"),
        ({"num_attention_heads": 7}, "cannot be made with options .*num_attention_heads"),
        ({"hidden_size": "wide"}, "cannot be made with options .*hidden_size"),
        ({"num_frames": 5}, "num_frames is 5, no multiple of the 2 frames of a patch"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_model("transformers/VideoMAEForVideoClassification", num_classes=3, **{**TINY, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 8, 32, 32), (3, 4, 24, 24), (3, 32, 32)])
def test_profile_refuses_an_impossible_clip(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"ForVideoClassification' cannot take inputs of 3x.*; set another") as caught:
        profile("transformers/VideoMAEForVideoClassification", num_classes=3, input_shape=shape, **TINY, patch_size=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read config.json .*; give a folder where save_pretrained left a network"),
        ("{", "cannot read config.json"),
        ("[]", "is of the kind 'None'; networks for videos here are of timesformer, videomae, vivit"),
        ('{"model_type": "vit"}', "is of the kind 'vit'"),
        ('{"model_type": "videomae", "hidden_size": "wide"}', "its config.json describes no network"),
        ('{"model_type": "videomae"}', "cannot read preprocessor_config.json"),
    ],
)
def test_folders_that_are_none(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"^transformers/local-dir:.*{message}") as caught:
        named_weights(f"transformers/local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformers/VideoMAEClassification", "nearest: transformers/VideoMAEForVideoClassification"),
        ("VideoMAEForVideoClassification", "is called 'transformers/VideoMAEForVideoClassification'"),
    ],
)
def test_networks_that_are_none(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, num_classes=3)
    with pytest.raises(UserError, match="unknown weights 'transformers/VideoMAE': give transformers/local-dir:FOLDER"):
        named_weights("transformers/VideoMAE")


def test_a_folder_of_transformers_without_its_name_is_told(tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path)
    with pytest.raises(UserError, match=f"is a network of transformers: call it transformers/local-dir:{tmp_path}"):
        load(tmp_path)


def test_weights_that_are_damaged_are_one_clear_line(tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    name = f"transformers/local-dir:{tmp_path}"
    with pytest.raises(UserError, match=f"cannot load {name} ") as caught:
        load_named(name, {})
    assert "\n" not in str(caught.value)


def test_a_repository_of_the_hub_is_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("VideoMAE", tmp_path / "me" / "videomae")
    expected = named_weights(f"transformers/local-dir:{tmp_path / 'me' / 'videomae'}")

    def cached(repository: str, filename: str) -> str:
        if repository != "me/videomae":
            raise OSError("Temporary failure in name resolution")
        if not (tmp_path / repository / filename).exists():
            raise EntryNotFoundError(filename)
        return str(tmp_path / repository / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", cached)
    (tmp_path / "me" / "videomae" / "preprocessor_config.json").rename(
        tmp_path / "me" / "videomae" / "video_preprocessor_config.json"
    )
    name = "transformers/hf-hub:me/videomae"
    found = named_weights(name)
    assert implied_weights(name, pretrained=False) == name and local_weights(name) is None
    assert (found.network, found.options, found.transforms) == (expected.network, expected.options, expected.transforms)
    monkeypatch.chdir(tmp_path)  # where transformers takes the repository for a folder
    assert torch.equal(found.load({})["classifier.weight"], expected.load({})["classifier.weight"])
    remedy = "fetch https://huggingface.co/me/other/resolve/main/config.json, preprocessor_config.json and model.safe"
    with pytest.raises(UserError, match=f"could not fetch {name[:-8]}other .*; connect to the internet, or {remedy}"):
        named_weights("transformers/hf-hub:me/other")
    shutil.rmtree(tmp_path / "me")


def test_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved("VideoMAE", tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for look in (
        lambda: build_model("transformers/VivitForVideoClassification", num_classes=3),
        lambda: named_weights(f"transformers/local-dir:{tmp_path}"),
    ):
        with pytest.raises(UserError, match=r"pip install 'bsssl\[transformers\]'"):
            look()
