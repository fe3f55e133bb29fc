import resource

import numpy as np

from bsssl.engine.distance import NEIGHBOURS, Neighbours


def test_the_cosine_to_the_fifth_nearest():
    generator = np.random.default_rng(0)
    labeled, items = generator.normal(size=(40, 8)), generator.normal(size=(5000, 8))
    cosines = (items @ labeled.T) / np.linalg.norm(items, axis=1)[:, None] / np.linalg.norm(labeled, axis=1)
    found = Neighbours(labeled).nearness(items)
    np.testing.assert_allclose(found, np.sort(cosines, axis=1)[:, -NEIGHBOURS], rtol=1e-4, atol=1e-5)
    assert found.dtype == np.float32


def test_of_fewer_labels_the_last():
    labeled = np.array([[1.0, 0.0], [0.0, 2.0]], np.float16)
    np.testing.assert_allclose(Neighbours(labeled).nearness(np.array([[3.0, 0.0]], np.float16)), [0.0], atol=1e-6)
    assert Neighbours(labeled).nearness(np.zeros((0, 2), np.float16)).shape == (0,)


def test_memory_does_not_grow_with_the_labels():
    many = Neighbours(np.random.default_rng(0).normal(size=(200_000, 4)))
    items = np.random.default_rng(1).normal(size=(500, 4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert many.nearness(items).shape == (500,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # not the 400 MB of all cosines
