"""What several stages start from: the split, the networks, the device, the loaders."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from bsssl import config as configs
from bsssl import data, storage
from bsssl.errors import UserError
from bsssl.models import build_model
from bsssl.models.weights.loading import load_weights
from bsssl.pipeline.run import CLASSES as CLASSES
from bsssl.pipeline.run import HELD as HELD
from bsssl.pipeline.run import POOL as POOL
from bsssl.pipeline.run import SELECTION as SELECTION
from bsssl.pipeline.run import TAGGED as TAGGED
from bsssl.pipeline.run import WEIGHTS as WEIGHTS
from bsssl.pipeline.run import Run, Stage
from bsssl.runtime import distributed
from bsssl.runtime.device import Compute

OVERLAP_REMEDY = "take them out, set data.pool_overlap=exclude to have them left out, or set it to allow to keep them"


def class_list(run: Run, stage: str = "data") -> list[str]:
    """The classes that the data or the tags stage found, in the order of the network's outputs."""
    classes: list[str] = storage.read_json(str(run.folder(stage) / CLASSES))
    return classes


def split_records(run: Run, name: str) -> pa.Table:
    """One part of the split: labeled, rest or test."""
    return data.read_records(str(run.folder("data") / f"{name}.csv"))


def some(counts: Mapping[str, int], most: int = 5) -> str:
    """The first of some counted names, for a message."""
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:most])
    return shown + (", ..." if len(counts) > most else "")


def trained_model(run: Run, name: str) -> nn.Module:
    """The network that training stage ``name`` left, on the CPU."""
    spec, classes = run.stages[name].settings["model"], class_list(run)
    model = build_model(spec["name"], num_classes=len(classes), **spec["options"])
    load_weights(model, str(run.folder(name) / WEIGHTS), classes=classes)
    return model


def make_compute(system: configs.System) -> Compute:
    """Where and how to compute; UserError when a GPU is asked for and there is none."""
    available = torch.cuda.is_available()
    if system.device == "cuda" and not available:
        raise UserError(
            "system.device is cuda, but no GPU is usable; set system.device=cpu or auto, or check the driver"
        )
    kind = "cuda" if available and system.device != "cpu" else "cpu"
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    torch.set_num_threads(system.threads or _free_threads(kind, system.workers))
    return Compute(
        device=device, precision=system.precision, channels_last=system.channels_last, compile=system.compile
    )


def _free_threads(kind: str, workers: int) -> int:
    """As many threads as torch would take, but on a CPU not the cores that the loader's processes need: torch's threads
    wait for each other busily, and one that has to share its core makes a step many times longer."""
    wanted = torch.get_num_threads()
    return wanted if kind == "cuda" else max(1, min(wanted, distributed.own_cores() - workers))


def loader(run: Run, dataset: data.ItemDataset, batches: data.TrainBatches | data.EvalBatches, compute: Compute) -> Any:
    """A loader as the system section asks for."""
    system = run.config.system
    return data.make_loader(
        dataset,
        batches,
        workers=system.workers,
        pin_memory=compute.device.type == "cuda",
        context=system.start_method,
    )


def eval_batches(run: Run, dataset: data.ItemDataset, views: data.Views) -> data.EvalBatches:
    """Every item once, as many at a time as make ``eval_batch`` views; processes share the batches."""
    return data.EvalBatches(len(dataset), batch_size=max(1, run.config.eval_batch() // views.count))


def normalize(run: Run, compute: Compute) -> data.Normalize:
    """From bytes to the network's floats, on the device."""
    transforms = run.config.data.transforms
    return data.Normalize(mean=transforms.mean, std=transforms.std).to(compute.device)


def views(run: Run, stage: Stage, purpose: configs.Purpose) -> data.Views:
    """How the network of ``stage`` sees items in training, scoring or testing."""
    settings = configs.Model(**stage.settings["model"]).view_of(run.config.data)
    transforms = settings.transforms
    if purpose == "train":
        magnitude = getattr(run.config, stage.section).randaugment
        transform = data.train_transform(
            size=transforms.size,
            crop=transforms.train_crop,
            hflip=transforms.flip,
            randaugment_ops=2 if magnitude is not None else 0,
            randaugment_magnitude=magnitude or 0,
            **transforms.crop_options(),
        )
    else:
        seen = transforms.for_testing()
        transform = data.test_transform(size=seen["size"], resize=seen["resize"])
    return data.make_views(transform, max_pixels=settings.max_pixels, clips=settings.clips_for(purpose))
