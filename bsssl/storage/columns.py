"""Columns of Arrow tables as attributes of typed objects: Arrow does not tell type checkers what its columns hold."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy.typing as npt

T = TypeVar("T")


class Values(Protocol[T]):
    """The values of a column, a ``pyarrow.ChunkedArray``: what is used of it beside Arrow's own functions."""

    null_count: int
    to_pylist: Callable[[], list[T]]
    to_numpy: Callable[[], npt.NDArray[Any]]
    take: Callable[[npt.NDArray[Any]], "Values[T]"]

    def __len__(self) -> int: ...


class Column(Generic[T]):
    """The column ``name`` of an object's ``table``, as an attribute of the object."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, holder: Any, kind: type) -> Values[T]:
        values: Values[T] = holder.table[self._name]
        return values
