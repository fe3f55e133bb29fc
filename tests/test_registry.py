import pytest

from bsssl.errors import UserError, choices
from bsssl.registry import DATASETS, LOSSES, MODELS, REGISTRIES, PartOption, Registry


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


def test_a_name_is_given_once_but_a_module_may_be_imported_again():
    registry = Registry("thing")

    def make() -> None: ...

    def other() -> None: ...

    other.__module__ = "somebody.parts"
    registry.register("one")(make)
    registry.register("one")(make)
    with pytest.raises(UserError) as caught:
        registry.register("one")(other)
    assert str(caught.value) == (
        f"thing 'one' of somebody.parts has the name of one of {__name__}; register it under another"
    )


def test_a_name_of_the_project_cannot_be_taken_before_its_part_is_imported():
    with pytest.raises(
        UserError, match=r"^dataset 'folder' of .* has the name of one of bsssl\.data\.datasets\.sources;"
    ):
        DATASETS.register("folder")(lambda path: None)


def _part(value: int, *, width: int = 2, mode: str, **others: object) -> tuple[object, ...]:
    """Return what it was given.

    Args:
        value: What the program gives.
        width: How wide it is, and whatever else there is
            to say: in two lines.
        mode (str): How it works.
        **others: Anything else.

    Returns:
        mode: Not an argument.
    """
    return value, width, mode, others


def _strict_part(*, width: int = 2, mode: str) -> tuple[object, ...]:
    return width, mode


def test_options_are_those_of_the_signature_less_what_the_program_gives():
    registry = Registry("thing", given=("value",))
    registry.register("one")(_part)
    assert registry.options("one") == [
        PartOption("width", "int", "2", "How wide it is, and whatever else there is to say: in two lines."),
        PartOption("mode", "str", "(required)", "How it works."),
    ]
    assert registry.summary("one") == "Return what it was given."
    assert registry.build("one", {"mode": "a", "more": 1}, value=3) == (3, 2, "a", {"more": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "a", "widht": 1}, "thing 'one' has no option 'widht': did you mean 'width'? valid: mode, width"),
        ({}, "thing 'one' needs the option 'mode'; give it under its options"),
    ],
)
def test_names_of_options_are_checked_without_making_the_part(options, message):
    registry = Registry("thing")
    registry.register("one")(_strict_part)
    with pytest.raises(UserError) as caught:
        registry.check("one", options)
    assert str(caught.value) == message
    registry.check("one", {"mode": "a"})


def test_a_wrong_value_and_an_unknown_option_are_one_line():
    registry = Registry("thing")
    registry.register("one")(_strict_part)
    with pytest.raises(UserError) as caught:
        registry.build("one", {"mode": "a", "width": "wide", "x": 1})
    assert str(caught.value).startswith("thing 'one': width='wide': Input should be a valid integer")
    assert str(caught.value).endswith("; thing 'one' has no option 'x': valid: mode, width")


class Part:
    def __init__(self, *, value: int, width: int = 2) -> None:
        self.made_of = (value, width)


def test_a_class_is_a_part_too_and_names_what_it_needs_of_what_the_program_gives():
    registry = Registry("thing", given=("value", "size"))
    registry.register("one")(Part)
    assert registry.build("one", {"width": "3"}, value="as it is", size=4).made_of == ("as it is", 3)
    with pytest.raises(UserError, match=r"thing 'one': width='x': Input should be a valid integer"):
        registry.build("one", {"width": "x"}, value=1)


def test_an_option_cannot_take_the_place_of_what_the_program_gives():
    registry = Registry("thing", given=("value",))
    registry.register("one")(_part)
    with pytest.raises(UserError, match=r"^thing 'one': the program itself gives value; take it out$"):
        registry.build("one", {"value": 1, "mode": "a"}, value=2)


def test_choices_without_a_near_match_and_with_many():
    assert choices("zzz", ["b", "a"]) == "valid: a, b"
    assert choices("zzz", [f"n{i:03d}" for i in range(50)], most=2) == "valid: n000, n001, ... (50 in all)"


def test_the_registries_of_the_project_hold_what_the_docs_name():
    assert {"folder", "manifest", "tars", "digits"} <= set(DATASETS.names())
    assert {"resnet18", "resnet50", "resnext101_32x48d", "small_resnet"} <= set(MODELS.names())


@pytest.mark.parametrize("sort", REGISTRIES)
def test_every_name_of_the_project_is_registered_by_its_module(sort):
    registry = REGISTRIES[sort]
    for name in registry._built_in:
        part = registry.get(name)  # a KeyError where the module does not register it
        assert part.__module__ == registry._built_in[name] or part.__module__.startswith("bsssl.")
        assert isinstance(registry.options(name), list)


def test_the_options_of_a_loss_say_what_they_mean():
    assert all(option.meaning for option in LOSSES.options("cross_entropy"))


def test_an_annotation_that_is_not_there_is_named():
    def part(*, width: "Nowhere") -> None: ...  # noqa: F821

    registry = Registry("thing")
    registry.register("one")(part)
    with pytest.raises(
        UserError, match=r"^thing 'one': its annotations cannot be read \(name 'Nowhere' is not defined"
    ):
        registry.check("one", {})
