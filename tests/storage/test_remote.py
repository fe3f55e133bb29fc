"""Data on S3: a server that speaks it on this machine, sound and with failures of every kind put in."""

import errno
import json
import re
import socket
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from bsssl import selection, storage
from bsssl.data.datasets.sources import Folder, Manifest, Tars
from bsssl.data.loading.dataset import ItemDataset
from bsssl.data.loading.loader import make_loader
from bsssl.data.records import Records, read_bytes
from bsssl.data.views.transforms import train_transform
from bsssl.data.views.views import ImageViews
from bsssl.errors import UserError
from bsssl.storage import retries
from bsssl.storage.retries import Unreachable
from tests.selection.pools import make_pool, write_pool

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

FAULTS = ("busy", "reset", "cut")


class Faults:
    """WSGI middleware: of ``every`` so many requests one fails once or twice before it succeeds.

    Those with ``broken`` in their name fail the first ``times``.

    Which ones and how depends on the request alone, so that it is the same in every run, whatever the order.
    """

    def __init__(self, application):
        self._application = application
        self._lock = threading.Lock()
        self.clear()

    def clear(self):
        self.every, self.broken, self.times, self.kinds = 0, "", 10**9, FAULTS
        self.seen: Counter[str] = Counter()
        self.given: Counter[str] = Counter()

    def __call__(self, environ, start_response):
        fault = self._choose(environ)
        if fault is None:
            return self._application(environ, start_response)
        if fault == "busy":
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        connection = environ["werkzeug.socket"]
        if fault == "reset":
            connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        return self._cut(environ, start_response, connection)

    def _choose(self, environ):
        name = " ".join(environ.get(part, "") for part in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_RANGE"))
        number = zlib.crc32(name.encode())
        with self._lock:
            self.seen[name] += 1
            broken = self.broken and self.broken in name and self.given.total() < self.times
            once = self.every and number % self.every == 0 and self.seen[name] <= 1 + number // self.every % 2
            if not broken and not once:
                return None
            fault = self.kinds[(number // 7 + self.seen[name]) % len(self.kinds)]
            self.given[fault] += 1
            return fault

    def _cut(self, environ, start_response, connection):
        """The first half of the answer, although all of it is announced."""
        body = b"".join(self._application(environ, start_response))
        yield body[: len(body) // 2]
        connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, Faults]]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_):
            pass

    faults = Faults(DomainDispatcherApplication(create_backend_app))
    running = make_server("127.0.0.1", 0, faults, threaded=True, request_handler=Quiet)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.port}", faults
    running.shutdown()


@pytest.fixture
def faults(server, monkeypatch) -> Iterator[Faults]:
    """The server's failures, none at first, with an empty bucket ``s3://bucket``; only our own attempts are made."""
    endpoint, faults = server
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    s3fs.S3FileSystem.clear_instance_cache()
    faults.clear()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir("bucket")
    yield faults
    faults.clear()
    files.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(faults) -> fsspec.AbstractFileSystem:
    """The file system, as another program would use it."""
    return s3fs.S3FileSystem(use_listings_cache=False)


# Single calls


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_outlasts_failures(s3, faults, fault):
    content = bytes(range(256)) * 8192
    s3.pipe({"bucket/a/one.tar": content, "bucket/a/b/two.tar": b"2", "bucket/a/b/.hidden": b""})
    faults.every, faults.kinds = 1, (fault,)
    assert read_bytes("s3://bucket/a/one.tar") == content
    assert read_bytes("s3://bucket/a/one.tar", offset=1000, size=500_000) == content[1000:501_000]
    with storage.open_read("s3://bucket/a/one.tar") as file:
        assert file.read(10) == content[:10]
        assert file.seek(-5, 2) == len(content) - 5 and file.read() == content[-5:]
        file.seek(0)
        assert file.read() == content
    assert storage.exists("s3://bucket/a/one.tar") and storage.exists("s3://bucket/a") and storage.exists("s3://bucket")
    assert not storage.exists("s3://bucket/a/none") and not storage.exists("s3://nobucket/x")
    assert list(storage.walk("s3://bucket/a")) == ["one.tar", "b/two.tar"]
    assert storage.glob("s3://bucket/a/o*.tar") == ["s3://bucket/a/one.tar"]
    assert storage.glob("s3://bucket/a/*/*.tar") == ["s3://bucket/a/b/two.tar"]
    assert storage.glob("s3://bucket/**/*.tar") == ["s3://bucket/a/b/two.tar", "s3://bucket/a/one.tar"]
    storage.write_text("s3://bucket/a/new", "text")
    assert faults.given[fault] > 10
    faults.clear()
    assert s3.cat("bucket/a/new") == b"text"


