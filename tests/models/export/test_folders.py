import json
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision

from bsssl.errors import UserError
from bsssl.models import build_model, named_weights
from bsssl.registry import EXPORTERS
from tests.models.export.networks import CLASSES, CLIPS, COLOURS, FRAMES, PICTURES, built, probabilities

SMALL = {"size": 32, "resize": 37, "interpolation": "bicubic"}


def export(name, model, path, **options):
    return EXPORTERS.build(name, options, model=model, path=str(path))


def check(model, network):
    batch = torch.randn(2, *model.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(batch).softmax(1), probabilities(model, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["timm/test_resnet.r160_in1k", "resnet18", "torchvision/resnet18"])
def test_timm_reads_its_networks_and_those_of_the_same_weights(name, tmp_path):
    options = {"zero_init_residual": True} if name == "resnet18" else {}
    model = built(name, options, **SMALL)
    assert export("timm", model, tmp_path / "folder") < 1e-5
    check(model, timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True))
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["label_names"] == CLASSES and config["model_args"] == {}
    seen = timm.data.resolve_data_config(config["pretrained_cfg"])
    assert seen["input_size"] == (3, 32, 32) and seen["interpolation"] == "bicubic" and seen["mean"] == COLOURS["mean"]


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "torchvision/r3d_18"])
def test_torchvision_reads_its_networks_and_those_of_the_same_weights(name, tmp_path):
    model = built(name, {}, **SMALL, frames=2 if name.endswith("r3d_18") else None)
    assert export("torchvision", model, tmp_path / "net.pth") < 1e-5
    described = json.loads((tmp_path / "net.pth.json").read_text())
    network = torchvision.models.get_model(described["architecture"], num_classes=3, **described["model_args"])
    network.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    check(model, network)
    assert described["label_names"] == CLASSES and described["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert described.get("clips") == (None if model.preprocessing.frames is None else {"frames": 2, "stride": 2})


@pytest.mark.parametrize(
    ("exporter", "network"),
    [
        ("timm", PICTURES),
        ("timm", CLIPS),
        ("timm", ("torchvision/mobilenet_v2", {})),
        ("torchvision", PICTURES),
        ("torchvision", ("r2plus1d_18", {})),  # torchvision's has other planes
        ("torchvision", ("timm/test_resnet", {})),
    ],
)
def test_what_a_library_cannot_take_is_one_line(exporter, network, tmp_path):
    model = built(*network)
    expected = f"model '{network[0]}' is none of {exporter}'s; hub-folder, onnx, torch-export take any network"
    with pytest.raises(UserError) as caught:
        export(exporter, model, tmp_path / "there")
    assert str(caught.value) == expected and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", [PICTURES, CLIPS, FRAMES, ("timm/test_resnet", {})])
def test_a_folder_for_the_hub_gives_the_network_back(network, tmp_path):
    card = "# A network\n"
    model = built(*network, size=32, frames=4 if network in (CLIPS, FRAMES) else None, card=card)
    assert export("hub-folder", model, tmp_path / "folder") < 1e-5
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert (tmp_path / "folder" / "README.md").read_text() == card
    named = named_weights(f"local-dir:{tmp_path / 'folder'}")
    assert named.network == network[0] and list(named.classes) == CLASSES
    again = build_model(named.network, num_classes=3, **named.options)
    again.load_state_dict(named.load(named.options))
    check(model, again)


@pytest.mark.parametrize("exporter", ["timm", "torchvision", "hub-folder"])
@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18", "resnet18"])
def test_a_network_that_sees_frames_is_one_for_images_elsewhere(exporter, name, tmp_path):
    model = built(name, {"per_frame": True}, **SMALL, frames=3)
    assert export(exporter, model, tmp_path / "there") < 1e-5
    file = tmp_path / ("there.json" if exporter == "torchvision" else "there/config.json")
    described = json.loads(file.read_text())
    assert described["model_args"] == {} and described["per_frame"] and described["clips"]["frames"] == 3
    if exporter == "torchvision":
        network = torchvision.models.get_model(described["architecture"], num_classes=3)
        network.load_state_dict(torch.load(tmp_path / "there", weights_only=True))
    else:
        named = named_weights(f"local-dir:{tmp_path / 'there'}")
        assert named.options == {"per_frame": True}
        network = build_model(named.network, num_classes=3)
        network.load_state_dict(named.load({}))
    if exporter == "timm" or (exporter, name) == ("hub-folder", "timm/resnet18"):
        network = timm.create_model(f"local-dir:{tmp_path / 'there'}", pretrained=True)
    batch = torch.randn(2, *model.input_shape)
    with torch.no_grad():
        frames = torch.stack([network.eval()(frame).softmax(1) for frame in batch.unbind(2)])
    torch.testing.assert_close(frames.mean(0), probabilities(model, batch), atol=1e-5, rtol=0)


def test_a_folder_that_gives_another_network_back_is_refused(tmp_path):
    model = built(*PICTURES)
    model.options["strides"] = [1, 1]
    with pytest.raises(UserError, match=r"cannot be exported by hub-folder \(its probabilities differ from the networ"):
        export("hub-folder", model, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


class Hub:
    """The library's edge: what would go over the network is kept."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, **options):
        self.calls.append((repo_id, options))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        self.calls.append((repo_id, commit_message))


def test_a_folder_is_uploaded_to_the_hub(tmp_path, monkeypatch):
    hub, model = Hub(), built(*PICTURES)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert export("hub", model, "somebody/shapes", private=True) < 1e-5
    options = {"private": True, "exist_ok": True}
    assert hub.calls == [("somebody/shapes", options), ("somebody/shapes", "Upload by bsssl")]
    export("hub-folder", model, tmp_path)
    assert hub.files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_what_the_hub_refuses_is_one_line(monkeypatch):
    hub, model = Hub(), built(*PICTURES)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    for path in ("shapes", "a/b/c", "/b", "a/", "../b", "a/b c"):
        with pytest.raises(UserError, match=r"is no repository of the Hugging Face Hub; write --path USER/REPOSITORY"):
            export("hub", model, path)

    def refuse(*arguments, **options):
        raise huggingface_hub.errors.LocalTokenNotFoundError("no token\nmore")

    hub.create_repo = refuse
    with pytest.raises(UserError, match=r"^could not upload to a/b \(no token\); connect to the [^\n]+$"):
        export("hub", model, "a/b")
