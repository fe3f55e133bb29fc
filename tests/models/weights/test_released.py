import logging
from typing import Any

import pytest
import timm
import torch

from bsssl.errors import UserError
from bsssl.models import RELEASED, build_model, load_released
from bsssl.registry import MODELS


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm as if connected, with random weights as the released ones."""
    create = timm.create_model

    def connected(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", connected)


def test_the_names_are_those_timm_hosts() -> None:
    hosted = {name for name in timm.list_pretrained() if ".fb_ssl_yfcc100m" in name or ".fb_swsl_ig1b" in name}
    assert set(RELEASED) == hosted
    assert {name.partition(".")[0] for name in RELEASED} <= set(MODELS.names())
    for name in RELEASED:
        assert timm.models.get_pretrained_cfg(name).license == "cc-by-nc-4.0"


@pytest.mark.usefixtures("hosted")
def test_released_weights_fill_our_network_and_name_their_licence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="bsssl")
    model = build_model("resnet18", num_classes=1000)
    before = model.state_dict()["conv1.weight"].clone()
    report = load_released(model, "resnet18.fb_ssl_yfcc100m_ft_in1k")
    assert report.missing == report.unexpected == ()
    assert not torch.equal(before, model.state_dict()["conv1.weight"])
    assert "non-commercial use only" in caplog.text


@pytest.mark.usefixtures("hosted")
def test_other_classes_need_a_new_head() -> None:
    model = build_model("resnet18", num_classes=10)
    with pytest.raises(UserError, match=r"^resnet18\.fb_swsl_ig1b_ft_in1k has 1000 classes and the network 10"):
        load_released(model, "resnet18.fb_swsl_ig1b_ft_in1k")
    report = load_released(model, "resnet18.fb_swsl_ig1b_ft_in1k", new_head=True)
    assert report.unexpected == ("fc.weight", "fc.bias")


def test_the_wrongly_saved_ones_are_announced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="bsssl")
    monkeypatch.setattr(
        "bsssl.models.weights.released._download", lambda name: build_model("resnet18", num_classes=2).state_dict()
    )
    load_released(build_model("resnet18", num_classes=2), "resnext101_32x16d.fb_swsl_ig1b_ft_in1k")
    assert "saved wrongly" in caplog.text


def test_without_internet_the_remedy_is_a_local_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> Any:
        raise OSError("Temporary failure in name resolution\nmore")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"could not download .*name resolution.* give its path as init_from") as caught:
        load_released(build_model("resnet18", num_classes=2), "resnet18.fb_ssl_yfcc100m_ft_in1k")
    assert "\n" not in str(caught.value)


def test_unknown_names_are_answered_with_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"did you mean 'resnet50\.fb_ssl_yfcc100m_ft_in1k'"):
        load_released(build_model("resnet18", num_classes=2), "resnet50.fb_ssl_yfcc100m")
