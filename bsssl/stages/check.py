"""What can be told to be wrong before anything runs, so that the last stage's mistake does not cost all the others."""

from bsssl import config as configs
from bsssl import distributed, fileio
from bsssl.models import RELEASED, profile
from bsssl.registry import UserError, choices


def check(config: configs.Config) -> None:
    """UserError for networks that cannot be made, unknown released weights, an ``init_from`` that is not there, or a
    batch that the processes cannot share.
    """
    side = config.data.transforms.size
    for role in ("teacher", "student"):
        model: configs.Model = getattr(config.models, role)
        profile(model.name, num_classes=config.data.num_classes or 2, input_shape=(3, side, side), **model.options)
        if model.weights is not None and model.weights not in RELEASED:
            raise UserError(
                f"models.{role}.weights: unknown released weights '{model.weights}': {choices(model.weights, RELEASED)}"
            )
    processes = distributed.world_size()
    for section in configs.TRAIN_STAGES:
        settings: configs.Train | None = getattr(config, section)
        if settings is None:
            continue
        if settings.batch_size % (settings.accumulate * processes):
            raise UserError(
                f"{section}.batch_size ({settings.batch_size}) does not divide evenly over {processes} processes with "
                f"accumulate={settings.accumulate}; make it a multiple of {settings.accumulate * processes}"
            )
        source = settings.init_from
        if source is not None and source not in configs.TRAIN_STAGES and not fileio.exists(source):
            raise UserError(
                f"{section}.init_from: '{source}' is neither a stage ({', '.join(configs.TRAIN_STAGES)}) nor a file "
                "that exists; correct it"
            )
