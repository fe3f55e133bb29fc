import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from bsssl.data.datasets.sources import Folder
from bsssl.data.loading.dataset import Failure, ItemDataset, collate, content_hash
from bsssl.data.loading.targets import SparseTargets, StoredViews, class_counts, concat_targets, save_views
from bsssl.data.records import Records
from bsssl.data.views.transforms import test_transform as make_test_transform
from bsssl.data.views.transforms import train_transform
from bsssl.data.views.views import ImageViews


@pytest.fixture
def records(picture_folder):
    return Folder(path=str(picture_folder)).records()


def test_sample(records):
    targets = records.class_indices(records.class_names(), what="set")
    dataset = ItemDataset(records, targets=targets, views=ImageViews(make_test_transform(size=32)))
    [sample] = dataset[5]
    assert set(sample) == {"input", "target", "index", "view"}
    assert sample["input"].shape == (3, 32, 32) and sample["input"].dtype == torch.uint8
    assert (sample["target"], sample["index"], sample["view"]) == (1, 5, 0)
    assert ItemDataset(records, views=ImageViews(make_test_transform(size=32)))[5][0]["target"] == -1
    with pytest.raises(ValueError, match="3 targets for 15"):
        ItemDataset(records, targets=targets[:3], views=ImageViews(make_test_transform(size=32)))


def test_class_counts():
    assert class_counts(np.array([2, 0, 2]), num_classes=4).tolist() == [1, 0, 2, 0]
    vectors = np.array([[0.5, 0.5, 0, 0], [0, 0.25, 0.75, 0]], np.float32)
    assert class_counts(vectors, num_classes=4).tolist() == [0.5, 0.75, 0.75, 0]
    sparse = SparseTargets(
        np.array([0, 2, 4]), np.array([0, 1, 1, 2], np.int32), vectors[[0, 0, 1, 1], [0, 1, 1, 2]], num_classes=4
    )
    assert class_counts(sparse, num_classes=4).tolist() == [0.5, 0.75, 0.75, 0]
    drawn_twice_and_never = np.array([2.0, 0.0])
    assert class_counts(sparse, num_classes=4, weights=drawn_twice_and_never).tolist() == [1, 1, 0, 0]


def test_class_counts_of_stored_views(tmp_path):
    """A row's views count together as one; of those that could not be read there is nothing to count."""
    classes = np.array([[[2, 0], [2, 1]], [[1, 0], [0, 0]]], np.int32)
    scores = np.array([[[0.75, 0.25], [0.5, 0.5]], [[1, 0], [0, 0]]], np.float32)
    save_views(str(tmp_path / "0.npy"), classes[:1], scores[:1])
    save_views(str(tmp_path / "1.npy"), classes[1:], scores[1:])
    paths = [str(tmp_path / "0.npy"), str(tmp_path / "1.npy")]
    stored = StoredViews(paths, rows_per_file=1, num_views=2, num_rows=2, num_classes=3)
    assert class_counts(stored, num_classes=3).tolist() == [0.125, 0.75, 0.625]
    both = concat_targets(stored, np.array([2, 2]))
    assert len(both) == 4 and class_counts(both, num_classes=3).tolist() == [0.125, 0.75, 2.625]
    assert stored.of_view(1, 1) is None and stored.of_view(0, 0).tolist() == [0.25, 0, 0.75]
    assert both.of_view(3, 9).tolist() == [0, 0, 1]


def test_augmentation_depends_on_seed_and_draw_alone(records):
    dataset = ItemDataset(records, views=ImageViews(train_transform(size=32)), seed=3)
    first = dataset[2, 100][0]["input"]
    dataset[4, 7]
    torch.manual_seed(9)
    assert torch.equal(dataset[2, 100][0]["input"], first)
    assert not torch.equal(dataset[2, 101][0]["input"], first)
    other = ItemDataset(records, views=ImageViews(train_transform(size=32)), seed=4)
    assert not torch.equal(other[2, 100][0]["input"], first)


