"""The search for near copies among perceptual hashes."""

import numpy as np
import pytest

from bsssl.data import NO_LOOK, mirrored
from bsssl.engine.near import Features, Looks, sampled


@pytest.fixture
def looks():
    return np.random.default_rng(0).integers(0, 256, (3000, 32), np.uint8)


def with_other_bits(looks, count):
    """The looks with that many of their bits turned, each elsewhere."""
    bits, generator = np.unpackbits(looks, axis=1), np.random.default_rng(1)
    for row in bits:
        row[generator.choice(256, count, replace=False)] ^= 1
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("count", [0, 1, 15])
def test_what_differs_in_few_bits_is_found(looks, count):
    searched = Looks()
    searched.add(looks[:1000])
    searched.add(looks[1000:])
    for copies in (with_other_bits(looks, count), mirrored(with_other_bits(looks, count))):
        nearest = searched.nearest(copies)
        assert nearest.number.tolist() == [*range(3000)] and set(nearest.distance.tolist()) == {count}


def test_what_differs_in_more_bits_is_not(looks):
    searched = Looks(distance=20)
    searched.add(looks)
    assert (searched.nearest(with_other_bits(looks, 20)).number >= 0).mean() > 0.9
    assert (searched.nearest(with_other_bits(looks, 21)).number < 0).all()


def test_copies_have_one_leader_however_many_they_are_and_wherever_they_come(looks):
    searched = Looks()
    copies = with_other_bits(np.repeat(looks[:1], 2500, axis=0), 4)
    first = searched.join(np.concatenate([looks[:10], copies]))
    assert first.number.tolist() == [-1] * 10 + [0] * 2500
    # Among those that come together too, and in what comes later.
    searched = Looks()
    order = searched.join(np.concatenate([looks[5:8], looks[5:8], looks[1:2]]))
    assert order.number.tolist() == [-1, -1, -1, 0, 1, 2, -1]
    assert searched.join(looks[1:8]).number.tolist() == [6, -1, -1, -1, 0, 1, 2]


def test_what_has_no_look_is_near_to_nothing(looks):
    plain = np.tile(np.frombuffer(NO_LOOK, np.uint8), (3, 1))
    searched = Looks()
    assert (searched.join(np.concatenate([plain, looks[:2], plain])).number < 0).all()
    assert searched.nearest(looks[:2]).number.tolist() == [3, 4]
    assert (searched.nearest(plain).number < 0).all()


@pytest.mark.parametrize(("count", "found"), [(2000, 1.0), (17_000, 0.97)])  # all are compared, or those nearby
def test_features_with_a_high_cosine_are_found(count, found):
    generator = np.random.default_rng(0)
    features = np.maximum(generator.standard_normal((count, 300)), 0).astype(np.float16)
    features[7] = 0
    of = generator.permutation(np.delete(np.arange(count), 7))[:500]
    noise = generator.standard_normal((500, 300))
    copies = {size: np.maximum(features[of] + size * noise, 0).astype(np.float16) for size in (0.0, 0.1, 1.0)}
    step = max(1, count // sampled(count)) if sampled(count) else count
    searched = Features(features[::step], count=count, cosine=0.95)
    assert (searched.join(features).number < 0).all()
    for size, share in ((0.0, found), (0.1, found)):
        nearest = searched.nearest(copies[size])
        assert (nearest.number == of).mean() >= share
        cosines = [
            one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            for one, other in zip(features[of].astype(float), copies[size].astype(float), strict=True)
        ]
        there = nearest.number == of
        np.testing.assert_allclose(nearest.distance[there], 1 - np.array(cosines)[there], atol=0.01)
    assert (searched.nearest(copies[1.0]).number < 0).all()
    joined = searched.join(np.concatenate([copies[0.1], copies[1.0], copies[1.0]]))
    assert (joined.number[:500] == of).mean() >= found and (joined.number[500:1000] < 0).all()
    assert (joined.number[1000:] == count + np.arange(500, 1000)).mean() >= found


def test_where_there_are_no_features_nothing_is_near():
    nothing = Features(np.zeros((0, 1)), count=0, cosine=0.95)
    assert nothing.nearest(np.ones((3, 20), np.float16)).number.tolist() == [-1] * 3
