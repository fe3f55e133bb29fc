"""Secrets of URLs stand in nothing that people are shown, and in no file that a run leaves for them."""

import gzip
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from bsssl.data.datasets.paths import dataset_at
from bsssl.data.datasets.sources import Manifest, Tars
from bsssl.errors import UserError
from bsssl.runtime.console import describe
from bsssl.runtime.secrets import hidden

LEFT = {".json", ".jsonl", ".yaml", ".md", ".html", ".log", ".txt"}
"""the ends of names of files that are left for people; lists of items have their addresses as they are"""


@pytest.mark.parametrize(
    "url, shown",
    [
        ("https://me:pa55word@host/x.tar", "https://me:***"),
        ("see s3://key:pa55word@host:9000/a and b", "see s3://key:***"),
        ("https://host/x?X-Amz-Date=1&X-Amz-Signature=pa55word&b=2", "https://host/x?X-Amz-Date=1&X-Amz-Signature=***"),
        ("https://blob/x.csv?sv=2020&sig=pa55word", "https://blob/x.csv?sv=2020&sig=***"),
        ("https://host/x?access_token=pa55word 403", "https://host/x?access_token=***"),
    ],
)
def test_what_is_hidden(url, shown):
    assert hidden(url).startswith(shown) and "pa55word" not in hidden(url) and hidden(hidden(url)) == hidden(url)
    assert hidden({"path": [url]}) == {"path": [hidden(url)]} != {"path": [hidden(url.replace("pa55", "w"))]}
    assert "pa55word" not in describe(UserError(f"cannot read {url}"))
    assert hidden(url)[-1:] == url[-1:] or "***" in hidden(url)[-8:]


def test_a_secret_is_hidden_wherever_else_it_stands():
    told = hidden('cannot read s3://key:pa55word@bucket/x: no bucket "key:pa55word@bucket"')
    assert "pa55word" not in told and told.count("***") == 2
    assert hidden("https://host/x?sig=a: a bad a") == "https://host/x?sig=***637d a bad a"


@pytest.mark.parametrize(
    "text", ["https://host/a?page=2&size=3", "me:word@host", "photos/sig=1.jpg", "https://host:8080/@me"]
)
def test_what_is_no_secret(text):
    assert hidden(text) == text


def test_a_run_leaves_no_secret(bsssl, recipe, tmp_path):
    pool = tmp_path / "pool?X-Amz-Signature=pa55word"
    shutil.copytree(recipe.folder / "manifest" / "listed", pool)
    given = ("--config", recipe.config, f"output_dir={tmp_path / 'run'}")
    source = f'data.pool=[{{"dataset": "folder", "path": "file://{pool}"}}]'
    outcome = bsssl("run", *given, source)
    assert outcome.status == 0, outcome.err
    files = [path for path in (tmp_path / "run").rglob("*") if path.suffix in LEFT]
    assert len(files) > 20 and [path.name for path in files if "pa55word" in path.read_text()] == []
    assert "Signature=***" in (tmp_path / "run" / "seed-0" / "config.yaml").read_text()
    plan = bsssl("run", *given, source, "--plan")
    assert "to do" not in plan.out and "pa55word" not in plan.out
    pool.rename(tmp_path / "pool?X-Amz-Signature=other")
    plan = bsssl("run", *given, source.replace("pa55word", "other"), "--plan").out
    assert "data.pool" in plan and "other" not in plan and "pa55word" not in plan


SIGNED = "memory://me:pa55word@host/none.{}?X-Amz-Signature=s1gnature"


@pytest.mark.parametrize(
    "place",
    [
        f"data.train={{dataset: manifest, path: '{SIGNED.format('csv')}'}}",
        f"data.test={{dataset: parquet, path: '{SIGNED.format('parquet')}'}}",
        f"data.pool=[{{dataset: tars, path: '{SIGNED.format('tar')}'}}]",
        f"data.pool=[{{dataset: folder, path: '{SIGNED.format('d')}'}}]",
        f"select.exclude={SIGNED.format('csv')}",
        f"score.given={SIGNED.format('parquet')}",
        f"models.teacher.weights={SIGNED.format('safetensors')}",
        f"finetune.init_from={SIGNED.format('safetensors')}",
    ],
)
def test_errors_and_tracebacks_show_no_secret(bsssl, recipe, tmp_path, place):
    given = ["models.teacher=null"] if "given" in place else []
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}", place, *given, "--debug")
    assert outcome.status == 1 and "Traceback" in outcome.err and "none." in outcome.errors[0]
    assert "pa55word" not in outcome.err and "s1gnature" not in outcome.err


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.tar", "tars"), ("x.tar.gz", "tars"), ("x.csv", "manifest"), ("x.tsv", "manifest"), ("x.jpg", None)],
)
def test_the_path_of_a_signed_url_says_what_it_is(name, kind):
    assert dataset_at(f"https://host/{name}?X-Amz-Signature=pa55word&x=.txt") == kind


def test_keys_of_a_signed_tar_have_no_signature(recipe):
    content, memory = (recipe.folder / "tars" / "part-000.tar").read_bytes(), fsspec.filesystem("memory")
    memory.pipe("/signed/t.tar?X-Amz-Signature=pa55word", content)
    records = Tars(path="memory://signed/t.tar?X-Amz-Signature=pa55word").records()
    assert records[0].key == "t.tar/0000.jpg" and records[0].read()
    memory.pipe("/signed/t.tsv?sig=pa55word", b"path\tlabel\na.jpg\tb\n")
    assert Manifest(path="memory://signed/t.tsv?sig=pa55word").records().label.to_pylist() == ["b"]
    memory.store.clear()


class Nothing(BaseHTTPRequestHandler):
    """A server that has no file."""

    def do_GET(self):
        self.send_error(404)

    do_HEAD = do_GET


def test_a_signed_tar_that_is_not_there_is_no_pattern():
    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=r"no such file: .*/t\.tar"):
            Tars(path=f"http://127.0.0.1:{server.server_port}/t.tar?X-Amz-Signature=pa55word").records()
        server.shutdown()


def test_an_unpacked_tar_is_called_without_a_signature(recipe, tmp_path):
    content = gzip.compress((recipe.folder / "tars" / "part-000.tar").read_bytes())
    fsspec.filesystem("memory").pipe("/signed/t.tar.gz?sig=pa55word", content)
    source = Tars(path="memory://signed/t.tar.gz?sig=pa55word", unpacked=str(tmp_path))
    assert source.records()[0].key == "t.tar.gz/0000.jpg"
    assert [path.name.startswith("t.tar.gz-") for path in tmp_path.iterdir()] == [True]
    fsspec.filesystem("memory").store.clear()
