"""Refusing, before anything runs, what can be known to be wrong: a mistake in the last stage would cost all others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bsssl import config as configs
from bsssl import data, selection, storage
from bsssl.engine.metrics import check_loggers
from bsssl.engine.near import import_faiss
from bsssl.errors import Problems, UserError
from bsssl.models import build_model, classifier, file_and_key, is_named, named_weights, profile
from bsssl.optim import freeze, parameter_groups
from bsssl.recipes.origins import origin
from bsssl.recipes.runs import networks, stages
from bsssl.registry import AUGMENTATIONS, DATASETS, LAUNCHERS, LOGGERS, METRICS, SELECTION_RULES, Registry
from bsssl.runtime import distributed
from bsssl.runtime.console import logger
from bsssl.runtime.device import check_device
from bsssl.stages.train import TrainStage


def check(config: configs.Experiment, *, launched: bool = False) -> None:
    """UserError for what ``check_settings`` refuses, what is ``missing``, or an output folder inside a data folder,
    which every run would change. Warns of checkpoints that saw other colours.
    """
    check_settings(config, launched=launched)
    for reason in missing(config).values():
        raise UserError(reason)
    if isinstance(config, configs.Transfer):
        _warn_of_colours(config)
    output = Path(config.output_dir).resolve()
    weak = config.weak.sources if isinstance(config, configs.Config) and config.weak is not None else []
    for source in (*config.data.sources(), *weak):
        folder = Path(source.path).resolve()
        if not storage.is_remote(source.path) and folder.is_dir() and output.is_relative_to(folder):
            raise UserError(f"output_dir {config.output_dir} lies inside the data folder {source.path}; choose another")


def missing(config: configs.Experiment, *, here: bool = False) -> dict[str, str]:
    """Return what stages would start from, go by or work on and is not there, by the section or the stage.

    That is an ``init_from``, a checkpoint of a transfer, given scores, an exclusion list, a file about hashtags or,
    where all stages work on the machine that is ``here``, a GPU.
    """
    reasons: dict[str, str] = {}
    if here:
        try:
            check_device(config.system.device)
        except UserError as error:
            computing = (stage for stage in stages(config, seed=config.seed) if hasattr(stage, "execution"))
            reasons |= {stage.name: str(error) for stage in computing}
    for section, settings in config.trainings().items():
        start = settings.init_from
        if start is not None and start not in configs.TRAIN_STAGES and not _is_there(start):
            reasons[section] = (
                f"{section}.init_from: '{start}' is neither a stage ({', '.join(configs.TRAIN_STAGES)}) nor a file "
                "that exists; correct it"
            )
    if isinstance(config, configs.Transfer):
        reasons |= _missing_checkpoints(config)
    given = config.score.given if isinstance(config, configs.Config) else None
    if given is not None and not storage.exists(given):
        reasons["score"] = f"score.given: there is no {given}; correct the path, or write the file first"
    if isinstance(config, configs.Config) and config.select.exclude is not None:
        try:
            selection.read_exclusions(config.select.exclude)
        except UserError as error:
            reasons["select"] = str(error)
    if isinstance(config, configs.Config) and config.weak is not None:
        tags = config.weak.tags
        for key, path in {"spelling": tags.spelling, "map": tags.map, "file": tags.file}.items():
            if isinstance(path, str) and not storage.exists(configs.located(path)):
                reasons["tags"] = f"weak.tags.{key}: there is no {path}; correct the path, or write the file first"
    return reasons


def _missing_checkpoints(config: configs.Transfer) -> dict[str, str]:
    """Return which checkpoints of a transfer are not there, by the stages that start from them."""
    seeds, reasons = range(config.seed, config.seed + config.seeds), dict[str, str]()
    for name, checkpoint in config.checkpoints.items():
        for path in (origin(name, checkpoint, config.data, seed=seed).path for seed in seeds):
            if path is not None and not _is_there(path):
                reason = f"checkpoints.{name}: there is no {path}; run the stage that leaves it first"
                reasons |= {f"full_ft-{name}": reason, f"fc_only-{name}": reason}
    return reasons


def _warn_of_colours(config: configs.Transfer) -> None:
    for name, checkpoint in config.checkpoints.items():
        start = origin(name, checkpoint, config.data, seed=config.seed)
        sees = start.model.view_of(config.data).transforms
        colours = {"mean": sees.mean, "std": sees.std}
        trained = {key: tuple(start.transforms.get(key, value)) for key, value in colours.items()}
        if trained != colours and distributed.is_main():
            logger.warning(
                "checkpoints.%s was trained with mean %s and std %s, but the config has it see mean %s and std %s",
                *(name, *map(list, trained.values()), *map(list, colours.values())),
            )


def _is_there(weights: str) -> bool:
    """Return whether the file of weights exists, which may be named by its folder, and with a key of what is in it."""
    return storage.exists(file_and_key(weights)[0])


def _check_classifier(key: str, model: configs.Model) -> None:
    try:
        with torch.device("meta"):
            classifier(build_model(model.name, num_classes=2, **model.options))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _check_parameters(config: configs.Experiment) -> None:
    """Refuse a training that freezes what its network does not have, or all of it, or that has a rate for each layer of
    a network without layers."""
    for stage in stages(config, seed=config.seed):
        if not isinstance(stage, TrainStage):
            continue
        training, model = stage.settings.training, stage.settings.model
        if not training.freeze and training.layer_decay is None:
            continue
        with torch.device("meta"):
            network = build_model(model.name, num_classes=2, **model.options)
        try:
            freeze(network, training.freeze)
            parameter_groups(training, network)
        except UserError as error:
            raise UserError(f"{stage.section}.{error}") from None


def _check_options(config: configs.Experiment) -> None:
    """Refuse options that the parts a config names do not have, all at once."""
    transforms, launcher = config.data.transforms, config.launcher
    named: list[tuple[Registry, str, Mapping[str, Any]]] = [
        *((DATASETS, source.dataset, source.options) for source in config.data.sources()),
        (AUGMENTATIONS, transforms.train_crop, transforms.crop_options()),
        *((LOGGERS, name, options) for name, options in config.system.loggers.items()),
        *((METRICS, name, options) for name, options in config.metrics.items()),
        (LAUNCHERS, launcher.kind, launcher.options),
    ]
    if isinstance(config, configs.Config):
        named.append((SELECTION_RULES, config.select.variant, config.select.variant_options))
    problems = []
    for registry, name, options in named:
        try:
            registry.check(name, options)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise Problems("\n".join(dict.fromkeys(problems)))


def check_settings(config: configs.Experiment, *, launched: bool = False) -> None:
    """UserError for networks that cannot be made, do not have the parts that a training treats apart or, in a transfer,
    where they start from weights and where features are compared, have no classifier whose inputs are the features,
    unknown released weights, work that the processes of a stage (those of this run or, if it is ``launched``, of its
    jobs) cannot share, or a reader of videos, a logger or what searches near copies that is missing.
    """
    _check_options(config)
    check_loggers(config.system.loggers)
    if config.data.clips is not None:
        data.check_backend(config.data.clips.reader, config.data.clips.reader_options)
    near = config.data.near_duplicates if isinstance(config, configs.Config) else "off"
    open_set = config.select.open_set if isinstance(config, configs.Config) else None
    by_features = near == "features" or (open_set is not None and open_set.method == "distance")
    if near == "hash":
        data.import_imagehash()
    if near != "off":
        import_faiss()
    for key, model in networks(config, seed=config.seed).items():
        if model.weights is not None and not is_named(model.weights) and not _is_there(model.weights):
            try:
                named_weights(model.weights)
            except UserError as error:
                raise UserError(f"{key}.weights: {error}") from None
        seen = model.view_of(config.data)
        if seen.clips is not None and seen.clips.test_crops > 1 and seen.transforms.for_testing()["resize"] is None:
            raise UserError(
                f"data.clips.test_crops: {key} sees whole pictures, out of which nothing is cut; set "
                "data.transforms.test_resize to the short side, in pixels, or test_crops to 1"
            )
        profile(
            model.name,
            num_classes=config.data.num_classes or 2,
            input_shape=seen.input_shape,
            **model.options,
        )
        is_compared = by_features and key.startswith("models.teacher")
        if isinstance(config, configs.Transfer) or model.weights is not None or is_compared:
            _check_classifier(key, model)
    for section, settings in config.trainings().items():
        settings.check_parts(section)
    for stage in stages(config, seed=config.seed):
        if stage.resources.whole_nodes:
            stage.check_processes(_processes(config.launcher, stage.kind) if launched else distributed.world_size())
    _check_parameters(config)


def _processes(launcher: configs.Launcher, kind: str) -> int:
    """Return how many processes the job of a stage that takes whole nodes has.

    Raises:
        UserError: A node has fewer CPU cores than processes.
    """
    processes, cpus = launcher.processes(kind), launcher.own(kind).cpus_per_node or launcher.cpus_per_node
    if cpus is not None and cpus < processes:
        raise UserError(f"launcher: cpus_per_node ({cpus}) is below the {processes} processes of a {kind} job's node")
    return launcher.nodes * processes
