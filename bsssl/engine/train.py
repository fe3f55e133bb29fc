"""The one training loop, for every stage.

Nothing random has a state of its own: the permutation of an epoch, the augmentation of a sample and the random numbers
of a step (dropout, mixup) all follow from the seed and the step. A checkpoint therefore holds weights, optimiser and
what the loss remembers alone, and a run resumed at any step goes on as if it had never stopped.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bsssl.engine.checkpoints import Checkpoints
from bsssl.engine.metrics import Metrics
from bsssl.errors import UserError
from bsssl.runtime import distributed, interruptions
from bsssl.runtime.console import logger, progress
from bsssl.runtime.device import Compute

LOG_EVERY = 50
_TOO_SMALL = ("Output size is too small", "greater than actual input size")  # in the words of PyTorch
DIVERGED = "training diverged; lower base_lr, set clip_norm, lengthen warmup, or use system.precision=float32"


@dataclass
class Failures:
    """Unreadable rows seen so far: counted, listed, and refused above ``max_rate`` of the data set's ``rows``."""

    rows: int
    max_rate: float
    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, failures: Iterable[Any]) -> None:
        """Take note of a batch's failures (objects with ``index`` and ``reason``)."""
        self.reasons.update((failure.index, failure.reason) for failure in failures)
        self._check()

    def gather(self) -> None:
        """Bring together what the processes of a run have seen, each its own part of every batch."""
        for reasons in distributed.gather(self.reasons):
            self.reasons.update(reasons)
        self._check()

    def _check(self) -> None:
        if len(self.reasons) > self.max_rate * self.rows:
            examples = "; ".join(f"row {index}: {reason}" for index, reason in list(self.reasons.items())[:5])
            raise UserError(
                f"{len(self.reasons)} of {self.rows} training items cannot be read, more than the tolerated "
                f"{self.max_rate:.1%}: {examples}; mend the data or raise data.max_failure_rate"
            )


