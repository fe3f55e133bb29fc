import pytest
import torch
from torch import nn

from bsssl.data import Failure
from bsssl.engine.features import extract
from bsssl.engine.train import Failures
from bsssl.errors import UserError
from bsssl.models import build_model, classifier
from bsssl.runtime.device import Compute

CPU = Compute(torch.device("cpu"))


def batch(inputs, index, failures=()):
    return {"input": inputs, "index": torch.tensor(index), "failures": list(failures)}


def features_of(model, batches, *, rows, max_rate=0.0):
    tolerance = Failures(rows=rows, max_rate=max_rate)
    layer = classifier(model)[1]
    return extract(model, layer, batches, rows=rows, normalize=lambda x: x / 255, compute=CPU, failures=tolerance)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("small_resnet", (3, 16, 16)),
        ("wide_resnet", (3, 16, 16)),
        ("resnet18", (3, 32, 32)),
        ("timm/dla46_c", (3, 64, 64)),  # ends in a convolution
        ("timm/convnext_atto", (3, 32, 32)),
        ("timm/vit_tiny_patch16_224", (3, 224, 224)),
        ("small_r2plus1d", (3, 4, 16, 16)),
        ("torchvision/s3d", (3, 24, 224, 224)),  # classifies every place, then takes the mean
        ("pytorchvideo/x3d_xs", (3, 4, 160, 160)),
    ],
)
def test_the_classifier_of_the_features_gives_the_logits(name, shape):
    torch.manual_seed(0)
    model = build_model(name, num_classes=5).eval()
    inputs = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    features, rows = features_of(model, [batch(inputs, [1, 0])], rows=2)
    assert rows.tolist() == [0, 1] and features.dtype == torch.float32
    layer = classifier(model)[1]
    logits = features @ layer.weight.detach().flatten(1).T + layer.bias.detach()
    with torch.no_grad():
        expected = model(inputs.flip(0) / 255)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 3))


def test_views_are_averaged_and_the_unreadable_left_out(model):
    inputs = torch.randint(0, 256, (3, 3, 2, 2), dtype=torch.uint8)
    batches = [batch(inputs, [2, 0, 2], [Failure(1, "broken")]), {"failures": [Failure(3, "broken too")]}]
    features, rows = features_of(model, batches, rows=4, max_rate=0.5)
    expected = model[1](inputs.flatten(1) / 255).detach()
    assert rows.tolist() == [0, 2]
    torch.testing.assert_close(features, torch.stack([expected[1], (expected[0] + expected[2]) / 2]))


def test_too_many_unreadable_items(model):
    with pytest.raises(UserError, match=r"2 of 4 training items cannot be read, more than the tolerated 25.0%"):
        features_of(model, [{"failures": [Failure(0, "a"), Failure(1, "b")]}], rows=4, max_rate=0.25)
