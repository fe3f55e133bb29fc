"""Forked processes, as loaders start them, leave their parent's connections alone."""

import gc
import multiprocessing
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from bsssl import storage
from tests.processes import PATIENCE


class Lasting(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open for the next request
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


def read(url: str) -> None:
    storage.read_range(url)
    gc.collect()  # what the parent had and nothing here refers to any more


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # as Python says of every fork beside threads
def test_parent_reads_on_after_a_forked_process_has_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"content")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Lasting, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.txt"
    assert storage.read_range(url) == b"content"
    child = multiprocessing.get_context("fork").Process(target=read, args=(url,))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert storage.read_range(url) == b"content"
    assert Lasting.asked == ["/a.txt"] * 3  # no answer was waited for in vain and asked for again
    server.shutdown()
