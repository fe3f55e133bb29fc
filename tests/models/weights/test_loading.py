import argparse
import functools
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from bsssl.errors import UserError
from bsssl.models import build_model, has_classes, load_weights, read_checkpoint, save_model

CLASSES = [f"class {number}" for number in range(5)]


def randomised(model: nn.Module) -> nn.Module:
    """``model`` with every tensor random, running statistics too, ready to be compared by its outputs."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) * 0.1 + (0.5 if "running_var" in name else 0))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _original(model: nn.Module) -> Any:
    """As in the original release: saved before batch normalisation counted its batches."""
    return {name: value for name, value in model.state_dict().items() if "num_batches" not in name}


def _timm_training(model: nn.Module) -> Any:
    other = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    arguments = argparse.Namespace(lr=0.1, model="resnet18")
    return {
        "epoch": 3,
        "arch": "resnet18",
        "args": arguments,
        "state_dict": other,
        "state_dict_ema": model.state_dict(),
    }


def _distributed(model: nn.Module) -> Any:
    return {"model": {f"module._orig_mod.{name}": value for name, value in model.state_dict().items()}, "step": 7}


def _other_head(model: nn.Module) -> Any:
    return {name.replace("fc.", "last_linear."): value for name, value in model.state_dict().items()}


@functools.cache
def saved_by(library: str) -> nn.Module:
    """A ResNet-18 of another library with random tensors, made once."""
    create = {"torchvision": torchvision_models.resnet18, "timm": functools.partial(timm.create_model, "resnet18")}
    return randomised(create[library](num_classes=5))


@functools.cache
def target(name: str) -> nn.Module:
    """A network to fill, made once."""
    return build_model(name, num_classes=5).eval()


def _averaged(model: nn.Module) -> Any:
    averaged = torch.optim.swa_utils.AveragedModel(model)
    return averaged.state_dict()


def _model_ema(model: nn.Module) -> Any:
    other = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    return {"model": other, "model_ema": model.state_dict(), "optimizer": {"state": {0: {"step": torch.zeros(())}}}}


def _lightning(model: nn.Module) -> Any:
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    return {"state_dict": {**state, "criterion.weight": torch.ones(5)}, "epoch": 3}


def _openmmlab(model: nn.Module) -> Any:
    state = {}
    for name, value in model.state_dict().items():
        name = re.sub(r"\bconv(\d)\.", r"conv\1.conv.", name)
        name = re.sub(r"\bbn(\d)\.", r"conv\1.bn.", name)
        name = name.replace("downsample.0.", "downsample.conv.").replace("downsample.1.", "downsample.bn.")
        state[f"cls_head.fc_cls.{name[3:]}" if name.startswith("fc.") else f"backbone.{name}"] = value
    return {"meta": {"epoch": 3}, "state_dict": state}


def _vissl(model: nn.Module, head: str = "clf.0.") -> Any:
    """As VISSL's training leaves a network, its classifier apart from the trunk and the optimiser beside both."""
    state = model.state_dict()
    trunk = {f"_feature_blocks.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    heads = {f"0.{head}{name[3:]}": value for name, value in state.items() if name.startswith("fc.")}
    base = {"model": {"trunk": trunk, "heads": heads}, "meta": {}}
    optimizer = {"optim": {"state": {0: {"momentum_buffer": torch.zeros(64, 3, 7, 7)}}}, "lr": 0.1}
    classy = {"base_model": base, "optimizer": optimizer, "loss": {"center": torch.zeros(1, 5)}, "train_phase_idx": 9}
    return {"phase_idx": 9, "iteration": 100, "type": "consolidated", "classy_state_dict": classy}


LAYOUTS: dict[str, tuple[str, Callable[[nn.Module], Any]]] = {
    "torchvision": ("torchvision", nn.Module.state_dict),
    "original": ("torchvision", _original),
    "original, wrapped": ("torchvision", lambda model: {"state_dict": _original(model)}),
    "distributed": ("torchvision", _distributed),
    "timm": ("timm", nn.Module.state_dict),
    "timm training": ("timm", _timm_training),
    "other head": ("torchvision", _other_head),
    "AveragedModel": ("torchvision", _averaged),
    "an average beside the last": ("torchvision", _model_ema),
    "Lightning": ("torchvision", _lightning),
    "OpenMMLab": ("torchvision", _openmmlab),
    "VISSL": ("torchvision", _vissl),
}


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_outputs_of_the_saved_network(
    layout: str, name: str, images: Tensor, tmp_path: Path
) -> None:
    library, pack = LAYOUTS[layout]
    saved, model = saved_by(library), target(name)
    path = str(tmp_path / "weights.pth")
    torch.save(pack(saved), path)
    for tensor in model.state_dict().values():
        tensor.zero_()
    report = load_weights(model, path)
    assert saved(images).std() > 0
    assert torch.equal(model(images), saved(images))
    assert report.unexpected == ()
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert set(report.matched) | set(report.missing) == set(model.state_dict())


def test_our_own_files_carry_their_network_and_classes(images: Tensor, tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    saved = randomised(build_model("small_resnet", num_classes=5, width=8)).to(memory_format=torch.channels_last)
    save_model(path, saved.state_dict(), name="small_resnet", classes=CLASSES, options={"width": 8})
    metadata = read_checkpoint(path).metadata
    assert metadata == {"model": "small_resnet", "classes": CLASSES, "options": {"width": 8}}
    model = build_model(metadata["model"], num_classes=5, **metadata["options"]).eval()
    assert load_weights(model, path, classes=CLASSES).metadata == metadata
    torch.testing.assert_close(model(images), saved(images))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_remote_files_and_foreign_safetensors(name: str, images: Tensor) -> None:
    saved = randomised(build_model("wide_resnet", num_classes=5, depth=10))
    url = f"memory://test-weights/{name}"
    with fsspec.open(url, "wb") as file:
        if name.endswith("pth"):
            torch.save(saved.state_dict(), file)
        else:
            file.write(safetensors.torch.save(saved.state_dict(), {"format": "pt"}))
    model = build_model("wide_resnet", num_classes=5, depth=10).eval()
    assert load_weights(model, url).metadata == {}
    assert torch.equal(model(images), saved(images))


def test_half_precision_files_fill_a_full_precision_network() -> None:
    saved = randomised(build_model("small_resnet", num_classes=5))
    model = build_model("small_resnet", num_classes=5)
    load_weights(model, {name: value.half() for name, value in saved.state_dict().items()})
    weight = model.state_dict()["conv1.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, saved.state_dict()["conv1.weight"].half().float())


@pytest.mark.parametrize("count", [5, 7])
def test_a_new_head_keeps_its_initialisation(count: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bsssl")
    saved = randomised(build_model("small_resnet", num_classes=5))
    model = build_model("small_resnet", num_classes=count)
    fresh = model.state_dict()["fc.weight"].clone()
    report = load_weights(model, saved.state_dict(), new_head=True)
    assert report.missing == report.unexpected == ("fc.weight", "fc.bias")
    assert torch.equal(model.state_dict()["fc.weight"], fresh)
    assert torch.equal(model.state_dict()["stages.0.0.conv1.weight"], saved.state_dict()["stages.0.0.conv1.weight"])
    assert "the classifier 'fc' starts afresh" in caplog.text


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (CLASSES[:3], "has 5 classes and the data 3; .*new_head"),
        ([*CLASSES[:4], "other"], "has 'class 4' as class 4 and the data 'other'; .*new_head"),
        (CLASSES[::-1], "has 'class 0' as class 0 and the data 'class 4'"),
    ],
)
def test_other_classes_are_refused(classes: list[str], message: str, tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    saved = build_model("small_resnet", num_classes=5)
    save_model(path, saved.state_dict(), name="small_resnet", classes=CLASSES)
    model = build_model("small_resnet", num_classes=len(classes))
    with pytest.raises(UserError, match=message):
        load_weights(model, path, classes=classes)
    load_weights(model, path, classes=classes, new_head=True)


def test_another_number_of_classes_is_refused_without_names() -> None:
    saved = build_model("small_resnet", num_classes=5)
    with pytest.raises(UserError, match=r"the given state dict has 5 classes and the network 3; .*new_head"):
        load_weights(build_model("small_resnet", num_classes=3), saved.state_dict())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "small_resnet",
            {"width": 8},
            "22 of its 128 .* 128, .* 'conv1.weight' is 16x3x3x3 there and 8x3x3x3 here",
        ),
        (
            "small_resnet",
            {"blocks": [3, 3, 4]},
            "128 of its 128 .* 140, .*'stages.2.3.conv1.weight' is not in it",
        ),
        ("small_resnet", {"blocks": [3, 3, 2]}, "'stages.2.2.bn1.bias' has no place in the network"),
        ("wide_resnet", {}, "of another architecture: .* configure model 'small_resnet' with its options"),
    ],
)
@pytest.mark.parametrize("new_head", [False, True])
def test_another_architecture_is_one_line_and_changes_nothing(
    name: str, options: dict[str, Any], message: str, new_head: bool, tmp_path: Path
) -> None:
    path = str(tmp_path / "model.safetensors")
    saved = build_model("small_resnet", num_classes=5)
    save_model(path, saved.state_dict(), name="small_resnet", classes=CLASSES)
    model = build_model(name, num_classes=5, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match="another architecture") as caught:
        load_weights(model, path, new_head=new_head)
    if not new_head:
        caught.match(message)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("theirs", "same"), [(["a", "b", "c"], True), (["a", "c", "b"], False), (["a", "b"], False)])
