"""What launching costs: a chain of jobs beside Slurm's own, two scoring processes beside one, and the status command.

    tests/cluster/cluster.sh start && . /tmp/bsssl-cluster/env.sh && python benchmarks/cluster.py

- chain: a recipe of six stages that do next to nothing (trainings of 0 steps, a pool of 90 pictures), submitted as jobs
  that wait for each other, beside six jobs that run `true` and wait for each other. Bar: under 60 s more.
- scoring: the seconds of the score stage with two processes on this machine beside one, each with one thread and no
  loader process. Bar: 1.8 times on two cores.
- status: `bsssl status` of a run with 10,000 shards, start-up of Python included. Bar: under 2 s.

The last line is one JSON object. Without a Slurm cluster (`sbatch`) the chain is left out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import machine

BSSSL = str(Path(sys.executable).parent / "bsssl")
RECIPE = str(Path(__file__).parent.parent / "projects" / "image" / "quickstart.yaml")
STAGES = ("data", "teacher", "score", "select", "pretrain", "finetune")


def pictures(folder: Path, *, classes: int, each: int, size: int) -> Path:
    """Noise, as a folder per class."""
    random = np.random.default_rng(classes * each)
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for item in range(each):
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{number}" / f"{item}.jpg", quality=90)
    return folder


def settings(folder: Path, *, size: int) -> list[str]:
    """A recipe of stages that do next to nothing."""
    return [
        *("--config", RECIPE, "ceiling=null", "data.labels_per_class=null", "data.num_classes=3", "score.top_p=2"),
        *(f"data.{part}={{dataset: folder, path: {folder / part}}}" for part in ("train", "test")),
        f"data.pool=[{{dataset: folder, path: {folder / 'pool'}}}]",
        *(f"{stage}.length=0 steps" for stage in ("teacher", "baseline", "pretrain", "finetune")),
        *(f"{stage}.warmup=0 steps" for stage in ("teacher", "baseline", "pretrain")),
        *(
            "system.workers=0",
            "system.threads=1",
            f"data.transforms.size={size}",
            f"data.transforms.test_resize={size}",
        ),
    ]


def queue_is_empty() -> None:
    while subprocess.run(["squeue", "-h"], check=True, capture_output=True, text=True).stdout.strip():
        time.sleep(0.1)


def plain_chain() -> float:
    """Seconds that six jobs take that wait for each other and do nothing."""
    started, after = time.monotonic(), []
    for _ in STAGES:
        command = ["sbatch", "--parsable", "-o", "/dev/null", "--mem=100", *after, "--wrap=srun true"]
        job = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        after = [f"--dependency=afterok:{job}"]
    queue_is_empty()
    return time.monotonic() - started


def our_chain(folder: Path) -> float:
    """Seconds that six empty stages take as jobs, from the submitting command's start to the last one's end."""
    output = folder / "chain"
    arguments = [*settings(folder, size=8), f"output_dir={output}", "--launch", "launcher.kind=slurm"]
    started = time.monotonic()
    # No command runs these six alone: the whole recipe does, and its other stages run beside them.
    subprocess.run([BSSSL, "run", *arguments, "launcher.memory_gb=1.5"], check=True, capture_output=True)
    last = output / "seed-0" / STAGES[-1] / "done.json"
    while not last.exists():
        time.sleep(0.1)
    seconds = time.monotonic() - started
    queue_is_empty()
    return seconds


def scoring(folder: Path, processes: int) -> float:
    """Seconds of the score stage."""
    output = folder / f"score-{processes}"
    arguments = [*settings(folder, size=96), f"output_dir={output}", "data.shard_size=50", "score.batch_size=50"]
    arguments.append("models.teacher={name: small_resnet, options: {width: 16, blocks: [1, 1]}}")
    arguments += ["--launch", f"launcher.processes_per_node={processes}"]
    subprocess.run([BSSSL, "train", *arguments, "stage=teacher", "launcher.processes_per_node=1"], check=True)
    subprocess.run([BSSSL, "score", *arguments], check=True)
    return float(json.loads((output / "seed-0" / "score" / "done.json").read_text())["seconds"])


def status(folder: Path, shards: int) -> float:
    """Seconds of the status command for a run with so many shards, half of them scored, the median of five."""
    output = folder / "status"
    score = output / "seed-0" / "score"
    score.mkdir(parents=True)
    for shard in range(shards // 2):
        (score / f"{shard:06d}.scores").touch()
        (score / f"{shard:06d}.ledger.jsonl").touch()
    (output / "seed-0" / "data").mkdir()
    done = {"finished": "", "seconds": 1.0, "result": {"pool_shards": shards}}
    (output / "seed-0" / "data" / "done.json").write_text(json.dumps(done))
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        shown = subprocess.run([BSSSL, "status", str(output)], check=True, capture_output=True, text=True).stdout
        seconds.append(time.monotonic() - started)
        assert f"{shards // 2:,} of {shards:,} shards" in shown
    return sorted(seconds)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=6000, help="pictures scored")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shards", type=int, default=10_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bsssl-cluster-"))
    result: dict[str, Any] = {"ours": {}, "peers": {}, "ratios": {}, "machine": machine()}
    result["ours"]["status_s"] = round(status(folder, options.shards), 2)
    for part, each in (("train", 5), ("test", 5), ("pool", 30)):
        pictures(folder / "small" / part, classes=3, each=each, size=16)
        pictures(folder / "large" / part, classes=3, each=options.pool // 3 if part == "pool" else 5, size=96)
    for processes in (1, 2) * options.rounds:
        shutil.rmtree(folder / "large" / f"score-{processes}", ignore_errors=True)
        seconds = scoring(folder / "large", processes)
        name = f"scoring_{processes}_s"
        result["ours"][name] = min(seconds, result["ours"].get(name, seconds))
    result["ratios"]["two_processes"] = round(result["ours"]["scoring_1_s"] / result["ours"]["scoring_2_s"], 3)
    if shutil.which("sbatch") and os.environ.get("SLURM_CONF"):
        result["peers"]["six_plain_jobs_s"] = round(plain_chain(), 1)
        result["ours"]["six_stages_s"] = round(our_chain(folder / "small"), 1)
        result["ours"]["chain_overhead_s"] = round(
            result["ours"]["six_stages_s"] - result["peers"]["six_plain_jobs_s"], 1
        )
    shutil.rmtree(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
