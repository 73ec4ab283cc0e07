"""How calls of MAX share the CPUs with the thread that makes them: on Linux, where it lets us.

Two things of MAX's make each call slower than its work. Its workers look for more work for a while
after a call, at full speed, so the thread that called gets no CPU to go on with when they are as
many as the CPUs: besides having them look for less long where it can (max_import.py), it asks for
shorter turns, which the scheduler gives sooner. And the first call starts a thread that looks for
log messages thousands of times a second for as long as the process lives: its timers are made
coarse, and it sleeps (tests/unit/test_scheduling.py looks).
"""

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

TURN = 100_000
"""Nanoseconds of a turn of the calling thread: the shortest Linux has (sched(7), 6.12 and later;
before that the request has no effect)."""

COARSE = 1_000_000_000
"""Timer slack in nanoseconds of the thread that waits for log messages (prctl(2),
PR_SET_TIMERSLACK): it is woken within a second of when it wanted to be."""

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_SCHED_ATTR = "IIQiIQQQ"  # struct sched_attr: size, policy, flags, nice, priority, runtime, …
_SYSCALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
"""Numbers of sched_setattr and sched_getattr by machine."""

_of_thread = threading.local()
_has_called = False


def call(run: Callable[..., Result], arguments: Sequence[object]) -> Result:
    """Call MAX: `run(*arguments)`."""
    global _has_called
    if not getattr(_of_thread, "has_short_turns", False):
        _of_thread.has_short_turns = True
        take_short_turns()
    if _has_called:
        return run(*arguments)
    with coarse_timers():
        result = run(*arguments)
    _has_called = True
    return result


def take_short_turns() -> bool:
    """Have this thread run for TURN at a time, so that it is let in soon; tell if that is granted.

    Its policy and priority stay; a thread with another policy than the normal one is left alone.
    """
    numbers = _SYSCALLS.get(platform.machine())
    if sys.platform != "linux" or numbers is None:
        return False
    set_attr, get_attr = numbers
    libc = ctypes.CDLL(None)
    size = struct.calcsize(_SCHED_ATTR)
    now = ctypes.create_string_buffer(size)
    if libc.syscall(get_attr, 0, now, size, 0) != 0:
        return False
    _, policy, flags, nice, priority, _, deadline, period = struct.unpack(_SCHED_ATTR, now)
    if policy != os.SCHED_OTHER:
        return False
    wanted = struct.pack(_SCHED_ATTR, size, policy, flags, nice, priority, TURN, deadline, period)
    return bool(libc.syscall(set_attr, 0, wanted, 0) == 0)


@contextmanager
def coarse_timers() -> Iterator[None]:
    """Threads that this one starts meanwhile have timers of a second; it has its own back after."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(COARSE), 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(max(before, 1)), 0, 0, 0)
