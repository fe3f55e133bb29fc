"""Selections out of a pool of which some items are of no class, beside a pool that never had them."""

import json

import numpy as np
import pytest

from bsssl.errors import UserError
from bsssl.selection import read_open_set, select_samples, write_values
from tests.selection.pools import Pool, make_pool, oracle, write_pool

CUTS = (90, 91, 200)


@pytest.fixture
def pool():
    return make_pool(0, levels=9)


@pytest.fixture
def values(pool):
    """A value of each item; those without a score have none."""
    found = np.random.default_rng(1).integers(0, 5, pool.num_records).astype(np.float32)
    found[np.setdiff1d(np.arange(pool.num_records), pool.index)] = np.nan
    return found


def left(tmp_path, values, threshold):
    """The open set with these values."""
    for number, part in enumerate(np.split(values, CUTS)):
        write_values(tmp_path, number, part)
    facts = {"threshold": threshold, "foreign": int((values < threshold).sum())}
    (tmp_path / "open_set.json").write_text(json.dumps(facts))
    return read_open_set(tmp_path)


@pytest.mark.parametrize("variant", ["balanced", "unbalanced", "random"])
@pytest.mark.parametrize("threshold", [0.0, 2.0, 4.0])
def test_what_is_below_the_threshold_is_as_if_it_had_no_score(tmp_path, pool, values, variant, threshold):
    open_set = left(tmp_path, values, threshold)
    known = values[pool.index] >= threshold
    reduced = Pool(pool.index[known], pool.classes[known], pool.scores[known], pool.num_records, pool.num_classes)
    files = write_pool(tmp_path / "all", pool, cuts=CUTS)
    chosen = select_samples(files, top_k=20, variant=variant, open_set=open_set)
    expected = select_samples(write_pool(tmp_path / "known", reduced, cuts=CUTS), top_k=20, variant=variant)
    assert chosen.to_table().to_pylist() == expected.to_table().to_pylist()
    whole = select_samples(files, top_k=20, variant=variant)
    assert chosen.foreign.items == open_set.foreign == (~known).sum()
    assert chosen.foreign.picks.tolist() == (whole.per_class - chosen.per_class).tolist()
    counts = np.bincount(pool.classes[~known].ravel(), minlength=pool.num_classes)
    assert chosen.foreign.candidates.tolist() == counts.tolist()


def test_the_definition(tmp_path, pool, values):
    known = values[pool.index] >= 3
    reduced = Pool(pool.index[known], pool.classes[known], pool.scores[known], pool.num_records, pool.num_classes)
    chosen = select_samples(write_pool(tmp_path / "all", pool, cuts=CUTS), top_k=5, open_set=left(tmp_path, values, 3))
    picks = zip(chosen.class_index.tolist(), chosen.rank.tolist(), chosen.sample.tolist(), strict=True)
    assert [*picks] == [pick[:3] for pick in oracle(reduced, top_k=5)]


def test_nothing_left_says_why(tmp_path, pool, values):
    with pytest.raises(UserError, match=r"left out are \d+ of no class, by select\.open_set"):
        select_samples(write_pool(tmp_path, pool, cuts=CUTS), top_k=5, open_set=left(tmp_path, values, 9))


@pytest.mark.parametrize("content", [b"", b"no array", None, "short"])
def test_damaged_values_are_named(tmp_path, pool, values, content):
    open_set, path = left(tmp_path, values, 2), tmp_path / "000002.npy"
    if content is None:
        path.unlink()
    elif content == "short":
        np.save(path, values[:3])
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        select_samples(write_pool(tmp_path / "all", pool, cuts=CUTS), top_k=5, open_set=open_set)


def test_damaged_facts_are_named(tmp_path):
    (tmp_path / "open_set.json").write_text("{}")
    with pytest.raises(UserError, match="has no threshold"):
        read_open_set(tmp_path)
