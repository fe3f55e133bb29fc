"""The open set: how many intruders are selected out of a pool that holds some, and what that does to the student.

    python benchmarks/open_set.py --labeled cifar10/train --test cifar10/test --intruders tinyin_pool \
        --to outputs/open_set --config projects/image/cifar10.yaml teacher.length='40_000 samples'

The labeled pictures are folders of CIFAR-10's classes, the intruders folders of Tiny ImageNet's, named by their WordNet
numbers; those that show something of CIFAR-10 are left out (``SHARED``). There are ``--labels`` pictures of each class,
and in the pool ``--unlabeled`` more and all intruders, at 32 pixels as the others. The recipe is run as a sweep, so
that methods share their teacher: with each method, and without an open set, where all labels are taught. Printed are
means and deviations over the seeds: the share of intruders among the picks, the accuracies, how well the values tell
intruders and others apart (AUROC), and the share of both that the threshold leaves out. Further arguments are of the
config.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

from bsssl import cli, data
from bsssl.recipes.sweep import Point, Sweep
from bsssl.selection import read_selection
from bsssl.selection.open_set import values_path

METHODS = ("confidence", "energy", "distance")
SHARED: dict[str, list[str]] = {
    "airplane": [],
    "automobile": ["n02814533", "n03100240", "n03670208", "n04285008", "n03977966", "n03444034"],  # the last: go-kart
    "bird": ["n01855672", "n02002724", "n02056570", "n02058221"],
    "cat": ["n02123045", "n02123394", "n02124075", "n02125311", "n02129165"],  # the last: cougar, lion
    "deer": ["n02423022"],  # gazelle
    "dog": ["n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"],
    "frog": ["n01641577", "n01644900"],
    "horse": [],
    "ship": ["n03447447", "n03662601"],
    "truck": ["n03796401", "n04146614", "n04465501", "n04487081"],  # moving van, school bus, tractor, trolleybus
}
"""classes of Tiny ImageNet that show what a class of CIFAR-10 shows, or something like it"""
INTRUDER = "intruder-"
"""what keys of intruders begin with"""


def listed(folder: Path, count: int) -> list[str]:
    """Return the first ``count`` pictures of each class as lines of a manifest."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [f"{path.resolve()},{one.name}\n" for one in classes for path in sorted(one.iterdir())[:count]]


def write_data(args: argparse.Namespace) -> list[str]:
    """Write the data and return what of the config names them."""
    folder, shared = Path(args.to) / "data", set(itertools.chain(*SHARED.values()))
    intruders = folder / "intruders"
    intruders.mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(args.intruders).glob("n*/*")):
        if path.parent.name not in shared:
            with Image.open(path) as image:
                small = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
            small.save(intruders / f"{INTRUDER}{path.stem}.jpg", quality=95)
    for name, source, count in (
        ("train", args.labeled, args.labels + args.unlabeled),
        ("test", args.test, args.tested),
    ):
        (folder / f"{name}.csv").write_text("path,label\n" + "".join(listed(Path(source), count)))
    return [
        f"data.train={{dataset: manifest, path: {folder}/train.csv}}",
        f"data.test={{dataset: manifest, path: {folder}/test.csv}}",
        f"data.pool=[{{dataset: folder, path: {intruders}}}]",
        f"data.labels_per_class={args.labels}",
    ]


def figures_of(point: Point) -> list[dict[str, float]]:
    """Return the figures of each seed of a point."""
    all_of = []
    for run in point.runs:
        keys = read_selection(str(run.folder("select") / "selection.parquet")).key.to_pylist()
        figures = {"intruders": 100 * float(np.mean([INTRUDER in key for key in keys])), "picks": len(keys)}
        for name in ("teacher", "baseline", "pretrain", "finetune"):
            figures[name] = run.result(f"evaluate-{name}")["top1"]
        if "open_set" in run.stages:
            pool = data.read_pool(str(run.folder("data") / "pool"))
            names = [key for shard in pool.shards for key in shard.records().key.to_pylist()]
            values = np.concatenate([np.load(values_path(run.folder("open_set"), one.number)) for one in pool.shards])
            is_intruder = np.array([INTRUDER in name for name in names])
            is_out = values < run.result("open_set")["threshold"]
            figures["auroc"] = 100 * float(roc_auc_score(~is_intruder, values))
            figures["intruders out"] = 100 * float(is_out[is_intruder].mean())
            figures["others out"] = 100 * float(is_out[~is_intruder].mean())
        all_of.append(figures)
    return all_of


def main() -> None:
    """Run the sweep and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labeled", required=True, help="folders of labeled pictures, one for each class")
    parser.add_argument("--test", required=True, help="folders of test pictures")
    parser.add_argument("--intruders", required=True, help="folders of pictures of other classes")
    parser.add_argument("--to", required=True, help="the folder of data and runs")
    parser.add_argument("--config", required=True, help="the recipe")
    parser.add_argument("--labels", type=int, default=40, help="labeled pictures of each class")
    parser.add_argument("--unlabeled", type=int, default=200, help="pictures of each class in the pool")
    parser.add_argument("--tested", type=int, default=300, help="test pictures of each class")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.95], help="shares of labels to let through")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="key=value of the config")
    args = parser.parse_intermixed_args()
    open_sets = [f"{{method: {method}, keep: {keep}}}" for method in METHODS for keep in args.keep]
    overrides = [
        *write_data(args),
        f"output_dir={args.to}/runs",
        *args.overrides,
        f"select.open_set={','.join([*open_sets, 'null'])}",
        f"seed={','.join(map(str, range(args.seeds)))}",
    ]
    try:
        cli.main(["sweep", args.config, *overrides])
    except SystemExit as ended:
        if ended.code:
            raise
    rows = {}
    for point in Sweep(args.config, tuple(overrides)).points():
        by_name = figures_of(point)
        rows[point.values["select.open_set"]] = {
            name: (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
            for name in by_name[0]
            for values in [[one[name] for one in by_name]]
        }
    names = list(dict.fromkeys(itertools.chain(*rows.values())))
    print("| open set |", " | ".join(names), "|")
    for title, figures in rows.items():
        cells = (f"{figures[name][0]:.1f} ± {figures[name][1]:.1f}" if name in figures else "" for name in names)
        print(f"| {title} |", " | ".join(cells), "|")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
