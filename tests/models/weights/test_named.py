import json
import logging
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from bsssl.errors import UserError
from bsssl.models import RELEASED, build_model, implied_weights, load_named, load_weights, named_weights
from bsssl.models.weights.folder import describe
from bsssl.registry import MODELS


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the Hugging Face Hub on a machine without a connection; a repository is a folder of it."""

    def cached(repository: str, filename: str, **_: Any) -> str:
        path = tmp_path / repository / filename
        if not path.exists():
            logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
            raise OSError("Temporary failure in name resolution\nmore")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda repo_id, filename, **_: cached(repo_id, filename))
    monkeypatch.setattr("timm.models._hub._get_safe_alternatives", lambda filename: iter(["model.safetensors"]))
    return tmp_path


def host(hub: Path, name: str, repository: str, **options: Any) -> torch.nn.Module:
    """Put a network of timm with random weights where the Hub would have it."""
    model = timm.create_model(name, **options)
    (hub / repository).mkdir(parents=True)
    safetensors.torch.save_file(model.state_dict(), hub / repository / "model.safetensors")
    return model


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_the_released_names_are_those_timm_hosts() -> None:
    hosted = {name for name in timm.list_pretrained() if ".fb_ssl_yfcc100m" in name or ".fb_swsl_ig1b" in name}
    assert set(RELEASED) == hosted
    assert {name.partition(".")[0] for name in RELEASED} <= set(MODELS.names())
    assert {named_weights(name).licence for name in RELEASED} == {"cc-by-nc-4.0"}


def test_weights_of_timm_with_their_eyes_and_their_licence(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bsssl")
    name = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    theirs = host(hub, "vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    weights = named_weights(name)
    assert weights.transforms == {
        "size": 224,
        "test_resize": 248,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert weights.fixed_size and weights.num_classes == 1000
    ours = build_model(name, num_classes=1000)
    load_weights(ours, load_named(name, {}))
    assert torch.equal(ours.state_dict()["blocks.0.attn.qkv.weight"], theirs.state_dict()["blocks.0.attn.qkv.weight"])
    assert f"{name}: licence apache-2.0" in caplog.text


def test_released_weights_fill_our_network(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bsssl")
    name = "resnet18.fb_swsl_ig1b_ft_in1k"
    theirs = host(hub, "resnet18", f"timm/{name}")
    ours = build_model("resnet18", num_classes=10)
    with pytest.raises(UserError, match=rf"^{name} has 1000 classes and the network 10"):
        load_weights(ours, load_named(name, {}), origin=name)
    load_weights(ours, load_named(name, {}), origin=name, new_head=True)
    assert torch.equal(ours.state_dict()["conv1.weight"], theirs.state_dict()["conv1.weight"])
    assert "licence cc-by-nc-4.0" in caplog.text


def test_the_wrongly_saved_ones_are_announced(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError):
        load_named("resnext101_32x16d.fb_swsl_ig1b_ft_in1k", {})
    assert "saved wrongly" in caplog.text


def test_without_a_connection_the_file_is_named(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        UserError,
        match=r"could not fetch resnet18\.a1_in1k \(Temporary failure in name resolution\); connect to the internet, "
        r"or fetch https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors elsewhere and give "
        r"the file: teacher\.init_from=FILE or",
    ) as caught:
        load_named("timm/resnet18.a1_in1k", {})
    assert "\n" not in str(caught.value)
    assert "Retrying" not in caplog.text


def test_weights_of_torchvision(torch_home: Path) -> None:
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    name = "ResNet18_Weights.IMAGENET1K_V1"
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), torch_home / os.path.basename(weights.url))
    for network in ("resnet18", "torchvision/resnet18", "timm/resnet18"):
        ours = build_model(network, num_classes=1000)
        load_weights(ours, load_named(name, {}))
        assert torch.equal(ours.state_dict()["fc.weight"], theirs.state_dict()["fc.weight"])
    described = named_weights(f"torchvision/{name}")
    assert described.transforms["test_resize"] == 256 and described.transforms["interpolation"] == "bilinear"
    assert described.classes is not None and described.classes[0] == "tench"
    with pytest.raises(UserError, match=r"fetch https://.*resnet50-0676ba61.pth elsewhere and put it at .*checkpoints"):
        load_named("ResNet50_Weights.IMAGENET1K_V1", {})


def test_video_weights_say_their_clips(torch_home: Path) -> None:
    weights = named_weights("torchvision/R2Plus1D_18_Weights.KINETICS400_V1")
    assert weights.transforms["size"] == 112 and weights.transforms["test_resize"] == 128
    assert weights.clips == {"frames": 16, "stride": 2} and weights.num_classes == 400
    assert named_weights("pytorchvideo/slow_r50").clips == {"frames": 8, "stride": 8}
    two = named_weights("pytorchvideo/slowfast_16x8_r101_50_50")
    assert two.clips == {"frames": 64, "stride": 2} and two.transforms["mean"] == (0.45, 0.45, 0.45)
    theirs = build_model("pytorchvideo/x3d_xs", num_classes=400)
    torch.save({"model_state": theirs.state_dict()}, torch_home / "X3D_XS.pyth")
    ours = build_model("pytorchvideo/x3d_xs", num_classes=3)
    load_weights(ours, load_named("pytorchvideo/x3d_xs", {}), new_head=True)
    assert torch.equal(next(ours.parameters()), next(theirs.parameters()))


@pytest.mark.parametrize(
    ("network", "options", "resize", "interpolation"),
    [
        ("small_resnet", {"width": 8, "blocks": [1, 1]}, 64, "bilinear"),
        ("small_resnet", {"width": 8, "blocks": [1, 1]}, None, "bicubic"),
        ("timm/resnet10t", {}, 73, "bicubic"),
    ],
)
def test_a_folder_describes_itself(
    tmp_path: Path, network: str, options: dict[str, Any], resize: int | None, interpolation: str
) -> None:
    transforms = {"size": 64, "resize": resize, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    content = describe(network, options, classes=["a", "b"], transforms={**transforms, "interpolation": interpolation})
    (tmp_path / "config.json").write_text(json.dumps(content))
    theirs = build_model(network, num_classes=2, **options)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    name = f"local-dir:{tmp_path}"
    weights = named_weights(name)
    assert implied_weights(name, pretrained=False) == name
    assert (weights.network, weights.options, weights.classes) == (network, options, ("a", "b"))
    assert weights.transforms == {
        "size": 64,
        "test_resize": resize or "whole",
        "interpolation": interpolation,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }
    load_weights(build_model(network, num_classes=2, **options), load_named(name, options), classes=["a", "b"])
    if network.startswith("timm/"):
        timms = timm.create_model(name, pretrained=True)
        assert torch.equal(timms.state_dict()["fc.weight"], theirs.state_dict()["fc.weight"])
        data = timm.data.resolve_model_data_config(timms)
        assert list(data["input_size"]) == [3, 64, 64] and list(data["mean"]) == [0.1, 0.2, 0.3]


def test_a_repository_of_the_hub_is_such_a_folder(hub: Path) -> None:
    theirs = host(hub, "resnet10t", "me/mine", num_classes=3)
    config = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 96, 96]}}
    (hub / "me" / "mine" / "config.json").write_text(json.dumps(config))
    weights = named_weights("hf-hub:me/mine")
    assert weights.network == "timm/resnet10t" and weights.transforms["size"] == 96
    assert torch.equal(weights.load({})["fc.weight"], theirs.state_dict()["fc.weight"])
    with pytest.raises(UserError, match=r"fetch https://huggingface.co/me/other/resolve/main/config.json and model"):
        named_weights("hf-hub:me/other")


@pytest.mark.parametrize(
    ("name", "implied"),
    [
        ("timm/resnet18", "timm/resnet18.a1_in1k"),
        ("resnet18", "torchvision/ResNet18_Weights.IMAGENET1K_V1"),
        ("torchvision/r2plus1d_18", "torchvision/R2Plus1D_18_Weights.KINETICS400_V1"),
        ("pytorchvideo/slow_r50", "pytorchvideo/slow_r50"),
        ("timm/resnet18.a2_in1k", "timm/resnet18.a2_in1k"),
    ],
)
def test_what_pretrained_means(name: str, implied: str) -> None:
    assert implied_weights(name, pretrained=True) == implied


@pytest.mark.parametrize("name", ["small_resnet", "r2plus1d_18", "timm/nothing"])
def test_pretrained_networks_without_weights(name: str) -> None:
    with pytest.raises(UserError, match=f"there are no pre-trained weights of '{name}'"):
        implied_weights(name, pretrained=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50.fb_ssl_yfcc100m", "did you mean 'resnet50.fb_ssl_yfcc100m_ft_in1k'"),
        ("timm/resnet18.a9_in1k", "timm's weights of resnet18 are timm/resnet18.a1_in1k, timm/resnet18.a2_in1k"),
        ("timm/resnet1.a9_in1k", "did you mean 'resnet18'"),
        ("torchvision/ResNet18_Weights.V9", "valid: torchvision/ResNet18_Weights.IMAGENET1K_V1"),
        ("pytorchvideo/slow_r5", "did you mean 'slow_r50'"),
        ("local-dir:/nowhere", "there is no /nowhere/config.json"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        named_weights(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "names no architecture"),
        ('{"model_type": "vit"}', "names no architecture"),
        ('{"architecture": "resnet_x"}', "timm has no 'resnet_x'"),
        ('{"architecture": "resnet18", "input_size": [3, 64, 32]}', "takes pictures of 64x32"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        named_weights(f"local-dir:{tmp_path}")