def train(
    *,
    model: nn.Module,
    batches: Callable[[int], Iterable[dict[str, Any]]],
    steps: int,
    normalize: Callable[[Tensor], Tensor],
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    compute: Compute,
    seed: int,
    checkpoints: Checkpoints,
    open_metrics: Callable[..., Metrics],
    failures: Failures,
    teacher: nn.Module | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    average_decay: float | None = None,
    frozen: Sequence[str] = (),
    checkpoint_minutes: float = 5.0,
    checkpoint_steps: int | None = None,
    title: str = "train",
) -> nn.Module:
    """Train ``model`` (already on its device) for ``steps`` optimiser steps, resuming where a killed run stopped.

    Ctrl-C, SIGTERM and the warning of a scheduler save a checkpoint at the end of the step, see
    ``bsssl.runtime.interruptions``.

    Args:
        model: Maps a float batch to logits (B, classes).
        batches: Given the first step, yields ``accumulate`` batches per step: ``input`` uint8 (B, C, ...), ``target``
            int64 (B,) or float32 (B, classes) that sums to 1, ``index`` int64 (B,), and ``failures``.
        steps: The number of optimiser steps in all.
        normalize: From uint8 on the device to float.
        mix: Mixup or CutMix of a batch, or None.
        loss_function: From logits, targets and rows to the mean loss, on its device; its state is saved and resumed.
        optimizer: The optimiser of ``model``'s parameters; the rate of each group is set before each step,
            times the group's ``lr_scale`` where it has one.
        schedule: From the optimiser step to the learning rate.
        compute: Device, precision and memory format.
        seed: Decides dropout and mixing (data has a seed of its own).
        checkpoints: Where to resume from and save to.
        open_metrics: Given the first ``step``, returns what loss, accuracy, rate and speed are written to.
        failures: The tolerance for unreadable items.
        teacher: From the inputs of a batch, mixed ones too, to targets (B, classes) in the place of the batch's own.
        accumulate: Batches per optimiser step.
        clip_norm: The largest norm of the gradient.
        average_decay: Return the exponential moving average of the weights instead of the last ones.
        frozen: Modules of ``model``, by their names, that stay in eval mode: their parameters have no gradients.
        checkpoint_minutes: The time between checkpoints.
        checkpoint_steps: Optimiser steps between checkpoints, besides.
        title: What the progress bar is called.

    Returns:
        The trained network.

    Raises:
        UserError: The loss stops being finite, or too many items are unreadable.
        KeyboardInterrupt: There was a Ctrl-C.
        SystemExit: There was a SIGTERM that the caller does not handle.
    """
    average = _average(model, average_decay) if average_decay else None
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "float16")
    parts = {"model": model, "optimizer": optimizer, "scaler": scaler, "loss": loss_function}
    parts |= {"average": average} if average else {}
    first = _resume(checkpoints, parts, failures)
    network = _parallel(torch.compile(model) if compute.compile else model, compute.device)

    model.train()
    for name in frozen:
        model.get_submodule(name).eval()
    if first:
        logger.info("%s goes on from step %d of %d", title, first, steps)
    tally = _Tally(compute.device)
    with interruptions.kept_from_children():
        stream = iter(batches(first)) if first < steps else iter(())
    saved_at = time.monotonic()
    bar = progress(range(first, steps), total=steps, initial=first, unit="step", title=title)
    with contextlib.closing(open_metrics(step=first)) as metrics, interruptions.deferred() as interruption:
        for step in bar:
            rate = schedule(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            for part in range(accumulate):
                batch = _next(stream, failures)
                _seed_generators(_pass_seed(seed, step, part), compute.device)
                inputs, target = normalize(compute.place(batch["input"])), batch["target"].to(compute.device)
                if mix is not None:
                    inputs, target = mix(inputs, target)
                with _sync_on_last(network, part, accumulate), compute.autocast():
                    if teacher is not None:
                        target = teacher(inputs)
                    logits = _logits(network, inputs)
                    loss = loss_function(logits, target, batch["index"])
                    scaler.scale(loss / accumulate).backward()
                tally.add(loss, logits, target)
            if clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update_parameters(model)

            done, interrupted = step + 1, interruption.is_due
            due = distributed.is_main() and (
                interrupted
                or time.monotonic() - saved_at > 60 * checkpoint_minutes
                or (checkpoint_steps and done % checkpoint_steps == 0)
            )
            if done % LOG_EVERY == 0 or done == steps or due:
                scalars = tally.read(step=done)
                _check_weights(model, step=done)
                bar.set_postfix_str(f"loss {scalars['loss']:.3f}", refresh=False)
                metrics.write(done, {"lr": rate, **scalars})
            if due and done < steps:
                checkpoints.save(done, _state(parts, failures))
                saved_at = time.monotonic()
                if interrupted:
                    interruption.answer()
        failures.gather()
        if interruption.is_due:  # it came in the last step, or after it
            if distributed.is_main():
                checkpoints.save(steps, _state(parts, failures))
            interruption.answer()
    if average is None:
        return model
    for name in frozen:  # counters are rounded when they are averaged
        average.module.get_submodule(name).load_state_dict(model.get_submodule(name).state_dict())
    return average.module


def _average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of ``model``'s weights and of its running statistics."""
    update: Any = get_ema_multi_avg_fn  # has no types
    return AveragedModel(model, multi_avg_fn=update(decay), use_buffers=True)


class _Tally:
    """Sums over steps, kept on the device so that reading them is the only wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._samples = 0
        self._since = time.monotonic()

    def add(self, loss: Tensor, logits: Tensor, target: Tensor) -> None:
        classes = target if target.ndim == 1 else target.argmax(1)
        self._loss += loss.detach().double() * len(logits)
        self._correct += (logits.argmax(1) == classes).sum()
        self._samples += len(logits)

    def read(self, *, step: int) -> dict[str, float]:
        loss, correct, samples = self._loss.item(), self._correct.item(), self._samples
        seconds = time.monotonic() - self._since
        self.__init__(self._loss.device)  # type: ignore[misc]
        if not np.isfinite(loss):
            raise UserError(f"the loss is {loss} by step {step}: {DIVERGED}")
        return {
            "loss": loss / samples,
            "accuracy": 100 * correct / samples,
            "samples_per_second": distributed.world_size() * samples / max(seconds, 1e-9),
        }


def _check_weights(model: nn.Module, *, step: int) -> None:
    """Refuse a network whose loss was finite but whose last update was not, before it could be saved."""
    if not torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all():
        raise UserError(f"the weights are not finite after step {step}: {DIVERGED}")


def _next(stream: Iterator[dict[str, Any]], failures: Failures) -> dict[str, Any]:
    batch = next(stream)
    if batch["failures"]:
        failures.add(batch["failures"])
        if "input" not in batch:
            raise UserError(f"not one item of a batch can be read; the first: {batch['failures'][0].reason}")
    return batch


def _logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits of a batch.

    Raises:
        UserError: The network cannot learn from so few or so small samples, or gives something else while it learns.
    """
    try:
        logits = network(inputs)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _TOO_SMALL):
            raise
        size = "x".join(map(str, inputs.shape[1:]))
        raise UserError(
            f"inputs of {size} are too small for the network while it learns; set a larger transforms.size, or leave "
            "out its auxiliary classifiers (options.aux_logits=false)"
        ) from None
    except ValueError as error:
        if len(inputs) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch normalisation cannot learn from the one sample that a batch has here; raise batch_size, lower "
            "accumulate or the number of processes, or mend what cannot be read"
        ) from None
    if not isinstance(logits, Tensor):
        raise UserError(
            f"the network gives {type(logits).__name__} in training, not a tensor of logits; leave out its auxiliary "
            "classifiers (options.aux_logits=false), or choose another"
        )
    return logits


def _parallel(network: Any, device: torch.device) -> nn.Module:
    if distributed.world_size() == 1:
        module: nn.Module = network
        return module
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)


def _sync_on_last(network: nn.Module, part: int, parts: int) -> contextlib.AbstractContextManager[Any]:
    """Gradients cross the network once per optimiser step, not once per accumulated batch."""
    if isinstance(network, DistributedDataParallel) and part < parts - 1:
        return network.no_sync()
    return contextlib.nullcontext()


def _seed_generators(seed: int, device: torch.device) -> None:
    """Do what ``torch.manual_seed`` does, for the CPU and this device alone: for others it notes a stack trace."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _pass_seed(seed: int, step: int, part: int) -> int:
    entropy = np.random.SeedSequence([seed, step, part, distributed.rank()])
    return int(entropy.generate_state(1, np.uint64)[0] >> 1)


def _state(parts: dict[str, Any], failures: Failures) -> dict[str, Any]:
    return {**{name: part.state_dict() for name, part in parts.items()}, "failures": failures.reasons}


def _resume(checkpoints: Checkpoints, parts: dict[str, Any], failures: Failures) -> int:
    latest = checkpoints.latest()
    if latest is None:
        return 0
    step, state = latest
    for name, part in parts.items():
        part.load_state_dict(state[name])
    failures.reasons.update(state["failures"])
    return step
