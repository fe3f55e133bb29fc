"""Exports of the networks for videos that are more than convolutions one after the other."""

import json

import onnxruntime
import pytest
import torch

from bsssl.registry import EXPORTERS
from tests.models.export.networks import built, probabilities

TINY = {"image_size": 32, "num_frames": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
NETWORKS = {
    "SlowFast": ("pytorchvideo/slowfast_r50", {"stem_dim_outs": [16, 2]}),
    "VideoMAE": ("transformers/VideoMAEForVideoClassification", {**TINY, "patch_size": 8}),
    "TimeSformer": ("transformers/TimesformerForVideoClassification", {**TINY, "patch_size": 8}),
    "ViViT": ("transformers/VivitForVideoClassification", {**TINY, "tubelet_size": [2, 8, 8]}),
}


@pytest.mark.parametrize(
    ("network", "exporter"),
    [
        *((network, "hub-folder") for network in NETWORKS),
        *((network, "torch-export") for network in ("SlowFast", "TimeSformer", "ViViT")),
        ("VideoMAE", "onnx"),
    ],
)
def test_an_export_gives_what_the_network_gives(network, exporter, tmp_path):
    model = built(*NETWORKS[network], size=32, frames=8)
    assert EXPORTERS.build(exporter, {}, model=model, path=str(tmp_path / "there")) < 1e-5
    example = next(iter(model.examples))
    expected, pixels = probabilities(model, example.input[None]), example.pixels[None]
    if exporter == "hub-folder":
        config = json.loads((tmp_path / "there" / "config.json").read_text())
        assert config["clips"] == {"frames": 8, "stride": 2}
    elif exporter == "torch-export":
        program = torch.export.load(tmp_path / "there").module()
        torch.testing.assert_close(program(pixels), expected, atol=1e-5, rtol=0)
    else:
        session = onnxruntime.InferenceSession(tmp_path / "there", providers=["CPUExecutionProvider"])
        (outcome,) = session.run(["probabilities"], {"pixels": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(outcome), expected, atol=1e-5, rtol=0)
