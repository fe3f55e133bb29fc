"""A training small enough for a test, through the real loop and the real loader, with every part open to variation."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bsssl.data.loading.dataset import Failure
from bsssl.data.loading.loader import TrainBatches, make_loader
from bsssl.data.views.transforms import Normalize
from bsssl.engine.checkpoints import Checkpoints
from bsssl.engine.metrics import Metrics
from bsssl.engine.train import Failures, train
from bsssl.optim import freezing
from bsssl.optim.losses import CrossEntropy, EarlyLearning
from bsssl.runtime import distributed
from bsssl.runtime.device import Compute

CLASSES = 3
ROWS = 60
CPU = Compute(device=torch.device("cpu"))
normalize = Normalize(mean=[0.5] * 3, std=[0.25] * 3)


class Stripes(Dataset[list[dict[str, Any] | Failure]]):
    """Pictures uint8 (3, 6, 6) of which class c has colour c bright, under noise drawn anew for every (row, draw)."""

    def __init__(self, *, unreadable: Iterable[int] = ()) -> None:
        self._unreadable = frozenset(unreadable)

    def __getitem__(self, item: tuple[int, int]) -> list[dict[str, Any] | Failure]:
        row, draw = item
        if row in self._unreadable:
            return [Failure(row, "cut short")]
        torch.default_generator.manual_seed(draw)
        picture = torch.randint(0, 150, (3, 6, 6), dtype=torch.uint8)
        picture[row % CLASSES] += 100
        return [{"input": picture, "target": row % CLASSES, "index": row, "view": 0}]


def make_model(*, dropout: float = 0.0, seed: int = 0, batch_norm: bool = False) -> nn.Module:
    """Without batch norm, so that how a batch is split makes no difference; with it, it has seen pictures before."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8)
    if isinstance(norm, nn.BatchNorm2d):
        norm.load_state_dict(
            {**norm.state_dict(), "running_mean": torch.rand(8), "num_batches_tracked": torch.tensor(7)}
        )
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        norm,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8, CLASSES),
    )


def sgd(model: nn.Module, *, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum, weight_decay=1e-4)


class Interrupted(Exception):
    """Stands for whatever ends a training early."""


def run(
    folder: Path,
    *,
    model: nn.Module | None = None,
    dropout: float = 0.0,
    batch_norm: bool = False,
    freeze: Sequence[str] = (),
    steps: int = 12,
    batch_size: int = 12,
    workers: int = 0,
    unreadable: Iterable[int] = (),
    max_failure_rate: float = 0.5,
    interrupt_before: int | None = None,
    gate: tuple[int, Path] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[int], float] = lambda step: 0.3,
    loss_function: nn.Module | None = None,
    elr: float = 0.0,
    compute: Compute = CPU,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    accumulate: int = 1,
    fingerprint: str = "0a",
    **options: Any,
) -> nn.Module:
    """Train ``model`` in ``folder``; ``interrupt_before`` is the step whose batches never come.

    ``gate`` is a step and a named pipe: the step waits for its first batch until somebody has written to the pipe.
    """
    model = compute.place_model(model or make_model(dropout=dropout, batch_norm=batch_norm))
    frozen = freezing.freeze(model, freeze)
    dataset = Stripes(unreadable=unreadable)
    early_learning = EarlyLearning(rows=ROWS, num_classes=CLASSES, weight=elr, beta=0.7)

    def batches(first: int) -> Iterator[dict[str, Any]]:
        sampler = TrainBatches(
            ROWS,
            batch_size=batch_size // accumulate,
            num_batches=steps * accumulate,
            start=first * accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        # The workers start here, as those of a stage do, not when the first batch is asked for.
        return deliver(iter(make_loader(dataset, sampler, workers=workers)), first)

    def deliver(loader: Iterator[dict[str, Any]], first: int) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(loader, start=first * accumulate):
            if number == (-1 if interrupt_before is None else interrupt_before * accumulate):
                raise Interrupted
            if gate is not None and number == gate[0] * accumulate:
                gate[1].read_bytes()
            yield batch

    return train(
        model=model,
        batches=batches,
        steps=steps,
        normalize=normalize,
        mix=mix,
        loss_function=loss_function or CrossEntropy(early_learning=early_learning if elr else None),
        optimizer=optimizer or sgd(model),
        schedule=schedule,
        compute=compute,
        seed=5,
        checkpoints=Checkpoints(folder=str(folder), fingerprint=fingerprint),
        open_metrics=partial(Metrics, {"jsonl": {}} if distributed.is_main() else {}, folder=str(folder)),
        failures=Failures(rows=ROWS, max_rate=max_failure_rate),
        accumulate=accumulate,
        frozen=frozen,
        **options,
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of ``model``."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def lines(folder: Path) -> list[dict[str, Any]]:
    """What a training in ``folder`` wrote to its metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other
