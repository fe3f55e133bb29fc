"""Every stage of a recipe under every fault: is the end result identical, or is something lost or wrong?

    python benchmarks/faults.py --kills 50 --times 2 --write docs/reliability.md

A small recipe on the digits runs once undisturbed. Then, for each stage and fault, a folder in which the stages before
are done gets the fault in that stage, and the same command is run again until it ends by itself; where it says which
file to delete or to bring back, that is done first. Every result must then have the same bytes as undisturbed
(`kills.py` says which): a file that is missing, or a command that never ends well, counts as lost, a file that differs
as wrong. What is there right after the fault, before anything runs again, must be whole too, and every error one line.

``--write`` puts the table between the marker lines of a page. Filling a disk takes root, for a small disk in memory;
the clock's jumps take libfaketime (apt-get install faketime). The last line is one JSON object; exits with 1 unless
nothing is lost or wrong. Takes about a quarter of an hour.
"""

import argparse
import contextlib
import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kills import START_UP, Command, differences, digests, recipe, stage_in

STAGES = ("data", "teacher", "score", "select", "materialise", "pretrain", "finetune", "evaluate-finetune")
WITHOUT_REMOTE = ("select", "pretrain")
"""Stages that read nothing but what earlier ones left on the local disk."""
PATIENCE = 120.0
"""Seconds after which a command counts as hanging."""
RUNS = 6
"""So often is the same command given before the run counts as lost."""
MARKERS = ("<!-- faults: begin -->", "<!-- faults: end -->")
FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
DISK_MIB = 8

# Forked from a server that has imported everything and computed nothing: a command then starts in no time.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["bsssl.cli", "bsssl.reports.recipe", "bsssl.stages", "matplotlib.figure", "sklearn.metrics", "aiohttp"]
)


def run_command(arguments: list[str], folder: str, log: str) -> None:
    """`bsssl run` in ``folder``, as the leader of a process group of its own."""
    from bsssl import cli
    from bsssl.storage import retries

    os.setpgid(0, 0)
    os.chdir(folder)
    output = open(log, "w", buffering=1)  # noqa: SIM115 - as long as the process lives
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    # Else loaders would start their workers through a server of their own, as this process was, and slowly.
    multiprocessing.set_start_method("fork", force=True)
    retries.FIRST_WAIT = 0.02  # an outage then takes a second instead of half a minute
    cli.main(arguments, command="run")


