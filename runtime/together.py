"""Calls that threads make at the same time, run as one."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from mwc.runtime.turns import Turns

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Asked(Generic[Item, Result]):
    """What a thread asks for.

    Attributes:
        item: what of.
        told: set once its thread has something to do: it is answered, or the first in the queue.
        results: what came of it, one.
        error: what went wrong instead.
    """

    item: Item
    told: threading.Event = field(default_factory=threading.Event)
    results: list[Result] = field(default_factory=list)
    error: Exception | None = None

    @property
    def is_answered(self) -> bool:
        """Whether nothing more comes of it."""
        return bool(self.results) or self.error is not None


class Together(Generic[Item, Result]):
    """A function of one item; what several threads ask of it meanwhile is done in one call.

    Those who ask stand in a queue. Its first waits for its turn and runs what stands there by
    then; the others sleep until they are answered, or are the first themselves. So one thread at a
    time wants a turn, and none takes one only to find its answer.
    """

    def __init__(
        self, turns: Turns, run: Callable[[Sequence[Item]], Sequence[Result]], most: int
    ) -> None:
        """Have nothing asked yet.

        Args:
            turns: the lock that is held while items are run; who has it may ask too.
            run: gives each item's result, in their order. Where it is interrupted, what others
                asked for is run again.
            most: items in one call; with 1 each is run by the thread that asks.
        """
        self._turns = turns
        self._run = run
        self._most = most
        self._guard = threading.Lock()
        self._queue: deque[_Asked[Item, Result]] = deque()

    def __call__(self, item: Item) -> Result:
        """An item's result; whatever goes wrong in a call, each of those in it raises."""
        if self._most == 1 or self._turns.is_mine:
            with self._turns:
                return self._run([item])[0]
        asked: _Asked[Item, Result] = _Asked(item)
        try:
            self._line_up(asked)
            asked.told.wait()
            if not asked.is_answered:
                with self._turns:
                    self._answer_queue()
        finally:
            self._leave([asked])  # also where an interrupt ends the wait, or the call
        if asked.error is not None:
            raise asked.error
        return asked.results[0]

    def _line_up(self, asked: _Asked[Item, Result]) -> None:
        with self._guard:
            self._queue.append(asked)
            self._queue[0].told.set()

    def _leave(self, those: Sequence[_Asked[Item, Result]]) -> None:
        """Be in the queue no longer, and have its first know that it is."""
        with self._guard:
            for asked in those:
                if asked in self._queue:
                    self._queue.remove(asked)
            if self._queue:
                self._queue[0].told.set()

    def _answer_queue(self) -> None:
        """Run those who stand in the queue, in one call.

        They stay in it until they are told, so that none is left behind by an interrupt.
        """
        with self._guard:
            those = list(islice(self._queue, self._most))
        try:
            results = self._run([asked.item for asked in those])
            for asked, result in zip(those, results, strict=True):
                asked.results.append(result)
        except Exception as error:
            for asked in those:
                asked.error = error
        for asked in those:
            asked.told.set()
        self._leave(those)
