"""How many CPU threads MAX works with.

MAX makes one worker per CPU that the process may run on, once, when its first CPU device is opened;
its own `num_threads` aborts the process. So the device is opened while this thread may run on as
many CPUs as there shall be workers, and everything gets its full freedom back right after.
"""

import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from mwc.runtime.errors import OptionError
from mwc.runtime.max_import import import_max
from mwc.runtime.platform import usable_cpus

if TYPE_CHECKING:
    from max.driver import Device

_TASKS = Path("/proc/self/task")

_threads: int | None = None
"""Workers of this process, once the device has been opened."""

_opening = Lock()


def open_cpu(threads: int | None) -> "Device":
    """Open the CPU with this many workers; None for all CPUs that this process may use.

    Raises:
        OptionError: fewer than 1 or more than the usable CPUs, or another number than the process
            already works with.
    """
    with _opening:
        return _open_cpu(threads)


def _open_cpu(threads: int | None) -> "Device":
    global _threads
    usable = usable_cpus()
    if threads is not None and not (type(threads) is int and 1 <= threads <= usable):
        raise OptionError(
            f"threads is {threads!r}; this process may use {usable} CPUs, so 1 to {usable} are "
            "allowed."
        )
    if _threads is not None and threads not in (None, _threads):
        raise OptionError(
            f"threads is {threads}, but this process already runs models on {_threads}: MAX keeps "
            "the first number; use the same, or another process."
        )
    import_max()
    from max.driver import CPU

    if _threads is not None:
        return CPU()
    wanted = threads or usable
    allowed = os.sched_getaffinity(0)
    before = {task.name for task in _TASKS.iterdir()}
    os.sched_setaffinity(0, sorted(allowed)[:wanted])
    try:
        cpu = CPU()
    finally:
        os.sched_setaffinity(0, allowed)
        for task in _TASKS.iterdir():
            if task.name not in before:
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setaffinity(int(task.name), allowed)
    _threads = wanted
    return cpu
