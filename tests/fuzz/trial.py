"""One damaged input: what the program makes of it, and whether that is what a user may be shown."""

import contextlib
import resource
import signal
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np

from bsssl.errors import Problems, UserError
from bsssl.runtime.console import describe
from tests.fuzz.mutators import Mutator, pick

SECONDS = 30
"""that an input may take, on a machine that others use too"""
MEGABYTES = 1500
"""that an input may add to the memory of the process"""


class Wrong(Exception):
    """The program did with an input what it must not do; the message says what."""


class _TooLong(BaseException):
    """An input takes too long."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    None of the formats has a checksum over all of it, so that some damage makes another file that is whole. A file is
    therefore either refused or read as something that is as it should be, which ``read`` asserts.
    """

    name: str
    originals: Sequence[tuple[str, bytes, Sequence[Mutator]]]
    """the name of each file, its content, and the ways to damage it"""
    read: Callable[[Path], object]
    """has the program read the file, in a folder of its own"""
    refusal: type[Exception] = UserError
    names_file: bool = True
    """whether the refusal names the file: what is read from bytes does not know one"""
    beside: str = ""
    """a file that belongs to it, which a refusal may name instead"""

    def damaged(self, seed: int) -> tuple[str, bytes]:
        """Return the name and the content of an input: the same for the same seed."""
        generator = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        name, content, mutators = pick(generator, self.originals)
        if generator.random() < 0.01:
            _, content, _ = pick(generator, self.originals)  # under the name of another, whose ending may be another
            return name, content
        return name, pick(generator, mutators)(content, generator)

    def try_out(self, name: str, content: bytes, folder: Path) -> str:
        """Return what became of an input: ``refused`` or ``read``.

        Raises:
            Wrong: The program raised, left, took or said what it must not.
        """
        path = folder / name
        path.write_bytes(content)
        return self.try_at(path)

    def try_at(self, path: Path) -> str:
        """Return what became of what is at ``path``, in a folder of its own: see ``try_out``."""
        folder = path.parent
        before, memory = set(folder.rglob("*")), _peak()
        try:
            with _in_time():
                self.read(path)
            outcome = "read"
        except self.refusal as error:
            self._check_message(error, path)
            outcome = "refused"
        except _TooLong:
            raise Wrong(f"took more than {SECONDS} s") from None
        except Exception as error:
            raise Wrong("".join(traceback.format_exception(error))) from error
        if (grown := _peak() - memory) > MEGABYTES:
            raise Wrong(f"took {grown} MB of memory")
        if new := set(folder.rglob("*")) - before:
            raise Wrong(f"left {sorted(map(str, new))}")
        return outcome

    def _check_message(self, error: Exception, path: Path) -> None:
        text = str(error)
        lines = text.splitlines() if isinstance(error, Problems) else [text]
        if not text.strip():
            raise Wrong(f"a refusal without words: {error!r}")
        if self.refusal is UserError and len(describe(error).splitlines()) != len(lines):
            raise Wrong(f"a refusal of several lines: {text}")
        if not isinstance(error, Problems) and len(lines) > 1:
            raise Wrong(f"a refusal of several lines: {text}")
        names = [path.name, *filter(None, [self.beside])]
        if self.names_file and not all(any(name in line for name in names) for line in lines):
            raise Wrong(f"a refusal that does not name {path.name}: {text}")


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
