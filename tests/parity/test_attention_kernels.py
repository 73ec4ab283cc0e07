"""The CPU's attention kernels and their caches against numpy in float64."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from head_bytes import HeadLayout
from kernel_graphs import (
    HEADS,
    LAYERS,
    SLOTS,
    STATE,
    VNNI,
    WEIGHT_DTYPES,
    Kernels,
    from_buffer,
    pack_keys,
    to_buffer,
    unpack_keys,
)
from numpy_layers import attention, normal
from tiny_layouts import rounded

Array = npt.NDArray[Any]

TOLERANCE = 5e-6
"""Absolute, for mixes of values of size 1."""

TEXT, AUDIO, AUDIO_PADDED = 448, 1500, 1504


def fused(*shape: int, seed: int = 0) -> Array:
    """Queries, keys and values side by side, [..., 3 * STATE]; queries scaled as in the models."""
    qkv = normal(*shape, 3 * STATE, seed=seed)
    qkv[..., :STATE] /= 8
    return qkv


def heads_of(x: Array) -> Array:
    """[..., t, heads * 64] -> [..., heads, t, 64]."""
    return np.moveaxis(x.reshape(*x.shape[:-1], HEADS, 64), -2, -3)


def assert_close(ours: Array, exact: Array, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == exact.shape
    assert np.abs(ours - exact).max() <= tolerance


def attention_of_bytes(kernels: Kernels, qkv: Array) -> Array:
    """The int8 encoder's attention of queries, keys and values [b, t, 3 * STATE]."""
    like = np.zeros((*qkv.shape[:2], 1), np.float32)
    return kernels.run("encoder_attention.int8", HeadLayout(VNNI).pack(qkv), like)


class Caches:
    """Keys and values [layer, slot, head, time, 64], as arrays and as the kernels' buffers."""

    def __init__(self, time: int, dtype: str, seed: int = 0, padded: int | None = None) -> None:
        shape = (LAYERS, SLOTS, HEADS, padded or time, 64)
        self.keys = rounded(normal(*shape, seed=seed), dtype)
        self.values = rounded(normal(*shape, seed=seed + 1), dtype)[..., :time, :]
        self.buffers = (to_buffer(pack_keys(self.keys), dtype), to_buffer(self.values, dtype))

    def now(self) -> tuple[Array, Array]:
        keys, values = (from_buffer(buffer) for buffer in self.buffers)
        return unpack_keys(keys), values


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 300, 1500])
@pytest.mark.parametrize("windows", [1, 2])
def test_encoder_attention(kernels: Kernels, length: int, windows: int) -> None:
    qkv = fused(windows, length)
    q, k, v = (heads_of(part) for part in np.split(qkv, 3, axis=-1))
    exact = np.moveaxis(attention(q, k, v), -3, -2).reshape(windows, length, STATE)
    assert_close(kernels.run("encoder_attention", qkv), exact)


def test_encoder_attention_of_scores_in_the_hundreds(kernels: Kernels) -> None:
    qkv = fused(1, 77)
    qkv[..., :STATE] *= 300
    q, k, v = (heads_of(part) for part in np.split(qkv, 3, axis=-1))
    exact = np.moveaxis(attention(q, k, v), -3, -2).reshape(1, 77, STATE)
    assert_close(kernels.run("encoder_attention", qkv), exact, 1e-3)


@pytest.mark.parametrize("length", [1, 5, 33, 255, 256, 257, 513, 1500])
def test_encoder_attention_in_int8(kernels: Kernels, length: int) -> None:
    """Within what rounding queries, keys, weights and values to 8 bits costs."""
    qkv = fused(2, length)
    qkv[..., :STATE] *= 4
    q, k, v = (heads_of(part) for part in np.split(qkv, 3, axis=-1))
    exact = np.moveaxis(attention(q, k, v), -3, -2).reshape(2, length, STATE)
    ours = attention_of_bytes(kernels, qkv)
    assert_close(ours, exact, 0.25)
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 0.04 * np.sqrt(np.mean(exact**2))
    for i in range(2):
        alone = attention_of_bytes(kernels, qkv[i : i + 1])
        assert np.array_equal(ours[i], alone[0])


def test_encoder_attention_in_int8_follows_a_late_maximum(kernels: Kernels) -> None:
    """Scores rise from chunk to chunk; the last, far above the others, takes all the weight."""
    qkv = fused(1, 1500)
    qkv[..., :STATE] = 1 / 8
    qkv[0, :, STATE : 2 * STATE] = np.linspace(-60, 40, 1500, dtype=np.float32)[:, None]
    qkv[0, -1, STATE : 2 * STATE] = 60
    last = np.broadcast_to(qkv[0, -1:, 2 * STATE :], (1500, STATE))
    assert_close(attention_of_bytes(kernels, qkv)[0], last, 0.03)


