"""The cross-attention caches as arrays: what the graphs keep of a window, for comparing.

Layouts: `decoder.AUDIO_KEY_SHAPE` and its like; the kernels' `attention.mojo` and
`attention_int8.mojo` say why.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.decoder import Float32

Array = npt.NDArray[Any]

HEAD = 64
"""Size of one attention head in every Whisper."""

LANES = 16
"""Keys, or axes of values, whose bytes stand together."""

UNITS = 2 * 4 * HEAD
"""Bytes behind a head's values: their units and middles."""


def cross_kv_of(keys: Array, values: Array, length: int) -> list[tuple[Float32, Float32]]:
    """Keys and values float32 [head, length, 64] of each layer.

    Args:
        keys: one window's part of `cross_k` [layer, head, …], of floats or of bytes.
        values: of `cross_v`.
        length: positions that count; the others are padding.
    """
    unpack_keys, unpack_values = _float_keys, _float_values
    if keys.dtype == np.uint8:
        unpack_keys, unpack_values = _byte_keys, _byte_values
    pairs = zip(unpack_keys(keys), unpack_values(values), strict=True)
    return [
        (np.ascontiguousarray(k[:, :length], np.float32), v[:, :length].astype(np.float32))
        for k, v in pairs
    ]


def _float_keys(keys: Array) -> Array:
    """[…, blocks, 64, 16] -> […, positions, 64]."""
    *outer, blocks, size, lanes = keys.shape
    return keys.swapaxes(-1, -2).reshape(*outer, blocks * lanes, size)


def _float_values(values: Array) -> Array:
    return values


def _byte_keys(keys: Array) -> Array:
    """[…, blocks, 1088] -> […, positions, 64]: signed bytes [16, 16, 4] and the keys' units."""
    *outer, blocks, _ = keys.shape
    packed = keys[..., : LANES * HEAD].view(np.int8).reshape(*outer, blocks, HEAD // 4, LANES, 4)
    units = np.ascontiguousarray(keys[..., LANES * HEAD :]).view(np.float32)
    whole = np.moveaxis(packed, -2, -3).reshape(*outer, blocks, LANES, HEAD)
    return (whole * units[..., None]).reshape(*outer, blocks * LANES, HEAD)


def _byte_values(values: Array) -> Array:
    """[…, 96768] -> […, positions, 64]: signed bytes [4, t / 4, 16, 4], units, middles."""
    *outer, size = values.shape
    padded = (size - UNITS) // HEAD
    packed = (
        values[..., :-UNITS].view(np.int8).reshape(*outer, HEAD // LANES, padded // 4, LANES, 4)
    )
    units, middles = np.split(np.ascontiguousarray(values[..., -UNITS:]).view(np.float32), 2, -1)
    whole = np.moveaxis(packed, -1, -2).reshape(*outer, HEAD // LANES, padded, LANES)
    axes = np.moveaxis(whole, -3, -2).reshape(*outer, padded, HEAD)
    return axes * units[..., None, :] + middles[..., None, :]
