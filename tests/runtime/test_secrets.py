"""Secrets of URLs stand in nothing that people are shown, and in no file that a run leaves for them."""

import shutil

import pytest

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
