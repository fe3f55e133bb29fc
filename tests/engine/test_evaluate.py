import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score

from bsssl.data.loading.dataset import Failure
from bsssl.engine.evaluate import evaluate, measure
from bsssl.engine.predict import Prediction
from bsssl.errors import UserError


def softmax(shape, seed=0):
    logits = 2 * np.random.default_rng(seed).standard_normal(shape)
    values = np.exp(logits)
    return (values / values.sum(-1, keepdims=True)).astype(np.float32)


def prediction(rows, probabilities, *, view=0, failures=()):
    rows = np.array(rows, np.int64)
    return Prediction(rows, np.full(len(rows), view), probabilities, [], list(failures))


def names(count):
    return [f"{row}.jpg" for row in range(count)]


def test_figures_agree_with_scikit_learn():
    probabilities = softmax((500, 12))
    targets = np.random.default_rng(1).integers(0, 12, 500)
    targets[:200] = probabilities[:200].argmax(1)
    found = measure(probabilities, targets)
    predicted = probabilities.argmax(1)
    assert found.top1 == pytest.approx(100 * accuracy_score(targets, predicted))
    assert found.top5 == pytest.approx(100 * top_k_accuracy_score(targets, probabilities, k=5))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(targets, predicted))
    for label in range(12):
        of_class = targets == label
        assert found.per_class[label] == pytest.approx(100 * (predicted[of_class] == label).mean())
    assert found.summary() == {"top1": found.top1, "top5": found.top5, "ece": found.ece, "items": 500, "missing": 0}


def test_calibration_error_by_its_definition():
    probabilities = softmax((300, 4))
    targets = np.random.default_rng(1).integers(0, 4, 300)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    error = 0.0
    for lower in np.arange(15) / 15:
        inside = (confidence >= lower) & (confidence < lower + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert measure(probabilities, targets).ece == pytest.approx(100 * error, abs=1e-4)


def test_calibration_of_certainty():
    certain = np.eye(3, dtype=np.float32)
    assert measure(certain, np.array([0, 1, 2])).ece == 0
    assert measure(certain, np.array([0, 1, 0])).ece == pytest.approx(100 / 3)


def test_ties_go_to_the_lower_class():
    even = np.full((4, 8), 1 / 8, np.float32)
    found = measure(even, np.array([0, 1, 4, 5]))
    assert (found.top1, found.top5) == (25, 75)
    assert found.confusion.sum(0).tolist() == [4, 0, 0, 0, 0, 0, 0, 0]


def test_few_classes_and_classes_without_items():
    found = measure(softmax((6, 3)), np.array([0, 0, 0, 2, 2, 2]))
    assert found.top5 == 100
    assert np.isnan(found.per_class[1]) and not np.isnan(found.per_class[[0, 2]]).any()
    assert found.confusion.shape == (3, 3)


def test_order_of_the_results_does_not_matter():
    probabilities, targets = softmax((5, 3)), np.array([0, 1, 2, 0, 1])
    parts = [prediction([4, 0], probabilities[[4, 0]]), prediction([2, 3, 1], probabilities[[2, 3, 1]])]
    found = evaluate(parts, targets=targets, num_classes=3, views=1, keys=names(5))
    np.testing.assert_array_equal(found.probabilities, probabilities)


def test_views_are_averaged():
    views, targets = softmax((2, 4, 3)), np.array([0, 1, 2, 0])
    parts = [prediction([3, 1, 0, 2], views[1][[3, 1, 0, 2]], view=1), prediction([0, 1, 2, 3], views[0])]
    found = evaluate(parts, targets=targets, num_classes=3, views=2, keys=names(4))
    np.testing.assert_allclose(found.probabilities, views.mean(0), rtol=1e-6)
    assert found.top1 == measure(views.mean(0), targets).top1


def test_an_incomplete_set_is_an_error():
    probabilities, targets = softmax((3, 3)), np.array([0, 1, 2])
    unreadable = Failure(1, "cut short")
    parts = [
        prediction([2], probabilities[2:], failures=[unreadable]),
        prediction([], np.zeros((0, 0), np.float32)),
    ]
    with pytest.raises(UserError, match=r"2 of 3 .*0\.jpg: no result; 1\.jpg: cut short.*data\.test"):
        evaluate(parts, targets=targets, num_classes=3, views=1, keys=names(3))


@pytest.mark.parametrize("views", [(0,), (0, 0), (0, 1, 1)])
def test_every_view_once(views):
    parts = [prediction([0], softmax((1, 3)), view=view) for view in views]
    with pytest.raises(UserError, match="1 of 1 test items have no complete result"):
        evaluate(parts, targets=np.array([0]), num_classes=3, views=2, keys=names(1))


def test_scores_that_are_not_numbers_are_refused():
    probabilities = softmax((3, 3))
    probabilities[1] = np.nan
    with pytest.raises(UserError, match=r"not numbers for 1 of 3 test items \(first: 1\.jpg\)"):
        evaluate([prediction([0, 1, 2], probabilities)], targets=np.arange(3), num_classes=3, views=1, keys=names(3))


def test_tolerated_missing_items_count_as_wrong():
    probabilities, targets = softmax((4, 3)), np.array([0, 1, 2, 0])
    probabilities[[0, 2, 3]] = np.eye(3, dtype=np.float32)[[0, 2, 1]]  # right, right, wrong
    there = np.array([0, 2, 3])
    parts = [prediction(there, probabilities[there], failures=[Failure(1, "cut short")])]
    found = evaluate(parts, targets=targets, num_classes=3, views=1, keys=names(4), max_missing_rate=0.25)
    assert found.missing == {1: "cut short"} and found.summary()["missing"] == 1
    assert (found.top1, found.top5) == (50, 75)
    assert found.per_class.tolist() == [50, 0, 100] and found.confusion.sum() == 3
    assert found.ece == pytest.approx(100 / 3)
    with pytest.raises(UserError, match="1 of 4 test items"):
        evaluate(parts, targets=targets, num_classes=3, views=1, keys=names(4), max_missing_rate=0.2)


def test_an_item_without_a_result_or_a_reason_is_never_tolerated():
    parts = [prediction([0], softmax((1, 3)))]
    with pytest.raises(UserError, match=r"1 of 2 test items .*1\.jpg: no result"):
        evaluate(parts, targets=np.array([0, 1]), num_classes=3, views=1, keys=names(2), max_missing_rate=1.0)


def test_views_and_items_are_told_apart():
    """Two clips of each of three videos: single ones are right half of the time, their mean always."""
    right, unsure = np.float32([0.9, 0.05, 0.05]), np.float32([0.3, 0.4, 0.3])
    targets = np.array([0, 0, 1])
    parts = [prediction([0, 1, 2], np.stack([right, right, right[[1, 0, 2]]]), view=0)]
    parts += [prediction([0, 1, 2], np.stack([unsure, unsure, unsure[[1, 0, 2]]]), view=1)]
    found = evaluate(parts, targets=targets, num_classes=3, views=2, keys=names(3))
    summary = found.summary(item="video", view="clip")
    assert (summary["top1"], summary["video_top1"], summary["clip_top1"]) == (100, 100, 50)
    assert (found.top5, found.view_top5, summary["clips"]) == (100, 100, 2)
    assert not [name for name in summary if "top5" in name]  # everything is among the best five of three classes
