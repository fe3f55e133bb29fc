"""What the score stage does again when the pool has changed."""

import io
import json

import pytest
from tqdm import tqdm

from bsssl import selection


@pytest.fixture
def scored(bsssl, recipe, tmp_path):
    """Run the recipe up to the selection on the first ``count`` sources; return the times of the score files."""
    folder = tmp_path / "run"

    def run(sources):
        outcome = bsssl("run", "--config", recipe.config, f"output_dir={folder}", f"data.pool={json.dumps(sources)}")
        assert outcome.status == 0, outcome.err
        paths = selection.score_files(str(folder / "seed-0" / "score"))
        selected = selection.read_selection(str(folder / "seed-0" / "select" / "selection.parquet"))
        return [(folder / path).stat().st_mtime_ns for path in paths], selected

    return run


def test_only_the_shards_that_changed_are_scored_again(scored, recipe, bsssl, tmp_path):
    sources = recipe.values["data"]["pool"]
    few, _ = scored(sources[:-1])
    many, selected = scored(sources)
    assert len(many) > len(few) and many[: len(few)] == few
    less, _ = scored(sources[:-1])
    assert len(less) == len(few)
    assert [
        selection.read_header(path).num_shards for path in selection.score_files(str(tmp_path / "run/seed-0/score"))
    ] == [len(few)] * len(few)

    def anew():
        outcome = bsssl(
            "run", "--config", recipe.config, f"output_dir={tmp_path}/new", f"data.pool={json.dumps(sources)}"
        )
        assert outcome.status == 0, outcome.err
        return selection.read_selection(str(tmp_path / "new" / "seed-0" / "select" / "selection.parquet"))

    assert anew() == selected


def test_the_progress_bar_counts_items(scored, recipe, monkeypatch):
    bars = []

    def progress(items, *, total, unit, title):
        bars.append(tqdm(items, total=total, unit=unit, desc=title, file=io.StringIO()))
        return bars[-1]

    monkeypatch.setattr("bsssl.stages.score.progress", progress)
    scored(recipe.values["data"]["pool"])
    assert [(bar.unit, bar.desc, bar.n) for bar in bars] == [("item", "seed 0: score", bars[0].total)]
    assert bars[0].total > len(recipe.values["data"]["pool"])
