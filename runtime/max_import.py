"""The first import of MAX, from whichever thread it comes."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import FrameType

BUSY_WAIT = ("MODULAR_THREAD_BUSY_WAIT_US", "MODULAR_RUNTIME_THREAD_BUSY_WAIT_TIME_US")
"""How long a worker of MAX looks for work before it sleeps, by the names that two parts of it read.

modular/modular `AsyncRT/include/AsyncRT/Runtime/CPUDevice.h`, `CPUDeviceOptions`, reads the first;
the second is the configuration's `runtime.thread_busy_wait_time_us`. MAX ends the process where
they differ.
"""

SHORT_WAIT = "30"
"""Long enough to be awake for the next kernel of a call, where MAX's own is 200.

Each start of a kernel's threads posts a worker's semaphore, whether it sleeps or not
(`AsyncRT/lib/Runtime/ThreadPoolWorkQueue.cpp`, `addTask`), and for each post it looks for work once
more before it sleeps. So after a file workers went on for up to a second, and all along they took
the CPUs from whatever ran between two calls.
"""

HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a command by an exception."""

_CONTEXT = "max._mlir_context"


def import_max(*, for_gpu: bool = False) -> None:
    """Import MAX such that its idle workers soon sleep, and the process ends without a word.

    Those who wait for a GPU do so as MAX has it, with `for_gpu`, if nothing is set.

    MAX enters an MLIR context in the thread that imports it, and leaves it at exit in the main one
    (`max/_mlir_context.py`). Where those are two, Python would print an error as its last words; so
    the main thread enters it just before. Ctrl-C waits until MAX is there (`signals_held`).
    """
    if _CONTEXT in sys.modules:
        return
    if "max" not in sys.modules:
        set_wait(os.environ, None if for_gpu else SHORT_WAIT)
    with signals_held():
        import max.engine  # noqa: F401

    context = sys.modules.get(_CONTEXT)
    if context is not None and threading.current_thread() is not threading.main_thread():
        atexit.register(context.default_mlir_context().__enter__)


@contextmanager
def signals_held() -> Iterator[None]:
    """Have HELD_SIGNALS wait for the end of a with block, where their handlers are called.

    An exception of a handler must not pass through MAX's extension while that is initialised: it
    crashes the process, or becomes an ImportError. Handlers run in the main thread only, so
    elsewhere this does nothing; nor does it for signals whose handler is not Python's.
    """
    arrived: list[int] = []

    def hold(signum: int, frame: FrameType | None) -> None:
        arrived.append(signum)

    is_main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in HELD_SIGNALS if is_main}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, hold)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for signum in arrived:
            signal.raise_signal(signum)


def set_wait(environment: MutableMapping[str, str], wait: str | None) -> None:
    """Have workers wait for what is set already under either name, else for `wait`, if any.

    It has to stay there for as long as the process runs, as MAX looks more than once; and to be set
    before MAX has begun, so an application that did so by itself keeps what MAX does.
    """
    given = [environment[name] for name in BUSY_WAIT if name in environment]
    wait = given[0] if given else wait
    if wait is not None:
        environment.update(dict.fromkeys(BUSY_WAIT, wait))
