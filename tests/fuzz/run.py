"""Damages inputs of every kind for some minutes, and keeps those that the program does not answer as it must.

``python -m tests.fuzz.run --minutes 60``; one input again: ``python -m tests.fuzz.run --kind tar --seed 17``.
"""

import argparse
import itertools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.kinds import KINDS, kind
from tests.fuzz.trial import SECONDS, Wrong

_AT_A_TIME = 100  # inputs of a kind, before the next kind
_MEMORY = 12 * 2**30  # bytes that a process may have: an input that takes them all is wrong, and this machine lives on


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=Path("outputs/fuzz"), help="where failing inputs are put")
    parser.add_argument("--kind", choices=KINDS, help="this kind alone")
    parser.add_argument("--seed", type=int, help="this input of --kind alone, or the first of a run; default: random")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    if given.kind and given.seed is not None and "--minutes" not in sys.argv:
        print(_outcome(given.kind, given.seed))
        return
    first = int(time.time()) * 1000 if given.seed is None else given.seed
    kinds = [given.kind] if given.kind else list(KINDS)
    run = _Run(kinds, given.folder, end=time.monotonic() + 60 * given.minutes)
    run.run([first + number * 10**9 for number in range(given.processes)])
    run.report()
    sys.exit(bool(run.failures))


def _outcome(name: str, seed: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return kind(name).try_out(*kind(name).damaged(seed), Path(folder))


class _Run:
    """Processes at work; one that dies or hangs is replaced, and what it was at is a failure."""

    def __init__(self, kinds: list[str], folder: Path, *, end: float) -> None:
        self.kinds, self.folder, self.end = kinds, folder, end
        self.inputs: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, firsts: list[int]) -> None:
        workers = [_Worker(self.kinds, first) for first in firsts]
        while time.monotonic() < self.end:
            for number, worker in enumerate(workers):
                while worker.pipe.poll(0.2 / len(workers)):
                    try:
                        self._note(worker, *worker.pipe.recv())
                    except EOFError:
                        break
                if reason := worker.is_lost():
                    name, seed = worker.at
                    self._fail(name, seed, reason)
                    worker.end()
                    workers[number] = _Worker(self.kinds, seed + 1)
        for worker in workers:
            worker.end()

    def _note(self, worker: "_Worker", name: str, seed: int, outcome: str, seconds: float) -> None:
        worker.at, worker.since = (name, seed), time.monotonic()
        if not outcome:  # it begins with this one
            return
        self.inputs[name] += 1
        self.seconds[name] += seconds
        if outcome in ("refused", "read"):
            self.outcomes[name, outcome] += 1
        else:
            self._fail(name, seed, outcome)

    def _fail(self, name: str, seed: int, reason: str) -> None:
        self.outcomes[name, "wrong"] += 1
        folder = self.folder / f"{name.replace(' ', '-')}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        file, content = kind(name).damaged(seed)
        (folder / file).write_bytes(content)
        again = f"python -m tests.fuzz.run --kind '{name}' --seed {seed}"
        (folder / "reason.txt").write_text(f"{reason}\n\n{again}\n", errors="backslashreplace")
        self.failures.append(f"{folder}: {reason.strip().splitlines()[-1][:150]}")
        print(self.failures[-1], flush=True)

    def report(self) -> None:
        print(f"{'kind':18}{'inputs':>10}{'a second':>10}{'refused':>10}{'read':>10}{'wrong':>7}")
        for name in self.kinds:
            rate = self.inputs[name] / max(self.seconds[name], 1e-9)
            counts = [self.outcomes[name, outcome] for outcome in ("refused", "read", "wrong")]
            print(f"{name:18}{self.inputs[name]:10,}{rate:10.0f}{counts[0]:10,}{counts[1]:10,}{counts[2]:7,}")
        wrong = f"{len(self.failures)} wrong" + (f", see {self.folder}" if self.failures else "")
        print(f"{self.inputs.total():,} inputs, {wrong}")


class _Worker:
    """A process that tries one input after the other, kind after kind, and tells of each before and after it."""

    def __init__(self, kinds: list[str], first: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self.at, self.since = (kinds[0], first), time.monotonic()
        self._process = context.Process(target=_work, args=(kinds, first, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def is_lost(self) -> str:
        """Return why this process is of no more use; nothing while it is."""
        if not self._process.is_alive() and not self.pipe.poll():
            return f"the process died ({self._process.exitcode})"
        if time.monotonic() - self.since > 4 * SECONDS:
            return f"took more than {4 * SECONDS} s"
        return ""

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _work(kinds: list[str], seed: int, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for first in itertools.count(seed, _AT_A_TIME):
        for name, number in itertools.product(kinds, range(first, first + _AT_A_TIME)):
            pipe.send((name, number, "", 0.0))
            begun = time.monotonic()
            try:
                outcome = _outcome(name, number)
            except Wrong as error:
                outcome = str(error)
            pipe.send((name, number, outcome, time.monotonic() - begun))


if __name__ == "__main__":
    main()
