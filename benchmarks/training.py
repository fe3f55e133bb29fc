"""Training beside plain loops, in the same run: what our loop costs, and what our reading of photographs gains.

    python benchmarks/training.py                         # ResNet-50 on a GPU, small networks on the CPU
    python benchmarks/training.py --model resnet18 --images 64

Two comparisons; network, optimiser, batch and precision are the same on both sides of each:

- loop: ``train()`` against zero_grad, forward, backward, step and nothing else, over the same uint8 batches in memory.
  The smaller the network, the more the loop weighs: on the CPU it is ResNet-20 on 32x32.
- pipeline: data set, loader and ``train()`` over a folder of full-size JPEGs against the loop of timm's ``train.py``
  over the loader of ``timm.data.create_loader``, with its optimiser, autocast and scaler. Both cut a random part of
  each picture, resize it bilinearly and flip it or not. Every side starts its workers anew.

On the CPU everything is confined to one core unless ``--cores`` says otherwise: threads that wait for each other tell
little on a machine that others use as well. Rates per second of CPU time are given beside those of the clock.

Both sides of a comparison train the same network in turns, and the ratio is the median of the rounds' ratios: single
turns of one and the same loop differ by 15 %. The last line is one JSON object; a ratio is ours over the peer, above 1
means faster.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import timm.data
import timm.optim
import timm.utils
import torch
from timing import (
    CLASSES,
    Rates,
    alternate,
    keep_memory,
    make_compute,
    median,
    median_ratio,
    report,
    use_cores,
    write_photos,
)
from torch import nn
from torch.nn import functional

from bsssl import data
from bsssl.config import Supervised
from bsssl.data.datasets.sources import Folder
from bsssl.engine.checkpoints import Checkpoints
from bsssl.engine.metrics import Metrics
from bsssl.engine.train import Failures, train
from bsssl.models import build_model
from bsssl.optim import build_optimizer, build_schedule
from bsssl.optim.losses import CrossEntropy
from bsssl.runtime.device import Compute

LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
SETTINGS = Supervised(
    base_lr=LR, batch_size=256, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY, schedule="cosine"
)
Batch = dict[str, Any]


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(SETTINGS, network)


def train_ours(
    network: nn.Module, batches: Callable[[int], Iterable[Batch]], *, steps: int, batch_size: int, compute: Compute
) -> int:
    """``train()`` as the training stages call it, with metrics and a schedule."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            model=network,
            batches=batches,
            steps=steps,
            normalize=data.Normalize().to(compute.device),
            mix=None,
            loss_function=CrossEntropy(),
            optimizer=sgd(network),
            schedule=build_schedule(SETTINGS, steps=steps, warmup_steps=0),
            compute=compute,
            seed=0,
            checkpoints=Checkpoints(folder=folder, fingerprint="benchmark"),
            open_metrics=partial(Metrics, {"jsonl": {}}, folder=folder),
            failures=Failures(rows=steps * batch_size, max_rate=0.0),
        )
    return steps * batch_size


