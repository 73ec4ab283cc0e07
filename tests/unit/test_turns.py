"""The lock that goes round: who asked first gets it first."""

import threading
import time
from typing import Any

import pytest

from mwc.runtime.turns import Turns

WAIT = 20.0


def waiting(turns: Turns, n: int) -> None:
    """Return once `n` threads wait."""
    deadline = time.monotonic() + WAIT
    while len(turns._waiting) < n:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_threads_get_it_in_the_order_they_asked() -> None:
    turns = Turns()
    order: list[int] = []

    def work(number: int) -> None:
        with turns:
            order.append(number)

    threads = []
    with turns:
        for number in range(10):
            threads.append(threading.Thread(target=work, args=(number,), daemon=True))
            threads[-1].start()
            waiting(turns, number + 1)
    for thread in threads:
        thread.join(WAIT)
    assert order == list(range(10))


def test_who_takes_it_again_and_again_keeps_nobody_out() -> None:
    turns = Turns()
    got_in = threading.Event()

    def work() -> None:
        with turns:
            got_in.set()

    thread = threading.Thread(target=work, daemon=True)
    with turns:
        thread.start()
        waiting(turns, 1)
    with turns:
        assert got_in.is_set()
    thread.join(WAIT)


def test_its_holder_may_take_it_again() -> None:
    turns = Turns()
    with turns:
        with turns:
            pass
        assert not turns.take_if_free()
    assert turns.take_if_free()
    assert not turns.take_if_free()
    turns.leave()
    with turns:
        pass


def test_it_is_not_free_while_another_thread_has_it() -> None:
    turns = Turns()
    found: list[bool] = []
    with turns:
        thread = threading.Thread(target=lambda: found.append(turns.take_if_free()), daemon=True)
        thread.start()
        thread.join(WAIT)
    assert found == [False]


def test_who_is_interrupted_while_waiting_does_not_hold_up_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns()
    real = threading.Lock
    errors: list[BaseException] = []
    reached = threading.Event()

    class Interrupted:
        """A gate whose waiter is interrupted."""

        def __init__(self) -> None:
            self.asked = 0

        def acquire(self) -> None:
            self.asked += 1
            if self.asked == 2:
                reached.set()
                raise KeyboardInterrupt

        def release(self) -> None:
            raise AssertionError("nobody waits here")

    def wait(gate: Any) -> None:
        monkeypatch.setattr(threading, "Lock", gate)
        try:
            with turns:
                pass
        except KeyboardInterrupt as error:
            errors.append(error)

    with turns:
        thread = threading.Thread(target=wait, args=(Interrupted,), daemon=True)
        thread.start()
        assert reached.wait(WAIT)
        thread.join(WAIT)
        monkeypatch.setattr(threading, "Lock", real)
        assert errors
    with turns:
        pass
    assert turns.take_if_free()


def test_many_threads_exclude_each_other() -> None:
    turns = Turns()
    inside = most = total = 0

    def work() -> None:
        nonlocal inside, most, total
        for _ in range(500):
            with turns:
                inside += 1
                most = max(most, inside)
                total += 1
                inside -= 1

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert (most, total) == (1, 3000)
