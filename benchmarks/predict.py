"""Prediction beside the loop of timm's ``inference.py``: the same JPEGs, network and batch, in the same run.

    python benchmarks/predict.py                            # 2,000 pictures
    python benchmarks/predict.py --images 300 --rounds 2

Ours is ``model.predict(folder)``, and the command's way into a Parquet file: listing, decoding, the network, the best
classes by name. The peer is the loop of timm's ``inference.py`` (``create_dataset``, ``create_loader``, the network,
softmax, top-k, results to the CPU), plain and with channels_last, which that script offers; it starts from the same
folder, by ``local-dir:``. Loading the network is in neither.

On the CPU everything is confined to one core unless ``--cores`` says otherwise. Sides take turns, the best of
``--rounds`` counts. The last line is one JSON object; a ratio is ours over the peer, above 1 means faster.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from timing import Rates, alternate, best, report, timm_inference, use_cores, write_photos

import bsssl
from bsssl.api.predicting import predict_files
from bsssl.models import build_model, save_model
from bsssl.models.weights.folder import describe
from bsssl.runtime.device import Compute

NUM_CLASSES = 1000
SEEN = {"size": 224, "resize": 256, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def leave_network(folder: Path, name: str) -> None:
    """Leave a network of timm with random weights, as a trained stage does."""
    folder.mkdir()
    classes = [f"class {number}" for number in range(NUM_CLASSES)]
    state = build_model(name, num_classes=NUM_CLASSES).state_dict()
    save_model(str(folder / "model.safetensors"), state, name=name, classes=classes, options={})
    testing = {"precision": "float32", "max_pixels": 10**9}
    (folder / "config.json").write_text(
        json.dumps(describe(name, {}, classes=classes, transforms=SEEN, testing=testing))
    )


def timm_side(network: Path, photos: str, args: argparse.Namespace, *, channels_last: bool) -> Callable[[], int]:
    """The loop of timm's inference.py."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compute = Compute(device=device, precision="float32", channels_last=channels_last)
    model = compute.place_model(timm.create_model(f"local-dir:{network}", pretrained=True)).eval()
    config = timm.data.resolve_model_data_config(model)

    def run() -> int:
        loader = timm.data.create_loader(
            timm.data.create_dataset(name="", root=photos, split="validation"),
            batch_size=args.batch_size,
            use_prefetcher=True,
            num_workers=args.workers,
            device=device,
            **config,
        )
        return timm_inference(model, loader, compute=compute, top=args.top)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timm/mobilenetv3_small_100")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cores", type=int, help="default: all with a GPU, 1 on the CPU")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    use_cores(args.cores or (None if torch.cuda.is_available() else 1))
    with tempfile.TemporaryDirectory(prefix="bsssl-predict-") as temporary:
        photos, network = f"{temporary}/photos", Path(temporary, "network")
        write_photos(photos, args.images)
        leave_network(network, args.model)
        model = bsssl.load(network)
        options = {"top": args.top, "batch_size": args.batch_size, "workers": args.workers}
        rates = alternate(
            {
                "ours": lambda: len(model.predict(photos, **options)),
                "ours_to_a_file": lambda: predict_files(model, [photos], to=f"{temporary}/a.parquet", **options).items,
                "timm": timm_side(network, photos, args, channels_last=False),
                "timm_channels_last": timm_side(network, photos, args, channels_last=True),
            },
            rounds=args.rounds,
            device=next(model.network.parameters()).device,
        )
    summarise({name: best(rounds) for name, rounds in rates.items()}, settings=vars(args))


def summarise(fastest: dict[str, Rates], *, settings: dict[str, object]) -> None:
    """The report, by the clock and by CPU time."""
    ours: dict[str, float] = {}
    peers: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for suffix in ("", "_per_cpu_second"):
        rates = {name: rate.cpu if suffix else rate.wall for name, rate in fastest.items()}
        ours |= {name + suffix: rates[name] for name in ("ours", "ours_to_a_file")}
        for name in ("timm", "timm_channels_last"):
            peers[name + suffix], ratios[name + suffix] = rates[name], rates["ours"] / rates[name]
    report(ours=ours, peers=peers, ratios=ratios, settings=settings)


if __name__ == "__main__":
    main()
