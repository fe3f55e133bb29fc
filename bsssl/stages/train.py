"""The train stage: a network on tags, on the labels or on the selection."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, cast

import numpy as np
import torch
from torch import nn
from typing_extensions import TypeVar, override

from bsssl import data, selection, storage
from bsssl.config import Model, Pretrain, Section, Train, WeakTraining, check_warmup
from bsssl.engine.checkpoints import Checkpoints
from bsssl.engine.train import Failures, train
from bsssl.errors import UserError
from bsssl.models import (
    WEIGHTS,
    build_model,
    file_and_key,
    has_classes,
    is_named,
    load_named,
    load_weights,
    local_weights,
    named_weights,
)
from bsssl.optim import build_loss, build_optimizer, build_schedule, freeze, mixing
from bsssl.pipeline.record import DONE
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage, identifying
from bsssl.registry import STAGES
from bsssl.runtime import distributed
from bsssl.runtime.console import logger
from bsssl.runtime.device import Compute
from bsssl.stages.card import named_network, plain
from bsssl.stages.computing import (
    Execution,
    class_list,
    leave_model,
    normalize,
    open_metrics,
    split_records,
    stage_seed,
)
from bsssl.stages.live import LiveSettings, live_teachers
from bsssl.stages.seen import TrainView, earlier_view
from bsssl.stages.select import SELECTION, selected
from bsssl.stages.tags import TAGGED
from bsssl.stages.views import stored_views

T = TypeVar("T", bound=Train, default=Train)
UNTRAINED = "untrained"
"""set in the result of a training of no steps whose classifier is as it was initialised, there or in its start"""


class TrainSettings(Section, Generic[T]):
    """What decides the weights, besides the samples and the weights to start from."""

    training: T
    model: Model
    seed: int
    precision: str
    seen: TrainView
    with_rest: bool = False
    """train on the labels that were set aside too"""
    new_classifier: bool = False
    """start with a fresh classifier whatever the weights to start from have"""
    live: tuple[LiveSettings, ...] = ()
    """the teachers whose mean gives the targets, if they do"""
    draws_as: str | None = None
    """the stage whose random numbers are drawn, for trainings that differ in nothing else; default: the stage itself"""


def train_settings(training: Train, **others: Any) -> TrainSettings[Any]:
    """Return settings that hold all of ``training``, whichever kind of it that is."""
    kind: Any = TrainSettings.__class_getitem__(type(training))
    settings: TrainSettings[Any] = kind(training=training, **others)
    return settings


@STAGES.register("train")
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainStage(Stage[TrainSettings[Any]]):
    """A training. What it needs says what it is trained on: ``selection`` (with ``scores``, or those of several
    ``views``, for soft targets), ``tags``, or else the labels of ``data``; whether it has a ``start``, a stage whose
    weights it begins with; and whether a ``teacher`` gives the targets."""

    kind = "train"
    outputs = {"weights": (WEIGHTS,)}
    shared = True
    resources = Resources(whole_nodes=True, gpu=True)

    execution: Execution
    labels: str = "labeled"
    """the output of the data stage that has the labels, where they are learned from"""
    in_tars: bool = False
    """whether the selection lies in tars that are read from one end to the other"""
    twins: tuple[str, ...] = ()
    """earlier trainings of the run: what one of them left is copied if it was the very same training"""

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        if role == "data":
            on_labels = not {"selection", "tags"} & self.needs.keys() or self._with_labels
            return ("classes", *([self.labels] if on_labels else []), *(["rest"] if self.settings.with_rest else []))
        outputs = {"tags": "tagged", "selection": "selection", "scores": "scores", "views": "views"}
        return (outputs.get(role, "weights"),)

    @override
    def work(self, run: Context) -> dict[str, Any]:
        twin = distributed.from_main(lambda: self._finished_twin(run))
        return self._train(run) if twin is None else self._copy(run, twin)

    def _train(self, run: Context) -> dict[str, Any]:
        settings, training, folder = self.settings, self.settings.training, run.folder(self.name)
        classes = class_list(run.input(self, "tags" if "tags" in self.needs else "data"))
        records, targets = self._training_set(run, classes)
        steps, warmup_steps = self._steps(len(records))
        weights = None
        if isinstance(training, WeakTraining) and isinstance(targets, data.SparseTargets) and training.resample:
            weights = data.resampling(targets, power=training.resample)
        compute = self.execution.compute(settings.precision)
        network, is_fresh = initial_model(
            run, self, classes, init_from=training.init_from, new_classifier=settings.new_classifier
        )
        model = compute.place_model(network)
        frozen = freeze(model, training.freeze)
        seed = stage_seed(settings.seed, settings.draws_as or self.name)
        views = settings.seen.views(randaugment=training.randaugment, deadline=self.execution.deadline)
        seed_of_views = stage_seed(settings.seed, self.needs["views"]) if "views" in self.needs else seed
        dataset = data.ItemDataset(records, targets=targets, views=views, seed=seed_of_views)
        failures = Failures(rows=len(records), max_rate=self.execution.max_failure_rate)
        groups = records.file_numbers() if self.in_tars else None
        loggers = self.execution.system.loggers if distributed.is_main() else {}
        checkpoints = self._checkpoints(run)
        if checkpoints.others():
            logger.info("%s: checkpoints of another training lie there, and are left alone", folder)
        trained = train(
            model=model,
            batches=lambda first: self._loader(
                dataset, compute, first=first, steps=steps, seed=seed, groups=groups, weights=weights
            ),
            steps=steps,
            normalize=normalize(settings.seen.transforms, compute),
            mix=mixing(mixup=training.mixup, cutmix=training.cutmix, num_classes=len(classes)),
            loss_function=build_loss(
                training,
                num_classes=len(classes),
                rows=len(targets),
                class_counts=partial(data.class_counts, targets, num_classes=len(classes), weights=weights),
            ).to(compute.device),
            optimizer=build_optimizer(training, model),
            schedule=build_schedule(training, steps=max(steps, 1), warmup_steps=warmup_steps),
            compute=compute,
            seed=seed,
            checkpoints=checkpoints,
            open_metrics=partial(open_metrics, run, self, loggers, steps=steps),
            failures=failures,
            teacher=live_teachers(run, self, settings.live, classes, student=settings.seen, compute=compute),
            accumulate=training.accumulate,
            clip_norm=training.clip_norm,
            average_decay=training.average_decay,
            frozen=frozen,
            checkpoint_minutes=self.execution.system.checkpoint_minutes,
            checkpoint_steps=self.execution.system.checkpoint_steps,
            title=f"seed {run.seed}: {self.name}",
        )
        if distributed.is_main():
            leave_model(run, self, trained, classes, execution=self.execution)
            records.write_ledger(str(folder / "unreadable.jsonl"), failures.reasons)
        return {
            "rows": len(records),
            "steps": steps,
            "samples": steps * training.batch_size,
            "unreadable": len(failures.reasons),
            **({UNTRAINED: True} if is_fresh and not steps else {}),
        }

    @override
    def clean_up(self, run: Context) -> None:
        self._checkpoints(run).clear()

    @override
    def outside(self) -> dict[str, Any]:
        return start_state(self, self.settings.training.init_from, self.settings.model)

    @override
    def key_of(self, setting: str) -> str:
        return re.sub("^training", self.section, setting)

    @override
    def check_processes(self, count: int) -> None:
        training = self.settings.training
        if training.batch_size % (training.accumulate * count):
            raise UserError(
                f"{self.section}.batch_size ({training.batch_size}) does not divide evenly over {count} processes with "
                f"accumulate={training.accumulate}; make it a multiple of {training.accumulate * count}"
            )

    @override
    def summary(self, run: Context) -> str:
        settings, training = self.settings, self.settings.training
        soft = ", soft targets" if self.needs.keys() & {"scores", "views"} else ""
        network = named_network(settings.model, training.init_from)
        if "start" in self.needs:
            network = f"{plain(settings.model.name)} from {self.needs['start']}"
        return f"{network}, {training.length} in batches of {training.batch_size}{soft}"

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        # It refuses a warm-up that is longer than the training.
        training = self.settings.training
        rows, shown = self._rows(run, sizes)
        rate = f"{training.base_lr * training.batch_size / 256:g}"
        if training.length.unit == "epochs" and rows is None:
            return PlanRow(shown, str(training.batch_size), str(training.length), "unknown", rate)
        steps = training.length.steps(batch_size=training.batch_size, rows=rows or 0)
        if rows is not None or training.warmup.unit != "epochs":
            self._steps(rows or 0)
        processes = distributed.world_size()
        batch = f"{training.batch_size}" + (f" over {processes} processes" if processes > 1 else "")
        return PlanRow(shown, batch, f"{steps:,}", f"{steps * training.batch_size:,}", rate)

    @classmethod
    @override
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        outside = {"init_from": settings.pop("init_from")} if settings.get("init_from") else {}
        settings.pop("init_from", None)
        seen = earlier_view(settings)
        section = next(key for key, value in settings.items() if isinstance(value, dict) and "base_lr" in value)
        training = settings.pop(section)
        return {
            **settings,
            "training": training,
            "seen": seen,
            "with_rest": section == "ceiling",
            "new_classifier": section == "full_ft" or training["init_from"] == "weak",
        }, outside

    def _rows(self, run: Context, sizes: Mapping[str, int]) -> tuple[int | None, str]:
        """Return the rows of the training set as far as they are known, and as the plan shows them."""
        if "selection" in self.needs:
            name = self.needs["selection"]
            rows = run.result(name).get("pairs") if run.pending(name) is None else None
            shown = selected(run, name, sizes)
            if self._with_labels:
                rows = None if rows is None else rows + sizes[self.labels]
                shown += f" + {sizes[self.labels]:,}" if self.labels in sizes else " + the labels"
            return rows, shown
        if "tags" in self.needs:
            name = self.needs["tags"]
            rows = run.result(name)["samples"] if run.pending(name) is None else None
        elif self.labels in sizes:
            rows = sizes[self.labels] + (sizes["rest"] if self.settings.with_rest else 0)
        else:
            rows = None
        return rows, "unknown" if rows is None else f"{rows:,}"

    def _steps(self, rows: int) -> tuple[int, int]:
        """Return the length of the training and of its warm-up, in optimiser steps; UserError for a longer warm-up."""
        training = self.settings.training
        steps, warmup_steps = (
            length.steps(batch_size=training.batch_size, rows=rows) for length in (training.length, training.warmup)
        )
        check_warmup(self.section, training, steps=steps, warmup_steps=warmup_steps)
        return steps, warmup_steps

    def _finished_twin(self, run: Context) -> str | None:
        """Return a stage that has done the very training of this one, under another name."""
        own = self._training_of(run, self.name)
        done = (name for name in self.twins if run.pending(name) is None)
        return next((name for name in done if self._training_of(run, name) == own), None)

    def _training_of(self, run: Context, name: str) -> str:
        """Return the fingerprint of all that decides the weights of training ``name``: not the name itself."""
        settings = run.stage(name).settings
        settings = settings.model_copy(update={"draws_as": settings.draws_as or name})
        return replace(run.work(name), stage="", identifying=identifying(settings)).identity

    def _copy(self, run: Context, twin: str) -> dict[str, Any]:
        """Leave what the stage ``twin`` has left, and return its figures."""
        if distributed.is_main():
            logger.info("seed %d: %s: the same training as %s, whose result is copied", run.seed, self.name, twin)
            for path in run.folder(twin).iterdir():
                if path.is_file() and path.name != DONE:
                    with open(path, "rb") as source, storage.atomic_write(str(run.folder(self.name) / path.name)) as to:
                        shutil.copyfileobj(source, to)
        return run.result(twin)

    @property
    def _with_labels(self) -> bool:
        return isinstance(self.settings.training, Pretrain) and self.settings.training.with_labels

    def _training_set(self, run: Context, classes: list[str]) -> tuple[data.Records, data.Targets]:
        if "tags" in self.needs:
            return data.tagged_training_set(str(run.input(self, "tags") / TAGGED), num_classes=len(classes))
        if "selection" in self.needs:
            training = cast(Pretrain, self.settings.training)
            scores = selection.score_files(str(run.input(self, "scores"))) if "scores" in self.needs else ()
            selected_set = data.selected_training_set(
                storage.join(str(run.input(self, "selection")), SELECTION),
                mode="soft" if scores else "per_pair" if training.targets == "per_pair" else "multi",
                temperature=training.temperature,
                scores=scores,
                classes=classes,
            )
            if "views" in self.needs:
                folder = run.input(self, "views")
                targets = stored_views(folder, len(selected_set[0]), len(classes), temperature=training.temperature)
                selected_set = selected_set[0], targets
            return self._and_labels(run, *selected_set, classes) if self._with_labels else selected_set
        folder = run.input(self, "data")
        records = split_records(folder, self.labels)
        if self.settings.with_rest:
            records = data.Records.concat([records, split_records(folder, "rest")])
        return records, records.class_indices(classes, what=f"the labels of {self.name}")

    def _and_labels(
        self, run: Context, records: data.Records, targets: data.Targets, classes: list[str]
    ) -> tuple[data.Records, data.Targets]:
        """Return a training set with the labeled items after its own."""
        labeled = split_records(run.input(self, "data"), self.labels)
        labels = labeled.class_indices(classes, what=f"the labels of {self.name}")
        return data.Records.concat([records, labeled]), data.concat_targets(targets, labels)

    def _loader(
        self,
        dataset: data.ItemDataset,
        compute: Compute,
        *,
        first: int,
        steps: int,
        seed: int,
        groups: np.ndarray | None,
        weights: np.ndarray | None,
    ) -> Any:
        accumulate = self.settings.training.accumulate
        batches = data.TrainBatches(
            len(dataset),
            batch_size=self.settings.training.batch_size // accumulate,
            num_batches=steps * accumulate,
            start=first * accumulate,
            seed=seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            groups=groups,
            weights=weights,
        )
        return self.execution.loader(dataset, batches, compute)

    def _checkpoints(self, run: Context) -> Checkpoints:
        return Checkpoints(folder=str(run.folder(self.name)), fingerprint=run.identity(self.name))


def start_state(stage: Stage[Any], init_from: str | None, model: Model) -> dict[str, Any]:
    """Return the state of the file that a stage starts from, for ``Stage.outside``."""
    if "start" in stage.needs:
        return {}
    if init_from is not None:
        return {"init_from": storage.state(file_and_key(init_from)[0])}
    if model.weights is None or (file := local_weights(model.weights)) is None:
        return {}
    return {"weights": storage.state(file)}


def initial_model(
    run: Context, stage: Stage[Any], classes: list[str], *, init_from: str | None, new_classifier: bool
) -> tuple[nn.Module, bool]:
    """Return the network of a stage before its first step, and whether its classifier has learned nothing by then.

    It is from ``init_from``, else from its weights, else from scratch.

    (A resumed run then replaces it by its checkpoint: resuming comes first.) The classifier starts afresh where
    ``new_classifier`` says so, and when the classes of the weights are others; from any other stage of the run they
    must be the same.
    """
    model: Model = stage.settings.model
    torch.manual_seed(stage_seed(stage.settings.seed, stage.section))
    network = build_model(model.name, num_classes=len(classes), **model.options)
    file, afresh = init_from or model.weights, new_classifier
    if "start" in stage.needs:
        load_weights(network, str(run.input(stage, "start") / WEIGHTS), new_head=afresh, classes=classes)
        afresh |= bool(run.result(stage.needs["start"]).get(UNTRAINED))
    elif init_from is None and model.weights is not None and is_named(model.weights):
        state, named = load_named(model.weights, model.options), named_weights(model.weights)
        afresh |= named.num_classes != len(classes) or named.classes not in (None, tuple(classes))
        load_weights(network, state, new_head=afresh, origin=model.weights)
    elif file is not None:
        afresh |= not has_classes(network, file, classes)
        load_weights(network, file, new_head=afresh, classes=classes)
    else:
        afresh = True
    return network, afresh
