"""The names of stages that other rooms ask for."""

CHOOSE, CONTENTS = "choose", "contents"


def evaluation(trained: str, test: str = "test") -> str:
    """Return the name of the stage that tests the stage ``trained``.

    ``test`` is the output of the data stage that holds the items: ``test``, ``test-NAME`` of several, or ``labeled``.
    """
    items = test.removeprefix("test").removeprefix("-")
    return f"evaluate-{trained}" + (f".{items}" if items else "")
