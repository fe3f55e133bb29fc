import json

import pytest
import torch
from torch import nn

from bsssl.errors import UserError
from bsssl.models.export.program import Form
from bsssl.registry import EXPORTERS
from tests.models.export.networks import CLASSES, CLIPS, COLOURS, FRAMES, PICTURES, built, probabilities, trained


def export(model, path, **options):
    return EXPORTERS.build("torch-export", options, model=model, path=str(path))


@pytest.mark.parametrize(("network", "layout"), [(PICTURES, "nchw"), (CLIPS, "nhwc"), (FRAMES, "nhwc")])
def test_a_program_goes_from_pixels_to_probabilities(network, layout, tmp_path):
    model = built(*network, frames=None if network is PICTURES else 4, resize=10)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    difference = export(model, tmp_path / "new" / "net.pt2", layout=layout)
    state = model.network.state_dict()
    assert difference < 1e-5 and model.network.training and all(torch.equal(before[key], state[key]) for key in state)
    extra = {"classes.json": "", "preprocessing.json": ""}
    program = torch.export.load(tmp_path / "new" / "net.pt2", extra_files=extra).module()
    for example in model.examples:
        for size in (1, 3):
            pixels = example.pixels.expand(size, *example.pixels.shape)
            outcome = program(pixels if layout == "nhwc" else pixels.movedim(-1, 1))
            expected = probabilities(model, example.input[None]).expand(size, -1)
            torch.testing.assert_close(outcome, expected, atol=1e-5, rtol=0)
    assert json.loads(extra["classes.json"]) == CLASSES
    preprocessing = json.loads(extra["preprocessing.json"])
    assert preprocessing["layout"] == layout and preprocessing["input_shape"] == list(model.input_shape)
    assert preprocessing["resize"] == 10 and preprocessing["frames"] == model.preprocessing.frames


@pytest.mark.parametrize("network", [PICTURES, CLIPS, FRAMES])
def test_a_plain_program_goes_from_floats_to_logits(network, tmp_path):
    model = built(*network, frames=None if network is PICTURES else 4)
    assert export(model, tmp_path / "net.pt2", plain=True) < 1e-5
    extra = {"preprocessing.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    network = model.network.eval()
    for size in (1, 5):
        batch = torch.randn(size, *model.input_shape)
        torch.testing.assert_close(program(batch), network(batch))
    preprocessing = json.loads(extra["preprocessing.json"])
    assert preprocessing["mean"] == list(COLOURS["mean"]) and preprocessing["output"] == "logits"


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


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("network", "reason"),
    [(Deciding(), ""), (FixedBatch(), ""), (Random(), "its probabilities differ from the network's by ")],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(network, reason, plain, tmp_path):
    with pytest.raises(
        UserError, match=rf"model 'net' cannot be exported by torch-export \({reason}.+choose"
    ) as caught:
        export(trained(network), tmp_path / "net.pt2", plain=plain)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_what_forgets_a_part_of_a_batch_is_refused():
    model = built(*PICTURES)
    with pytest.raises(ValueError, match=r"^it gives \[1, 3\] for a batch of which the network gives \[3, 3\]$"):
        Form(model, True, "nhwc").check(lambda batch: model.network.eval()(batch)[:1])
