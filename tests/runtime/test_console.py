import subprocess
import sys

from bsssl.errors import UserError
from bsssl.runtime.console import describe


def test_import_changes_nothing_and_needs_no_other_room():
    program = (
        "import logging, sys\n"
        "import bsssl.runtime.console\n"
        "assert logging.getLogger('bsssl').handlers == [] and logging.getLogger('bsssl').propagate\n"
        "print(sorted(name for name in sys.modules if name.startswith('bsssl')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rooms = ["bsssl", "bsssl.errors", "bsssl.runtime", "bsssl.runtime.console", "bsssl.runtime.distributed"]
    assert done.stdout.strip() == str(rooms)


def test_errors_are_a_line_each():
    assert describe(UserError("one\ntwo")) == "error: one\nerror: two"
    assert describe(OSError(28, "No space left on device")).startswith("error: [Errno 28] No space left on device;")
    assert describe(ValueError("what\nnow")).startswith("error: ValueError: what now (not an error we foresaw")
