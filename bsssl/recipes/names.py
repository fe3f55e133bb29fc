"""The names of stages that other rooms ask for."""


def evaluation(trained: str, test: str = "test") -> str:
    """Return the name of the stage that tests the stage ``trained``.

    ``test`` is the output of the data stage that holds the test set: ``test``, or ``test-NAME`` of several.
    """
    return f"evaluate-{trained}" + test.removeprefix("test").replace("-", ".", 1)


def numbered(name: str, number: int) -> str:
    """Return the name of a stage in round ``number``, from 1 on."""
    return name if number == 1 else f"{name}-{number}"