class Running:
    """One run of the command, from its start to its end."""

    def __init__(self, arguments: list[str], folder: Path, log: str) -> None:
        self._log = folder / log
        self._log.write_text("")
        self._process = _CONTEXT.Process(target=run_command, args=(arguments, str(folder), log))
        self._process.start()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def alive(self) -> bool:
        return self._process.is_alive()

    def reaches(self, stage: str) -> bool:
        """Wait until ``stage`` begins; False when the command ends before."""
        while self.alive():
            if stage_in(self.log()) == stage:
                return True
            time.sleep(0.005)
        return False

    def send(self, number: signal.Signals, *, group: bool) -> None:
        """Send a signal to the main process, or to it and its loaders' processes."""
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self._process.pid, number)

    def end(self) -> int:
        """Wait for the end: its exit code; one that hangs is killed."""
        self._process.join(PATIENCE)
        if self.alive():
            self.send(signal.SIGKILL, group=True)
            self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def last_line(self) -> str:
        lines = [line for line in self.log().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def is_clear(self) -> bool:
        """Whether an error was told in one line that names no error of Python's."""
        return self.last_line().startswith("error: ") and not re.search("Traceback|not an error we foresaw", self.log())


class Server(BaseHTTPRequestHandler):
    """Serves the digits' tars with ranges; of every ``fail_every`` requests one fails, in one of three ways."""

    protocol_version = "HTTP/1.1"
    folder = Path()
    fail_every: int | None = None
    requests = 0
    lock = threading.Lock()

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, *, with_content: bool) -> None:
        content = (self.folder / self.path.strip("/")).read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(found[1]), int(found[2] or len(content) - 1) + 1) if found else (0, len(content))
        part = content[start:stop]
        failure = self._failure()
        if failure == 1:
            self.close_connection = True  # no answer at all
            return
        self.send_response(503 if failure == 2 else 206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(0 if failure == 2 else len(part)))
        self.end_headers()
        if failure == 3:
            self.close_connection, part = True, part[: len(part) // 2]  # the answer is cut short
        if with_content and failure != 2:
            self.wfile.write(part)

    def _failure(self) -> int:
        """0: none; else which of the three."""
        with Server.lock:
            Server.requests += 1
            every = Server.fail_every
            return 0 if every is None or Server.requests % every else 1 + Server.requests // every % 3


@dataclass
class Setting:
    """A recipe and its undisturbed run."""

    root: Path
    name: str
    arguments: list[str]
    expected: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """how long each stage took"""

    @property
    def reference(self) -> Path:
        return self.root / f"{self.name}-undisturbed"

    def run_undisturbed(self, times: int) -> None:
        """More than once where times count: the first is slower, what it imports and reads comes from the disk."""
        for _ in range(times):
            shutil.rmtree(self.reference, ignore_errors=True)
            self.reference.mkdir()
            running, begun = Running(self.arguments, self.reference, "log.txt"), {}
            while running.alive():
                begun.setdefault(stage_in(running.log()), time.monotonic())
                time.sleep(0.005)
            if running.end():
                sys.exit(f"the undisturbed run failed:\n{running.log()}")
        times = [*begun.values(), time.monotonic()]
        self.seconds = {stage: after - at for stage, at, after in zip(begun, times, times[1:], strict=False)}
        self.expected = digests(self.reference)

    def prepare(self, folder: Path, stage: str) -> None:
        """A copy of the undisturbed run in ``folder`` without ``stage`` and what needs it."""
        shutil.copytree(self.reference / "run", folder / "run", dirs_exist_ok=True)
        for path in (folder / "run").glob("results.*"):
            path.unlink()
        for name in self._from(stage):
            shutil.rmtree(folder / "run" / "seed-0" / name)

    def _from(self, stage: str) -> list[str]:
        from bsssl.config import load_config
        from bsssl.recipes.runs import stages

        found = [stage]
        for planned in stages(load_config(self.arguments[1], self.arguments[2:]), seed=0):
            found += [planned.name] if set(found) & set(planned.needs.values()) else []
        return found


@dataclass
class Trial:
    """One folder, one stage, one fault, until the command ends by itself."""

    setting: Setting
    stage: str
    folder: Path
    turn: int
    """0, 1, ...: faults of several kinds take them in turn"""
    hit: list[str] = field(default_factory=list)
    """the stage that the fault fell in, once for each time"""
    unclear: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    damaged: dict[Path, bytes] = field(default_factory=dict)
    """files that the trial has damaged, as they were"""

    def begin(self, log: str = "log.txt") -> Running:
        return Running(self.setting.arguments, self.folder, log)

    def moment(self) -> float:
        """A random part of the stage's time."""
        return random.random() * self.setting.seconds[self.stage]

    def came_late(self) -> None:
        """The stage had ended: on a machine that was busier before, it took longer undisturbed."""
        self.setting.seconds[self.stage] *= 0.7

    def path(self, pattern: str) -> Path | None:
        """The last file that matches: of the digits, or of a stage."""
        top = self.setting.root if pattern.startswith("digits/") else self.folder / "run" / "seed-0"
        return max(top.glob(pattern), default=None)

    def damage(self, path: Path) -> None:
        """Cut a file in half, or put noise in its place; under a new inode, as what others have open stays whole."""
        content = self.damaged[path] = path.read_bytes()
        broken = content[: len(content) // 2] if random.random() < 0.5 else random.randbytes(len(content))
        _replace(path, broken)

    def bring_back(self) -> None:
        while self.damaged:
            _replace(*self.damaged.popitem())

    def look(self) -> None:
        """What is there after a fault must be whole, but for what a killed writer had under a name of its own."""
        found = {path: digest for path, digest in digests(self.folder).items() if not path.endswith(".tmp")}
        expected = self.setting.expected
        damaged = {str(path.relative_to(self.folder)) for path in self.damaged if path.is_relative_to(self.folder)}
        self.half_written += [path for path in found if path not in damaged and found[path] != expected.get(path)]

    def failed(self, running: Running) -> None:
        """Take note of a run that ended with an error."""
        if not running.is_clear():
            self.unclear.append(running.last_line())

    def settle(self) -> bool:
        """Give the same command until it ends well, doing what its errors say; False if it never does."""
        for _ in range(RUNS):
            running = self.begin()
            if running.end() == 0:
                return True
            self.failed(running)
            self.remedy(running.last_line())
        return False

    def remedy(self, line: str) -> None:
        """Delete the file that an error's line says to delete; else bring back what was damaged."""
        words = [self.folder / word.strip(",;:()") for word in line.split()]
        named = [path for path in words if path.is_file()]
        if "delete it" in line and named:
            named[0].unlink()
            self.damaged.pop(named[0], None)
        else:
            self.bring_back()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".replacing")
    temporary.write_bytes(content)
    temporary.replace(path)


def killed(trial: Trial, number: signal.Signals) -> None:
    """Kills one after the other, of the main process alone or of all, at random moments of the stage."""
    for kill in range(4 if number == signal.SIGKILL else 2):
        running = trial.begin()
        if not running.reaches(trial.stage):
            return
        time.sleep(trial.moment())
        fell = stage_in(running.log())
        if fell != trial.stage:
            trial.came_late()
        if not running.alive():
            return
        running.send(number, group=(trial.turn + kill) % 2 == 0)
        running.end()
        trial.hit.append(fell)
        trial.look()


def disk_full(trial: Trial) -> None:
    """The disk fills up at a random moment of the stage and stays full until the command has given up."""
    running = trial.begin()
    if not running.reaches(trial.stage):
        return
    time.sleep(0.8 * trial.moment())
    fell = stage_in(running.log())
    if fell != trial.stage:
        trial.came_late()
    filler = trial.folder / "run" / "filler"
    with open(filler, "wb", buffering=0) as file:
        until = time.monotonic() + PATIENCE
        while running.alive() and time.monotonic() < until:
            try:
                file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                time.sleep(0.001)
    filler.unlink()
    if running.end():
        trial.hit.append(fell)
        trial.failed(running)
        trial.look()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of a few MiB, in memory, at ``folder``."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


SHARDS = {
    "data": "digits/digits-train.tar",
    "teacher": "digits/digits-train.tar",
    "score": "data/pool/shard-000002.parquet",
    "select": "score/000002.scores",
    "materialise": "digits/digits-train.tar",
    "pretrain": "materialise/000001.tar",
    "finetune": "digits/digits-train.tar",
    "evaluate-finetune": "digits/digits-test.tar",
}
"""What holds many items and each stage reads."""
FILES = {
    "data": ("data/done.json", "data/pool/pool.json"),
    "teacher": ("teacher/checkpoint-*.pt", "data/labeled.csv"),
    "score": ("teacher/model.safetensors", "data/pool/pool.json"),
    "select": ("score/000001.scores", "score/done.json"),
    "materialise": ("select/selection.parquet", "materialise/*.index.parquet"),
    "pretrain": ("pretrain/checkpoint-*.pt", "materialise/selection.parquet"),
    "finetune": ("finetune/checkpoint-*.pt", "pretrain/model.safetensors"),
    "evaluate-finetune": ("finetune/model.safetensors", "data/test.csv"),
}
"""Of the stage itself, or of what it reads."""


def unreadable_shard(trial: Trial) -> None:
    _damaged(trial, SHARDS[trial.stage])


def cut_off_file(trial: Trial) -> None:
    # The data stage has nothing before its end that would be read.
    _damaged(trial, FILES[trial.stage][trial.turn % 2], interrupt=trial.stage != "data")


def _damaged(trial: Trial, pattern: str, *, interrupt: bool = True) -> None:
    """The command is stopped within the stage, or ends; the file is damaged, the command given again."""
    running = trial.begin()
    if interrupt and running.reaches(trial.stage):
        time.sleep(trial.moment())
        running.send(signal.SIGKILL, group=True)
    running.end()
    path = trial.path(pattern)
    if path is None:  # stopped before there was a checkpoint: another time
        return
    trial.damage(path)
    trial.hit.append(trial.stage)
    running = trial.begin()
    if running.end():
        trial.failed(running)
        trial.look()
        trial.remedy(running.last_line())


def remote_error(trial: Trial) -> None:
    """The server fails one request in three, or, every other turn, all until the command has given up."""
    running = trial.begin()
    if not running.reaches(trial.stage):
        return
    Server.fail_every = 1 if trial.turn % 2 else 3
    trial.hit.append(trial.stage)
    if running.end():
        trial.failed(running)
        trial.look()
    Server.fail_every = None


def clock_jump(trial: Trial) -> None:
    """The clock jumps by a day, forth and back, every 50 ms from the beginning of the stage to the end of the run."""
    clock = trial.folder / "clock"
    clock.write_text("+0d")
    library = next(Path("/").glob(FAKETIME[1:]))
    command = Command(
        trial.folder,
        trial.setting.arguments,
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    jumps, until = 0, time.monotonic() + PATIENCE
    while command.process.poll() is None and time.monotonic() < until:
        if stage_in(command.log()) != START_UP:
            jumps += 1
            _replace(clock, (b"+1d", b"-1d", b"+0d")[jumps % 3])
        time.sleep(0.05)
    if command.process.poll() is None:
        command.kill()
    if command.process.returncode:
        trial.unclear.append(command.log()[-300:])
    trial.hit.append(trial.stage)


def two_copies(trial: Trial) -> None:
    """The same command twice: at once, or the second while the first is within the stage."""
    first = trial.begin("first.txt")
    if trial.turn % 2 and first.reaches(trial.stage):
        time.sleep(trial.moment())
    second = trial.begin("second.txt")
    trial.hit.append(trial.stage)
    for running in (first, second):
        if running.end():
            trial.failed(running)
    trial.look()


FAULTS: dict[str, Callable[[Trial], None]] = {
    "kill -9": lambda trial: killed(trial, signal.SIGKILL),
    "SIGTERM": lambda trial: killed(trial, signal.SIGTERM),
    "disk full": disk_full,
    "unreadable shard": unreadable_shard,
    "cut-off file": cut_off_file,
    "remote error": remote_error,
    "clock jump": clock_jump,
    "two copies at once": two_copies,
}


class Faults:
    """All trials, and what came of them."""

    def __init__(self, root: Path, args: argparse.Namespace, local: Setting, remote: Setting) -> None:
        self._root, self._args = root, args
        self._settings = {fault: remote if fault == "remote error" else local for fault in FAULTS}
        self.counts: dict[str, dict[str, Counter[str]]] = {
            fault: defaultdict(Counter, {stage: Counter() for stage in STAGES}) for fault in FAULTS
        }
        self.problems: list[str] = []
        self._trials = 0

    def run(self) -> None:
        for fault in self._args.faults:
            for stage in self._args.stages:
                if is_tried(fault, stage):
                    self._fill(fault, stage)

    def _fill(self, fault: str, stage: str) -> None:
        """Trials until the fault fell into the stage often enough; some come when the stage has just ended."""
        wanted = -(-self._args.kills // len(STAGES)) if fault == "kill -9" else self._args.times
        for turn in range(2 + wanted):
            if self.counts[fault][stage]["tried"] >= wanted:
                break
            self._try(fault, stage, turn)

    def _try(self, fault: str, stage: str, turn: int) -> None:
        self._trials += 1
        folder = self._root / f"trial-{self._trials}"
        folder.mkdir()
        trial = Trial(self._settings[fault], stage, folder, turn)
        with small_disk(folder / "run") if fault == "disk full" else contextlib.nullcontext():
            trial.setting.prepare(folder, stage)
            try:
                FAULTS[fault](trial)
                ended = trial.settle()
            finally:
                Server.fail_every = None
                trial.bring_back()
            verdict = self._judge(trial, ended)
        self._note(fault, trial, verdict)
        shutil.rmtree(folder)

    def _judge(self, trial: Trial, ended: bool) -> str:
        expected, found = trial.setting.expected, digests(trial.folder)
        if not ended or expected.keys() - found.keys():
            return "lost"
        return "wrong" if differences(found, expected) or trial.half_written else "identical"

    def _note(self, fault: str, trial: Trial, verdict: str) -> None:
        for stage in trial.hit:
            self.counts[fault][stage].update(["tried", verdict])
        where = f"{fault} in {trial.stage}"
        if verdict != "identical":
            log = trial.folder / "log.txt"
            wrong = differences(digests(trial.folder), trial.setting.expected)
            self.problems.append(f"{where}: {verdict}: {wrong[:5]} {trial.half_written[:5]} {log.read_text()[-500:]}")
            print(self.problems[-1], flush=True)
        self.problems += [f"{where}: not one clear line: {line}" for line in trial.unclear]
        missed = "" if trial.hit else " (came too late: not counted)"
        print(f"{where}: {len(trial.hit)} times, {verdict}{missed}", flush=True)


def is_tried(fault: str, stage: str) -> bool:
    """Whether the fault has a meaning for the stage, and this machine can make it."""
    if fault == "remote error":
        return stage not in WITHOUT_REMOTE
    if fault == "disk full":
        return os.geteuid() == 0
    return fault != "clock jump" or any(Path("/").glob(FAKETIME[1:]))


def table(counts: dict[str, dict[str, Counter[str]]]) -> str:
    """Markdown: a row per stage, a column per fault."""
    names = [*STAGES, *sorted({stage for row in counts.values() for stage in row} - set(STAGES))]
    lines = ["| stage | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for stage in names:
        lines.append(f"| {stage} | " + " | ".join(_cell(row.get(stage, Counter())) for row in counts.values()) + " |")
    totals = [sum(row.values(), Counter[str]()) for row in counts.values()]
    return "\n".join([*lines, "| all | " + " | ".join(map(_cell, totals)) + " |"])


def _cell(count: Counter[str]) -> str:
    return " / ".join(str(count[name]) for name in ("tried", "identical", "lost", "wrong")) if count["tried"] else "–"


def write(page: Path, text: str) -> None:
    """Put ``text`` between the marker lines of ``page``."""
    before, rest = page.read_text().split(MARKERS[0])
    page.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}")


def settings(root: Path, steps: int) -> tuple[Setting, Setting]:
    """The recipe with its data on the disk, and over HTTP."""
    # Nothing unreadable is tolerated: what is left out because it could not be read just then changes the result.
    arguments = [*recipe(steps), "ceiling=null", "materialise.samples_per_tar=100", "data.max_failure_rate=0"]
    Server.folder = root / "digits"
    ThreadingHTTPServer.request_queue_size = 128  # of 5, connections that many threads open at once are dropped
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    remote = [
        f"data.{part}={{dataset: tars, path: 'http://127.0.0.1:{server.server_port}/digits-{part}.tar'}}"
        for part in ("train", "test")
    ]
    return Setting(root, "local", arguments), Setting(root, "remote", [*arguments, *remote])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="with SIGKILL, over all stages, at least")
    parser.add_argument("--times", type=int, default=1, help="each other fault in each stage, at least")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps of each training")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    args = parser.parse_args()
    random.seed(args.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        local, remote = settings(Path(folder), args.steps)
        for setting, times in ((local, 2), (remote, 1)):
            setting.run_undisturbed(times)
            print(f"undisturbed, {setting.name}: {sum(setting.seconds.values()):.1f} s", flush=True)
        faults = Faults(Path(folder), args, local, remote)
        faults.run()
    text = table(faults.counts)
    print(text, *faults.problems, sep="\n", flush=True)
    if args.write:
        write(args.write, text)
    totals = {fault: dict(sum(row.values(), Counter[str]())) for fault, row in faults.counts.items()}
    good = not faults.problems
    found = {"faults": totals, "problems": faults.problems, "seconds": round(time.monotonic() - started), "good": good}
    print(json.dumps(found))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
