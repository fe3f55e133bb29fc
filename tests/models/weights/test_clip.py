"""Networks of open_clip, and their weights by name."""

import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from bsssl.config.training import Supervised
from bsssl.errors import UserError
from bsssl.models import (
    ClipClassifier,
    build_model,
    class_texts,
    implied_weights,
    is_named,
    load_named,
    load_weights,
    local_weights,
    named_weights,
)
from bsssl.optim import parameter_groups


@pytest.fixture
def architecture(clip: Path) -> str:
    """The tiny CLIP as an architecture that open_clip knows by its name."""
    config = json.loads((clip / "open_clip_config.json").read_text())["model_cfg"]
    (clip / "tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(clip / "tiny.json")
    return "tiny"


def test_a_folder_says_which_network_it_is_of_and_how_that_sees_pictures(clip: Path) -> None:
    name = f"open_clip/local-dir:{clip}"
    assert is_named(name) and implied_weights(name, pretrained=False) == name
    assert local_weights(name) == str(clip / "open_clip_model.safetensors")
    weights = named_weights(name)
    assert weights.network == "open_clip/CLIP" and weights.num_classes == 0 and weights.fixed_size
    assert weights.transforms == {
        "size": 16,
        "test_resize": 16,
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
    }
    network = build_model(weights.network, num_classes=3, **weights.options)
    report = load_weights(network, load_named(name, weights.options), new_head=True)
    assert set(report.missing) == {"head.weight", "head.bias"}


def test_scores_are_those_of_open_clip(clip: Path) -> None:
    name, classes, templates = f"open_clip/local-dir:{clip}", ["circle", "square"], ["a photo of a {}.", "a big {}"]
    theirs = open_clip.create_model(f"local-dir:{clip}").eval()
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        prompts = open_clip.tokenize([template.format(one) for one in classes for template in templates])
        texts = theirs.encode_text(prompts, normalize=True).view(2, 2, -1).mean(1)
        cosines = theirs.encode_image(images, normalize=True) @ torch.nn.functional.normalize(texts, dim=-1).T
        expected = (theirs.logit_scale.exp() * cosines).softmax(-1)
    weights = named_weights(name)
    ours = build_model(weights.network, num_classes=2, **weights.options).eval()
    load_weights(ours, load_named(name, weights.options), new_head=True)
    found = class_texts(
        name,
        network=weights.network,
        options=weights.options,
        names=classes,
        templates=templates,
        device=torch.device("cpu"),
    )
    assert isinstance(ours, ClipClassifier)
    ours.compare_with(found.embeddings, scale=found.scale)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).softmax(-1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_a_whole_clip_fills_the_tower(clip: Path, architecture: str, tmp_path: Path, wrapped: bool) -> None:
    whole = open_clip.create_model(f"local-dir:{clip}").state_dict()
    content = (
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in whole.items()}} if wrapped else whole
    )
    torch.save(content, tmp_path / "epoch_3.pt")
    ours = build_model(f"open_clip/{architecture}", num_classes=3)
    load_weights(ours, str(tmp_path / "epoch_3.pt"), new_head=True)
    assert torch.equal(ours.state_dict()["visual.proj"], whole["visual.proj"])
    texts = class_texts(
        str(tmp_path / "epoch_3.pt"),
        network=f"open_clip/{architecture}",
        options={},
        names=["circle"],
        templates=["{}"],
        device=torch.device("cpu"),
    )
    assert texts.scale == pytest.approx(float(whole["logit_scale"].exp()))


def test_another_size_of_pictures(clip: Path) -> None:
    name = f"open_clip/local-dir:{clip}"
    options = {**named_weights(name).options, "img_size": 32}
    network = build_model("open_clip/CLIP", num_classes=3, **options)
    load_weights(network, load_named(name, options), new_head=True)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_tags_say_what_they_are_without_being_fetched() -> None:
    weights = named_weights("open_clip/ViT-B-32.openai")
    assert weights.network == "open_clip/ViT-B-32" and weights.options == {"quick_gelu": True}
    assert weights.transforms["size"] == 224 and weights.transforms["interpolation"] == "bicubic"
    assert named_weights("open_clip/ViT-B-16-SigLIP.webli").transforms["test_resize"] == "whole"
    assert implied_weights("open_clip/ViT-B-32", pretrained=False) is None


def test_layers_and_what_does_not_decay(clip: Path) -> None:
    network = build_model("open_clip/CLIP", num_classes=3, **named_weights(f"open_clip/local-dir:{clip}").options)
    groups: Any = parameter_groups(Supervised(layer_decay=0.5, decay_norms=False), network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    scales = {names[id(one)]: group["lr_scale"] for group in groups for one in group["params"]}
    assert scales["head.weight"] == scales["visual.proj"] == 1
    assert scales["visual.transformer.resblocks.0.mlp.c_fc.weight"] == 0.5 and scales["visual.conv1.weight"] == 0.25
    decays = {names[id(one)]: group["weight_decay"] for group in groups for one in group["params"]}
    assert decays["visual.positional_embedding"] == 0 < decays["visual.conv1.weight"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip/ViT-B-32.laion2b", "did you mean 'open_clip/ViT-B-32.laion2b_e16'?"),
        ("open_clip/ViT-B-33.openai", "unknown weights 'open_clip/ViT-B-33.openai': did you mean 'ViT-B-32'?"),
        ("open_clip/local-dir:/nowhere", "cannot read open_clip_config.json"),
        ("open_clip/hf-hub:laion/nothing", "laion/nothing/resolve/main/open_clip_config.json and open_clip_model"),
    ],
)
def test_names_that_stand_for_nothing(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _without_connection)
    with pytest.raises(UserError, match="open_clip") as caught:
        named_weights(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_cfg": {"vision_cfg": {}}}, "its open_clip_config.json describes no network"),
        ([], "its open_clip_config.json describes no network"),
        (
            {"model_cfg": {"embed_dim": 8, "vision_cfg": {}}, "preprocess_cfg": {"resize_mode": "longest"}},
            "sees padded pictures, which no network here does",
        ),
    ],
)
def test_folders_that_are_none(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        named_weights(f"open_clip/local-dir:{tmp_path}")


def test_what_to_fetch_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", _without_connection)
    place = "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip_model.safetensors"
    with pytest.raises(
        UserError, match=f"could not fetch open_clip/ViT-B-32.laion2b_s34b_b79k .* fetch {place} elsewhere"
    ):
        load_named("open_clip/ViT-B-32.laion2b_s34b_b79k", {})


def test_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for look in (
        lambda: build_model("open_clip/ViT-B-32", num_classes=3),
        lambda: named_weights("open_clip/RN50.openai"),
    ):
        with pytest.raises(UserError, match=r"pip install 'bsssl\[clip\]'"):
            look()
    with pytest.raises(UserError, match="unknown model 'ViT-B-32'"):
        build_model("ViT-B-32", num_classes=3)


def _without_connection(*_: Any, **__: Any) -> None:
    raise OSError("Temporary failure in name resolution")
