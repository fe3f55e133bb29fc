"""Exact copies against a plain search, whatever the sets and however many buckets."""

import numpy as np
import pytest

from bsssl.data.pool import copies
from bsssl.data.pool.copies import find_copies


def plain(words, firsts):
    """The pairs of all items by a dictionary of their content."""
    found, seen = [], {}
    for number, content in enumerate(map(tuple, words)):
        own = int(np.searchsorted(firsts, number, side="right"))
        sets = seen.setdefault(content, {})
        found += [(number, first) for first in sets.values()]
        sets.setdefault(own, number)
    return sorted(found)


@pytest.mark.parametrize("rows_of_a_bucket", [2**21, 100, 7])
@pytest.mark.parametrize(("contents", "firsts"), [(3, [0, 5, 5, 300]), (400, [0, 100, 200]), (10**6, [0, 0])])
def test_copies_are_those_of_a_plain_search(tmp_path, monkeypatch, rows_of_a_bucket, contents, firsts):
    monkeypatch.setattr(copies, "_BUCKET_ROWS", rows_of_a_bucket)
    generator = np.random.default_rng(contents)
    known = generator.integers(0, 2**64, (contents, 2), np.uint64)
    known[1 : contents // 2, 0] = known[0, 0]  # half of them differ in the second word alone
    words = known[generator.integers(0, contents, 1000)]
    order = generator.permutation(1000).astype(np.uint64)  # in which they come plays no part
    blocks = ((part, words[part]) for part in np.split(order, [1, 1, 500]))
    found = np.concatenate(list(find_copies(blocks, total=1000, firsts=firsts, folder=str(tmp_path))))
    assert found.tolist() == [list(pair) for pair in plain(words, firsts)]
    assert not list(tmp_path.iterdir())


def test_nothing_has_no_copies(tmp_path):
    assert not sum(map(len, find_copies([], total=0, firsts=[0], folder=str(tmp_path))))
