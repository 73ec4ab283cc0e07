"""Rows copied on the host: what was asked for, and nothing else."""

import numpy as np
import pytest

from mwc.runtime.row_copies import copy_rows_on_host

LAYERS, SLOTS, HEADS, BLOCKS = 2, 4, 3, 5
POSITIONS = 16 * BLOCKS


@pytest.mark.parametrize(
    "copies",
    [
        [],
        [(0, 1, 0, 1)],
        [(2, 0, 0, 80)],
        [(2, 0, 15, 17), (2, 1, 16, 33)],
        [(3, 1, 79, 80)],
        [(3, 1, 20, 20)],
    ],
)
def test_positions_are_copied(copies: list[tuple[int, int, int, int]]) -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 256, (LAYERS, SLOTS, HEADS, BLOCKS, 64, 16, 2), np.uint8)
    values = rng.integers(0, 256, (LAYERS, SLOTS, HEADS, POSITIONS, 64, 2), np.uint8)
    before = keys.copy(), values.copy()
    copy_rows_on_host(keys, values, copies)
    changed = {target for _, target, start, end in copies if start < end}
    for source, target, start, end in copies:
        for t in range(POSITIONS):
            copied = start <= t < end
            found = keys[:, target, :, t // 16, :, t % 16]
            if copied:
                assert np.array_equal(found, before[0][:, source, :, t // 16, :, t % 16])
            from_row = source if copied else target
            assert np.array_equal(values[:, target, :, t], before[1][:, from_row, :, t])
        blocks = [b for b in range(BLOCKS) if end <= 16 * b or 16 * (b + 1) <= start]
        assert np.array_equal(keys[:, target, :, blocks], before[0][:, target, :, blocks])
    for slot in set(range(SLOTS)) - changed:
        assert np.array_equal(keys[:, slot], before[0][:, slot])
        assert np.array_equal(values[:, slot], before[1][:, slot])
