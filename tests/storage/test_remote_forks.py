"""Forked processes, as loaders start them, leave their parent's connections alone."""

import gc
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bsssl import storage


class Lasting(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open for the next request


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
    child.join(60)
    assert child.exitcode == 0
    threads = ThreadPoolExecutor(1)
    assert threads.submit(storage.read_range, url).result(timeout=30) == b"content"
    threads.shutdown()
    server.shutdown()
