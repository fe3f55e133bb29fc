"""A gate that pictures come through, so that no test has to hope that what it disturbs is still at work, or already."""

import contextlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_ALL = 2**60


class _Handler(SimpleHTTPRequestHandler):
    server: "Gate"

    def __init__(self, request: Any, address: Any, server: "Gate") -> None:
        super().__init__(request, address, server, directory=str(server.folder))

    def do_GET(self) -> None:
        self.server.pass_one()
        with contextlib.suppress(ConnectionError):  # who waited may have been killed
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Gate(ThreadingHTTPServer):
    """Serves the files of ``folder`` on this machine: at once while it is open, else when it opens.

    Whoever reads one, in whatever process, waits as long as the test wants, and then reads what it would have read.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self._changed = threading.Condition()
        self._passes = _ALL
        self._asked = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: Path) -> str:
        """Where a file of the folder is read."""
        return f"http://127.0.0.1:{self.server_port}/{path.relative_to(self.folder)}"

    @property
    def asked(self) -> int:
        """How many readings were asked for, be they answered or waiting."""
        return self._asked

    def close(self, *, after: int = 0) -> None:
        """Answer so many more readings, and no others until the gate opens."""
        self._let_pass(after)

    def open(self) -> None:
        """Answer all readings, those that wait and those to come."""
        self._let_pass(_ALL)

    def end(self) -> None:
        """Open the gate and serve no more."""
        self.open()
        self.shutdown()
        self.server_close()

    def _let_pass(self, readings: int) -> None:
        with self._changed:
            self._passes = readings
            self._changed.notify_all()

    def pass_one(self) -> None:
        """What a reading does before it is answered."""
        with self._changed:
            self._asked += 1
            self._changed.wait_for(lambda: self._passes > 0)
            self._passes -= 1
