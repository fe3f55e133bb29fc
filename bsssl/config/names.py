"""The names of stages and roles of which there may be several."""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def numbered(name: str, number: int) -> str:
    """Return the name of the stage, or of the role, that is number ``number`` of its like, from 1 on."""
    return name if number == 1 else f"{name}-{number}"


def by_role(teachers: Iterable[T]) -> dict[str, T]:
    """Return the teachers of a round by role: teacher, teacher-2, ..."""
    return {numbered("teacher", number): one for number, one in enumerate(teachers, start=1)}