def test_encoder_attention_in_int8_keeps_a_tail_of_small_weights(kernels: Kernels) -> None:
    """One key has 2.4 times the weight of 1499 others together, each below a byte's half unit.

    Rounded to nearest, those would be lost, and a third of the result with them.
    """
    qkv = np.zeros((1, 1500, 3 * STATE), np.float32)
    qkv[..., :STATE] = 1 / 8
    qkv[0, 0, STATE : 2 * STATE] = np.log(3600) / 8
    qkv[0, 1:, 2 * STATE :] = normal(1499, STATE, seed=3) / 4 + 1
    q, k, v = (heads_of(part) for part in np.split(qkv, 3, axis=-1))
    exact = np.moveaxis(attention(q, k, v), -3, -2).reshape(1, 1500, STATE)
    assert 0.2 < exact.mean() < 0.4
    assert_close(attention_of_bytes(kernels, qkv), exact, 0.03)


def test_encoder_attention_in_int8_is_as_fine_where_weights_are_low(kernels: Kernels) -> None:
    """Bytes are relative to their chunk's highest weight: relative to the row's, half as much more
    is lost."""
    rng = np.random.default_rng(1)
    qkv = rng.standard_normal((1, 1500, 3 * STATE)).astype(np.float32)
    qkv[..., :STATE] *= 0.3
    q, k, v = (heads_of(part) for part in np.split(qkv, 3, axis=-1))
    exact = np.moveaxis(attention(q, k, v), -3, -2).reshape(1, 1500, STATE)
    ours = attention_of_bytes(kernels, qkv)
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 0.036 * np.sqrt(np.mean(exact**2))


@pytest.mark.parametrize("part", ["queries", "keys", "values", "all"])
def test_encoder_attention_in_int8_of_zeros(kernels: Kernels, part: str) -> None:
    qkv = fused(1, 40)
    zeroed = {"queries": slice(0, STATE), "keys": slice(STATE, 2 * STATE)}
    qkv[..., zeroed.get(part, slice(0 if part == "all" else 2 * STATE, None))] = 0
    q, k, v = (heads_of(part) for part in np.split(qkv, 3, axis=-1))
    exact = np.moveaxis(attention(q, k, v), -3, -2).reshape(1, 40, STATE)
    assert_close(attention_of_bytes(kernels, qkv), exact, 0.03)


def test_windows_do_not_influence_each_other(kernels: Kernels) -> None:
    qkv = fused(3, 211)
    together = kernels.run("encoder_attention", qkv)
    for i in range(3):
        assert np.array_equal(together[i], kernels.run("encoder_attention", qkv[i : i + 1])[0])


def forced(
    caches: Caches, qkv: Array, rows: list[int], positions: list[int], layer: int, dtype: str
) -> tuple[Array, Array, Array]:
    """What self-attention should give, token by token, and the caches after it."""
    keys, values = caches.keys.copy(), caches.values.copy()
    mixed = np.empty((len(rows), STATE))
    for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
        q, k, v = qkv[i].reshape(3, HEADS, 64)
        keys[layer, row, :, position] = rounded(k, dtype)
        values[layer, row, :, position] = rounded(v, dtype)
        seen = slice(0, position + 1)
        result = attention(q[:, None], keys[layer, row, :, seen], values[layer, row, :, seen])
        mixed[i] = result.reshape(STATE)
    return mixed, keys, values


# Rows in slots out of order; a run of several tokens; the first and last positions; block edges.
BATCHES = {
    "one token at the start": ([1], [0]),
    "one token at the end": ([2], [447]),
    "staggered rows": ([2, 0, 1], [15, 16, 400]),
    "a prompt": ([1] * 20, list(range(20))),
    "a prompt in the middle": ([0] * 5, list(range(13, 18))),
    "prompts of several rows": ([2] * 4 + [0] * 1 + [1] * 7, [0, 1, 2, 3, 31, *range(7)]),
}


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
def test_self_attention(kernels: Kernels, dtype: str, batch: str) -> None:
    rows, positions = BATCHES[batch]
    caches = Caches(TEXT, dtype)
    qkv, layer = fused(len(rows), seed=2), 1
    mixed, keys, values = forced(caches, qkv, rows, positions, layer, dtype)
    ours = kernels.run(
        f"self_attention.{dtype}", *caches.buffers, qkv, np.array(rows), np.array(positions),
        np.array([layer]),
    )  # fmt: skip
    assert_close(ours, mixed)
    # Exactly the tokens' own places were written.
    assert np.array_equal(caches.now()[0], keys)
    assert np.array_equal(caches.now()[1], values)


