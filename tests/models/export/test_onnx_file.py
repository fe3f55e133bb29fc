import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from bsssl.errors import UserError
from bsssl.registry import EXPORTERS
from tests.models.export.networks import CLASSES, CLIPS, FRAMES, PICTURES, built, probabilities, trained
from tests.models.export.test_program import Deciding, Random


def export(model, path, **options):
    return EXPORTERS.build("onnx", options, model=model, path=str(path))


@pytest.mark.parametrize(
    ("network", "layout", "seen"),
    [
        (PICTURES, "nhwc", {"resize": 11, "interpolation": "bicubic"}),
        (CLIPS, "nchw", {"frames": 4}),
        (FRAMES, "nchw", {"frames": 4}),
    ],
)
def test_a_file_goes_from_pixels_to_probabilities(network, layout, seen, tmp_path, recwarn):
    model = built(*network, **seen)
    assert export(model, tmp_path / "net.onnx", layout=layout) < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"] and not recwarn.list
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for example in model.examples:
        for size in (1, 3):
            pixels = example.pixels.expand(size, *example.pixels.shape)
            pixels = pixels if layout == "nhwc" else pixels.movedim(-1, 1)
            (outcome,) = session.run(["probabilities"], {"pixels": pixels.numpy()})
            expected = probabilities(model, example.input[None]).expand(size, -1)
            np.testing.assert_allclose(outcome, expected, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == CLASSES
    preprocessing = json.loads(metadata["preprocessing"])
    assert preprocessing["layout"] == layout and preprocessing["frames"] == seen.get("frames")


def test_a_plain_file_goes_from_floats_to_logits(tmp_path):
    model = built(*PICTURES)
    assert export(model, tmp_path / "net.onnx", plain=True) < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    batch = torch.randn(3, *model.input_shape)
    (logits,) = session.run(["logits"], {"input": batch.numpy()})
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), probabilities(model, batch), atol=1e-5)


@pytest.mark.parametrize("network", [Deciding(), Random()])
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(network, tmp_path):
    with pytest.raises(UserError, match=r"^model 'net' cannot be exported by onnx \(.+\); choose another [^\n]+$"):
        export(trained(network), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"ONNX needs the package onnxscript: pip install 'bsssl\[onnx\]'"):
        export(built(*PICTURES), tmp_path / "net.onnx")
