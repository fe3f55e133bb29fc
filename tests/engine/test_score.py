import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bsssl import storage
from bsssl.data.loading.dataset import Failure
from bsssl.data.records import Records
from bsssl.engine.predict import Prediction
from bsssl.engine.score import (
    EXCLUDED,
    excludes_the_same,
    features_path,
    hashes_path,
    read_energy,
    read_features,
    save_shard,
    score_shard,
)
from bsssl.errors import UserError
from bsssl.selection import ScoreHeader, ledger_path, read_header, read_sample_scores, score_path
from bsssl.selection.scores import ScoreFile

ROWS, CLASSES, TOP_P = 9, 5, 2
HEADER = ScoreHeader(
    teacher="t",
    class_names=tuple("abcde"),
    top_p=TOP_P,
    num_shards=1,
    shard="s",
    number=0,
    base=0,
    num_records=ROWS,
)


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)


@pytest.fixture
def records():
    keys = [f"k{row}" for row in range(ROWS)]
    return Records.from_columns(key=keys, path=[f"/pool/{key}" for key in keys])


def content_of(row):
    return b"%016d" % row


def contents(*rows):
    return frozenset(map(content_of, rows))


def prediction(probabilities, *rows, failures=()):
    hashes = [content_of(row) for row in rows]
    index = np.array(rows, np.int64)
    return Prediction(index, np.zeros_like(index), probabilities[index], hashes, list(failures))


def with_features(found, values):
    """The prediction with features, of which the first is the row and the second one of the values."""
    return dataclasses.replace(found, features=np.stack([found.index, values], axis=1).astype(np.float32))


def unreadable(*failures):
    nothing = np.zeros(0, np.int64)
    return Prediction(nothing, nothing, np.zeros((0, 0), np.float32), [], list(failures))


def found_in(probabilities, *, held=frozenset[bytes]()):
    parts = [
        prediction(probabilities, 3, 0, failures=[Failure(1, "empty")]),
        unreadable(Failure(8, "not an image"), Failure(4, "cut short")),
        prediction(probabilities, 7, 2, 5, 6),
    ]
    return score_shard(parts, top_p=TOP_P, held_hashes=held)


def test_keeps_the_best_classes(probabilities):
    found = found_in(probabilities)
    assert found.positions.tolist() == [3, 0, 7, 2, 5, 6]
    order = np.argsort(-probabilities[found.positions], axis=1)[:, :TOP_P]
    np.testing.assert_array_equal(found.classes, order)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(probabilities[found.positions], order, 1))
    assert (found.classes.dtype, found.scores.dtype) == (np.int32, np.float32)
    assert found.failures == {1: "empty", 8: "not an image", 4: "cut short"} and found.held == []


def test_held_out_items_are_left_out_by_content(probabilities):
    found = found_in(probabilities, held=contents(0, 5, 99))
    assert found.positions.tolist() == [3, 7, 2, 6] and found.held == [0, 5]


def test_nothing_readable():
    found = score_shard([unreadable(Failure(0, "empty"))], top_p=TOP_P, held_hashes=frozenset())
    assert found.positions.shape == (0,) and found.classes.shape == found.scores.shape == (0, TOP_P)


def test_what_is_written(tmp_path, probabilities, records):
    path = score_path(str(tmp_path), 0)
    save_shard(path, found_in(probabilities, held=contents(5)), header=HEADER, records=records)
    assert read_header(path) == HEADER
    assert storage.read_ledger(ledger_path(path)) == [
        ("k1", "empty"),
        ("k4", "cut short"),
        ("k5", EXCLUDED),
        ("k8", "not an image"),
    ]
    samples = ScoreFile(path).samples()
    assert samples["key"].to_pylist() == ["k0", "k2", "k3", "k6", "k7"]
    assert samples["path"].cast(pa.string()).to_pylist()[0] == "/pool/k0"
    positions, classes, scores = read_sample_scores(path)
    assert positions.tolist() == [0, 2, 3, 6, 7]
    np.testing.assert_array_equal(scores, -np.sort(-probabilities[positions], axis=1)[:, :TOP_P])
    np.testing.assert_array_equal(classes, np.argsort(-probabilities[positions], axis=1)[:, :TOP_P])


def test_order_of_the_batches_does_not_matter(tmp_path, probabilities, records):
    digests = set()
    failures = [Failure(3, "empty"), Failure(1, "cut short")]
    for number, order in enumerate(([0, 2, 4, 5, 6, 7, 8], [8, 5, 0, 7, 2, 6, 4])):
        parts = [prediction(probabilities, row) for row in order]
        parts.insert(number, unreadable(*failures[:: 1 - 2 * number]))
        path = score_path(str(tmp_path / str(number)), 0)
        save_shard(path, score_shard(parts, top_p=TOP_P, held_hashes=frozenset()), header=HEADER, records=records)
        content = b"".join(Path(name).read_bytes() for name in (path, ledger_path(path), hashes_path(path)))
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_a_broken_teacher_leaves_no_score_file(tmp_path, probabilities, records):
    probabilities[2, 0] = np.nan
    path = score_path(str(tmp_path), 0)
    with pytest.raises(UserError, match=r"not in \[0, 1\] \(first: 'k2'"):
        save_shard(path, found_in(probabilities), header=HEADER, records=records)
    assert not list(tmp_path.glob("*.scores*"))


