"""The one exception that users are meant to read, and what its lines may end with."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong, where, and how to mend it."""


class Problems(UserError):
    """Several such things, each a line of the text."""


def note(error: Exception, text: str) -> None:
    """Have ``text`` told with ``error``, whoever catches it: as ``add_note``, which Python 3.10 has not."""
    error.__notes__ = [*notes(error), text]


def notes(error: Exception) -> list[str]:
    """Return what is to be told with ``error``."""
    return list(getattr(error, "__notes__", ()))


def shortened(text: str, *, most: int = 60) -> str:
    """Return ``text``, without its middle where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 2) + 5 :]}"


def is_misspelt(given: str, meant: str) -> bool:
    """Return whether ``given`` is another name, ``meant``, with its letters in disorder or of another case."""
    return given != meant and sorted(given.lower()) == sorted(meant)


def choices(given: str, valid: Iterable[str], *, most: int = 40) -> str:
    """Return the end of an error line about an unknown name: the nearest match, then the valid names."""
    names = sorted(valid)
    near = get_close_matches(given, names, n=1)
    listed = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
    return (f"did you mean '{near[0]}'? " if near else "") + (f"valid: {listed}" if names else "there are none")