def loop_sides(compute: Compute, args: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Ours and the bare loop over the same batches in memory."""
    shape = (args.batch_size, 3, args.loop_size, args.loop_size)
    batches: list[Batch] = [
        {
            "input": torch.randint(256, shape, dtype=torch.uint8),
            "target": torch.randint(CLASSES, (args.batch_size,)),
            "index": torch.arange(args.batch_size),
            "failures": [],
        }
        for _ in range(4)
    ]

    def stream() -> Iterable[Batch]:
        return (batches[step % len(batches)] for step in range(args.loop_steps))

    network = compute.place_model(build_model(args.loop_model, num_classes=CLASSES))

    def ours() -> int:
        return train_ours(
            network, lambda first: stream(), steps=args.loop_steps, batch_size=args.batch_size, compute=compute
        )

    def bare() -> int:
        network.train()
        optimizer, normalize = sgd(network), data.Normalize().to(compute.device)
        scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "float16")
        for batch in stream():
            optimizer.zero_grad()
            inputs, target = normalize(compute.place(batch["input"])), batch["target"].to(compute.device)
            with compute.autocast():
                loss = functional.cross_entropy(network(inputs), target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return args.loop_steps * args.batch_size

    return {"loop_ours": ours, "loop_bare": bare}


def pipeline_sides(folder: str, compute: Compute, args: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Ours and timm's over the same JPEGs."""
    steps = args.images // args.batch_size
    network = compute.place_model(build_model(args.model, num_classes=CLASSES))
    records = Folder(path=folder).records()
    targets = records.class_indices(records.class_names(), what="the photographs")

    def ours() -> int:
        dataset = data.ItemDataset(
            records, targets=targets, views=data.ImageViews(data.train_transform(size=args.size))
        )

        def batches(first: int) -> Iterable[Batch]:
            return data.make_loader(
                dataset,
                data.TrainBatches(len(dataset), batch_size=args.batch_size, num_batches=steps, start=first),
                workers=args.workers,
                pin_memory=compute.device.type == "cuda",
            )

        return train_ours(network, batches, steps=steps, batch_size=args.batch_size, compute=compute)

    def theirs() -> int:
        return train_timm(folder, network.train(), compute, args)

    return {"pipeline_ours": ours, "pipeline_timm": theirs}


def train_timm(folder: str, network: nn.Module, compute: Compute, args: argparse.Namespace) -> int:
    """The loop of timm's train.py over one epoch of its loader."""
    loader = timm.data.create_loader(
        timm.data.create_dataset(name="", root=folder, split="train"),
        input_size=(3, args.size, args.size),
        batch_size=args.batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=args.workers,
        device=compute.device,
        pin_memory=compute.device.type == "cuda",
    )
    optimizer = timm.optim.create_optimizer_v2(network, opt="sgd", lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    scaler = timm.utils.NativeScaler(device=compute.device.type) if compute.precision == "float16" else None
    loss_function, done = nn.CrossEntropyCrossEntropy(), 0
    for pixels, target in loader:
        if compute.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with compute.autocast():
            loss = loss_function(network(pixels), target)
        if scaler is not None:
            scaler(loss, optimizer)
        else:
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        done += len(pixels)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="of the pipeline: resnet50 on a GPU, timm/mobilenetv3_small_100 on the CPU")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, help="default: 20,480 on a GPU, 256 on the CPU")
    parser.add_argument("--batch-size", type=int, help="default: 256 on a GPU, 32 on the CPU")
    parser.add_argument("--workers", type=int, help="default: 16 on a GPU, 1 on the CPU")
    parser.add_argument("--loop-model", help="of the loop: resnet50 on a GPU, small_resnet on the CPU")
    parser.add_argument("--loop-size", type=int, help="default: 224 on a GPU, 32 on the CPU")
    parser.add_argument("--loop-steps", type=int, default=20, help="of one turn")
    parser.add_argument("--loop-rounds", type=int, default=25)
    parser.add_argument("--cores", type=int, help="default: all with a GPU, 1 on the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="of the pipeline")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--channels-last", action="store_true", help="on all sides")
    args = parser.parse_args()
    compute = make_compute(args.device, precision=args.precision, channels_last=args.channels_last)
    on_gpu = compute.device.type == "cuda"
    args.model = args.model or ("resnet50" if on_gpu else "timm/mobilenetv3_small_100")
    args.images = args.images or (20_480 if on_gpu else 256)
    args.batch_size = args.batch_size or (256 if on_gpu else 32)
    args.workers = args.workers or (16 if on_gpu else 1)
    args.loop_model = args.loop_model or ("resnet50" if on_gpu else "small_resnet")
    args.loop_size = args.loop_size or (224 if on_gpu else 32)
    use_cores(args.cores or (None if on_gpu else 1))
    keep_memory()
    print(
        f"loop: {args.loop_model} at {args.loop_size}; pipeline: {args.images} JPEGs, {args.model} at {args.size}, "
        f"{args.workers} workers; batch {args.batch_size}, {compute.precision} on {compute.device}"
    )
    with tempfile.TemporaryDirectory(prefix="bsssl-training-") as folder:
        write_photos(folder, args.images)
        rates = alternate(loop_sides(compute, args), rounds=args.loop_rounds, device=compute.device)
        rates |= alternate(pipeline_sides(folder, compute, args), rounds=args.rounds, device=compute.device)
    summarise(rates, on_gpu=on_gpu, settings=vars(args))


def summarise(rates: dict[str, list[Rates]], *, on_gpu: bool, settings: dict[str, object]) -> None:
    """The report, by the clock and, where nothing runs on a GPU, by CPU time."""
    ours: dict[str, float] = {}
    peers: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for kind, peer in (("loop", "bare"), ("pipeline", "timm")):
        mine, theirs = rates[f"{kind}_ours"], rates[f"{kind}_{peer}"]
        for measure, suffix in (("wall", ""),) if on_gpu else (("wall", ""), ("cpu", "_per_cpu_second")):
            ours[kind + suffix] = getattr(median(mine), measure)
            peers[f"{kind}_{peer}{suffix}"] = getattr(median(theirs), measure)
            ratios[f"{kind}_{peer}{suffix}"] = getattr(median_ratio(mine, theirs), measure)
    report(ours=ours, peers=peers, ratios=ratios, settings=settings)


if __name__ == "__main__":
    main()
