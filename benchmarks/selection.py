"""Selection beside DuckDB and Polars: the K best samples of every class, from the same rows, in the same run.

    python benchmarks/selection.py --samples 10000000 --top-p 10 --classes 1000 --per-class 8000

Rows are made from a seed, shard by shard: every sample keeps P classes with softmax-like scores rounded to ten bits, so
that equal scores are common. Each side runs in a process of its own and gets its best case: DuckDB its native table and
Polars its own frame, in memory, in the narrowest types; ours reads the score files that it wrote. Each figure is the
best of ``--repeats``. All must pick the same samples in the same order. Needs ``pip install duckdb polars``, about 1 GB
of disk per 10 M samples with P = 10, and memory for the peers.

Of more than 30 million samples with P = 10 ours alone are chosen: the peers hold all rows in memory.
``--growth 10`` adds a pool ten times as large at the same K, ours alone: selecting must not take twice as long.

The last line is one JSON object; a ratio is ours over the peer, above 1 means faster.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bsssl.selection import ScoreHeader, score_files, score_path, select_samples, write_scores, write_selection
from bsssl.selection.rows import edge_counts, group

PICKS = "picks-{}.npy"
PEER_ROWS = 300_000_000  # DuckDB needs 4 GiB for 100 million


def make_rows(number: int, samples: int, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Classes int16 or int32 (N, P) and scores float32 (N, P) of one shard."""
    random = np.random.default_rng([args.seed, number])
    dtype = np.int16 if args.classes < 2**15 else np.int32
    step = max(args.classes // args.top_p, 2)
    classes = random.integers(1, step, (samples, args.top_p), dtype=dtype)
    # The best class is drawn with mild preference for low numbers, as classes of a pool are never equally common.
    classes[:, 0] = args.classes * random.random(samples, dtype=np.float32) ** 1.5
    classes = np.cumsum(classes, axis=1, dtype=np.int32) % args.classes
    logits = random.standard_exponential((samples, args.top_p), dtype=np.float32)
    logits[:, 1:] *= random.gamma(2, 1.5, (samples, 1)).astype(np.float32)  # some samples are clear, some are not
    scores = np.exp(-np.cumsum(logits, axis=1))
    scores /= scores.sum(axis=1, keepdims=True) + random.random((samples, 1), dtype=np.float32) * 0.2
    scores = (scores.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return classes.astype(dtype), scores


def shards(args: argparse.Namespace) -> Iterator[tuple[int, int, int]]:
    """Number, base and size of every shard."""
    for number, base in enumerate(range(0, args.samples, args.shard_samples)):
        yield number, base, min(args.shard_samples, args.samples - base)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def best_of(repeats: int, function: Callable[[], Any]) -> tuple[float, Any]:
    runs = []
    for _ in range(repeats):
        result = None
        seconds, result = timed(function)
        runs.append(seconds)
    return min(runs), result


def run_write(args: argparse.Namespace) -> dict[str, Any]:
    """Write the score files of the pool; time grouping alone, and the whole of writing."""
    grouping = np.zeros(args.repeats)
    writing = 0.0
    names = tuple(f"class {number}" for number in range(args.classes))
    for number, base, size in shards(args):
        classes, scores = make_rows(number, size, args)
        positions = np.arange(size)

        def group_rows(classes=classes, scores=scores, positions=positions) -> None:  # type: ignore[no-untyped-def]
            offsets, rows = group(classes=classes, scores=scores, positions=positions, num_classes=args.classes)
            edge_counts(offsets=offsets, rows=rows)

        for repeat in range(args.repeats):
            grouping[repeat] += timed(group_rows)[0]
        header = ScoreHeader(
            **{"teacher": "t", "class_names": names, "top_p": args.top_p},
            num_shards=-(-args.samples // args.shard_samples),
            shard=f"{number:06d}.tar", number=number, base=base, num_records=size,
        )  # fmt: skip
        table = pa.table(
            {
                "position": positions,
                "key": pa.array(positions + base).cast(pa.string()),
                "path": pa.array([header.shard]).take(pa.array(np.zeros(size, np.int64))),
                "offset": positions * 1024,
                "size": np.full(size, 1000),
            }
        )
        path = score_path(args.folder, number)
        writing += timed(
            lambda path=path, header=header, table=table, classes=classes, scores=scores: write_scores(  # type: ignore[misc]
                path, header=header, samples=table, classes=classes, scores=scores
            )
        )[0]
    return {"grouping_s": grouping.min(), "writing_s": writing}


def run_select(args: argparse.Namespace) -> dict[str, Any]:
    """Select from the score files."""
    paths = score_files(args.folder)
    seconds, selection = best_of(args.repeats, lambda: select_samples(paths, top_k=args.per_class))
    selecting_peak = peak_gib()
    save_picks("ours", args, selection.class_index, selection.rank, selection.sample)
    result = {"selecting_s": seconds, "picks": len(selection.sample), "selecting_peak_gib": selecting_peak}
    if args.write_selection:
        path = os.path.join(args.folder, "selection.parquet")
        result["writing_selection_s"] = timed(lambda: write_selection(path, selection))[0]
    return result


def peer_columns(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The same rows as columns, by sample."""
    count = args.samples * args.top_p
    columns: dict[str, np.ndarray] = {
        "sample": np.repeat(np.arange(args.samples, dtype=np.uint32), args.top_p),
        "class": np.empty(count, np.int16 if args.classes < 2**15 else np.int32),
        "score": np.empty(count, np.float32),
    }
    for number, base, size in shards(args):
        part = slice(base * args.top_p, (base + size) * args.top_p)
        classes, scores = make_rows(number, size, args)
        columns["class"][part], columns["score"][part] = classes.ravel(), scores.ravel()
    return columns


def run_duckdb(args: argparse.Namespace) -> dict[str, Any]:
    import duckdb

    connection = duckdb.connect()
    rows = pa.table(peer_columns(args))  # DuckDB finds it by its name
    connection.execute('CREATE TABLE scores AS SELECT sample, "class", score FROM rows')
    del rows
    query = (
        'SELECT "class", score, sample, row_number() OVER (PARTITION BY "class" ORDER BY score DESC, sample) - 1 '
        f"AS rank FROM scores QUALIFY rank < {args.per_class}"
    )
    seconds, table = best_of(args.repeats, lambda: connection.sql(query).to_arrow_table())
    picked = {name: table[name].to_numpy() for name in ("class", "rank", "sample")}
    save_picks("duckdb", args, picked["class"], picked["rank"], picked["sample"])
    return {"selecting_s": seconds, "version": duckdb.__version__}


def run_polars(args: argparse.Namespace) -> dict[str, Any]:
    import polars as pl

    frame = pl.DataFrame(peer_columns(args))
    queries = {
        "sort and head within each group": lambda: (
            frame.lazy()
            .group_by("class")
            .agg(pl.col("sample", "score").sort_by(["score", "sample"], descending=[True, False]).head(args.per_class))
            .explode("sample", "score")
            .collect()
        ),
        "top_k_by within each group": lambda: (
            frame.lazy()
            .group_by("class")
            .agg(
                pl.col("sample", "score").top_k_by(
                    ["score", "sample"], args.per_class, reverse=[False, True]
                )
            )
            .explode("sample", "score")
            .collect()
        ),
    }  # fmt: skip
    timings = {}
    for name, query in queries.items():
        timings[name], table = best_of(args.repeats, query)
        classes, samples, scores = (table[column].to_numpy() for column in ("class", "sample", "score"))
        order = np.lexsort((samples, -scores, classes))
        classes, samples = classes[order], samples[order]
        starts = np.searchsorted(classes, classes)
        save_picks("polars", args, classes, np.arange(len(classes)) - starts, samples)
        check_picks("polars", args)
    return {"selecting_s": min(timings.values()), "version": pl.__version__, "formulations_s": timings}


def save_picks(name: str, args: argparse.Namespace, classes: np.ndarray, rank: np.ndarray, sample: np.ndarray) -> None:
    """Save what was picked: one integer for each class, rank and sample, sorted."""
    if args.folder_picks is None:
        return
    place = classes.astype(np.uint64) * np.uint64(args.per_class) + rank.astype(np.uint64)
    picks = place << np.uint64(32) | sample
    picks.sort()
    np.save(Path(args.folder_picks, PICKS.format(name)), picks)


def check_picks(name: str, args: argparse.Namespace) -> None:
    ours, theirs = (np.load(Path(args.folder_picks, PICKS.format(side))) for side in ("ours", name))
    if not np.array_equal(ours, theirs):
        raise SystemExit(f"{name} picked other samples than ours")


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


PHASES = {"write": run_write, "select": run_select, "duckdb": run_duckdb, "polars": run_polars}


def run_phase(phase: str, args: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Run a phase in a process of its own, so that its peak memory is its own."""
    options = {**vars(args), "phase": phase, **changed}
    command = [sys.executable, __file__]
    for name, value in options.items():
        if value is not None and value is not False:
            command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(finished.stdout)
    print(f"  {phase}: " + ", ".join(f"{name} {show(value)}" for name, value in result.items()), flush=True)
    return result


def show(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    print(f"{args.samples:,} samples, P = {args.top_p}, {args.classes} classes, K = {args.per_class}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bsssl-selection-") as folder:
        writing = run_phase("write", args, folder=folder)
        selecting = run_phase("select", args, folder=folder, folder_picks=folder, write_selection=True)
        fits = args.samples * args.top_p <= PEER_ROWS
        peers = {name: run_phase(name, args, folder_picks=folder) for name in ("duckdb", "polars") if fits}
        for name in peers:
            check_picks(name, argparse.Namespace(folder_picks=folder))
    print("  identical picks" if fits else "  the peers are left out: they hold all rows in memory")
    memory = max(writing["peak_memory_gib"], selecting["peak_memory_gib"])  # with writing the selection file
    return {
        "ours": {**writing, **selecting, "peak_memory_gib": memory},
        "peers": peers,
        "ratios": ratios(writing, selecting, {name: peer["selecting_s"] for name, peer in peers.items()}),
        "identical_picks": True if fits else None,
        "peak_memory_gib": memory,
    }


def ratios(writing: dict[str, Any], selecting: dict[str, Any], peers: dict[str, float]) -> dict[str, float]:
    ours = selecting["selecting_s"]
    if not peers:
        return {}
    return {
        **{f"selecting_{name}": seconds / ours for name, seconds in peers.items()},
        "selecting_faster_peer": min(peers.values()) / ours,
        **{f"grouping_and_selecting_{n}": s / (writing["grouping_s"] + ours) for n, s in peers.items()},
        **{f"writing_and_selecting_{n}": s / (writing["writing_s"] + ours) for n, s in peers.items()},
    }


def grow(args: argparse.Namespace, small: dict[str, Any]) -> dict[str, Any]:
    """The same K out of a pool ``args.growth`` times as large."""
    print(f"{args.samples * args.growth:,} samples, the same K", flush=True)
    with tempfile.TemporaryDirectory(prefix="bsssl-selection-") as folder:
        run_phase("write", args, folder=folder, samples=args.samples * args.growth, repeats=1)
        large = run_phase("select", args, folder=folder)
    return {
        "pool": args.growth,
        "selecting_s": large["selecting_s"],
        "peak_memory_gib": large["selecting_peak_gib"],
        "time": large["selecting_s"] / small["selecting_s"],
        "memory": large["selecting_peak_gib"] / small["selecting_peak_gib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--top-p", type=int, default=10)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=8000)
    parser.add_argument("--shard-samples", type=int, default=500_000, help="samples of each score file")
    parser.add_argument("--growth", type=int, default=0, help="also select from a pool this many times as large")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    for hidden in ("--phase", "--folder", "--folder-picks"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--write-selection", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        print(json.dumps({**PHASES[args.phase](args), "peak_memory_gib": peak_gib()}))
        return
    result = compare(args)
    if args.growth:
        result["growth"] = grow(args, result["ours"])
    for name, value in {**result["ratios"], **{f"growth_{k}": v for k, v in result.get("growth", {}).items()}}.items():
        print(f"  {name:32} {value:8.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
