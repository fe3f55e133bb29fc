"""The data stage: the few-label split, the classes, and the list of the pool."""

from collections import Counter
from collections.abc import Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pyarrow as pa

from bsssl import config as configs
from bsssl import data, storage
from bsssl.errors import UserError, choices
from bsssl.pipeline.run import Run, Stage
from bsssl.registry import DATASETS
from bsssl.runtime.console import logger, progress
from bsssl.stages.inputs import CLASSES, HELD, OVERLAP_REMEDY, POOL


def data_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Write the split as manifests (labeled.csv, rest.csv, test.csv), the class list and, for a recipe, the list of the
    pool's shards."""
    settings, folder = run.config.data, run.folder(stage.name)
    labeled, rest, test, classes = split(settings, seed=run.seed)
    _check_classes(run.config, classes, data.concat_records([labeled, rest]))
    _warn_of_shared_items([labeled, rest], test)
    for name, records in {"labeled": labeled, "rest": rest, "test": test}.items():
        data.write_records(str(folder / f"{name}.csv"), records)
    storage.write_json(str(folder / CLASSES), classes)
    counts = {"classes": len(classes), "labeled": len(labeled), "rest": len(rest), "test": len(test)}
    if isinstance(settings, configs.Data):
        rest_path = str(folder / "rest.csv") if len(rest) else None
        held = data.concat_records([labeled, test])
        counts |= _write_pool(settings, held, rest=rest_path, folder=folder, seed=run.seed)
    return counts


def _write_pool(settings: configs.Data, held: pa.Table, *, rest: str | None, folder: Path, seed: int) -> dict[str, int]:
    """``held`` are the labeled and test items, which it must not hold."""
    pool = data.write_pool(
        pool_sources(settings, rest),
        folder=str(folder / POOL),
        shard_size=settings.shard_size,
        exclude=held if settings.pool_overlap == "exclude" else None,
        fraction=settings.pool_fraction,
        seed=seed,
    )
    if settings.pool_overlap == "refuse":
        shards = progress(pool.shards, unit="shard", title="comparing the pool with the labels")
        data.check_overlap((shard.records() for shard in shards), held, remedy=OVERLAP_REMEDY)
    # Once, for all the tasks that score the pool.
    hashes = data.content_hashes(held) if settings.pool_overlap != "allow" else set()
    with storage.atomic_write(str(folder / HELD)) as file:
        file.write(b"".join(sorted(hashes)))
    return {"pool": pool.num_records, "pool_shards": len(pool.shards)}


def split(settings: configs.LabeledData, *, seed: int) -> tuple[pa.Table, pa.Table, pa.Table, list[str]]:
    """The labeled records, those whose labels are set aside, the test records, and the classes."""
    train_records = open_source(settings.train, settings).records()
    test = open_source(settings.test, settings).records()
    classes = data.class_names(train_records)
    data.class_indices(train_records, classes, what="data.train")
    if len(classes) == 1:
        raise UserError(
            f"data.train has a single class ({classes[0]}), two at least are needed; give each its own folder or label"
        )
    data.class_indices(test, classes, what="data.test")
    labeled, rest = train_records, train_records.slice(0, 0)
    if settings.labels_per_class is not None:
        labeled, rest = data.split_labels(
            train_records, labels_per_class=settings.labels_per_class, imbalance=settings.imbalance, seed=seed
        )
    return labeled, rest, test, classes


def open_source(source: configs.Source, settings: configs.LabeledData) -> data.Source:
    """The source that the config names, of videos where it has clips; UserError for an unknown dataset or option."""
    factory = DATASETS.get(source.dataset)
    parameters = signature(factory).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.name != "path"]
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    for name in source.options:
        if name not in known and not takes_any:
            raise UserError(f"dataset '{source.dataset}' has no option '{name}': {choices(name, known)}")
    kind = {"extensions": "videos"} if settings.clips and "extensions" in known else {}
    try:
        opened: data.Source = factory(path=source.path, **{**kind, **source.options})
    except TypeError as error:
        raise UserError(f"dataset '{source.dataset}': {error}; check its options") from None
    return opened


def pool_sources(settings: configs.Data, rest: str | None) -> list[data.Source]:
    """Everything that the pool is made of, in order; ``rest`` is the manifest of items whose labels were set aside."""
    sources: list[data.Source] = [data.Manifest(path=rest)] if settings.rest_in_pool and rest else []
    return [*sources, *(open_source(source, settings) for source in settings.pool)]


def _warn_of_shared_items(train: Sequence[pa.Table], test: pa.Table) -> None:
    shared = data.find_overlap(train, test)
    if len(shared):
        logger.warning(
            "%d items of data.test are in data.train too (such as %s): the accuracies will be too high",
            len(shared),
            shared["key"][0].as_py(),
        )


def _check_classes(config: configs.Experiment, classes: Sequence[str], train: pa.Table) -> None:
    expected = config.data.num_classes
    if expected is not None and expected != len(classes):
        counts = Counter(train["label"].to_pylist())
        rarest = ", ".join(f"{name} ({counts[name]})" for name in sorted(classes, key=counts.__getitem__)[:3])
        raise UserError(
            f"data.train has {len(classes)} classes, but data.num_classes says {expected}; correct one of them (the "
            f"classes with the fewest items: {rarest})"
        )
    if isinstance(config, configs.Config) and config.score.top_p > len(classes):
        raise UserError(
            f"score.top_p ({config.score.top_p}) is above the {len(classes)} classes of data.train; lower it"
        )
