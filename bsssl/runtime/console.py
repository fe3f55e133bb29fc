"""What a run says on the console: log lines, progress bars, errors and tables."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from bsssl.errors import Problems, UserError, notes, shortened
from bsssl.runtime.distributed import is_main
from bsssl.runtime.secrets import hidden

T = TypeVar("T")
logger = logging.getLogger("bsssl")
_LONGEST = 3000  # characters of a line: names of classes may be of any length


class _StandardError:
    """Standard error, where what it does not take is left out: a full disk, or a reader that has gone, ends no run."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


_STANDARD_ERROR = _StandardError()


class _ThroughTqdm(logging.Handler):
    """Writes log lines above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=_STANDARD_ERROR)


class _ToFile(logging.Handler):
    """Appends log lines to a file, which is never left open; none where it cannot be written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record))

    def tell(self, text: str) -> None:
        """Write a line of this text, with the time."""
        self.handle(logging.LogRecord(logger.name, logging.INFO, "", 0, text, None, None))

    def write(self, line: str) -> None:
        """Write a line as it is."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab", buffering=0) as file:
                file.write(f"{line}\n".encode(errors="backslashreplace"))


class _OneLine(logging.Formatter):
    """A log line is one line, whatever it tells of; a traceback is as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shortened(printable(super().formatMessage(record)), most=_LONGEST)


def open_what_is_closed() -> None:
    """Open standard input, output and error where they are closed, so that what is written there goes nowhere.

    Else the next file to be opened would take the place of one, and be written to in its stead.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - stays open


def let_go_of_what_is_full() -> None:
    """Let standard output and error go nowhere where they do not take what was printed, at the end of a program.

    Else Python would try again, complain, and end with a status of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def setup(*, debug: bool = False) -> None:
    """Send the project's log lines to standard error, around any progress bar; only rank 0 speaks below warnings."""
    handler = _ThroughTqdm()
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel((logging.DEBUG if debug else logging.INFO) if is_main() else logging.WARNING)


@contextlib.contextmanager
def written_to(path: Path, *, title: str) -> Iterator[None]:
    """Append the log lines of the block to a file too, and how ``title`` begins and ends.

    The file is for those who look on: one that cannot be written is left out.
    """
    handler = _ToFile(path)
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    handler.tell(f"{title} begins")
    try:
        yield
    except Exception as error:
        handler.write(describe(error))
        raise
    except BaseException:
        handler.tell(f"{title} is interrupted")
        raise
    else:
        handler.tell(f"{title} ends")
    finally:
        logger.removeHandler(handler)


def progress(items: Iterable[T], *, total: int | None = None, unit: str, title: str, initial: int = 0) -> "tqdm[T]":
    """Return ``items`` with a progress bar that appears once the work has taken two seconds (rank 0 only)."""
    return tqdm(
        items,
        file=_STANDARD_ERROR,
        total=total,
        initial=initial,
        unit=f" {unit}",
        desc=title,
        delay=2,
        disable=not is_main(),
        leave=False,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )


def show(text: str) -> None:
    """Print ``text``, above any progress bar."""
    with tqdm.external_write_mode(_STANDARD_ERROR):
        print(text)


def complain(text: str) -> None:
    """Write ``text`` to standard error, as it is."""
    print(text, file=_STANDARD_ERROR)


def printable(text: str) -> str:
    """Return ``text`` without secrets, and with escapes for line breaks, codes of terminals and all that is unseen."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in hidden(text))


def describe(error: Exception) -> str:
    """Return what is printed about ``error``: one line, or one for each problem of a config."""
    return "; ".join([_described(error), *(" ".join(text.split())[:300] for text in notes(error))])


def _described(error: Exception) -> str:
    if isinstance(error, UserError):
        lines = str(error).splitlines() if isinstance(error, Problems) else [str(error)]
        return "\n".join(f"error: {shortened(printable(line), most=_LONGEST)}" for line in lines if line)
    kind = type(error).__name__
    # The cause may stand first, or last, as in what PyTorch says of its workers.
    text = shortened(printable(" ".join(str(error).split())), most=600)
    if "shared memory" in text or "bus error" in text.lower():
        return f"error: {kind}: {text}; give /dev/shm more room, or set system.workers=0"
    if kind == "OutOfMemoryError":
        return f"error: the GPU's memory is full ({text[:80]}); lower batch_size or raise accumulate"
    if kind == "MemoryError" or "can't allocate memory" in text:
        return f"error: the memory is full ({text[:80]}); lower batch_size, or the size of pictures"
    if isinstance(error, OSError):
        return f"error: {text}; check the path, its permissions and the space left"
    if " in DataLoader worker process " in str(error.__cause__):
        return f"error: a process of the loader failed (run again with --debug for the traceback): {kind}: {text}"
    return f"error: {kind}: {text} (not an error we foresaw: run again with --debug and report the traceback)"
