import contextlib
import io
import subprocess
import sys

import pytest

from bsssl.errors import Problems, UserError
from bsssl.runtime import console
from bsssl.runtime.console import describe, logger
from tests.conftest import quiet_logger


def test_import_changes_nothing_and_needs_no_other_room():
    program = (
        "import logging, sys\n"
        "import bsssl.runtime.console\n"
        "assert logging.getLogger('bsssl').handlers == [] and logging.getLogger('bsssl').propagate\n"
        "print(sorted(name for name in sys.modules if name.startswith('bsssl')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rooms = ["bsssl", "bsssl.errors", "bsssl.runtime", "bsssl.runtime.console", "bsssl.runtime.distributed"]
    rooms += ["bsssl.runtime.secrets"]
    assert done.stdout.strip() == str(rooms)


def test_errors_are_a_line_each():
    assert describe(Problems("one\ntwo")) == "error: one\nerror: two"
    assert describe(OSError(28, "No space left on device")).startswith("error: [Errno 28] No space left on device;")
    full = describe(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3000 bytes"))
    assert full.startswith("error: the memory is full (Def") and full.endswith(
        "; lower batch_size, or the size of pictures"
    )
    assert describe(ValueError("what\nnow")).startswith("error: ValueError: what now (not an error we foresaw")


def test_what_data_is_called_breaks_no_line():
    """Line breaks and the codes of terminals are seen; letters of all scripts are as they are."""
    name = "li\nne\r\x1b[31mred\udcff\u202ecafé 猫"
    assert describe(UserError(f"no class {name}")) == r"error: no class li\nne\r\x1b[31mred\udcff\u202ecafé 猫"


def test_of_a_very_long_line_the_middle_is_left_out():
    told = describe(UserError(f"no class {'a' * 100_000}; check the labels"))
    assert told.startswith("error: no class aaa") and told.endswith("aaa; check the labels") and len(told) < 4000


def test_a_cause_that_stands_last_is_told():
    told = describe(RuntimeError(f"DataLoader worker is killed by signal: Bus error. {'x' * 9999} the cause"))
    assert told.startswith("error: RuntimeError: DataLoader worker is killed") and len(told) < 800
    assert told.endswith("the cause; give /dev/shm more room, or set system.workers=0")


def test_log_lines_are_a_line_each(capsys: pytest.CaptureFixture[str]):
    with quiet_logger():
        console.setup()
        logger.warning("class %s", "a\nb\x1b[2J")
        try:
            raise ValueError
        except ValueError:
            logger.exception("and a traceback")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(r" class a\nb\x1b[2J") and lines[-1] == "ValueError" and len(lines) > 3


@pytest.mark.parametrize("why", ["No space left on device", "Broken pipe"])
def test_what_standard_error_does_not_take_is_left_out(monkeypatch, capsys, why):
    class Refusing(io.StringIO):
        def write(self, text: str = "") -> int:
            raise OSError(why)

        flush = write  # type: ignore[assignment]

    monkeypatch.setattr(sys, "stderr", Refusing())
    with quiet_logger(), console.progress(iter(()), total=9, unit="step", title="training") as bar:
        console.setup()
        logger.warning("a line")
        bar.update(3)
        bar.refresh()
        console.show("a result")
    assert capsys.readouterr().out == "a result\n"


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (None, "seed 0: teacher ends"),
        (UserError("no\nlabels"), "error: no\\nlabels"),
        (KeyboardInterrupt(), "seed 0: teacher is interrupted"),
    ],
)
def test_log_lines_go_to_a_file_too(tmp_path, error, last):
    path = tmp_path / "logs" / "teacher.log"
    before = [*console.logger.handlers]
    with contextlib.suppress(UserError, KeyboardInterrupt), console.written_to(path, title="seed 0: teacher"):
        console.logger.warning("a line\nof two")
        if error is not None:
            raise error
    first, line, end = path.read_text().splitlines()
    assert first.endswith(" seed 0: teacher begins") and line.endswith(" a line\\nof two") and end.endswith(last)
    assert console.logger.handlers == before


def test_a_log_that_cannot_be_written_is_left_out(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    with console.written_to(tmp_path / "logs" / "teacher.log", title="teacher"):
        pass
    with pytest.raises(ZeroDivisionError), console.written_to(tmp_path / "logs" / "teacher.log", title="teacher"):
        raise ZeroDivisionError
