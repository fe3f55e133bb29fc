import numpy as np
import pytest

from bsssl.data.records import Records
from bsssl.data.splits import split_labels
from bsssl.errors import UserError


def _labeled():
    labels = ["a"] * 10 + ["b"] * 30 + ["c"] * 4
    names = [f"{number:03d}" for number in range(len(labels))]
    return Records.from_columns(key=names, path=names, label=labels)


def test_balanced_and_complete():
    labeled, rest = split_labels(_labeled(), labels_per_class=3, seed=0)
    assert labeled.label.to_pylist() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert sorted(labeled.key.to_pylist() + rest.key.to_pylist()) == _labeled().key.to_pylist()


def test_depends_on_the_seed_and_not_on_the_order():
    records = _labeled()
    shuffled = records.take(np.random.default_rng(0).permutation(len(records)))
    first, rest = split_labels(records, labels_per_class=3, seed=0)
    assert split_labels(shuffled, labels_per_class=3, seed=0)[0] == first
    assert split_labels(shuffled, labels_per_class=3, seed=0)[1] == rest
    assert split_labels(records, labels_per_class=3, seed=1)[0] != first


@pytest.mark.parametrize(
    ("labels_per_class", "imbalance", "kept"), [(4, 1.0, [4, 4, 4]), (8, 4.0, [8, 4, 2]), (9, 100.0, [9, 1, 1])]
)
def test_a_long_tail(labels_per_class, imbalance, kept):
    labeled, rest = split_labels(_labeled(), labels_per_class=labels_per_class, imbalance=imbalance, seed=0)
    assert [labeled.label.to_pylist().count(name) for name in "abc"] == kept
    assert sorted(labeled.key.to_pylist() + rest.key.to_pylist()) == _labeled().key.to_pylist()


def test_too_few():
    with pytest.raises(UserError, match=r"labels_per_class=5 is more than 1 of 3 classes have \(fewest: 'c' with 4\)"):
        split_labels(_labeled(), labels_per_class=5, seed=0)


def test_unlabeled():
    records = Records.from_columns(key=["a", "b"], path=["a", "b"], label=["x", None])
    with pytest.raises(UserError, match="1 of 2 items have no label"):
        split_labels(records, labels_per_class=1, seed=0)
