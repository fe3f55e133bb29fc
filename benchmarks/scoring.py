"""Scoring beside a plain timm loop: full-size JPEGs through a network, the same files, in the same run.

    python benchmarks/scoring.py                          # ResNet-50 on a GPU, a small network on the CPU
    python benchmarks/scoring.py --model resnet18 --images 128

Ours is what the score stage does with a shard: data set, loader, ``predict``, the P best classes, the score file and
its ledger. The peer is the loop of timm's ``inference.py``: ``create_dataset``, ``create_loader`` (Pillow, its
transforms, its prefetcher), the network, softmax, top-k, results to the CPU; the same with channels_last, which that
script offers; and ours without the perceptual hashes by which near copies are found. Network, batch, workers, precision
and crop are the same everywhere; every side starts its workers anew.

On the CPU everything is confined to one core unless ``--cores`` says otherwise: threads that wait for each other tell
little on a machine that others use as well. Rates per second of CPU time are given beside those of the clock.

The limit is made of two rates of the same run: d, our loader without a network, and f, the network on one batch that is
in memory. Where both share the cores it is 1 / (1/d + 1/f), with a GPU the lower of the two. Sides take turns, the best
of ``--rounds`` counts. The last line is one JSON object; a ratio is ours over the peer, above 1 means faster.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial

import timm.data
import torch
from timing import Rates, alternate, best, make_compute, report, timm_inference, use_cores, write_photos
from torch import nn

from bsssl import data
from bsssl.data.datasets.sources import Folder
from bsssl.engine.predict import predict
from bsssl.engine.score import save_shard, score_shard
from bsssl.models import build_model
from bsssl.runtime.device import Compute
from bsssl.selection import ScoreHeader

CROP_PCT = 0.875
NUM_CLASSES = 1000


class Ours:
    """The score stage's work on one shard, and its two halves alone."""

    def __init__(self, folder: str, network: nn.Module, compute: Compute, args: argparse.Namespace) -> None:
        self._records = Folder(path=folder).records()
        self._network, self._compute, self._args = compute.place_model(network), compute, args
        self._normalize = data.Normalize().to(compute.device)
        data.import_imagehash()  # as the stage does, before workers are forked
        self._batch = next(iter(self._loader()))

    def _loader(self, *, looks: bool = True) -> "torch.utils.data.DataLoader[dict[str, object]]":
        args = self._args
        dataset = data.ItemDataset(
            self._records,
            views=data.ImageViews(data.test_transform(size=args.size, resize=round(args.size / CROP_PCT))),
            hash_content=True,  # as by default, to find labeled and test items in the pool
            looks=looks,  # by default too, for near copies
        )
        return data.make_loader(
            dataset,
            data.EvalBatches(len(dataset), batch_size=args.batch_size),
            workers=args.workers,
            pin_memory=self._compute.device.type == "cuda",
        )

    def score(self, *, looks: bool = True) -> int:
        """Score the shard and write its file."""
        loader = self._loader(looks=looks)
        predictions = predict(self._network, loader, normalize=self._normalize, compute=self._compute)
        found = score_shard(predictions, top_p=self._args.top_p, held_hashes=frozenset([b""]))
        header = ScoreHeader(
            teacher="teacher", class_names=tuple(map(str, range(NUM_CLASSES))), top_p=self._args.top_p,
            num_shards=1, shard="photos", number=0, base=0, num_records=len(self._records),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            save_shard(f"{folder}/scores.arrow", found, header=header, records=self._records)
        return len(found.positions)

    def decode(self) -> int:
        """The loader without a network."""
        return sum(len(batch["index"]) for batch in self._loader())

    def forward(self) -> int:
        """The network on one batch, over and over."""
        batches = [self._batch] * (len(self._records) // self._args.batch_size)
        done = predict(self._network, batches, normalize=self._normalize, compute=self._compute)
        return sum(len(prediction.index) for prediction in done)


def timm_side(folder: str, network: nn.Module, compute: Compute, args: argparse.Namespace) -> Callable[[], int]:
    """The loop of timm's inference.py."""
    network = compute.place_model(network).eval()

    def run() -> int:
        dataset = timm.data.create_dataset(name="", root=folder, split="validation")
        loader = timm.data.create_loader(
            dataset,
            input_size=(3, args.size, args.size),
            batch_size=args.batch_size,
            use_prefetcher=True,
            num_workers=args.workers,
            device=compute.device,
            crop_pct=CROP_PCT,
            interpolation="bilinear",
        )
        return timm_inference(network, loader, compute=compute, top=args.top_p)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: resnet50 on a GPU, timm/mobilenetv3_small_100 on the CPU")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, help="default: 20,000 on a GPU, 256 on the CPU")
    parser.add_argument("--batch-size", type=int, help="default: 256 on a GPU, 16 on the CPU")
    parser.add_argument("--workers", type=int, help="default: 16 on a GPU, 1 on the CPU")
    parser.add_argument("--cores", type=int, help="default: all with a GPU, 1 on the CPU")
    parser.add_argument("--top-p", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()
    ours_compute = make_compute(args.device, precision=args.precision, channels_last=True)
    plain = make_compute(args.device, precision=args.precision, channels_last=False)
    on_gpu = ours_compute.device.type == "cuda"
    args.model = args.model or ("resnet50" if on_gpu else "timm/mobilenetv3_small_100")
    args.images = args.images or (20_000 if on_gpu else 256)
    args.batch_size = args.batch_size or (256 if on_gpu else 16)
    args.workers = args.workers or (16 if on_gpu else 1)
    use_cores(args.cores or (None if on_gpu else 1))
    print(
        f"{args.images} JPEGs, {args.model} at {args.size}, batch {args.batch_size}, {args.workers} workers, "
        f"{ours_compute.precision} on {ours_compute.device}"
    )
    with tempfile.TemporaryDirectory(prefix="bsssl-scoring-") as folder:
        write_photos(folder, args.images)
        networks = [build_model(args.model, num_classes=NUM_CLASSES) for _ in range(3)]
        ours = Ours(folder, networks[0], ours_compute, args)
        rates = alternate(
            {
                "ours": ours.score,
                "without_looks": partial(ours.score, looks=False),
                "timm": timm_side(folder, networks[1], plain, args),
                "timm_channels_last": timm_side(folder, networks[2], ours_compute, args),
                "decode": ours.decode,
                "forward": ours.forward,
            },
            rounds=args.rounds,
            device=ours_compute.device,
        )
    summarise({name: best(rounds) for name, rounds in rates.items()}, on_gpu=on_gpu, settings=vars(args))


def summarise(fastest: dict[str, Rates], *, on_gpu: bool, settings: dict[str, object]) -> None:
    """The report, by the clock and, where nothing runs on a GPU, by CPU time."""
    ours: dict[str, float] = {}
    peers: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for suffix in ("",) if on_gpu else ("", "_per_cpu_second"):
        rates = {name: rate.cpu if suffix else rate.wall for name, rate in fastest.items()}
        decode, forward = rates["decode"], rates["forward"]
        rates["limit"] = min(decode, forward) if on_gpu else 1 / (1 / decode + 1 / forward)
        ours |= {name + suffix: rates[name] for name in ("ours", "decode", "forward")}
        for name in ("timm", "timm_channels_last", "without_looks", "limit"):
            peers[name + suffix], ratios[name + suffix] = rates[name], rates["ours"] / rates[name]
    report(ours=ours, peers=peers, ratios=ratios, settings=settings)


if __name__ == "__main__":
    main()
