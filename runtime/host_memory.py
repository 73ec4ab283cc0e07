"""Memory of the host for what a graph reads from end to end, step after step."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.errors import MemoryShortage

LARGE_PAGE = 1 << 21
"""Bytes of a large page of x86-64, and of Arm where small ones have 4 KiB."""


def zeros(n_bytes: int) -> npt.NDArray[Any]:
    """Zeroed bytes uint8 [n_bytes], from a multiple of LARGE_PAGE on.

    They lie in large pages where Linux allows it, of which fewer have to be looked up: attention
    reads its caches a tenth sooner (benchmarks/cpu-floor.md). All of it is written once, so that it
    is there before anybody counts on it. It goes back with the last array that is made of it.

    Raises:
        MemoryShortage: the system does not give so much.
    """
    try:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, n_bytes + LARGE_PAGE, flags=flags)
    except (OSError, OverflowError) as error:
        raise MemoryShortage(
            f"The system does not give {n_bytes / 2**20:.0f} MiB more memory; lower batch_size, "
            "beam_size or best_of, or free memory."
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    held = np.frombuffer(memory, np.uint8)
    start = -held.ctypes.data % LARGE_PAGE
    zeroed = held[start : start + n_bytes]
    zeroed.fill(0)
    return zeroed
