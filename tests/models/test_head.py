import pytest
import torch
from torch import nn

from bsssl.models import build_model, classifier, replace_classifier
from bsssl.registry import UserError


@pytest.mark.parametrize(
    ("name", "head", "size"),
    [
        ("resnet18", "fc", 32),
        ("small_resnet", "fc", 8),
        ("wide_resnet", "fc", 8),
        ("timm/resnet10t", "fc", 32),
        ("timm/convnext_atto", "head.fc", 32),
        ("timm/mobilenetv3_small_050", "classifier", 32),
    ],
)
def test_classifier_is_found_and_replaced(name: str, head: str, size: int) -> None:
    model = build_model(name, num_classes=6).eval()
    found, layer = classifier(model)
    assert found == head
    assert isinstance(layer, nn.Linear)
    assert layer.out_features == 6
    replace_classifier(model, 3)
    assert classifier(model)[0] == head
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 3)


def test_a_convolution_may_be_the_classifier() -> None:
    model = build_model("timm/dla46_c", num_classes=6).eval()
    replace_classifier(model, 3)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_replacement_keeps_the_type_and_device() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False)).to(torch.float64)
    replace_classifier(model, 5)
    name, layer = classifier(model)
    assert (name, layer.weight.shape, layer.weight.dtype, layer.bias) == ("1", (5, 4), torch.float64, None)


@pytest.mark.parametrize("name", ["timm/deit_tiny_distilled_patch16_224", None])
def test_networks_without_a_single_classifier_are_refused(name: str | None) -> None:
    model = build_model(name, num_classes=2) if name else nn.Conv2d(3, 2, 1)
    with pytest.raises(UserError, match="no single linear classifier"):
        classifier(model)
