"""Small networks as exporters are given them."""

import torch

from bsssl.api.examples import Examples
from bsssl.models import Preprocessing, TrainedNetwork, build_model
from bsssl.stages.seen import ClipView, TestTransforms, TestView

CLASSES = ["ä", "  ", "<b>&" + 10_000 * "x"]
COLOURS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.25)}
PICTURES = ("small_resnet", {"width": 4, "blocks": [1, 1]})
CLIPS = ("small_r2plus1d", {"width": 4, "blocks": [1]})
FRAMES = (PICTURES[0], {**PICTURES[1], "per_frame": True})


def trained(
    network, *, name="net", options=None, size=8, resize=None, interpolation="bilinear", frames=None, card=None
):
    """``network`` with three classes for pictures, or for clips of so many frames."""
    transforms = {"size": size, "resize": resize, "interpolation": interpolation, **COLOURS}
    clips = {} if frames is None else {"frames": frames, "stride": 2}
    view = ClipView(**clips, reader="av", count=1) if clips else None
    seen = TestView(transforms=TestTransforms(**transforms), max_pixels=10**6, clips=view)
    return TrainedNetwork(
        network=network,
        name=name,
        options=options or {},
        classes=CLASSES,
        preprocessing=Preprocessing(**transforms, **clips),
        examples=Examples(seen, []),
        card=card,
    )


def built(name, options, **seen):
    """The network called ``name`` in training mode, with three classes and statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = build_model(name, num_classes=3, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return trained(network, name=name, options=options, **seen)


def probabilities(model, batch):
    """What the model itself says of a batch of normalised floats."""
    with torch.no_grad():
        return model.network.eval()(batch).softmax(1)