def test_a_file_with_names_has_these_classes_or_others(tmp_path: Path, theirs: list[str], same: bool) -> None:
    saved = build_model("small_resnet", num_classes=len(theirs), width=4, blocks=[1])
    save_model(str(tmp_path / "a.safetensors"), saved.state_dict(), name="small_resnet", classes=theirs)
    model = build_model("small_resnet", num_classes=3, width=4, blocks=[1])
    assert has_classes(model, str(tmp_path / "a.safetensors"), ["a", "b", "c"]) is same


@pytest.mark.parametrize(("count", "same"), [(3, True), (1000, False)])
def test_a_file_without_names_is_judged_by_its_number_of_classes(tmp_path: Path, count: int, same: bool) -> None:
    saved = build_model("small_resnet", num_classes=count, width=4, blocks=[1])
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in saved.state_dict().items()}}, tmp_path / "a.pth"
    )
    model = build_model("small_resnet", num_classes=3, width=4, blocks=[1])
    assert has_classes(model, str(tmp_path / "a.pth"), ["a", "b", "c"]) is same


def test_a_backbone_without_a_classifier_wants_a_new_one(tmp_path: Path) -> None:
    saved = build_model("small_resnet", num_classes=3, width=4, blocks=[1])
    state = {f"backbone.{name}": value for name, value in saved.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": {**state, "projector.0.weight": torch.ones(2)}}, tmp_path / "a.pth")
    model = build_model("small_resnet", num_classes=3, width=4, blocks=[1])
    assert not has_classes(model, str(tmp_path / "a.pth"), ["a", "b", "c"])
    load_weights(model, str(tmp_path / "a.pth"), new_head=True)
    assert torch.equal(model.state_dict()["conv1.weight"], saved.state_dict()["conv1.weight"])


def test_the_trunk_of_self_supervised_training_wants_a_new_classifier(tmp_path: Path) -> None:
    """VISSL's projection and prototypes are no classifier."""
    saved = build_model("resnet18", num_classes=3)
    content = _vissl(saved)
    weights = content["classy_state_dict"]["base_model"]["model"]
    weights["heads"] = {"0.projection_head.0.weight": torch.ones(8, 512), "0.prototypes0.weight": torch.ones(3, 8)}
    torch.save(content, tmp_path / "a.torch")
    torch.save(weights["trunk"], tmp_path / "trunk.torch")
    for name in ("a.torch", "trunk.torch"):
        model = build_model("resnet18", num_classes=3)
        assert not has_classes(model, str(tmp_path / name), ["a", "b", "c"])
        load_weights(model, str(tmp_path / name), new_head=True)
        assert torch.equal(model.state_dict()["layer4.1.conv2.weight"], saved.state_dict()["layer4.1.conv2.weight"])


def moco(model: nn.Module, key: nn.Module) -> dict[str, Any]:
    state = {f"module.encoder_q.{name}": value for name, value in model.state_dict().items()}
    state |= {f"module.encoder_k.{name}": value for name, value in key.state_dict().items()}
    return {"arch": "resnet50", "state_dict": {**state, "module.queue": torch.ones(2, 3)}}


def test_which_of_several_sets_of_weights_is_said_and_can_be_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, model = (build_model("small_resnet", num_classes=3, width=4, blocks=[1]) for _ in range(3))
    path = str(tmp_path / "moco.pth")
    torch.save(moco(first, second), path)
    load_weights(model, path)
    assert torch.equal(model.state_dict()["conv1.weight"], first.state_dict()["conv1.weight"])
    assert "took 'state_dict.module.encoder_q'; 'state_dict.module.encoder_k' would do too" in caplog.text
    load_weights(model, f"{path}#encoder_k")
    assert torch.equal(model.state_dict()["conv1.weight"], second.state_dict()["conv1.weight"])
    with pytest.raises(UserError, match=r"moco.pth has no weights under 'encoder'"):
        load_weights(model, f"{path}#encoder")


def test_a_folder_stands_for_its_weights(tmp_path: Path) -> None:
    saved, model = (build_model("small_resnet", num_classes=3, width=4, blocks=[1]) for _ in range(2))
    save_model(str(tmp_path / "model.safetensors"), saved.state_dict(), name="small_resnet", classes=["a", "b", "c"])
    load_weights(model, str(tmp_path), classes=["a", "b", "c"])
    assert torch.equal(model.state_dict()["conv1.weight"], saved.state_dict()["conv1.weight"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no model.safetensors"):
        load_weights(model, str(tmp_path / "empty"))


def test_the_description_in_a_folder_says_which_classes_its_weights_are_of(tmp_path: Path) -> None:
    """Weights of another tool have no names in their header; the order of the classes is in ``config.json``."""
    model = build_model("small_resnet", num_classes=3, width=4, blocks=[1])
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    safetensors.torch.save_file(model.state_dict(), file)
    assert has_classes(model, str(file), ["a", "b", "c"])
    config.write_text(json.dumps({"architecture": "small_resnet", "library_name": "bsssl", "label_names": list("bca")}))
    for path in (file, tmp_path):
        assert has_classes(model, str(path), ["b", "c", "a"]) and not has_classes(model, str(path), ["a", "b", "c"])
    config.write_text('{"model_type": "of something else"}')
    assert has_classes(model, str(file), ["a", "b", "c"])


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    model = build_model("small_resnet", num_classes=3, width=4, blocks=[1])
    state = {name: value.to(torch.int8) for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "int8.safetensors")
    with pytest.raises(UserError, match=r"int8.safetensors: 'bn1.bias' holds whole numbers \(int8\)"):
        load_weights(model, str(tmp_path / "int8.safetensors"))


@pytest.mark.parametrize("order", [map(str, range(12)), sorted(map(str, range(12)))])
def test_a_file_without_names_of_classes_says_in_which_order_it_is_taken(tmp_path, caplog, order):
    classes = list(order)
    model = build_model("small_resnet", num_classes=12)
    path = str(tmp_path / "bare.pt")
    torch.save(randomised(model).state_dict(), path)
    load_weights(model, path, classes=classes)
    assert f"taken for the classes in the order {', '.join(classes[:4])}, ..., {classes[-1]}" in caplog.text
    caplog.clear()
    load_weights(model, path, classes=[f"class {name}" for name in classes])
    load_weights(model, path, classes=classes, new_head=True)
    assert "in the order" not in caplog.text
