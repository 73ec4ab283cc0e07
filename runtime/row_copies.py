"""Copying self-attention caches between row slots on the host, for beams that split.

On a CPU the caches are the host's memory, and numpy copies a few positions in less time than it
takes to call a graph: MAX's workers, which look for more work after a step, and the thread that
calls are one more than the CPUs (scheduling.py).
"""

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from mwc.runtime.decoder import TEXT_KEY_SHAPE

Array = npt.NDArray[Any]

KEYS_TOGETHER = TEXT_KEY_SHAPE[-1]
"""Positions whose keys stand together in the cache: they are copied together."""


def copy_rows_on_host(
    keys: Array, values: Array, copies: Iterable[tuple[int, int, int, int]]
) -> None:
    """Copy positions from `start` up to `end` of a row slot to another, in every layer.

    Args:
        keys: [layer, slot, head, block, 64, 16, …] of the cache `self_k`.
        values: [layer, slot, head, position, 64, …] of the cache `self_v`.
        copies: source slot, target slot, start and end of each. Keys before a start that stand in
            its block are copied too: they have to be the same.
    """
    for source, target, start, end in copies:
        if start < end:
            blocks = slice(start // KEYS_TOGETHER, -(-end // KEYS_TOGETHER))
            keys[:, target, :, blocks] = keys[:, source, :, blocks]
            values[:, target, :, start:end] = values[:, source, :, start:end]
