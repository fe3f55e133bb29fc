"""The training stages: weak, teacher, baseline, ceiling, pretrain, finetune."""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from bsssl import config as configs
from bsssl import data, selection, storage
from bsssl.engine.checkpoints import Checkpoints
from bsssl.engine.metrics import Metrics
from bsssl.engine.train import Failures, train
from bsssl.models import build_model
from bsssl.models.weights.files import save_model
from bsssl.models.weights.loading import has_classes, load_weights
from bsssl.models.weights.released import load_released
from bsssl.optim import build_loss, build_optimizer, build_schedule, mixing
from bsssl.pipeline.run import Run, Stage
from bsssl.runtime import distributed
from bsssl.runtime.device import Compute
from bsssl.stages import inputs


def train_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Train a network on tags, on the labels or on the selection; its weights are the result."""
    settings: configs.Train = getattr(run.config, stage.section)
    classes, folder = inputs.class_list(run, "tags" if "tags" in stage.needs else "data"), run.folder(stage.name)
    records, targets = _training_set(run, stage, classes)
    tars = _tars(records) if any(need.startswith("materialise") for need in stage.needs) else None
    steps, warmup_steps = (
        length.steps(batch_size=settings.batch_size, rows=len(records)) for length in (settings.length, settings.warmup)
    )
    configs.check_warmup(stage.section, settings, steps=steps, warmup_steps=warmup_steps)
    weights = None
    if isinstance(settings, configs.Weak) and isinstance(targets, data.SparseTargets) and settings.resample:
        weights = data.resampling(targets, power=settings.resample)
    compute = inputs.make_compute(run.config.system)
    model = compute.place_model(initial_model(run, stage, classes))
    seed = _stage_seed(run.seed, stage.name)
    dataset = data.ItemDataset(records, targets=targets, views=inputs.views(run, stage, "train"), seed=seed)
    failures = Failures(rows=len(records), max_rate=run.config.data.max_failure_rate)
    checkpoints = Checkpoints(folder=str(folder), fingerprint=run.identity(stage.name))
    trained = train(
        model=model,
        batches=lambda first: _train_loader(
            run, dataset, settings, compute, first=first, steps=steps, seed=seed, groups=tars, weights=weights
        ),
        steps=steps,
        normalize=inputs.normalize(run, compute),
        mix=mixing(mixup=settings.mixup, cutmix=settings.cutmix, num_classes=len(classes)),
        loss_function=build_loss(
            settings,
            num_classes=len(classes),
            rows=len(targets),
            class_counts=partial(data.class_counts, targets, num_classes=len(classes), weights=weights),
        ).to(compute.device),
        optimizer=build_optimizer(settings, model),
        schedule=build_schedule(settings, steps=max(steps, 1), warmup_steps=warmup_steps),
        compute=compute,
        seed=seed,
        checkpoints=checkpoints,
        open_metrics=partial(Metrics, run.config.system.loggers if distributed.is_main() else {}, folder=str(folder)),
        failures=failures,
        accumulate=settings.accumulate,
        clip_norm=settings.clip_norm,
        average_decay=settings.average_decay,
        checkpoint_minutes=run.config.system.checkpoint_minutes,
        checkpoint_steps=run.config.system.checkpoint_steps,
        title=f"seed {run.seed}: {stage.name}",
    )
    if distributed.is_main():
        spec = stage.settings["model"]
        save_model(
            str(folder / inputs.WEIGHTS),
            trained.state_dict(),
            name=spec["name"],
            classes=classes,
            options=spec["options"],
        )
        _write_ledger(str(folder / "unreadable.jsonl"), records, failures)
    return {
        "rows": len(records),
        "steps": steps,
        "samples": steps * settings.batch_size,
        "unreadable": len(failures.reasons),
    }


def initial_model(run: Run, stage: Stage, classes: list[str]) -> nn.Module:
    """The stage's network before its first step: from ``init_from``, else released weights, else scratch.

    (A resumed run then replaces it by its checkpoint: resuming comes first.) The classifier starts afresh after weak,
    in a transfer, and when a file's classes are others; from any other stage of the run they must be the same.
    """
    spec = stage.settings["model"]
    torch.manual_seed(_stage_seed(run.seed, stage.section))
    model = build_model(spec["name"], num_classes=len(classes), **spec["options"])
    source, afresh = stage.settings[stage.section]["init_from"], isinstance(run.config, configs.Transfer)
    if source in configs.TRAIN_STAGES:
        origin = next(need for need in stage.needs if need.split("-")[0] == source)
        load_weights(model, str(run.folder(origin) / inputs.WEIGHTS), new_head=source == "weak", classes=classes)
    elif source is not None:
        afresh = afresh or not has_classes(model, source, classes)
        load_weights(model, source, new_head=afresh, classes=classes)
    elif spec["weights"] is not None:
        load_released(model, spec["weights"], new_head=afresh or len(classes) != 1000)
    return model


def _training_set(run: Run, stage: Stage, classes: list[str]) -> tuple[pa.Table, data.Targets]:
    if stage.section == "weak":
        return data.tagged_training_set(str(run.folder("tags") / inputs.TAGGED), num_classes=len(classes))
    if stage.section != "pretrain":
        records = inputs.split_records(run, "labeled")
        if stage.section == "ceiling":
            records = data.concat_records([records, inputs.split_records(run, "rest")])
        return records, data.class_indices(records, classes, what=f"the labels of {stage.name}")
    settings: configs.Pretrain = getattr(run.config, stage.section)
    folders = {need.split("-")[0]: str(run.folder(need)) for need in stage.needs}
    scores = selection.score_files(folders["score"]) if "score" in folders else ()
    path = storage.join(folders.get("materialise") or folders["select"], inputs.SELECTION)
    return data.selected_training_set(
        path, mode=settings.targets, temperature=settings.temperature, scores=scores, classes=classes
    )


def _tars(records: pa.Table) -> np.ndarray:
    """The number of each record's file: int32 (rows,)."""
    files = data.files_of(records)
    numbers: np.ndarray = pc.index_in(files, value_set=pc.unique(files)).to_numpy()
    return numbers


def _train_loader(
    run: Run,
    dataset: data.ItemDataset,
    settings: configs.Train,
    compute: Compute,
    *,
    first: int,
    steps: int,
    seed: int,
    groups: np.ndarray | None,
    weights: np.ndarray | None,
) -> Any:
    parts = settings.accumulate
    batches = data.TrainBatches(
        len(dataset),
        batch_size=settings.batch_size // parts,
        num_batches=steps * parts,
        start=first * parts,
        seed=seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        groups=groups,
        weights=weights,
    )
    return inputs.loader(run, dataset, batches, compute)


def _stage_seed(seed: int, name: str) -> int:
    """Stages of one seed draw different random numbers."""
    return int(storage.fingerprint([seed, name]), 16) % 2**62


def _write_ledger(path: str, records: pa.Table, failures: Failures) -> None:
    rows = sorted(failures.reasons)
    keys = records["key"].take(pa.array(rows, pa.int64())).to_pylist()
    entries = [{"key": key, "reason": failures.reasons[row]} for key, row in zip(keys, rows, strict=True)]
    storage.write_json_lines(path, entries)
