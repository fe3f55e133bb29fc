"""Ctrl-C and SIGTERM while work is going on that should be saved first."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from bsssl.runtime.distributed import is_main

_NOTICE = b"\nsaving a checkpoint after this step, then ending; Ctrl-C again ends at once\n"


class Interruption:
    """The signal, if any, that waits until the work is saved."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._ends = False

    @property
    def is_due(self) -> bool:
        """Whether a signal waits for ``answer``."""
        return self._signal is not None

    def answer(self) -> None:
        """Do what the signal asks for, now that the work is saved: nothing where a handler of the caller answers it.

        Raises:
            KeyboardInterrupt: The signal is SIGINT.
            SystemExit: The signal is SIGTERM.
        """
        number, self._signal = self._signal, None
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


@contextlib.contextmanager
def deferred() -> Iterator[Interruption]:
    """Let SIGINT and SIGTERM wait for ``Interruption.answer`` within the context; a second SIGINT does not wait.

    A SIGTERM for which the caller has a handler does not end the work: the handler is called at once, as before. Only
    the main thread of a process can do this; in others nothing changes. A process that is not the main one of its run
    never answers first, for the main one would wait for it in the middle of a step: it goes on until the main one has
    left, and whatever fails then is the answer.
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
    try:
        yield interruption
    except Exception:
        if not is_main():
            interruption.answer()
        raise
    finally:
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