def test_views_of_a_sample_are_averaged(probabilities):
    views = np.random.default_rng(1).dirichlet(np.ones(CLASSES), (3, 2)).astype(np.float32)  # 3 samples, 2 views
    index, view = np.repeat([4, 0, 7], 2), np.tile([0, 1], 3)
    hashes = [content_of(row) for row in index]
    part = Prediction(index, view, views.reshape(6, CLASSES), hashes, [])
    found = score_shard([part], top_p=TOP_P, held_hashes=contents(0), views=2)
    assert found.positions.tolist() == [4, 7] and found.held == [0]
    np.testing.assert_allclose(found.scores, -np.sort(-views.mean(1)[[0, 2]], axis=1)[:, :TOP_P], rtol=1e-6)


@pytest.fixture
def saved(tmp_path, probabilities, records):
    """The path of a score file that was written with these rows held out."""

    def save(*held):
        path = score_path(str(tmp_path), 0)
        save_shard(path, found_in(probabilities, held=contents(*held)), header=HEADER, records=records)
        return path

    return save


def test_content_hashes_lie_beside_the_scores(saved):
    content = Path(hashes_path(saved(5, 99))).read_bytes()
    assert content == b"".join(map(content_of, [0, 2, 3, 6, 7, 5]))


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ((5, 0), (5, 0), True),
        ((5, 0), (0, 5, 99), True),  # an item that the shard does not hold
        ((5,), (5, 7), False),
        ((5, 7), (5,), False),
        ((5,), (7,), False),
        ((99,), (98,), True),
        ((5,), (), False),
        ((), (), True),
    ],
)
def test_whether_other_held_items_would_exclude_the_same(saved, before, now, same):
    assert excludes_the_same(saved(*before), contents(*now)) is same


def test_what_would_be_excluded_is_not_known_without_hashes(tmp_path, probabilities, records, saved):
    path = saved(5)
    Path(hashes_path(path)).unlink()
    assert not excludes_the_same(path, contents(5))
    found = found_in(probabilities)
    save_shard(path, dataclasses.replace(found, hashes=[]), header=HEADER, records=records)  # none was looked for
    assert not excludes_the_same(path, contents(5)) and excludes_the_same(path, frozenset())


def test_features_lie_beside_the_scores_in_the_order_of_the_samples(tmp_path, probabilities, records):
    parts = [
        with_features(prediction(probabilities, 6, 6, 2, 2), [0.25, 0.75, -1, -2]),
        unreadable(Failure(1, "empty")),
        with_features(prediction(probabilities, 5, 5, 0, 0), [9, 9, 1e9, 1e9]),
    ]
    path = score_path(str(tmp_path), 0)
    found = score_shard(parts, top_p=TOP_P, held_hashes=contents(5), views=2)
    save_shard(path, found, header=HEADER, records=records)
    features = read_features(path)
    assert features.dtype == np.float16 and ScoreFile(path).samples()["position"].to_pylist() == [0, 2, 6]
    assert features.tolist() == [[0, 65504], [2, -1.5], [6, 0.5]]
    content = Path(features_path(path)).read_bytes()
    for damaged in (b"", content[:-1], content[:-4], content[4:], b"\x00" * len(content)):
        Path(features_path(path)).write_bytes(damaged)
        with pytest.raises(UserError, match=r"0\.features does not hold the features of each of 3 samples"):
            read_features(path)
    save_shard(path, dataclasses.replace(found, features=None), header=HEADER, records=records)
    assert read_features(path) is None


def test_the_energy_is_the_mean_over_views_and_lies_beside_the_scores(tmp_path, probabilities, records):
    index, view = np.repeat([4, 0, 7], 2), np.tile([0, 1], 3)
    energy = np.array([1, 3, 5, 5, 0, 8], np.float32)
    part = Prediction(index, view, probabilities[index], [content_of(row) for row in index], [], energy=energy)
    found = score_shard([part, unreadable(Failure(1, "empty"))], top_p=TOP_P, held_hashes=contents(0), views=2)
    path = score_path(str(tmp_path), 0)
    save_shard(path, found, header=HEADER, records=records)
    assert read_energy(path).tolist() == [2, 4]  # of 4 and 7
    save_shard(path, dataclasses.replace(found, energy=None), header=HEADER, records=records)
    assert read_energy(path) is None
