"""Calls run as one: who asks meanwhile is in the next, and nobody is left behind."""

import signal
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from mwc.runtime.together import Together
from mwc.runtime.turns import Turns

WAIT = 20.0


class Doubling:
    """Doubles numbers in calls of up to `most`; what it is given when is kept.

    Attributes:
        calls: the numbers of each call.
        has_begun: set by a call of 0, or of whatever has 0 in it.
        go_on: what such a call waits for.
    """

    def __init__(self, most: int) -> None:
        self.turns = Turns()
        self.calls: list[list[int]] = []
        self.has_begun, self.go_on = threading.Event(), threading.Event()
        self.together: Together[int, int] = Together(self.turns, self.run, most)
        self.answers: dict[int, int | BaseException] = {}

    def run(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        if 0 in numbers:
            self.has_begun.set()
            assert self.go_on.wait(WAIT)
        if 13 in numbers:
            raise ZeroDivisionError("13 is in it")
        return [2 * number for number in numbers]

    def ask(self, number: int) -> None:
        """Keep the answer, or what is raised."""
        try:
            self.answers[number] = self.together(number)
        except ZeroDivisionError as error:
            self.answers[number] = error

    def hold(self) -> tuple[threading.Thread, threading.Event]:
        """Have a thread keep the turn until the event is set."""
        holds, may_go = threading.Event(), threading.Event()

        def keep() -> None:
            with self.turns:
                holds.set()
                assert may_go.wait(WAIT)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        assert holds.wait(WAIT)
        return thread, may_go

    def start(self, number: int) -> threading.Thread:
        """Ask in a thread; return once it stands in the queue."""
        n_before = len(self.together._queue)
        thread = threading.Thread(target=self.ask, args=(number,), daemon=True)
        thread.start()
        until(lambda: len(self.together._queue) > n_before)
        return thread

    def start_all(self, numbers: Sequence[int]) -> list[threading.Thread]:
        """Ask for one after the other; 0 is being worked at then."""
        threads = []
        for number in numbers:
            threads.append(self.start(number))
            if number == 0:
                assert self.has_begun.wait(WAIT)
        return threads


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


def interrupt_main(when: Callable[[], bool]) -> threading.Thread:
    """Interrupt this thread, the main one, as Ctrl-C does, once something is so."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(when)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("most", [1, 8])
def test_one_by_itself_is_run_by_itself(most: int) -> None:
    given: list[object] = []
    item = object()

    def keep(items: Sequence[object]) -> Sequence[object]:
        given.extend(items)
        return items

    together: Together[object, object] = Together(Turns(), keep, most)
    assert together(item) is item
    assert together(item) is item
    assert given == [item, item]


@pytest.mark.parametrize(
    ("most", "calls"),
    [
        (8, [[0], [1, 2, 3, 4, 5]]),
        (3, [[0], [1, 2, 3], [4, 5]]),
        (2, [[0], [1, 2], [3, 4], [5]]),
    ],
)
def test_what_is_asked_meanwhile_is_run_together(most: int, calls: list[list[int]]) -> None:
    doubling = Doubling(most)
    threads = doubling.start_all(range(6))
    doubling.go_on.set()
    join(threads)
    assert doubling.calls == calls
    assert doubling.answers == {number: 2 * number for number in range(6)}


def test_what_is_asked_while_others_have_the_turn_is_run_together() -> None:
    doubling = Doubling(8)
    with doubling.turns:
        threads = doubling.start_all([1, 2, 3])
    join(threads)
    assert doubling.calls == [[1, 2, 3]]


def test_whoever_has_the_turn_need_not_wait_for_it() -> None:
    doubling = Doubling(8)
    holds = threading.Event()

    def hold() -> None:
        with doubling.turns:
            holds.set()
            until(lambda: len(doubling.together._queue) == 2)
            doubling.ask(7)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert holds.wait(WAIT)
    join([holder, *doubling.start_all([1, 2])])
    assert doubling.answers == {1: 2, 2: 4, 7: 14}
    assert doubling.calls == [[7], [1, 2]]


def test_what_goes_wrong_reaches_those_in_the_call_and_no_others() -> None:
    doubling = Doubling(3)
    threads = doubling.start_all([0, 1, 13, 2, 3, 4])
    doubling.go_on.set()
    join(threads)
    assert doubling.calls == [[0], [1, 13, 2], [3, 4]]
    failed = {number for number, answer in doubling.answers.items() if answer != 2 * number}
    assert failed == {1, 13, 2}
    assert all(isinstance(doubling.answers[number], ZeroDivisionError) for number in failed)


def test_a_result_too_few_is_an_error_of_all() -> None:
    turns = Turns()
    together: Together[int, int] = Together(turns, lambda items: items[1:], 8)
    with pytest.raises(ValueError, match="zip"):
        together(1)
    assert turns.take_if_free()


def test_who_is_interrupted_asleep_is_left_out() -> None:
    doubling = Doubling(8)
    threads = doubling.start_all([0, 1])
    threads.append(interrupt_main(lambda: len(doubling.together._queue) == 3))
    with pytest.raises(KeyboardInterrupt):
        doubling.together(2)
    threads.append(doubling.start(3))
    doubling.go_on.set()
    join(threads)
    assert doubling.calls == [[0], [1, 3]]
    assert doubling.answers == {0: 0, 1: 2, 3: 6}


def test_who_is_interrupted_before_its_turn_leaves_it_to_the_next() -> None:
    doubling = Doubling(8)
    holder, may_go = doubling.hold()
    asking: list[threading.Thread] = []

    def ask() -> None:
        until(lambda: len(doubling.together._queue) == 1)
        asking.extend(doubling.start_all([1, 2]))

    others = threading.Thread(target=ask, daemon=True)
    others.start()
    interrupter = interrupt_main(lambda: len(asking) == 2 and len(doubling.turns._waiting) == 1)
    with pytest.raises(KeyboardInterrupt):
        doubling.together(5)
    may_go.set()
    join([holder, others, interrupter, *asking])
    assert doubling.calls == [[1, 2]]
    assert doubling.answers == {1: 2, 2: 4}


def test_what_others_asked_is_run_again_where_a_call_is_interrupted() -> None:
    """The main thread is the first of a queue of three, whose call is interrupted half-way."""
    doubling = Doubling(8)
    holder, may_go = doubling.hold()
    threads = [holder]

    def ask() -> None:
        until(lambda: len(doubling.together._queue) == 1)
        threads.extend(doubling.start_all([1, 2]))
        may_go.set()

    others = threading.Thread(target=ask, daemon=True)
    others.start()
    interrupter = interrupt_main(doubling.has_begun.is_set)
    with pytest.raises(KeyboardInterrupt):
        doubling.together(0)
    doubling.go_on.set()
    join([others, interrupter, *threads])
    assert doubling.calls == [[0, 1, 2], [1, 2]]
    assert doubling.answers == {1: 2, 2: 4}


def test_many_threads_get_their_own_answers() -> None:
    doubling = Doubling(4)
    found: list[tuple[int, int]] = []

    def work(first: int) -> None:
        found.extend((number, doubling.together(number)) for number in range(first, first + 200))

    threads = [threading.Thread(target=work, args=(1000 * k,), daemon=True) for k in range(1, 9)]
    for thread in threads:
        thread.start()
    join(threads)
    asked = [number for call in doubling.calls for number in call]
    assert sorted(found) == [(number, 2 * number) for number in sorted(asked)]
    assert len(found) == 1600
    assert max(map(len, doubling.calls)) <= 4
    assert doubling.turns.take_if_free()
