"""Memory of the host for what a graph reads from end to end, step after step."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.errors import MemoryShortage
from mwc.runtime.weight_file import ALIGNMENT


def zeros(n_bytes: int) -> npt.NDArray[Any]:
    """Zeroed bytes uint8 [n_bytes], from a multiple of ALIGNMENT on.

    All of it is written once, so that it is there before anybody counts on it. From 4 MiB on numpy
    asks Linux for large pages (numpy `alloc.cpp`, `indicate_hugepages`), of which fewer have to be
    looked up: attention reads its caches 6 % sooner (benchmarks/cpu-floor.md).

    Raises:
        MemoryShortage: the system does not give so much.
    """
    try:
        held = np.empty(n_bytes + ALIGNMENT, np.uint8)
    except MemoryError as error:
        raise MemoryShortage(
            f"The system does not give {n_bytes / 2**20:.0f} MiB more memory; lower batch_size, "
            "beam_size or best_of, or free memory."
        ) from error
    held.fill(0)
    start = -held.ctypes.data % ALIGNMENT
    return held[start : start + n_bytes]
