"""A lock that threads get in the order in which they asked for it.

`threading.Lock` may be taken again by the thread that has just released it, over and over, while
others wait: a thread that decodes step after step would keep out one that wants to begin.
"""

import threading
from collections import deque
from types import TracebackType


class Turns:
    """A reentrant lock, first come, first served; use it as a context manager."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> "Turns":
        me = threading.get_ident()
        with self._guard:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return self
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((me, gate))
        try:
            gate.acquire()
        except BaseException:  # an interrupt while it waits
            self._stop_waiting(me, gate)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    @property
    def is_mine(self) -> bool:
        """Whether the thread that asks has it."""
        return self._owner == threading.get_ident()

    def leave(self) -> None:
        """Give it up once: what `__enter__` or `take_if_free` took."""
        with self._guard:
            self._release()

    def take_if_free(self) -> bool:
        """Take it if nobody has it, not even this thread; `leave` it then.

        It never waits, so it may be called from a finalizer, wherever that runs.
        """
        if not self._guard.acquire(blocking=False):
            return False
        try:
            if self._owner is not None:
                return False
            self._owner, self._depth = threading.get_ident(), 1
            return True
        finally:
            self._guard.release()

    def _release(self) -> None:
        """Hand it to the thread that has waited longest."""
        self._depth -= 1
        if self._depth > 0:
            return
        self._owner = None
        if self._waiting:
            self._owner, gate = self._waiting.popleft()
            self._depth = 1
            gate.release()

    def _stop_waiting(self, me: int, gate: threading.Lock) -> None:
        """Wait no longer; what was handed over meanwhile is handed on."""
        with self._guard:
            if (me, gate) in self._waiting:
                self._waiting.remove((me, gate))
            else:
                self._release()