def test_what_will_not_change_is_not_tried_again(s3, faults):
    s3.pipe("bucket/file", b"0123456789")
    faults.seen.clear()
    for call, error, text in [
        (lambda: read_bytes("s3://bucket/none"), FileNotFoundError, "No such file: 's3://bucket/none'"),
        (lambda: read_bytes("s3://nobucket/none"), FileNotFoundError, "No such file: 's3://nobucket/none'"),
        (lambda: read_bytes("s3://bucket/file", offset=8, size=5), OSError, "cut short: 2 of 5 bytes at offset 8"),
        (lambda: read_bytes("s3://bucket/file", offset=20, size=5), OSError, "cut short: 0 of 5 bytes at offset 20"),
        (lambda: storage.open_read("s3://bucket/none"), UserError, "^no such file: s3://bucket/none; check the path$"),
        (lambda: storage.write_text("s3://nobucket/a", ""), UserError, "^cannot write s3://nobucket/a: No such file; "),
    ]:
        with pytest.raises(error, match=text):
            call()
    assert max(faults.seen.values()) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_what_lasts_is_one_line(s3, faults, fault):
    s3.pipe("bucket/far/file", b"0123456789")
    faults.broken, faults.kinds = "far", (fault,)
    calls = [
        (lambda: read_bytes("s3://bucket/far/file"), "read s3://bucket/far/file"),
        (lambda: list(storage.walk("s3://bucket/far")), "list s3://bucket/far"),
        (lambda: storage.glob("s3://bucket/far/*"), "list s3://bucket/far"),
    ]
    if fault != "cut":  # the answers to these have no body
        calls += [
            (lambda: storage.exists("s3://bucket/far/file"), "read s3://bucket/far/file"),
            (lambda: storage.open_read("s3://bucket/far/file"), "read s3://bucket/far/file"),
            (lambda: storage.write_text("s3://bucket/far/new", "text"), "write s3://bucket/far/new"),
        ]
    for call, what in calls:
        with pytest.raises(Unreachable, match=rf"^cannot {what}: .*\(6 attempts\); .*same command again") as seen:
            call()
        assert "\n" not in str(seen.value)


