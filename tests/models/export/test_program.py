import json

import pytest
import torch
from torch import nn

from bsssl.errors import UserError
from bsssl.models import build_model
from bsssl.models.trained import TrainedNetwork
from bsssl.registry import EXPORTERS


def trained(network, *, shape=(3, 8, 8)):
    return TrainedNetwork(
        network=network,
        name="net",
        options={},
        classes=["ä", "b", "c"],
        input_shape=shape,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.25),
    )


def export(model, path):
    EXPORTERS.build("torch-export", {}, model=model, path=str(path))


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("small_resnet", {"width": 4, "blocks": [1, 1]}, (3, 8, 8)),
        ("small_r2plus1d", {"width": 4, "blocks": [1]}, (3, 4, 16, 16)),
    ],
)
def test_a_program_computes_what_the_network_does_for_any_batch(name, options, shape, tmp_path):
    network = build_model(name, num_classes=3, **options).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export(trained(network, shape=shape), tmp_path / "new" / "net.pt2")
    assert network.training and all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    extra = {"classes.json": "", "preprocessing.json": ""}
    program = torch.export.load(tmp_path / "new" / "net.pt2", extra_files=extra).module()
    network.eval()
    for size in (1, 5):
        batch = torch.randn(size, *shape)
        torch.testing.assert_close(program(batch), network(batch))
    assert json.loads(extra["classes.json"]) == ["ä", "b", "c"]
    expected = {"input_shape": list(shape), "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.25]}
    assert json.loads(extra["preprocessing.json"]) == expected


class Deciding(nn.Module):
    """A network whose computation depends on its input, which no program can express."""

    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class FixedBatch(nn.Module):
    """A network for batches of two."""

    def forward(self, images):
        return images.reshape(2, 3, -1).mean(2)


class Random(nn.Module):
    """A network that never says the same twice."""

    def forward(self, images):
        return torch.rand_like(images).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Deciding(), ""), (FixedBatch(), ""), (Random(), "the program's logits differ from the network's by ")],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(network, reason, tmp_path):
    with pytest.raises(
        UserError, match=rf"model 'net' cannot be exported by torch-export \({reason}.+choose"
    ) as caught:
        export(trained(network), tmp_path / "net.pt2")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
