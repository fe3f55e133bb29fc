"""The thumbnails of a page: as many as the page has room for, each once, those that matter most first."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from bsssl.runtime.distributed import cores
from bsssl.runtime.threads import map_ahead

if TYPE_CHECKING:
    from bsssl.data import Record

T = TypeVar("T")
UNREADABLE = -1
_THREADS = 4
_ENTRY = 60  # characters of what else the page has of an item, its score for example
_BATCH = 64  # thumbnails between two looks at the clock
_BASE64 = 4 / 3  # characters for a byte


class Album:
    """Thumbnails by number, none twice.

    Args:
        make: Makes the thumbnail of an item.
    """

    def __init__(self, make: "Callable[[Record], bytes]") -> None:
        self.pictures: list[bytes] = []
        self.reasons: Counter[str] = Counter()
        """why items have no picture any more, and how many"""
        self.is_late = False
        """whether time was over before there was no more room"""
        self.characters = 0.0
        """what the thumbnails, and the names of their items, take in the page"""
        self._make = make
        self._numbers: dict[tuple[str, int], int] = {}

    def add(self, wanted: "Iterable[tuple[T, Record]]", *, room: int, seconds: float) -> Iterator[tuple[T, int]]:
        """Yield of each item, until there is no more room or time, what came with it and the number of its thumbnail.

        Args:
            wanted: The items; those that matter most come first.
            room: Characters of the page that these items may take.
            seconds: After which no further thumbnail is begun.

        Yields:
            The number is ``UNREADABLE`` for what is gone or cannot be decoded.
        """
        full, late, threads = self.characters + room, time.monotonic() + seconds, min(_THREADS, cores())
        items = iter(wanted)
        while self.characters < full and (batch := [*islice(items, _BATCH)]):
            if time.monotonic() > late:
                self.is_late = True
                return
            new = {self._place(record): record for _, record in batch if self._place(record) not in self._numbers}
            for place, content in zip(new, map_ahead(self._try, new.values(), threads=threads), strict=True):
                if isinstance(content, str) or self.characters + len(content) * _BASE64 <= full:
                    self._numbers[place] = self._keep(content)
            for what, record in batch:
                entry = len(json.dumps(record.key)) + _ENTRY
                if self._place(record) not in self._numbers or self.characters + entry > full:
                    return
                self.characters += entry
                yield what, self._numbers[self._place(record)]

    def _keep(self, content: bytes | str) -> int:
        if isinstance(content, str):
            self.reasons[content] += 1
            return UNREADABLE
        self.pictures.append(content)
        self.characters += len(content) * _BASE64
        return len(self.pictures) - 1

    def _try(self, record: "Record") -> bytes | str:
        """Return the thumbnail of an item, or why there is none."""
        from bsssl.data import Unreadable  # imports torch

        try:
            return self._make(record)
        except Unreadable as error:
            return str(error)

    @staticmethod
    def _place(record: "Record") -> tuple[str, int]:
        return record.path, record.offset
