"""Ctrl-C, SIGTERM and a scheduler's warning while work is going on that should be saved first."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bsssl.runtime.distributed import is_main

WARNING: int | None = getattr(signal, "SIGUSR2", None)  # not on Windows
"""the signal by which a scheduler says that the time of a job is nearly over"""
_PATIENCE = 15.0  # seconds that a warning waits: the work may be stuck, and then nobody would answer in time
_NOTICE = b"\nsaving a checkpoint after this step, then ending; Ctrl-C again ends at once\n"


class Interruption:
    """The signal, if any, that waits until the work is saved."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._ends = False
        self._warned: Callable[[], object] | None = None

    @property
    def is_due(self) -> bool:
        """Whether a signal waits for ``answer``."""
        return self._signal is not None

    def answer(self) -> None:
        """Do what the signal asks for, now that the work is saved: nothing where a handler of the caller answers it.

        Raises:
            KeyboardInterrupt: The signal is SIGINT.
            SystemExit: The signal is SIGTERM, or the caller's handler of a warning ends the process.
        """
        number, self._signal = self._signal, None
        warned, self._warned = self._warned, None
        if warned is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            warned()
        if number is not None and self._ends:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def note(self, number: int, *, ends: bool) -> None:
        """Let signal ``number`` wait; the second SIGINT does not.

        Raises:
            KeyboardInterrupt: A SIGINT is waiting already.
        """
        if number == self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT and is_main():
            os.write(2, _NOTICE)  # a handler may run in the middle of any other output
        self._signal, self._ends = number, ends

    def warn(self, number: int, handler: Callable[[], object]) -> None:
        """Let the ``handler`` of a warning, signal ``number``, wait; with the second warning it does not."""
        if self._warned is not None:
            self.answer()
            return
        self._warned = handler
        self.note(number, ends=False)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)


@contextlib.contextmanager
def deferred() -> Iterator[Interruption]:
    """Let SIGINT and SIGTERM wait for ``Interruption.answer`` within the context; a second SIGINT does not wait.

    A SIGTERM for which the caller has a handler does not end the work: the handler is called at once, as before. The
    caller's handler of a scheduler's ``WARNING`` is called by ``answer``, or when that does not come for a while. Only
    the main thread of a process can do this; in others nothing changes. A process that is not the main one of its run
    never answers first, for the main one would wait for it in the middle of a step: it goes on until the main one has
    left, and whatever fails then is the answer; its handler of a warning is called at once.
    """
    interruption = Interruption()
    earlier: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        own = callable(earlier[number]) and number != signal.SIGINT
        interruption.note(number, ends=not own)
        if own:
            earlier[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # Who ignores a signal, as nohup does, keeps ignoring it; a handler that is not Python's cannot be put back.
        earlier.update({number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)})
        for number in earlier:
            signal.signal(number, handle)
        if WARNING is not None and is_main() and callable(warned := signal.getsignal(WARNING)):
            act = partial(warned, WARNING, None)
            earlier[WARNING] = signal.signal(WARNING, lambda number, frame: interruption.warn(number, act))
            earlier[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda number, frame: interruption.answer())
    try:
        yield interruption
    except Exception:
        if not is_main():
            interruption.answer()
        raise
    finally:
        if WARNING in earlier:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, old in earlier.items():
            signal.signal(number, old)


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Keep SIGINT from processes that are started within the context; here it arrives afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
