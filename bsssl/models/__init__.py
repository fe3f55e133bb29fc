"""Networks: made by name, measured, and filled from checkpoints or from the released weights."""

from bsssl.models.building import Profile, build_model, profile
from bsssl.models.heads import classifier
from bsssl.models.trained import TrainedNetwork
from bsssl.models.weights.files import WEIGHTS, Checkpoint, read_checkpoint, save_model, saved_facts
from bsssl.models.weights.loading import has_classes, load_weights
from bsssl.models.weights.released import RELEASED, load_released
from bsssl.models.zoo import image, video  # noqa: F401 - registers the networks

__all__ = [
    "RELEASED",
    "WEIGHTS",
    "Checkpoint",
    "Profile",
    "TrainedNetwork",
    "build_model",
    "classifier",
    "has_classes",
    "load_released",
    "load_weights",
    "profile",
    "read_checkpoint",
    "save_model",
    "saved_facts",
]
