import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from bsssl.config.training import Supervised
from bsssl.engine.features import Tap
from bsssl.errors import UserError
from bsssl.models import build_model, classifier, load_weights, profile
from bsssl.optim import freeze, parameter_groups

NETWORKS = {
    "small_resnet": {"width": 4, "blocks": [1, 1]},
    "timm/test_vit": {"img_size": 32},
    "timm/test_efficientnet": {},
}


def both(name: str) -> tuple[nn.Module, nn.Module]:
    """A network for images, and the same one for clips, as trained networks compute."""
    networks = []
    for options in ({}, {"per_frame": True}):
        torch.manual_seed(0)
        networks.append(build_model(name, num_classes=5, **NETWORKS[name], **options).eval())
    return networks[0], networks[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_scores_of_the_frames_are_averaged(name):
    images, clips = both(name)
    batch = 3 * torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        frames = [images(batch[:, :, number]) for number in range(4)]
        logits = clips(batch)
        alone = clips(batch[:, :, :1])
    expected = torch.stack([one.softmax(1) for one in frames]).mean(0)
    torch.testing.assert_close(logits.softmax(1), expected)
    torch.testing.assert_close(logits.logsumexp(1), torch.stack([one.logsumexp(1) for one in frames]).mean(0))
    torch.testing.assert_close(alone, frames[0])


def test_scores_too_small_for_a_float_are_not_lost():
    """The logarithm of none of them is infinite."""
    images, clips = both("small_resnet")
    for network in (images, clips):
        nn.init.zeros_(network.fc.weight)
        network.fc.bias.data = torch.tensor([300.0, 0, -300, 0, 0])
    logits = clips(torch.randn(1, 3, 2, 32, 32))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, images(torch.randn(1, 3, 32, 32)))


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_the_mean_of_those_of_the_frames(name):
    images, clips = both(name)
    taps = [Tap(classifier(network)[1]) for network in (images, clips)]
    batch, features = torch.randn(2, 3, 4, 32, 32), []
    with torch.no_grad():
        for number in range(4):
            images(batch[:, :, number])
            features.append(taps[0].take(2))
        clips(batch)
    torch.testing.assert_close(taps[1].take(2), torch.stack(features).mean(0))


def test_the_parts_are_those_of_the_network_for_images():
    images, clips = both("timm/test_vit")
    assert clips.state_dict().keys() == images.state_dict().keys()
    load_weights(clips, images.state_dict())
    assert freeze(clips, ["blocks.0"]) == ["blocks.0"]
    settings = Supervised.model_validate({"layer_decay": 0.5, "decay_norms": False})
    scales = [
        {group["lr_scale"] for group in parameter_groups(settings, network)}  # type: ignore[call-overload]
        for network in both("timm/test_vit")
    ]
    assert scales[0] == scales[1] and len(scales[0]) > 3
    assert isinstance(clips, timm.models.VisionTransformer)


@pytest.mark.parametrize("name", NETWORKS)
def test_goes_to_another_process_and_is_copied(name):
    _, clips = both(name)
    batch = torch.randn(1, 3, 2, 32, 32)
    for twin in (pickle.loads(pickle.dumps(clips)), copy.deepcopy(clips)):
        assert type(twin) is type(clips) and torch.equal(twin(batch), clips(batch))
        assert not {id(one) for one in twin.parameters()} & {id(one) for one in clips.parameters()}


def test_what_it_costs_and_what_it_does_not_take():
    options = NETWORKS["small_resnet"]
    of_image = profile("small_resnet", num_classes=5, input_shape=(3, 16, 16), **options)
    of_clip = profile("small_resnet", num_classes=5, input_shape=(3, 6, 16, 16), per_frame=True, **options)
    assert of_clip.parameters == of_image.parameters and of_clip.multiply_adds == 6 * of_image.multiply_adds
    with pytest.raises(UserError, match=r"network for images, set options\.per_frame=true, which averages"):
        profile("small_resnet", num_classes=5, input_shape=(3, 6, 16, 16), **options)
    with pytest.raises(UserError, match=r"network for videos, leave out options\.per_frame$"):
        profile("small_r2plus1d", num_classes=5, input_shape=(3, 6, 16, 16), per_frame=True)
