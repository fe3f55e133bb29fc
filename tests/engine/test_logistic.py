import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bsssl.engine import logistic
from bsssl.engine.logistic import fit, standardisation


def blobs(rows, dimensions, classes):
    """Features and classes that overlap; every class has an item."""
    random = np.random.default_rng(0)
    targets = np.concatenate([np.arange(classes), random.integers(0, classes, rows - classes)])
    centres = random.normal(size=(classes, dimensions))
    features = (centres[targets] + 1.5 * random.normal(size=(rows, dimensions))).astype(np.float32)
    return torch.from_numpy(features), torch.from_numpy(targets)


@pytest.mark.parametrize(
    ("rows", "dimensions", "classes", "c"),
    [(200, 10, 3, 1.0), (200, 10, 3, 1e-3), (60, 100, 3, 0.1), (120, 3, 8, 10.0), (50, 4, 2, 1.0)],
    ids=["usual", "strong", "more features than samples", "more classes than features", "two classes"],
)
def test_the_optimum_is_that_of_scikit_learn(monkeypatch, rows, dimensions, classes, c):
    monkeypatch.setattr(logistic, "_ROWS", 37)  # blocks of rows add up
    features, targets = blobs(rows, dimensions, classes)
    found = fit(features, targets, num_classes=classes, c=c, max_iterations=2000)
    theirs = LogisticRegression(C=c if classes > 2 else 2 * c, tol=1e-10, max_iter=10_000).fit(
        features.double().numpy(), targets.numpy()
    )
    assert found.converged
    if classes > 2:
        np.testing.assert_allclose(found.weight.numpy(), theirs.coef_, atol=2e-4)
        # Adding one number to all biases changes nothing.
        bias = found.bias.numpy() - found.bias.numpy().mean()
        np.testing.assert_allclose(bias, theirs.intercept_ - theirs.intercept_.mean(), atol=2e-4)
    else:  # of two classes scikit-learn keeps the difference, whose squared norm is twice that of the two halves
        np.testing.assert_allclose((found.weight[1] - found.weight[0]).numpy(), theirs.coef_[0], atol=2e-4)
    np.testing.assert_allclose(
        found.logits(features).softmax(1).numpy(), theirs.predict_proba(features.double().numpy()), atol=1e-4
    )


def test_where_it_starts_does_not_matter_but_the_iterations_do():
    features, targets = blobs(200, 10, 4)
    cold = fit(features, targets, num_classes=4, c=1.0, max_iterations=500)
    other = fit(features, targets, num_classes=4, c=100.0, max_iterations=500)
    warm = fit(features, targets, num_classes=4, c=1.0, max_iterations=500, start=other)
    assert torch.allclose(cold.weight, warm.weight, atol=1e-4) and abs(cold.loss - warm.loss) < 1e-9
    short = fit(features, targets, num_classes=4, c=1.0, max_iterations=2)
    assert not short.converged and short.loss > cold.loss


def test_standardisation_is_that_of_scikit_learn():
    features, _ = blobs(50, 6, 2)
    features[:, 2] = 7.3
    mean, std = standardisation(features)
    theirs = StandardScaler().fit(features.double().numpy())
    np.testing.assert_allclose(mean.numpy(), theirs.mean_, rtol=1e-5)
    np.testing.assert_allclose(std.numpy(), theirs.scale_, rtol=1e-5)
    assert std[2] == 1


def test_a_classifier_of_standardised_features_becomes_one_of_the_features_themselves():
    features, targets = blobs(50, 6, 3)
    features = 100 + 5 * features
    mean, std = standardisation(features)
    standardised = (features - mean) / std
    found = fit(standardised, targets, num_classes=3, c=1.0, max_iterations=500)
    torch.testing.assert_close(
        found.unstandardised(mean, std).logits(features), found.logits(standardised), rtol=1e-4, atol=1e-4
    )
