"""Networks: made by name, measured, and filled from checkpoints or from the released weights."""

from bsssl.models.building import Profile, build_model, profile
from bsssl.models.heads import classifier
from bsssl.models.trained import Example, Preprocessing, TrainedNetwork
from bsssl.models.weights.clip import OPEN_CLIP, class_texts
from bsssl.models.weights.files import FILES as WEIGHT_FILES
from bsssl.models.weights.files import (
    WEIGHTS,
    Checkpoint,
    file_and_key,
    read_checkpoint,
    save_model,
    saved_facts,
    weights_file,
)
from bsssl.models.weights.folder import CARD, describe
from bsssl.models.weights.hosted import HUB, LOCAL, Named, class_names
from bsssl.models.weights.loading import has_classes, load_weights
from bsssl.models.weights.named import (
    CONFIG,
    RELEASED,
    implied_weights,
    is_named,
    load_named,
    local_weights,
    named_weights,
)
from bsssl.models.weights.transformers import TRANSFORMERS
from bsssl.models.zoo import image, video  # noqa: F401 - registers the networks
from bsssl.models.zoo.clip import ClipClassifier

__all__ = [
    "CARD",
    "CONFIG",
    "HUB",
    "LOCAL",
    "OPEN_CLIP",
    "RELEASED",
    "TRANSFORMERS",
    "WEIGHTS",
    "WEIGHT_FILES",
    "Checkpoint",
    "ClipClassifier",
    "Example",
    "Named",
    "Preprocessing",
    "Profile",
    "TrainedNetwork",
    "build_model",
    "class_names",
    "class_texts",
    "classifier",
    "describe",
    "file_and_key",
    "has_classes",
    "implied_weights",
    "is_named",
    "load_named",
    "load_weights",
    "local_weights",
    "named_weights",
    "profile",
    "read_checkpoint",
    "save_model",
    "saved_facts",
    "weights_file",
]
