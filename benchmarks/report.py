"""What the report of a large run takes: time, memory, the size of the page, and how soon it shows a picture.

    python -m benchmarks.report --classes 1000 --top-k 1000

Makes the folder of a finished run with random scores, a pool of twice as many photographs as picks (a few of them, with
many names), and a test set of 50 items per class; then `bsssl report` makes its page in a process of its own. Where
there is a Chromium, it opens the page. The last line is one JSON object.
"""

import argparse
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image

from benchmarks.timing import machine, photo
from bsssl.config import load_config
from bsssl.data import Records
from bsssl.pipeline.record import finished_now, write_record
from bsssl.pipeline.run import Run
from bsssl.recipes.runs import all_runs
from bsssl.selection import (
    SAMPLES_SCHEMA,
    ScoreHeader,
    score_files,
    score_path,
    select_samples,
    write_scores,
    write_selection,
)
from tests.reports.browser import Page, find_browser

SHARD, TOP_P, TEST_PER_CLASS = 10_000, 5, 50
PHOTOS, COPIES, NAMES = 24, 2_000, 50  # distinct photographs, in one file so often, which has so many names
FIRST_PICTURE = "[...document.images].some((image) => image.naturalWidth > 0)"


class Photographs:
    """Photographs of 500x375 in one file with many names: (path, offset, size) of item ``number``."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sizes, contents = [], []
        for _ in range(PHOTOS):
            with io.BytesIO() as jpeg:
                Image.fromarray(photo(generator).permute(1, 2, 0).numpy()).save(jpeg, "JPEG", quality=85)
                contents.append(jpeg.getvalue())
        sizes = np.array([len(contents[number % PHOTOS]) for number in range(COPIES)])
        self.offsets, self.sizes = np.cumsum(sizes) - sizes, sizes
        folder.mkdir()
        with open(folder / "photos", "wb") as file:
            for number in range(COPIES):
                file.write(contents[number % PHOTOS])
        for number in range(NAMES):
            (folder / f"photos-{number}").symlink_to("photos")
        self.paths = np.array([str(folder / f"photos-{number}") for number in range(NAMES)], object)

    def places(self, numbers: np.ndarray) -> dict[str, Any]:
        """The columns path, offset and size of items."""
        own = numbers % COPIES
        return {
            "path": self.paths[numbers // COPIES % NAMES].tolist(),
            "offset": self.offsets[own],
            "size": self.sizes[own],
        }


def make_run(folder: Path, *, classes: int, top_k: int) -> Path:
    """The output folder of a finished run with ``classes`` x ``top_k`` picks."""
    photographs, names = Photographs(folder / "photographs"), [f"class {number:04d}" for number in range(classes)]
    source = {"dataset": "manifest", "path": str(folder / "nowhere.csv")}
    network = {"name": "small_resnet"}
    values = {
        "output_dir": str(folder / "run"),
        "data": {"train": source, "test": source, "pool": [source], "transforms": {"size": 64}},
        "models": {"teacher": network, "student": network},
        "score": {"top_p": TOP_P},
        "select": {"top_k": top_k},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (run,) = all_runs(load_config(str(folder / "config.yaml"), []), config_path="config.yaml")
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text(run.config)
    pool = -(-2 * classes * top_k // SHARD) * SHARD
    score(run.folder("score"), photographs, names, pool)
    chosen = select_samples(score_files(str(run.folder("score"))), top_k=top_k)
    write_selection(str(run.folder("select") / "selection.parquet"), chosen)
    test(run, photographs, names)
    results: dict[str, dict[str, Any]] = {
        "data": {
            "classes": classes,
            "labeled": 13 * classes,
            "test": TEST_PER_CLASS * classes,
            "pool": pool,
            "pool_shards": pool // SHARD,
        },
        "score": {"records": pool, "scored": pool, "shards": pool // SHARD},
        "select": {"pairs": len(chosen.sample), "samples": chosen.summary()["samples"], "precision": None},
    }
    for name in run.stages:
        if name.startswith("evaluate-"):
            results[name] = {"top1": 60.0, "top5": 85.0, "ece": 3.0, "items": TEST_PER_CLASS * classes, "missing": 0}
        elif name not in results:
            results[name] = {"rows": 1, "steps": 20_000, "samples": 10**7, "unreadable": 0}
            lines = [{"step": step, "loss": 5 / (1 + step / 2000), "accuracy": 50.0} for step in range(50, 20_001, 50)]
            run.folder(name).mkdir()
            (run.folder(name) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        record = finished_now(run.work(name), result=results[name], digests={}, seconds=1000.0)
        write_record(run.folder(name), record)
    return folder / "run"


def score(folder: Path, photographs: Photographs, names: list[str], pool: int) -> None:
    """Write the score files of the pool: five classes of each item, at random."""
    random = np.random.default_rng(0)
    steps = np.array([0, 1, 7, 37, 111])[:TOP_P]
    for number in range(pool // SHARD):
        items = number * SHARD + np.arange(SHARD)
        classes = (random.integers(0, len(names), (SHARD, 1)) + steps) % len(names)
        scores = -np.sort(-(random.random((SHARD, TOP_P), np.float32) ** 3), axis=1)
        header = ScoreHeader(
            teacher="teacher",
            class_names=tuple(names),
            top_p=TOP_P,
            num_shards=pool // SHARD,
            shard=f"shard-{number:06d}",
            number=number,
            base=number * SHARD,
            num_records=SHARD,
        )
        keys = [f"{number:06d}/{item:08d}.jpg" for item in items.tolist()]
        columns = {"position": np.arange(SHARD), "key": keys, **photographs.places(items)}
        samples = pa.table(columns).cast(SAMPLES_SCHEMA)
        path = score_path(str(folder), number)
        write_scores(path, header=header, samples=samples, classes=classes, scores=scores)


def test(run: Run, photographs: Photographs, names: list[str]) -> None:
    """Write the test set and the predictions of every network: 60 % right, the others mostly the next class."""
    random, count = np.random.default_rng(1), TEST_PER_CLASS * len(names)
    true = np.arange(count) % len(names)
    places = photographs.places(np.arange(count) + 7)
    keys = [f"test/{number:06d}.jpg" for number in range(count)]
    records = Records.from_columns(key=keys, label=[names[index] for index in true], **places)
    records.write(str(run.folder("data") / "test.csv"))
    for name in run.stages:
        if name.startswith("evaluate-"):
            off = np.where(random.random(count) < 0.6, 0, random.geometric(0.3, count))
            columns = {
                "key": keys,
                "label": records.label,
                "predicted": [names[index] for index in (true + off) % len(names)],
                "confidence": random.random(count),
            }
            run.folder(name).mkdir()
            pq.write_table(pa.table(columns), run.folder(name) / "predictions.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bsssl-report-") as temporary:
        run = make_run(Path(temporary), classes=args.classes, top_k=args.top_k)
        print(f"a run of {args.classes * args.top_k:,} picks has been made")
        began = time.perf_counter()
        command = [sys.executable, "-c", "from bsssl.cli import main; main()", "report", str(run)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, page = time.perf_counter() - began, run / "report.html"
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        ours: dict[str, Any] = {
            "seconds": round(seconds, 1),
            "peak_memory_gib": round(memory, 3),
            "page_mb": round(os.path.getsize(page) / 1e6, 1),
            "thumbnails": int(re.findall(r"([\d,]+) thumbnails", said)[0].replace(",", "")),
        }
        if find_browser() is not None:
            with Page() as window:
                ours["first_picture_s"] = round(window.open(page, until=FIRST_PICTURE), 2)
                ours["troubles"] = window.troubles()
    for name, value in ours.items():
        print(f"  {name:20} {value}")
    print(json.dumps({"ours": ours, "peers": {}, "ratios": {}, "machine": machine(), "settings": vars(args)}))


if __name__ == "__main__":
    main()
