"""The rates and sizes from which docs/scale.md works out a billion pictures: what each stage costs per sample.

    python benchmarks/scale.py --tars 8 --samples 2000

Writes WebDataset tars of JPEGs, then measures on one core, reading through the page cache: indexing the tars, writing
score files, selecting, and copying the selected samples into new tars; and the bytes of every kind of file. The last
line is one JSON object.
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from timing import machine, photo, use_cores

from bsssl import storage
from bsssl.data import Manifest, plan_tars, write_pool, write_tar
from bsssl.data.datasets.sources import Tars
from bsssl.selection import (
    SAMPLES_SCHEMA,
    ScoreHeader,
    ledger_path,
    read_selection,
    score_files,
    score_path,
    select_samples,
    write_scores,
    write_selection,
)

CLASSES, TOP_P = 1000, 10
MANIFEST_ROWS = 1_000_000


def write_tars(folder: Path, tars: int, samples: int) -> None:
    """Tars of JPEGs of some 90 kB; a few pictures, copied: what is measured here does not decode them."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for _ in range(8):
        file = io.BytesIO()
        Image.fromarray(photo(generator).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=92)
        pictures.append(file.getvalue())
    folder.mkdir()
    for number in range(tars):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for sample in range(samples):
                member = tarfile.TarInfo(f"{number:05d}-{sample:08d}.jpg")
                member.size = len(pictures[sample % 8])
                tar.addfile(member, io.BytesIO(pictures[sample % 8]))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returned."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def size(folder: Path, pattern: str) -> int:
    """Bytes of all files that match."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def score(folder: Path, pool: Any) -> float:
    """Random scores of every record as score files; the seconds that writing took."""
    seconds = 0.0
    random = np.random.default_rng(0)
    common = {"teacher": "t", "top_p": TOP_P, "num_shards": len(pool.shards)}
    names = tuple(f"class {number}" for number in range(CLASSES))
    for shard in pool.shards:
        records = shard.records()
        classes = np.argsort(random.random((len(records), CLASSES), np.float32), axis=1)[:, :TOP_P]
        scores = np.sort(random.random((len(records), TOP_P), np.float32), axis=1)[:, ::-1] / TOP_P
        samples = records.table.select(["key", "path", "offset", "size"])
        samples = samples.add_column(0, "position", [np.arange(len(records))]).cast(SAMPLES_SCHEMA)
        path = score_path(str(folder), shard.number)
        header = ScoreHeader(
            **common,
            class_names=names,
            shard=shard.name,
            number=shard.number,
            base=shard.base,
            num_records=shard.num_records,
        )
        storage.write_ledger(ledger_path(path), [])
        began = time.perf_counter()
        write_scores(path, header=header, samples=samples, classes=classes, scores=scores)
        seconds += time.perf_counter() - began
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tars", type=int, default=8)
    parser.add_argument("--samples", type=int, default=2000, help="of each tar")
    args = parser.parse_args()
    use_cores(1)
    count = args.tars * args.samples
    with tempfile.TemporaryDirectory(prefix="bsssl-scale-") as temporary:
        folder = Path(temporary)
        write_tars(folder / "pool", args.tars, args.samples)
        source = Tars(path=str(folder / "pool" / f"{{00000..{args.tars - 1:05d}}}.tar"))
        listing, pool = timed(lambda: write_pool([source], folder=str(folder / "list")))
        scoring = score(folder / "scores", pool)
        paths = score_files(str(folder / "scores"))
        selecting, chosen = timed(lambda: select_samples(paths, top_k=count // CLASSES * 5))
        selection = str(folder / "selection.parquet")
        writing, _ = timed(lambda: write_selection(selection, chosen))
        plan = plan_tars(selection, per_tar=1000, seed=0)
        copies = min(plan.num_tars, 8)
        copying, _ = timed(
            lambda: [write_tar(plan, number, folder=str(folder / "copies"), identity="") for number in range(copies)]
        )
        copied = min(copies * 1000, len(plan.rows))
        pairs = len(read_selection(selection))
        manifest = folder / "manifest.parquet"
        many = {"path": ["/pool/00000.tar"] * MANIFEST_ROWS, "key": [f"{n:09d}.jpg" for n in range(MANIFEST_ROWS)]}
        pq.write_table(pa.table({**many, "offset": range(MANIFEST_ROWS), "size": range(MANIFEST_ROWS)}), manifest)
        streaming, _ = timed(lambda: write_pool([Manifest(path=str(manifest))], folder=str(folder / "many")))
        ours = {
            "manifest_rows_listed_per_second": round(MANIFEST_ROWS / streaming),
            "tar_members_indexed_per_second": round(count / listing),
            "samples_written_to_score_files_per_second": round(count / scoring),
            "selecting_s": round(selecting, 3),
            "pairs_written_per_second": round(pairs / writing),
            "samples_copied_per_second": round(copied / copying),
            "megabytes_copied_per_second": round(size(folder / "copies", "*.tar") / copying / 1e6),
            "pool_list_bytes_per_sample": round(size(folder / "list", "*.parquet") / count, 1),
            "score_bytes_per_sample": round(size(folder / "scores", "*.scores") / count, 1),
            "selection_bytes_per_pair": round(os.path.getsize(selection) / pairs, 1),
        }
    for name, value in ours.items():
        print(f"  {name:44} {value:,}")
    print(json.dumps({"ours": ours, "peers": {}, "ratios": {}, "machine": machine(), "settings": vars(args)}))


if __name__ == "__main__":
    main()
