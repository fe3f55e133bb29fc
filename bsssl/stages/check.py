"""What can be told to be wrong before anything runs, so that the last stage's mistake does not cost all the others."""

from pathlib import Path

from bsssl import config as configs
from bsssl import data, distributed, fileio
from bsssl.models import RELEASED, profile
from bsssl.registry import UserError, choices


def check(config: configs.Config) -> None:
    """UserError for what ``check_settings`` refuses, an ``init_from`` that is not there, or an output folder inside a
    data folder, which every run would change.
    """
    check_settings(config)
    for section in configs.TRAIN_STAGES:
        settings: configs.Train | None = getattr(config, section)
        origin = settings.init_from if settings is not None else None
        if origin is not None and origin not in configs.TRAIN_STAGES and not fileio.exists(origin):
            raise UserError(
                f"{section}.init_from: '{origin}' is neither a stage ({', '.join(configs.TRAIN_STAGES)}) nor a file "
                "that exists; correct it"
            )
    output = Path(config.output_dir).resolve()
    weak = config.weak.sources if config.weak is not None else []
    for source in (config.data.train, config.data.test, *config.data.pool, *weak):
        folder = Path(source.path).resolve()
        if not fileio.is_remote(source.path) and folder.is_dir() and output.is_relative_to(folder):
            raise UserError(f"output_dir {config.output_dir} lies inside the data folder {source.path}; choose another")


def check_settings(config: configs.Config) -> None:
    """UserError for networks that cannot be made, unknown released weights, a batch the processes cannot share, or a
    reader of videos that is not installed.
    """
    if config.data.clips is not None:
        data.check_backend(config.data.clips.reader)
    for role in ("teacher", "student"):
        model: configs.Model = getattr(config.models, role)
        profile(
            model.name,
            num_classes=config.data.num_classes or 2,
            input_shape=model.view_of(config.data).input_shape,
            **model.options,
        )
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
