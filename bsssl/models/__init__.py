"""Networks: made by name, measured, and filled from checkpoints or from the released weights."""

from bsssl.models import image as image  # registers the image networks
from bsssl.models.build import Profile, build_model, profile

__all__ = ["Profile", "build_model", "profile"]