def test_content_hash(records, picture_folder):
    dataset = ItemDataset(records, views=ImageViews(make_test_transform(size=8)), hash_content=True)
    assert dataset[0][0]["hash"] == content_hash((picture_folder / "ant" / "1.jpg").read_bytes())
    batch = collate([dataset[0], dataset[1]])
    assert batch["hash"] == [dataset[0][0]["hash"], dataset[1][0]["hash"]]


def test_failures(tmp_path, records):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "html.jpg").write_bytes(b"<html>")
    paths = [str(tmp_path / name) for name in ("empty.jpg", "html.jpg", "missing.jpg")] + records.path.to_pylist()[:1]
    dataset = ItemDataset(
        Records.from_columns(key=paths, path=paths, size=[-1, 6, -1, -1]), views=ImageViews(make_test_transform(size=8))
    )
    items = [dataset[row] for row in range(4)]
    assert items[0] == [Failure(0, f"{paths[0]}: empty file")]
    assert items[1] == [Failure(1, f"{paths[1]}@0: not a picture, or of an unknown kind")]
    assert isinstance(items[2][0], Failure) and "No such file" in items[2][0].reason and paths[2] in items[2][0].reason
    batch = collate(items)
    assert batch["index"].tolist() == [3] and batch["failures"] == [failure for [failure] in items[:3]]
    assert collate(items[:3]) == {"failures": batch["failures"]}


def test_limits(records):
    dataset = ItemDataset(records, views=ImageViews(make_test_transform(size=8), max_pixels=3000))
    assert "limit of 3000" in dataset[0][0].reason


def test_bugs_are_not_hidden(records):
    def broken(image):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        ItemDataset(records, views=ImageViews(broken))[0]


def test_sparse_targets():
    offsets, classes = np.array([0, 2, 3]), np.array([4, 1, 0], np.int32)
    targets = SparseTargets(offsets, classes, np.array([0.75, 0.25, 1], np.float32), 5)
    assert len(targets) == 2
    assert targets[0].tolist() == [0, 0.25, 0, 0, 0.75] and targets[1].tolist() == [1, 0, 0, 0, 0]


def test_collate_targets(records):
    records = records[:2]
    sparse = SparseTargets(np.arange(3), np.array([2, 0], np.int32), np.ones(2, np.float32), 4)
    expected = torch.eye(4)[[2, 0]]
    for targets in (sparse, expected.numpy()):
        dataset = ItemDataset(records, targets=targets, views=ImageViews(make_test_transform(size=8)))
        batch = collate([dataset[0], dataset[1]])
        assert batch["target"].dtype == torch.float32 and torch.equal(batch["target"], expected)
    dataset = ItemDataset(records, views=ImageViews(make_test_transform(size=8)))
    batch = collate([dataset[0], dataset[1]])
    assert batch["target"].dtype == batch["index"].dtype == batch["view"].dtype == torch.int64
    assert batch["target"].tolist() == [-1, -1] and batch["input"].shape == (2, 3, 8, 8)


def test_pickles(records):
    dataset = ItemDataset(records, views=ImageViews(train_transform(size=16, crop="padded", randaugment_ops=1)), seed=1)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3, 8][0]["input"], dataset[3, 8][0]["input"])


def test_stored_views_are_softened_by_their_temperature(tmp_path):
    classes, scores = np.array([[[2, 0]]]), np.array([[[0.8, 0.2]]])
    save_views(str(tmp_path / "0.npy"), classes, scores)
    views = StoredViews([str(tmp_path / "0.npy")], rows_per_file=4, num_views=1, num_rows=1, num_classes=3)
    assert views.of_view(0, 0).tolist() == pytest.approx([0.2, 0, 0.8])
    # The square roots of 4 and 1 are as 2 to 1.
    assert replace(views, temperature=2.0).of_view(0, 0).tolist() == pytest.approx([1 / 3, 0, 2 / 3])