def test_a_server_that_is_not_there(faults, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", nowhere)
    s3fs.S3FileSystem.clear_instance_cache()
    for url in ("s3://bucket/file", f"{nowhere}/bucket/file"):
        with pytest.raises(Unreachable, match=rf"^cannot read {url}: .*\(6 attempts\)"):
            read_bytes(url)
        with pytest.raises(Unreachable, match=rf"^cannot read {url}: .*\(6 attempts\)"):
            storage.exists(url)


def test_refused_credentials_stop_and_a_forbidden_file_is_one_item(s3, monkeypatch):
    s3.pipe("bucket/file", b"0123456789")
    filesystem = storage.remote_filesystem("s3://bucket/file")[0]
    from botocore.exceptions import ClientError, NoCredentialsError
    from s3fs.errors import translate_boto_error

    def refuse(error):
        def cat_file(*_, **__):
            raise translate_boto_error(error)

        monkeypatch.setattr(filesystem, "cat_file", cat_file)

    def answer(code):
        described = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        return ClientError(described, "GetObject")

    refuse(answer("ExpiredToken"))
    with pytest.raises(Unreachable, match=r"^cannot read s3://bucket/file: no; check the credentials"):
        read_bytes("s3://bucket/file")
    refuse(NoCredentialsError())
    with pytest.raises(Unreachable, match=r"^cannot read s3://bucket/file: Unable to locate credentials; check"):
        read_bytes("s3://bucket/file")
    refuse(answer("AccessDenied"))
    with pytest.raises(PermissionError, match="no: 's3://bucket/file'"):
        read_bytes("s3://bucket/file")


def test_what_others_write_is_seen(s3):
    storage.write_text("s3://bucket/a/one.tar", "1")
    assert storage.glob("s3://bucket/a/*.tar") == ["s3://bucket/a/one.tar"]
    assert list(storage.walk("s3://bucket/a")) == ["one.tar"] and not storage.exists("s3://bucket/a/two.tar")
    s3.pipe({"bucket/a/two.tar": b"2", "bucket/a/one.tar": b"longer"})
    assert storage.exists("s3://bucket/a/two.tar")
    assert storage.glob("s3://bucket/a/*.tar") == ["s3://bucket/a/one.tar", "s3://bucket/a/two.tar"]
    assert list(storage.walk("s3://bucket/a")) == ["one.tar", "two.tar"]
    assert storage.open_read("s3://bucket/a/one.tar").read() == b"longer" == read_bytes("s3://bucket/a/one.tar")


# Writes


def test_a_write_is_whole_or_absent(s3, faults):
    storage.write_text("s3://bucket/kept", "old")
    with pytest.raises(KeyError), storage.atomic_write("s3://bucket/kept") as file:
        file.write(b"half")
        raise KeyError
    faults.broken, faults.kinds = "kept", ("reset",)
    with pytest.raises(UserError, match=r"^cannot write s3://bucket/kept: "):
        storage.write_text("s3://bucket/kept", "new")
    faults.clear()
    assert s3.cat("bucket/kept") == b"old" and s3.ls("bucket", detail=False) == ["bucket/kept"]
    with storage.atomic_write("s3://bucket/kept") as file:
        pq.write_table(pa.table({"a": [1]}), file)
        assert s3.cat("bucket/kept") == b"old"
    assert pq.read_table(storage.open_read("s3://bucket/kept"))["a"].to_pylist() == [1]
    # One request: no copy, no deletion, nothing for others to trip over.
    assert [name.split()[:2] for name in faults.seen if name.startswith(("PUT", "POST", "DELETE"))] == [
        ["PUT", "/bucket/kept"]
    ]


def test_an_upload_in_parts_is_whole_or_absent(s3, faults, monkeypatch):
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 * 2**20)  # the least that S3 allows
    content = np.random.default_rng(0).bytes(11 * 2**20)
    faults.broken, faults.kinds = "partNumber=2", ("busy", "reset")
    with pytest.raises(Unreachable), storage.atomic_write("s3://bucket/large") as file:
        file.write(content)
    assert faults.given.total() >= retries.ATTEMPTS
    assert s3.ls("bucket", detail=False) == [] == s3.list_multipart_uploads("bucket")
    faults.clear()
    faults.broken, faults.times = "partNumber=2", 2
    with storage.atomic_write("s3://bucket/large") as file:
        file.write(content)
    assert s3.cat("bucket/large") == content


