import pytest

from bsssl.errors import UserError, choices
from bsssl.registry import DATASETS, MODELS, Registry


def test_a_registered_factory_is_found_by_its_name():
    registry = Registry("thing")

    @registry.register("one")
    def make() -> int:
        return 1

    assert registry.get("one") is make
    assert make() == 1
    assert "one" in registry and "two" not in registry


def test_names_are_sorted():
    registry = Registry("thing")
    for name in ("b", "c", "a"):
        registry.register(name)(object())
    assert registry.names() == ["a", "b", "c"]


def test_an_unknown_name_lists_the_valid_ones_and_the_nearest():
    registry = Registry("thing")
    for name in ("circle", "square"):
        registry.register(name)(object())
    with pytest.raises(UserError) as caught:
        registry.get("circel")
    assert str(caught.value) == "unknown thing 'circel': did you mean 'circle'? valid: circle, square"


def test_a_name_is_given_once():
    registry = Registry("thing")
    registry.register("one")(object())
    with pytest.raises(AssertionError):
        registry.register("one")(object())


def test_choices_without_a_near_match_and_with_many():
    assert choices("zzz", ["b", "a"]) == "valid: a, b"
    assert choices("zzz", [f"n{i:03d}" for i in range(50)], most=2) == "valid: n000, n001, ... (50 in all)"


def test_the_projects_registries_hold_what_the_docs_name():
    import bsssl.data
    import bsssl.models  # noqa: F401 - both fill the registries

    assert {"folder", "manifest", "tars", "digits"} <= set(DATASETS.names())
    assert {"resnet18", "resnet50", "resnext101_32x48d", "small_resnet"} <= set(MODELS.names())
