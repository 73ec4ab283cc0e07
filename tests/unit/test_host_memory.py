"""The memory that attention caches of a CPU lie in."""

import gc
from pathlib import Path

import numpy as np
import pytest

from mwc.runtime import host_memory
from mwc.runtime.errors import MemoryShortage


@pytest.mark.parametrize("n_bytes", [1, 100, 4096, 2 << 20, 5_000_001])
def test_it_is_aligned_zero_and_writable(n_bytes: int) -> None:
    memory = host_memory.zeros(n_bytes)
    assert memory.shape == (n_bytes,)
    assert memory.dtype == np.uint8
    assert memory.ctypes.data % host_memory.LARGE_PAGE == 0
    assert not memory.any()
    memory[:] = 7
    assert memory.min() == 7


def test_it_goes_back_with_the_last_array_made_of_it() -> None:
    maps = Path("/proc/self/maps")
    memory = host_memory.zeros(64 << 20)
    start = memory.ctypes.data
    part = memory[5:]
    del memory
    gc.collect()
    assert part[-1] == 0
    assert any(holds(line, start) for line in maps.read_text().splitlines())
    del part
    gc.collect()
    assert not any(holds(line, start) for line in maps.read_text().splitlines())


def holds(line: str, address: int) -> bool:
    """Whether a line of /proc/self/maps is of the memory with this address."""
    first, last = (int(part, 16) for part in line.split()[0].split("-"))
    return first <= address < last


def test_memory_that_is_not_given_is_told() -> None:
    with pytest.raises(MemoryShortage, match="MiB more memory; lower batch_size"):
        host_memory.zeros(1 << 60)