def test_a_row_is_the_same_alone_and_among_others(kernels: Kernels) -> None:
    rows, positions = BATCHES["prompts of several rows"]
    qkv = fused(len(rows), seed=2)

    def run(chosen: list[int]) -> Array:
        return kernels.run(
            "self_attention.float32", *Caches(TEXT, "float32").buffers, qkv[chosen],
            np.array(rows)[chosen], np.array(positions)[chosen], np.array([0]),
        )  # fmt: skip

    together = run(list(range(len(rows))))
    for row in sorted(set(rows)):
        chosen = [i for i, r in enumerate(rows) if r == row]
        assert np.array_equal(together[chosen], run(chosen))


def test_nothing_after_a_token_is_read(kernels: Kernels) -> None:
    caches = Caches(TEXT, "float32")
    caches.keys[..., 20:, :] = np.nan
    caches.values[..., 20:, :] = np.nan
    buffers = to_buffer(pack_keys(caches.keys), "float32"), to_buffer(caches.values, "float32")
    qkv = fused(1)
    token = np.array([0]), np.array([19]), np.array([0])
    assert np.isfinite(kernels.run("self_attention.float32", *buffers, qkv, *token)).all()


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize(
    ("sources", "targets", "lengths"),
    [
        ([0], [2], [1]),
        ([2], [0], [16]),
        ([1, 1], [0, 2], [17, 40]),
        ([0, 2], [1, 1], [448, 0]),
        ([], [], []),
    ],
)
def test_copying_rows(
    kernels: Kernels, dtype: str, sources: list[int], targets: list[int], lengths: list[int]
) -> None:
    caches = Caches(TEXT, dtype)
    copies = [np.array(values, np.int32) for values in (sources, targets, lengths)]
    kernels.run(f"copy_rows.{dtype}", *caches.buffers, *copies)
    keys, values = caches.now()
    for source, target, n in zip(sources, targets, lengths, strict=True):
        whole_blocks = -(-n // 16) * 16  # keys are copied by the block
        caches.keys[:, target, :, :whole_blocks] = caches.keys[:, source, :, :whole_blocks]
        caches.values[:, target, :, :n] = caches.values[:, source, :, :n]
    assert np.array_equal(keys, caches.keys)
    assert np.array_equal(values, caches.values)


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
def test_cross_attention_by_window(kernels: Kernels, dtype: str) -> None:
    caches = Caches(AUDIO, dtype, padded=AUDIO_PADDED)
    windows, layer = [2, 0, 0, 1, *[2] * 9], 1  # runs shorter and longer than a tile of four
    q = normal(len(windows), STATE, seed=4) / 8
    keys = caches.keys[layer, windows, :, :AUDIO]
    exact = attention(heads_of(q[:, None]), keys, caches.values[layer, windows])
    arguments = (*caches.buffers, q, np.array(windows), np.array([layer]))
    ours = kernels.run(f"cross_attention.{dtype}", *arguments)
    assert_close(ours, exact.reshape(len(windows), STATE))
    for i, window in enumerate(windows):
        alone = (*caches.buffers, q[i : i + 1], np.array([window]), np.array([layer]))
        assert np.array_equal(kernels.run(f"cross_attention.{dtype}", *alone)[0], ours[i])


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
def test_storing_cross_keys_and_values(kernels: Kernels, dtype: str) -> None:
    caches = Caches(AUDIO, dtype, padded=AUDIO_PADDED)
    kv, windows, layer = normal(2, AUDIO, 2 * STATE, seed=5), [2, 0], 1
    assert kernels.run(
        f"store_cross_kv.{dtype}", *caches.buffers, kv, np.array(windows), np.array([layer])
    ) == ()  # fmt: skip
    k, v = (heads_of(rounded(part, dtype)) for part in np.split(kv, 2, axis=-1))
    caches.keys[layer, windows, :, :AUDIO] = k
    caches.values[layer, windows] = v
    keys, values = caches.now()
    assert np.array_equal(keys, caches.keys)
    assert np.array_equal(values, caches.values)


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
def test_alignment_scores(kernels: Kernels, dtype: str) -> None:
    caches = Caches(AUDIO, dtype, padded=AUDIO_PADDED)
    windows, layer, heads = [1, 2, 1], 1, [1, 0]
    q = normal(len(windows), STATE, seed=6) / 8
    keys = caches.keys[layer, windows, :, :AUDIO].astype(np.float64)
    exact = (heads_of(q[:, None]) @ np.swapaxes(keys, -1, -2))[:, heads, 0].swapaxes(0, 1)
    ours = kernels.run(
        f"alignment_scores.{dtype}", caches.buffers[0], q, np.array(windows), np.array([layer]),
        np.array(heads),
    )  # fmt: skip
    assert_close(ours, exact)
