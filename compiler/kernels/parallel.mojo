"""Sharing independent items of work between the threads of MAX's pool."""

from max.algorithm import sync_parallelize
from std.atomic import Atomic
from std.ffi import external_call
from std.runtime import parallelism_level

comptime LINE = 8
"""Counters of 8 bytes that fill a cache line: those of two phases never share one."""
comptime SPINS = 200
"""Looks at a counter before the thread lets others run: about what an item takes, 20 µs."""


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


def turn_counters(items: Int, tasks: Int) -> List[Int64]:
    """What `take_turn` counts with: each task's run of the items starts where the last one ends."""
    var counters = List[Int64](length=tasks * LINE, fill=0)
    for run in range(tasks):
        counters[run * LINE] = Int64(items * run // tasks)
    return counters^


@always_inline
def take_turn(
    counters: Pointer[mut=True, Int64, _], items: Int, tasks: Int, task: Int, most: Int = 1
) -> Tuple[Int, Int]:
    """The next items of a task: the first one and the one after the last; none where these meet.

    They are of its own run, up to `most`, and one at a time towards its end; then of what others
    have left of theirs. So one that is held up, by other work on its CPU, holds up an item only.
    """
    for shift in range(tasks):
        var run = (task + shift) % tasks
        var end = items * (run + 1) // tasks
        var counter = counters.unsafe_offset(run * LINE)
        var left = end - Int(Atomic[Int64].load(counter))
        if left <= 0:
            continue
        var size = most if left > 2 * most else 1
        var first = Int(Atomic[Int64].fetch_add(counter, Int64(size)))
        if first < end:
            return (first, min(first + size, end))
    return (0, 0)


def phase_counters(phases: Int) -> List[Int64]:
    """What `work_through` counts with in so many phases."""
    return List[Int64](length=phases * 2 * LINE, fill=0)


@always_inline
def work_through[WorkType: def(Int) -> None](
    work: WorkType, items: Int, counters: Pointer[mut=True, Int64, _], phase: Int
):
    """Do a part of a phase's items, together with other threads; return when all are done.

    Each thread calls it for phase after phase, with the same items; an item is whoever's claims it
    first. A thread waits for items that others are at, never for a thread: one that comes late, or
    not at all, finds its work done. So a whole layer costs one start of threads, not one a phase.
    """
    var claimed = counters.unsafe_offset(phase * 2 * LINE)
    var done = claimed.unsafe_offset(LINE)
    while True:
        var item = Int(Atomic[Int64].fetch_add(claimed, Int64(1)))
        if item >= items:
            break
        work(item)
        _ = Atomic[Int64].fetch_add(done, Int64(1))
    wait_for(done, items)


@always_inline
def wait_for(counter: Pointer[mut=True, Int64, _], least: Int):
    """Return when a counter that others raise has come so far."""
    var spins = 0
    while Int(Atomic[Int64].load(counter)) < least:
        spins += 1
        if spins % SPINS == 0:
            _ = external_call["sched_yield", Int32]()
