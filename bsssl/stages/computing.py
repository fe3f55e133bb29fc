"""What stages with a network start from: the device, the loaders, the network that another stage left."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from bsssl import data, storage
from bsssl.config import Model, System
from bsssl.engine.metrics import Metrics
from bsssl.errors import shortened
from bsssl.models import CONFIG, WEIGHTS, build_model, describe, load_weights, save_model
from bsssl.pipeline.stage import Context, Stage
from bsssl.runtime.console import progress
from bsssl.runtime.device import Compute, make_compute
from bsssl.stages.card import write_card

CLASSES = "classes.json"


@dataclass(frozen=True)
class Execution:
    """How to compute: what does not decide a result."""

    system: System
    batch: int = 1
    """views of items that a process sees at a time when scoring and testing"""
    deadline: float | None = None
    """seconds after which a video counts as unreadable"""
    test_clips: Mapping[str, int] = field(default_factory=dict)
    """of videos, the count of clips that a test of the network takes, and of crops"""
    max_failure_rate: float = 0.0
    """share of unreadable items that is tolerated when training and scoring"""

    def compute(self, precision: str) -> Compute:
        """Return the device and how to compute on it; UserError when a GPU is asked for and there is none."""
        system = self.system
        return make_compute(
            device=system.device,
            precision=precision,
            channels_last=system.channels_last,
            compile=system.compile,
            threads=system.threads,
            workers=system.workers,
        )

    def loader(self, dataset: data.ItemDataset, batches: data.Batches, compute: Compute) -> Any:
        """Return a loader of ``batches`` with the worker processes that are asked for."""
        return data.make_loader(
            dataset,
            batches,
            workers=self.system.workers,
            pin_memory=compute.device.type == "cuda",
            context=self.system.start_method,
        )

    def eval_loader(
        self, dataset: data.ItemDataset, views: data.Views, compute: Compute, *, title: str | None = None
    ) -> Any:
        """Return a loader of every item once, as many at a time as make ``batch`` views; processes share them.

        ``title``: what a progress bar calls the work; None for no bar.
        """
        batches = data.EvalBatches(len(dataset), batch_size=max(1, self.batch // views.count))
        loader = self.loader(dataset, batches, compute)
        return loader if title is None else progress(loader, total=len(batches), unit="batch", title=title)


def class_list(folder: Path) -> list[str]:
    """Return the classes that the data or the tags stage left in ``folder``, in the order of a network's outputs."""
    classes: list[str] = storage.read_json(str(folder / CLASSES))
    return classes


def split_records(folder: Path, name: str) -> data.Records:
    """Return a part of the split that the data stage left in ``folder``: labeled, rest or a test set."""
    return data.Records.read(str(folder / f"{name}.csv"))


def trained_model(folder: Path, model: Model, classes: list[str]) -> nn.Module:
    """Return the network that a stage left in ``folder``, on the CPU."""
    network = build_model(model.name, num_classes=len(classes), **model.options)
    load_weights(network, str(folder / WEIGHTS), classes=classes)
    return network


def leave_model(
    run: Context, stage: Stage[Any], network: nn.Module, classes: list[str], *, execution: Execution
) -> None:
    """Leave a trained network in the folder of ``stage``, which is then usable alone.

    That is the weights, as ``trained_model`` returns them, ``config.json``, which says what the network is and how it
    sees pictures and videos, and the card. The settings of the stage have a ``model``, a ``precision``, and ``seen``.
    """
    folder, settings = run.folder(stage.name), stage.settings
    model, seen = settings.model, settings.seen
    named: dict[str, Any] = {"name": model.name, "options": model.options}
    described = describe(
        **named,
        classes=classes,
        transforms=seen.for_testing().model_dump(),
        clips=None if seen.clips is None else seen.clips.of_network(),
        testing={"precision": settings.precision, **seen.testing(execution.test_clips)},
    )
    storage.write_json(str(folder / CONFIG), described)
    write_card(run, stage.name)
    save_model(str(folder / WEIGHTS), network.state_dict(), **named, classes=classes)


def open_metrics(
    run: Context,
    stage: Stage[Any],
    loggers: Mapping[str, Mapping[str, Any]],
    *,
    step: int = 0,
    steps: int = 0,
) -> Metrics:
    """Return what the figures of ``stage`` are written to; see ``Metrics`` for the steps."""
    return Metrics(
        loggers,
        folder=str(run.folder(stage.name)),
        step=step,
        steps=steps,
        stage=stage.name,
        seed=run.seed,
        config=dict(_flat(yaml.safe_load(run.config) or {})),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a config by their keys with dots, lists as JSON; not how loggers are reached."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key != "system.loggers":
            yield from _flat(value, f"{key}.")
        elif not isinstance(value, Mapping):
            yield key, json.dumps(value) if isinstance(value, list) else value


def normalize(transforms: Any, compute: Compute) -> data.Normalize:
    """Return what makes the floats of a network of bytes, on the device; ``transforms`` has a mean and a std."""
    return data.Normalize(mean=transforms.mean, std=transforms.std).to(compute.device)


def first_counts(counts: Mapping[str, int]) -> str:
    """Return the first five of counted names, for a message."""
    shown = ", ".join(f"{shortened(name)} ({count})" for name, count in list(counts.items())[:5])
    return shown + (", ..." if len(counts) > 5 else "")


def stage_seed(seed: int, name: str) -> int:
    """Return a seed of a stage's own: stages of one seed draw different random numbers."""
    return int(storage.fingerprint([seed, name]), 16) % 2**62
