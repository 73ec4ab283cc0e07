"""Sharing independent items of work between the threads of MAX's pool."""

from max.algorithm import sync_parallelize
from std.runtime import parallelism_level


@always_inline
def share[WorkType: def(Int) raises -> None](
    work: WorkType, items: Int, *, serial: Bool = False
) raises:
    """Call work(item) for every item in [0, items), in contiguous runs, one run per thread.

    `serial`: whether it is so little that waking the threads (about 10 µs) would cost more.
    """
    var tasks = 1 if serial else min(parallelism_level(), items)
    if tasks <= 1:
        for item in range(items):
            work(item)
        return

    def task(t: Int) raises {var items, var tasks, imm work}:
        for item in range(items * t // tasks, items * (t + 1) // tasks):
            work(item)

    sync_parallelize(task, tasks)
