import math

import numpy as np
import pytest

from bsssl.errors import UserError
from bsssl.stages.open_set import check_numbers, threshold_of


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("count", [1, 3, 10, 20, 101])
def test_the_share_is_exact(keep, count):
    values = np.random.default_rng(count).permutation(count).astype(np.float32)
    threshold = threshold_of(values, keep=keep)
    assert (values >= threshold).sum() == max(1, math.ceil(round(keep * count, 6)))
    assert threshold in values


def test_equal_values_are_let_through_together():
    assert threshold_of(np.array([1, 2, 2, 2, 3], np.float32), keep=0.4) == 2


def test_values_that_are_no_numbers_are_refused():
    values = np.array([1, np.nan, 3, np.inf], np.float32)
    with pytest.raises(UserError, match=r"open_set: the energy of 2 of 4 held-out labels is not a number; .*precision"):
        check_numbers(values, what="open_set: the energy")
    check_numbers(values[::2], what="open_set: the energy")
