import threading
from collections.abc import Iterator

import pytest

from bsssl.runtime.threads import map_ahead


def test_results_come_in_the_order_of_the_items():
    later = threading.Event()

    def function(item: int) -> int:
        if item == 0:
            assert later.wait(10), "the second item runs beside the first"
        later.set()
        return item * 10

    assert list(map_ahead(function, range(50), threads=4)) == [item * 10 for item in range(50)]
    assert list(map_ahead(function, [], threads=4)) == []


def test_few_items_are_taken_ahead():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item, items(), threads=3)
    assert next(results) == 0 and len(taken) == 7
    assert next(results) == 1 and len(taken) == 8
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 8


def test_no_more_run_at_a_time_than_there_are_threads():
    lock, running, most = threading.Lock(), 0, 0

    def function(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.002)
        with lock:
            running -= 1

    list(map_ahead(function, range(40), threads=3))
    assert most == 3


def test_an_error_comes_in_its_place_and_ends_the_work():
    begun: list[int] = []

    def function(item: int) -> int:
        begun.append(item)
        if item == 5:
            raise KeyError(item)
        return item

    results = map_ahead(function, range(10_000), threads=2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        next(results)
    assert len(begun) < 20
