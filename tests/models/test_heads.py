import pytest
from torch import nn

from bsssl.errors import UserError
from bsssl.models import build_model, classifier


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("small_resnet", "fc"),
        ("wide_resnet", "fc"),
        ("timm/resnet10t", "fc"),
        ("timm/convnext_atto", "head.fc"),
        ("timm/mobilenetv3_small_050", "classifier"),
    ],
)
def test_the_classifier_is_found(name: str, head: str) -> None:
    found, layer = classifier(build_model(name, num_classes=6))
    assert found == head
    assert isinstance(layer, nn.Linear)
    assert layer.out_features == 6


def test_a_convolution_may_be_the_classifier() -> None:
    _, layer = classifier(build_model("timm/dla46_c", num_classes=6))
    assert isinstance(layer, nn.Conv2d)
    assert layer.out_channels == 6


@pytest.mark.parametrize("name", ["timm/deit_tiny_distilled_patch16_224", None])
def test_networks_without_a_single_classifier_are_refused(name: str | None) -> None:
    model = build_model(name, num_classes=2) if name else nn.Conv2d(3, 2, 1)
    with pytest.raises(UserError, match="no single"):
        classifier(model)
