"""Networks: made by name, measured, and filled from checkpoints or from the released weights."""

from bsssl.models import image as image  # registers the image networks
from bsssl.models import video as video  # registers the video networks
from bsssl.models.build import Profile, build_model, profile
from bsssl.models.head import classifier
from bsssl.models.released import RELEASED, load_released
from bsssl.models.weights import Checkpoint, LoadReport, has_classes, load_weights, read_checkpoint

__all__ = [
    "RELEASED",
    "Checkpoint",
    "LoadReport",
    "Profile",
    "build_model",
    "classifier",
    "has_classes",
    "load_released",
    "load_weights",
    "profile",
    "read_checkpoint",
]
