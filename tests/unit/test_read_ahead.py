"""Reading ahead: the same items and errors, and nothing left behind by a reader who goes away."""

import threading
from collections.abc import Generator

import pytest

from mwc.runtime.read_ahead import ITEMS_AHEAD, read_ahead


class Source:
    """Numbers from 0 on; notes how far it was read, and whether and by whom it was closed."""

    def __init__(self, n: int, error: Exception | None = None) -> None:
        self.made = 0
        self.closed_by: str | None = None
        self._n, self._error = n, error

    def items(self) -> Generator[int, None, None]:
        try:
            for i in range(self._n):
                self.made += 1
                yield i
            if self._error is not None:
                raise self._error
        finally:
            self.closed_by = threading.current_thread().name


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mwc-read-ahead"]


@pytest.mark.parametrize("n", [0, 1, ITEMS_AHEAD, 100])
def test_all_items_come_in_order(n: int) -> None:
    source = Source(n)
    assert list(read_ahead(source.items())) == list(range(n))
    assert source.closed_by == "mwc-read-ahead"
    assert not readers()


def test_an_error_comes_behind_the_items_before_it() -> None:
    error = ValueError("damaged")
    items = read_ahead(Source(9, error).items())
    assert [next(items) for _ in range(9)] == list(range(9))
    with pytest.raises(ValueError, match="damaged") as caught:
        next(items)
    assert caught.value is error
    assert not readers()


@pytest.mark.parametrize("n_used", [1, 7])
def test_a_reader_who_leaves_ends_the_thread_and_closes_the_source(n_used: int) -> None:
    source = Source(1000)
    items = read_ahead(source.items())
    assert [next(items) for _ in range(n_used)] == list(range(n_used))
    items.close()
    assert source.closed_by == "mwc-read-ahead"
    assert not readers()


def test_it_reads_only_so_far_ahead() -> None:
    source = Source(1000)
    items = read_ahead(source.items())
    next(items)
    assert source.made <= ITEMS_AHEAD + 3
    items.close()


def test_nothing_is_read_before_it_is_asked_for() -> None:
    source = Source(3)
    items = read_ahead(source.items())
    assert source.made == 0
    assert not readers()
    items.close()
