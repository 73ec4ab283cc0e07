"""The memory that attention caches of a CPU lie in."""

import numpy as np
import pytest

from mwc.runtime import host_memory
from mwc.runtime.errors import MemoryShortage
from mwc.runtime.weight_file import ALIGNMENT


@pytest.mark.parametrize("n_bytes", [1, 100, 4096, 5_000_001, 64 << 20])
def test_it_is_aligned_zero_and_writable(n_bytes: int) -> None:
    memory = host_memory.zeros(n_bytes)
    assert memory.shape == (n_bytes,)
    assert memory.dtype == np.uint8
    assert memory.ctypes.data % ALIGNMENT == 0
    assert not memory.any()
    memory[:] = 7
    assert memory.min() == 7


def test_memory_that_is_not_given_is_told() -> None:
    with pytest.raises(MemoryShortage, match="MiB more memory; lower batch_size"):
        host_memory.zeros(1 << 60)