def test_a_full_disk_names_the_folder_of_temporary_files(faults, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        pytest.raises(UserError, match=rf"^cannot write s3://bucket/a: no space left in {tmp_path}, .*TMPDIR"),
        storage.atomic_write("s3://bucket/a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


# Items


def image_views():
    return ImageViews(train_transform(size=16))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_cannot_be_reached_stops_one_that_is_not_there_fails(s3, faults, recipe, workers):
    s3.put(str(recipe.folder / "test" / "circle"), "bucket/circle", recursive=True)
    names = ["0.jpg", "1.jpg", "none.jpg", "2.jpg"]
    records = Records.from_columns(key=names, path=[f"s3://bucket/circle/{name}" for name in names])
    dataset = ItemDataset(records, views=image_views())

    def load():
        loader = make_loader(dataset, [[0, 1, 2, 3]], workers=workers, context="fork" if workers else None)
        return next(iter(loader))

    batch = load()
    assert batch["index"].tolist() == [0, 1, 3]
    assert [(failure.index, failure.reason) for failure in batch["failures"]] == [
        (2, "[Errno 2] No such file: 's3://bucket/circle/none.jpg'")
    ]
    faults.broken = "/1.jpg"
    try:  # not pytest.raises, which would keep the loader, and so its process, with the traceback
        load()
        message = "nothing was raised"
    except Unreachable as error:
        message = str(error)
    assert re.fullmatch(r"cannot read s3://bucket/circle/1.jpg: .* what is finished is kept", message)


# Scores and selections


def test_scores_and_selection(s3, faults, tmp_path):
    pool = make_pool(0)
    selected = {}
    for folder in (str(tmp_path), "s3://bucket/scores"):
        faults.every = 3
        write_pool(folder, pool, cuts=[100, 200])  # type: ignore[arg-type]
        files = selection.score_files(folder)
        assert files == [selection.score_path(folder, number) for number in range(3)]
        storage.write_ledger(selection.ledger_path(files[0]), [("key", "reason")])
        assert storage.read_ledger(selection.ledger_path(files[0])) == [("key", "reason")]
        path = storage.join(folder, "selection.parquet")
        selection.write_selection(path, selection.select_samples(files, top_k=5))
        selected[folder] = selection.read_selection(path)
        assert storage.read_json(selection.summary_path(path))["top_k"] == 5
    assert faults.given.total() > 3
    local, remote = selected.values()
    assert remote == local and len(local)


# Sources and the whole recipe


def uploaded(s3, recipe):
    """The recipe's pictures on S3: the values of a config that reads them there."""
    for name in ("train", "test", "loose", "manifest", "tars"):
        s3.put(str(recipe.folder / name), f"bucket/{name}", recursive=True)
    text = json.dumps({key: recipe.values[key] for key in ("data",)})
    return json.loads(text.replace(str(recipe.folder), "s3://bucket"))


def test_sources(s3, faults, recipe):
    uploaded(s3, recipe)
    faults.every = 3
    for source, options in [
        (Folder, {"path": "train"}),
        (Manifest, {"path": "manifest/pool.csv"}),
        (Tars, {"path": "tars/part-{000..001}.tar"}),
        (Tars, {"path": "tars/*.tar"}),
    ]:
        there = source(path=f"s3://bucket/{options['path']}").records()
        here = source(path=f"{recipe.folder}/{options['path']}").records()
        paths = [path.replace(str(recipe.folder), "s3://bucket") for path in here.path.to_pylist()]
        assert there.path.to_pylist() == paths
        assert there.table.drop_columns("path").equals(here.table.drop_columns("path"))
    assert faults.given.total() > 3


@pytest.mark.parametrize("every", [0, 4])
def test_the_recipe_gives_the_same_as_on_local_files(s3, faults, bsssl, recipe, finished_once, tmp_path, every):
    values = uploaded(s3, recipe)
    faults.every = every
    output = tmp_path / "run"
    outcome = bsssl("run", "--config", recipe.write(tmp_path / "remote.yaml", values), f"output_dir={output}")
    assert outcome.status == 0, outcome.err
    assert bool(every) == (set(faults.given) == set(FAULTS))
    ours, theirs = output / "seed-0", finished_once / "seed-0"
    tables = [selection.read_selection(str(run / "select" / "selection.parquet")).table for run in (ours, theirs)]
    kept = ["key", "position", "class", "score", "rank"]
    assert tables[0].select(kept).equals(tables[1].select(kept))
    for stage in ("teacher", "pretrain", "finetune", "baseline"):
        name = f"{stage}/model.safetensors"
        for one, other in zip(arrays(ours / name), arrays(theirs / name), strict=True):
            assert np.array_equal(one, other)
    unreadable = [
        [
            entry[0]
            for path in selection.score_files(str(run / "score"))
            for entry in storage.read_ledger(selection.ledger_path(path))
        ]
        for run in (ours, theirs)
    ]
    assert unreadable[0] == unreadable[1] and len(unreadable[0]) == 1


def arrays(path):
    return [array for _, array in sorted(safetensors.numpy.load_file(path).items())]


def test_a_run_stops_where_it_cannot_reach_the_pool_and_goes_on_later(
    s3, faults, bsssl, recipe, finished_once, tmp_path
):
    values = uploaded(s3, recipe)
    config, output = recipe.write(tmp_path / "remote.yaml", values), tmp_path / "run"
    faults.broken = "listed/07.jpg"
    outcome = bsssl("run", "--config", config, f"output_dir={output}")
    assert outcome.status != 0
    [error] = outcome.errors
    assert "cannot read s3://bucket/manifest/listed/07.jpg: " in error and "run the same command again" in error
    assert not (output / "seed-0" / "score" / "done.json").exists()
    faults.clear()
    assert bsssl("run", "--config", config, f"output_dir={output}").status == 0
    name = "seed-0/finetune/model.safetensors"
    for one, other in zip(arrays(output / name), arrays(finished_once / name), strict=True):
        assert np.array_equal(one, other)
