"""What a label is, in which order classes are, and which names look alike."""

import pytest

from bsssl.data.labels import alike, commonest
from bsssl.data.records import Records


def labeled(*labels):
    names = [str(number) for number in range(len(labels))]
    return Records.from_columns(key=names, path=names, label=labels)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ((" a", "b\u00a0", "\ufeffc", "d\u200b"), ("a", "b", "c", "d")),
        (("cafe\u0301", "caf\u00e9"), ("caf\u00e9", "caf\u00e9")),
        (("", " ", "-1", " -1 ", "-1.0", None, "a"), (None, None, None, None, None, None, "a")),
        (("3.0", "3", "10.0", "-1.0"), ("3", "3", "10", None)),
        (("3.0", "nan", "NaN", "None", "<NA>", "null"), ("3", None, None, None, None, None)),
        (("1", "NA", "n/a", "#N/A"), ("1", None, None, None)),
        (("3.0", "3.5"), ("3.0", "3.5")),
        (("3.0", "other"), ("3.0", "other")),
        (("007", "nan"), ("007", None)),
        (("cat", "nan", "None", "null"), ("cat", "nan", "None", "null")),
        (("nan", "nan"), ("nan", "nan")),
        ((), ()),
    ],
)
def test_what_a_label_is(written, meant):
    assert labeled(*written).tidied().label.to_pylist() == list(meant)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (map(str, range(12)), [str(number) for number in range(12)]),
        (["10", "9", "b", "a", "-2", "1.5", "007", "7"], ["-2", "1.5", "007", "7", "9", "10", "a", "b"]),
        (["class 10", "class 9"], ["class 10", "class 9"]),
        (["9" * 5000, "\u0663", "1"], ["1", "9" * 5000, "\u0663"]),
    ],
)
def test_numbers_are_in_their_order(names, order):
    assert labeled(*names).class_names() == order


def test_names_that_look_alike():
    names = ["Cat", "cat", "new york", "New  York", "new\u00a0york", "a\u200bb", "ab", "Stra\u00dfe", "STRASSE", "dog"]
    assert alike(names) == [names[:2], names[2:5], names[5:7], names[7:9]]
    assert alike(["cat", "cats", "c at"]) == []


def test_the_name_that_occurs_most_is_taken():
    assert commonest({"Cat": 2, "cat": 5, "dog": 1}, ["CAT", "Cat", "cat", "owl"]) == dict.fromkeys(
        ["CAT", "Cat", "cat"], "cat"
    )
