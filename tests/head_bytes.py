"""The bytes of heads that the int8 encoder attends to (kernels/head_bytes.mojo), in numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.compiler.graphs.layers_int8 import head_bytes
from mwc.compiler.quantize import sums_of_four

Array = npt.NDArray[Any]

LENGTH = 1500
"""Positions that there is room for."""
KEY_BLOCK = (16, 16, 4)
"""Bytes of sixteen keys: [axis / 4, key, axis % 4]."""


class HeadLayout:
    """Where what stands, and how far bytes reach, with VNNI or without."""

    def __init__(self, vnni: bool) -> None:
        self.key_top = 127 if vnni else 95
        self._most_of_query = None if vnni else 32767 // (2 * self.key_top + 1) - 2
        self._most_of_value = None if vnni else 32767 // 190 - 2

    def pack(self, qkv: Array) -> Array:
        """Queries, keys and values [b, t, 3 * heads * 64] as bytes [b, heads, head_bytes(1500)]."""
        batch, time, width = qkv.shape
        thirds = qkv.reshape(batch, time, 3, width // 192, 64)
        heads = [
            [
                self._pack_head(*np.moveaxis(window[:, :, head], 1, 0))
                for head in range(width // 192)
            ]
            for window in thirds
        ]
        return np.array(heads)

    def unpack(self, head: Array, time: int) -> tuple[Array, Array, Array, tuple[Array, ...]]:
        """Queries, keys and values [t, 64] of a head's bytes; and the units of each."""
        padded, queries, units, offsets, keys, values, ranges = self._parts(head, time)
        blocks = [block[:1024].reshape(KEY_BLOCK) for block in keys]
        bytes_ = np.concatenate([np.moveaxis(b, 1, 0).reshape(16, 64) for b in blocks])[:time]
        key_units = np.concatenate([block[1024:].view(np.float32) for block in keys])[:time, None]
        whole = queries[:time].astype(np.int32)
        assert np.array_equal(offsets[:time], -(self.key_top + 1) * whole.sum(1))
        value_units, middles = ranges
        of_values = np.moveaxis(values.reshape(4, padded // 4, 16, 4), (1, 3), (0, 1))
        of_values = of_values.reshape(padded, 64)[:time]
        return (
            whole * units[:time, None],
            (bytes_.astype(np.int32) - (self.key_top + 1)) * key_units,
            of_values * value_units + middles,
            (units[:time, None], key_units, value_units),
        )

    def _pack_head(self, q: Array, k: Array, v: Array) -> Array:
        time = len(q)
        head = np.zeros(head_bytes(LENGTH), np.uint8)
        padded, queries, units, offsets, keys, values, ranges = self._parts(head, time)
        unit = np.maximum(np.abs(q).max(1) / 127, 1e-11)
        if self._most_of_query is not None:
            unit = np.maximum(unit, sums_of_four(q).max(1) / self._most_of_query)
        whole = np.rint(q / unit[:, None])
        queries[:time], units[:time] = whole, unit
        offsets[:time] = -(self.key_top + 1) * whole.sum(1)

        unit = np.abs(k).max(1) / self.key_top
        whole = np.rint(k / np.where(unit > 0, unit, 1)[:, None]) + self.key_top + 1
        for t in range(time):
            block = keys[t // 16]
            block[:1024].reshape(KEY_BLOCK)[:, t % 16] = whole[t].reshape(16, 4)
            block[1024:].view(np.float32)[t % 16] = unit[t]

        low, high = v.min(0), v.max(0)
        middle = (low + high) / 2
        unit = (high - low) / 254
        if self._most_of_value is not None:
            terms = np.zeros((64, -(-time // 8) * 8), np.float32)
            terms[:, :time] = (v - middle).T
            unit = np.maximum(unit, sums_of_four(terms).max(1) / self._most_of_value)
        whole = np.zeros((padded, 64))
        whole[:time] = np.clip(np.rint((v - middle) / np.where(unit > 0, unit, 1)), -127, 127)
        packed = np.moveaxis(whole.reshape(padded // 4, 4, 4, 16), (0, 1), (1, 3))
        values[:] = packed.reshape(values.shape)
        ranges[:] = unit, middle
        return head

    def _parts(self, head: Array, time: int) -> tuple[Any, ...]:
        """Views of a head: padded, queries, their units, offsets, keys, values, their ranges."""
        padded = -(-time // 64) * 64
        ends = np.cumsum(
            [64 * padded, 4 * padded, 4 * padded, padded // 16 * 1088, 64 * padded, 512]
        )
        queries, units, offsets, keys, values, ranges, _ = np.split(head, ends)
        return (
            padded,
            queries.view(np.int8).reshape(padded, 64),
            units.view(np.float32),
            offsets.view(np.int32),
            keys.reshape(padded // 16, 1088),
            values.view(np.int8),
            ranges.view(np.float32).reshape(2, 64),
        )
