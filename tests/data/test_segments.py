import math

import numpy as np
import pytest

from bsssl.data.segments import split_segment, with_segment
from bsssl.errors import UserError


@pytest.mark.parametrize(
    ("start", "end", "named"),
    [
        (None, None, "a/b.mp4"),
        (12.5, 20.0, "a/b.mp4#t=12.5,20"),
        (None, 20, "a/b.mp4#t=,20"),
        (12.5, None, "a/b.mp4#t=12.5"),
        (0.0, 0.1, "a/b.mp4#t=0,0.1"),
        (-0.0, None, "a/b.mp4#t=0"),
        (1e-7, 1e17, "a/b.mp4#t=0.0000001,100000000000000000"),
    ],
)
def test_named_and_found_again(start, end, named):
    assert with_segment("a/b.mp4", start, end) == named
    assert split_segment(named) == ("a/b.mp4", start, end)


def test_every_number_comes_back_exactly():
    generator = np.random.default_rng(0)
    for start, length in zip(generator.exponential(1000, 500), generator.exponential(10, 500), strict=True):
        assert split_segment(with_segment("v", start, start + length)) == ("v", start, start + length)


def test_segments_of_urls():
    assert split_segment("https://host/v.mp4?key=a#t=1,2") == ("https://host/v.mp4?key=a", 1, 2)


@pytest.mark.parametrize(
    "name",
    [
        "plain.mp4",
        "take#t=1.mp4",
        "v.mp4#t=",
        "v.mp4#t=,",
        "v.mp4#t=1,",
        "v.mp4#t=-1,3",
        "v.mp4#t=20,12",
        "v.mp4#t=12,12",
        "v.mp4#t=,0",
        "v.mp4#t=1e3",
        "v.mp4#t=1,2\n",
        "v.mp4#t=١",
        "v.mp4#t=1,2,3",
        "v.mp4#t=00:01",
        "v.mp4#t=" + "9" * 400,
    ],
)
def test_names_that_only_look_like_segments(name):
    assert split_segment(name) == (name, None, None)


def test_only_the_last_fragment_counts():
    assert split_segment("take#t=1#t=2,3") == ("take#t=1", 2, 3)


@pytest.mark.parametrize(
    ("start", "end"),
    [(-1, 3), (None, -1), (None, 0), (5, 5), (20, 12), (math.nan, 1), (1, math.nan), (math.inf, None), (1, math.inf)],
)
def test_no_segment(start, end):
    with pytest.raises(UserError, match=r"v\.mp4: no segment lies from .* to .*; give seconds, 0 <= start < end"):
        with_segment("v.mp4", start, end)


def test_a_segment_of_a_segment():
    with pytest.raises(UserError, match=r"v\.mp4#t=1,5 names a segment already"):
        with_segment("v.mp4#t=1,5", 2, 3)
