"""Cross-attention over caches of bytes: what they hold, and what is read out of them, in numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_graphs import HEADS, LAYERS, SLOTS, STATE, Kernels
from max.driver import Buffer
from numpy_layers import attention, normal

from mwc.runtime.caches import cross_kv_of
from mwc.runtime.decoder import AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE

Array = npt.NDArray[Any]

AUDIO = 1500
WITHIN_16_BITS = 2e-3
"""Queries and weights are rounded to 16 bits, against exact values of the same caches."""


def heads_of(values: Array) -> Array:
    """[..., t, state] -> [..., head, t, 64]."""
    return np.moveaxis(values.reshape(*values.shape[:-1], HEADS, 64), -2, -3)


class ByteCaches:
    """Both caches, stored by the kernel for every slot of layer 1; layer 0 stays zero."""

    def __init__(self, kernels: Kernels, kv: Array) -> None:
        shapes = (AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE)
        zeros = [np.zeros((LAYERS, SLOTS, HEADS, *shape), np.uint8) for shape in shapes]
        self.buffers = [Buffer.from_numpy(array) for array in zeros]
        slots = np.arange(len(kv))
        kernels.run("store_cross_kv.int8", *self.buffers, kv, slots, np.array([1]))

    def arrays(self) -> list[Array]:
        return [buffer.to_numpy() for buffer in self.buffers]

    def window(self, slot: int, layer: int = 1) -> tuple[Array, Array]:
        """Keys and values [head, 1500, 64] of a slot, as the runtime unpacks them."""
        keys, values = (array[:, slot] for array in self.arrays())
        return cross_kv_of(keys, values, AUDIO)[layer]


@pytest.fixture(scope="module")
def kv() -> Array:
    """Keys and values of all slots, some axes of the values far from 0, one key and axis zero."""
    kv = normal(SLOTS, AUDIO, 2 * STATE, seed=5)
    kv[..., STATE : STATE + 8] += 20
    kv[0, 3, :STATE] = 0
    kv[0, :, -1] = 7
    return kv


@pytest.fixture(scope="module")
def caches(kernels: Kernels, kv: Array) -> ByteCaches:
    return ByteCaches(kernels, kv)


def test_stored_keys_are_within_half_a_unit_of_their_largest(caches: ByteCaches, kv: Array) -> None:
    for slot in range(SLOTS):
        exact = heads_of(kv[slot, :, :STATE])
        keys, _ = caches.window(slot)
        unit = np.abs(exact).max(-1, keepdims=True) / 127
        assert np.all(np.abs(keys - exact) <= 0.501 * unit)
    assert not caches.window(0)[0][:, 3].any()


def test_stored_values_are_within_half_a_unit_of_their_range(caches: ByteCaches, kv: Array) -> None:
    for slot in range(SLOTS):
        exact = heads_of(kv[slot, :, STATE:])
        _, values = caches.window(slot)
        unit = (exact.max(-2, keepdims=True) - exact.min(-2, keepdims=True)) / 254
        assert np.all(np.abs(values - exact) <= 0.501 * unit + 1e-5)
    assert np.all(caches.window(0)[1][-1, :, -1] == 7)


def test_storing_leaves_other_layers_and_slots_alone(kernels: Kernels, kv: Array) -> None:
    caches = ByteCaches(kernels, kv)
    before = [array.copy() for array in caches.arrays()]
    kernels.run("store_cross_kv.int8", *caches.buffers, kv[2:], np.array([0]), np.array([1]))
    for then, now in zip(before, caches.arrays(), strict=True):
        assert not now[0].any()
        assert np.array_equal(now[1, 1:], then[1, 1:])
        assert np.array_equal(now[1, 0], then[1, 2])


@pytest.mark.parametrize("scale", [0.125, 2.0])
def test_cross_attention_by_window(kernels: Kernels, caches: ByteCaches, scale: float) -> None:
    windows = [2, 0, 0, 1, *[2] * 9, *[1] * 23]  # runs shorter and longer than each tile
    q = scale * normal(len(windows), STATE, seed=4)
    pairs = [caches.window(window) for window in windows]
    keys, values = (np.stack(part) for part in zip(*pairs, strict=True))
    exact = attention(heads_of(q[:, None]), keys, values).reshape(len(windows), STATE)
    arguments = (*caches.buffers, q, np.array(windows), np.array([1]))
    ours = kernels.run("cross_attention.int8", *arguments)
    assert np.abs(ours - exact).max() <= WITHIN_16_BITS * np.abs(exact).max()
    for i, window in enumerate(windows):
        alone = (*caches.buffers, q[i : i + 1], np.array([window]), np.array([1]))
        assert np.array_equal(kernels.run("cross_attention.int8", *alone)[0], ours[i])


def test_cross_attention_with_a_query_of_zeros_is_the_mean(
    kernels: Kernels, caches: ByteCaches
) -> None:
    q = np.zeros((1, STATE), np.float32)
    ours = kernels.run("cross_attention.int8", *caches.buffers, q, np.array([1]), np.array([1]))
    mean = caches.window(1)[1].mean(1).reshape(1, STATE)
    assert np.abs(ours - mean).max() < 1e-4


def test_cross_attention_to_a_single_position(kernels: Kernels, caches: ByteCaches) -> None:
    """A query that one key fits far better than all others gets that position's values."""
    keys, values = caches.window(2)
    q = np.zeros((1, STATE), np.float32)
    q[0, :64] = 300 * keys[0, 777] / np.abs(keys[0, 777]).max()
    ours = kernels.run("cross_attention.int8", *caches.buffers, q, np.array([2]), np.array([1]))
    assert np.abs(ours[0, :64] - values[0, 777]).max() < 1e-4


def test_alignment_scores(kernels: Kernels, caches: ByteCaches) -> None:
    windows, heads = [1, 2, 1], [1, 0]
    q = normal(len(windows), STATE, seed=6) / 8
    keys = np.stack([caches.window(window)[0] for window in windows]).astype(np.float64)
    exact = (heads_of(q[:, None]) @ np.swapaxes(keys, -1, -2))[:, heads, 0].swapaxes(0, 1)
    ours = kernels.run(
        "alignment_scores.int8", caches.buffers[0], q, np.array(windows), np.array([1]),
        np.array(heads),
    )  # fmt: skip
    assert np.abs(ours - exact).max() <= 1e-4 * np.abs(exact).max()
