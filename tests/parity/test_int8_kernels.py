"""The CPU's products with int8 weights against numpy: the same whole numbers, odd sizes, any batch.

Where x is quantized as it is given, numpy quantizes it alike and the sums are equal before they are
scaled. Behind a layer norm a rounding may fall the other way, so there the bound is half a unit of
every activation.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from head_bytes import HeadLayout
from kernel_graphs import (
    AUDIO_FRAMES,
    DECODER_LAYER,
    FRAMES,
    HEADS,
    LAYERS,
    SLOTS,
    STATE,
    VNNI,
    Kernels,
    to_buffer,
)
from max.driver import Buffer
from numpy_layers import frames_of_audio, gelu, layer_norm, normal, side_by_side

from mwc.compiler.quantize import (
    BYTE_LIMIT as LIMIT_WITHOUT_VNNI,
)
from mwc.compiler.quantize import (
    FITTING_STEPS,
    FOUR_LIMIT,
    GROUP_TERMS,
    LONG_GROUP,
    pack_groups,
    pack_halves,
    pack_int8,
    quantize_groups,
    quantize_with_rests,
    rests_of_groups,
    sums_of_four,
)
from mwc.runtime.decoder import (
    AUDIO_KEY_BYTES_SHAPE,
    AUDIO_VALUE_BYTES_SHAPE,
    TEXT_KEY_SHAPE,
    TEXT_VALUE_SHAPE,
)

Array = npt.NDArray[Any]

RELATIVE = 2e-6
"""Of the largest value: scaling, bias and residual in float32."""


GELU_WITHIN = 2e-4
"""How far GELU may be off where bytes come next."""
BYTE_LIMIT = 255 if VNNI else LIMIT_WITHOUT_VNNI
WORD_LIMIT = 32767


class Int8Matrix:
    """A random [n, k] as int8 values with scales of rows and of groups of terms, and packed.

    For products of many rows groups are longer, or one, and it has to fit unless there is VNNI.
    What rounding left is `rests`; with it the matrix is `wide`.
    """

    def __init__(
        self, n: int, k: int, *, many_rows: bool = False, one_group: bool = False, seed: int = 1
    ) -> None:
        terms = k if one_group else LONG_GROUP if many_rows else GROUP_TERMS
        matrix = normal(n, k, seed=seed) / np.float32(math.sqrt(k))
        matrix *= np.exp(np.repeat(normal(n, -(-k // terms), seed=6), terms, 1)[:, :k])
        self.values, self.scale, self.group_scale = quantize_groups(
            matrix, terms, fits=many_rows and not VNNI
        )
        factors = np.repeat(self.group_scale, terms, axis=1)[:, :k].astype(np.float64)
        self.multiples = self.values * factors
        self.exact = self.multiples * self.scale[:, None]
        self.parts = pack_int8(self.values), self.scale, pack_groups(self.group_scale)
        self.rests = rests_of_groups(matrix, self.values, self.scale, self.group_scale, terms)
        self.rest_multiples = self.rests * factors / FITTING_STEPS
        self.wide = self.exact + self.rest_multiples * self.scale[:, None]


class Embedding:
    """A random token embedding [n, k] for the kernels, and their names: with rests or without."""

    def __init__(self, n: int, k: int, *, rests: bool = True) -> None:
        matrix = normal(n, k, seed=1) / np.float32(math.sqrt(k))
        self.bytes, self.rests, self.scale = quantize_with_rests(matrix)
        self.kind = "int8" if rests else "bytes"
        values = self.bytes + (self.rests / 256.0 if rests else 0.0)
        self.exact = values * self.scale[:, None].astype(np.float64)
        self.columns = np.exp(normal(k, seed=4) / 2)
        self.with_rests = rests

    @property
    def parts(self) -> list[Array]:
        """As the kernels take it."""
        parts = [pack_halves(self.bytes), self.scale, self.columns]
        return [*parts, pack_int8(self.rests)] if self.with_rests else parts


def word_sums(x: Array, w: Int8Matrix) -> Array:
    """x · wᵀ with x rounded to 16 bits by rows; the sums of groups are whole numbers."""
    limit = np.float32(WORD_LIMIT)
    top = np.abs(x).max(-1, keepdims=True)
    words = np.rint(x * np.divide(limit, top, out=np.zeros_like(top), where=top > 0))
    sums = words.astype(np.float64) @ w.multiples.T
    return sums * (w.scale * (top / limit)).astype(np.float64)


def in_bytes(x: Array) -> tuple[Array, Array]:
    """x as whole numbers by rows, 0 … BYTE_LIMIT less that of 0, and what one is worth.

    Its lowest value, at most 0, is at 0.
    """
    low = np.minimum(x.min(-1, keepdims=True), 0)
    span = np.maximum(x.max(-1, keepdims=True), 0) - low
    inverse = np.divide(np.float32(BYTE_LIMIT), span, out=np.zeros_like(span), where=span > 0)
    zero = np.rint(-low * inverse)
    levels = np.minimum(np.rint(x * inverse) + zero, BYTE_LIMIT)
    return (levels - zero).astype(np.float64), span / np.float32(BYTE_LIMIT)


def byte_sums(x: Array, w: Int8Matrix) -> Array:
    """x · wᵀ with x rounded to bytes by rows."""
    levels, unit = in_bytes(x)
    return (levels @ w.multiples.T) * (w.scale * unit).astype(np.float64)


def wide_sums(x: Array, w: Int8Matrix) -> Array:
    """x · wᵀ with both rounded to two bytes, but for products of the second ones."""
    levels, unit = in_bytes(x)
    left = (x - levels * unit.astype(np.float64)).astype(np.float32)
    left_levels, left_unit = in_bytes(left)
    first = (levels @ (w.multiples + w.rest_multiples).T) * (w.scale * unit).astype(np.float64)
    return first + (left_levels @ w.multiples.T) * (w.scale * left_unit).astype(np.float64)


def assert_equal_sums(ours: Array, exact: Array) -> None:
    assert ours.shape == exact.shape
    assert np.abs(ours - exact).max() <= RELATIVE * np.abs(exact).max()


def assert_within_units(
    ours: Array, exact: Array, x: Array, levels: int, w: Int8Matrix | Embedding
) -> None:
    """Each output is off by at most half a unit of every activation, and a little rounding."""
    span = np.maximum(x.max(-1), 0) - np.minimum(x.min(-1), 0)
    unit = (span if levels == BYTE_LIMIT else np.abs(x).max(-1)) / levels
    bound = (
        0.51 * unit[..., None] * np.abs(w.exact).sum(-1) + unit[..., None] * np.abs(w.exact).max()
    )
    assert (np.abs(ours - exact) <= bound + 1e-5).all()


# (columns, terms): less than a block, tails, serial and shared work, the largest model's.
FEW_ROWS = [(8, 16), (16, 32), (17, 64), (205, 384), (1536, 1280), (100, 5120)]


@pytest.mark.parametrize(("n", "k"), FEW_ROWS)
@pytest.mark.parametrize("m", range(1, 18))
def test_products_of_few_rows(kernels: Kernels, n: int, k: int, m: int) -> None:
    x, w, bias, residual = normal(m, k), Int8Matrix(n, k), normal(n), normal(m, n)
    gamma, beta = 1 + normal(k, seed=2) / 4, normal(k, seed=3)
    ours = kernels.run("linear_residual.int8", x, *w.parts, bias, residual)
    assert_equal_sums(ours, residual + word_sums(x, w) + bias)

    normed = layer_norm(x, gamma, beta)
    exact = normed @ w.exact.T
    ours = kernels.run("norm_linear.int8", x, *w.parts, bias, gamma, beta)
    assert_within_units(ours, exact + bias, normed, WORD_LIMIT, w)
    ours = kernels.run("norm_linear_gelu.int8", x, *w.parts, bias, gamma, beta)
    assert_within_units(ours, gelu(exact + bias), 1.2 * normed, WORD_LIMIT, w)  # slope < 1.13
    head = Embedding(n, k)
    limit = min(WORD_LIMIT, (2**31 - 1) // (127 * k))
    ours = kernels.run("norm_logits.int8", x, gamma, beta, *head.parts)
    scaled = normed * head.columns
    assert_within_units(ours, scaled @ head.exact.T, scaled, limit, head)


@pytest.mark.parametrize("rests", [True, False])
@pytest.mark.parametrize(("n", "k"), FEW_ROWS)
@pytest.mark.parametrize("m", [1, 5, 17])
def test_logits_are_those_of_weights_of_sixteen_bits(
    kernels: Kernels, m: int, n: int, k: int, rests: bool
) -> None:
    """Of rows of 1 and -1, which are their own norm, times columns that 16 bits hold exactly."""
    head = Embedding(n, k, rests=rests)
    rng = np.random.default_rng(6)
    limit = min(WORD_LIMIT, (2**31 - 1) // (127 * k))
    levels = rng.integers(-limit, limit + 1, k)
    levels[3] = limit
    head.columns = (levels / limit).astype(np.float32)
    signs = rng.permuted(np.tile(np.resize([1, -1], k), (m, 1)), axis=1)
    ours = kernels.run(f"norm_logits.{head.kind}", signs, np.ones(k), np.zeros(k), *head.parts)
    exact = (signs * levels) @ head.exact.T / (limit * math.sqrt(1 + 1e-5))
    assert_equal_sums(ours, exact)


@pytest.mark.parametrize("k", [384, 1280, 5120])
def test_the_largest_sums_do_not_overflow(kernels: Kernels, k: int) -> None:
    """The largest weights and activations, of groups that have the largest scale."""
    x, values = np.ones((2, k), np.float32), np.full((16, k), 127, np.int8)
    scales = np.ones(16), np.full((1, k // GROUP_TERMS, 16), 255, np.uint8)
    zeros = np.zeros(16)
    ours = kernels.run("linear_residual.int8", x, pack_int8(values), *scales, zeros, [zeros] * 2)
    np.testing.assert_allclose(ours, 255.0 * 127.0 * k, rtol=1e-6)


LARGEST_THAT_FIT = [
    [37] * 8,
    [-37] * 8,
    [127, 0, 0, -127, 21, 0, 0, -21],
    [74, 74, -74, -74, 0, 0, 0, 0],
    [0, 0, 74, 74, -74, -74, 0, 0],
]
"""Eight terms, of which four of one sign that share a sum add up to FOUR_LIMIT."""

LARGEST = [[127] * 8, [-127] * 8, [127, -127] * 4] if VNNI else []


@pytest.mark.parametrize("eight", LARGEST_THAT_FIT + LARGEST)
@pytest.mark.parametrize("m", [1, 13])
def test_the_largest_sums_of_bytes(kernels: Kernels, m: int, eight: list[int]) -> None:
    """The largest weights, each times the largest activation."""
    k, row = 384, np.tile(np.array(eight, np.int8), 384 // 8)
    if eight in LARGEST_THAT_FIT:
        assert sums_of_four(row[None]).max() == FOUR_LIMIT
    scales = np.ones(16), np.ones((1, k // LONG_GROUP, 16), np.uint8)
    parts, zeros = (pack_int8(np.tile(row, (16, 1))), *scales), np.zeros(16)
    for sign in (1, -1):
        x = np.where(sign * row > 0, np.float32(1), np.float32(0))
        ours = kernels.run("matmul_bias.int8", np.tile(x, (1, m, 1)), *parts, zeros)
        np.testing.assert_allclose(ours, float(row[sign * row > 0].sum(dtype=int)), rtol=1e-6)
    ours = kernels.run("matmul_bias.int8", np.ones((1, m, k)), *parts, zeros)
    np.testing.assert_allclose(ours, float(row.sum(dtype=int)), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("n", [51864, 51865, 51866])
@pytest.mark.parametrize("rests", [True, False])
def test_logits_and_rows_of_a_whole_vocabulary(kernels: Kernels, n: int, rests: bool) -> None:
    x, w, k = normal(3, 64), Embedding(n, 64, rests=rests), 64
    gamma, beta = normal(k, seed=2), normal(k, seed=3)
    ours = kernels.run(f"norm_logits.{w.kind}", x, gamma, beta, *w.parts)
    normed = layer_norm(x, gamma, beta) * w.columns
    assert_within_units(ours, normed @ w.exact.T, normed, 32767, w)

    table, tokens, positions = normal(448, k, seed=5), [0, n - 1, 17, 0], [447, 0, 3, 3]
    given = np.array(tokens), np.array(positions), table
    ours = kernels.run(f"embed.{w.kind}", *given, *w.parts)
    np.testing.assert_allclose(
        ours, w.exact[tokens] * w.columns + table[positions], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("n", "k"), FEW_ROWS)
def test_a_row_never_depends_on_its_neighbours(kernels: Kernels, n: int, k: int) -> None:
    x, w, bias, residual = normal(17, k), Int8Matrix(n, k, many_rows=True), normal(n), normal(17, n)
    gamma, beta = normal(k, seed=2), normal(k, seed=3)
    few, head = Int8Matrix(n, k).parts, Embedding(n, k)

    def outputs(rows: slice) -> list[Array]:
        return [
            kernels.run("linear_residual.int8", x[rows], *few, bias, residual[rows]),
            kernels.run("norm_linear_gelu.int8", x[rows], *few, bias, gamma, beta),
            kernels.run("norm_logits.int8", x[rows], gamma, beta, *head.parts),
            kernels.run("norm_matmul_gelu.int8", x[None, rows], *w.parts, bias, gamma, beta)[0],
            kernels.run(
                "matmul_residual_wide.int8",
                x[None, rows],
                *w.parts,
                pack_int8(w.rests),
                bias,
                residual[None, rows],
            )[0],
        ]

    together = outputs(slice(0, 17))
    for first, last in [(i, i + 1) for i in range(17)] + [(0, 2), (1, 4), (2, 6), (1, 8), (3, 17)]:
        for whole, part in zip(together, outputs(slice(first, last)), strict=True):
            assert np.array_equal(whole[first:last], part)


# (windows, rows, columns, terms): tails of tiles and of panels, one row, one block of columns.
MANY_ROWS = [
    (3, 40, 402, 400),
    (1, 1, 16, 16),
    (2, 13, 8, 32),
    (1, 300, 33, 528),
    (2, 50, 80, 208),
    (4, 7, 96, 1280),
]


@pytest.mark.parametrize("one_group", [False, True])
@pytest.mark.parametrize(("b", "t", "n", "k"), MANY_ROWS)
def test_products_of_many_rows(
    kernels: Kernels, b: int, t: int, n: int, k: int, one_group: bool
) -> None:
    x, w = normal(b, t, k), Int8Matrix(n, k, many_rows=True, one_group=one_group)
    bias, residual = normal(n), normal(b, t, n)
    gamma, beta = 1 + normal(k, seed=2) / 4, normal(k, seed=3)
    product = byte_sums(x, w)
    ours = kernels.run("matmul_bias.int8", x, *w.parts, bias)
    assert_equal_sums(ours, product + bias)
    ours = kernels.run("matmul_gelu.int8", x, *w.parts, bias)
    assert np.abs(ours - gelu(product + bias)).max() < GELU_WITHIN + RELATIVE * np.abs(ours).max()
    ours = kernels.run("matmul_residual.int8", x, *w.parts, bias, residual)
    assert_equal_sums(ours, residual + product + bias)
    normed = layer_norm(x, gamma, beta)
    ours = kernels.run("norm_matmul.int8", x, *w.parts, bias, gamma, beta)
    assert_within_units(ours, normed @ w.exact.T + bias, normed, BYTE_LIMIT, w)


@pytest.mark.parametrize(("b", "t", "n", "k"), MANY_ROWS)
def test_wide_products_of_many_rows(kernels: Kernels, b: int, t: int, n: int, k: int) -> None:
    x, w = normal(b, t, k), Int8Matrix(n, k, many_rows=True)
    x[0, 0] = 0  # nothing is left of a row of zeros
    x[-1, -1] = np.rint(20 * x[-1, -1])  # nor of one of whole numbers
    x[-1, -1, :2] = BYTE_LIMIT // 2, BYTE_LIMIT // 2 - BYTE_LIMIT
    bias, residual = normal(n), normal(b, t, n)
    given = x, *w.parts, pack_int8(w.rests), bias, residual
    ours = kernels.run("matmul_residual_wide.int8", *given)
    assert_equal_sums(ours, residual + wide_sums(x, w) + bias)
    exact = residual + x.astype(np.float64) @ w.wide.T + bias
    bytes_only = kernels.run("matmul_residual.int8", x, *w.parts, bias, residual)
    assert np.abs(ours - exact).max() < 0.03 * np.abs(bytes_only - exact).max()


@pytest.mark.parametrize(("b", "t"), [(1, 1), (2, 300), (1, 1500)])
def test_values_of_wide_heads(kernels: Kernels, b: int, t: int) -> None:
    """Queries and keys as without rests; values within half of their units of the exact ones."""
    k, n = 64, 3 * STATE
    x, w, bias = normal(b, t, k), Int8Matrix(n, k, many_rows=True), normal(n)
    norm = 1 + normal(k, seed=2) / 4, normal(k, seed=3)
    plain = kernels.run("norm_heads.int8", x, *w.parts, bias, *norm)
    rests = pack_int8(w.rests[2 * STATE :])
    ours = kernels.run("norm_heads_wide.int8", x, *w.parts, rests, bias, *norm)
    layout = HeadLayout(VNNI)
    exact = layer_norm(x, *norm).astype(np.float64) @ w.wide.T + bias
    for window in range(b):
        for head in range(HEADS):
            *same, values, units = layout.unpack(ours[window, head], t)
            *plain_parts, _, _ = layout.unpack(plain[window, head], t)
            for part, plain_part in zip(same, plain_parts, strict=True):
                assert np.array_equal(part, plain_part)
            at = 2 * STATE + head * 64
            off = np.abs(values - exact[window, :, at : at + 64])
            assert (off <= 0.501 * units[2] + 2e-4 * np.abs(exact).max()).all()


@pytest.mark.parametrize(("b", "t"), [(1, 1), (3, 40), (1, 241), (2, 300), (1, 1500)])
def test_heads_as_bytes(kernels: Kernels, b: int, t: int) -> None:
    """Queries, keys and values are those of the product by rows, within half of their units."""
    k, n = 64, 3 * STATE
    x, w, bias = normal(b, t, k), Int8Matrix(n, k, many_rows=True), normal(n)
    given = (x, *w.parts, bias, 1 + normal(k, seed=2) / 4, normal(k, seed=3))
    by_rows = kernels.run("norm_matmul.int8", *given)
    ours = kernels.run("norm_heads.int8", *given)
    layout = HeadLayout(VNNI)
    expected = layout.pack(by_rows)
    for window in range(b):
        for head in range(HEADS):
            *parts, units = layout.unpack(ours[window, head], t)
            *_, expected_units = layout.unpack(expected[window, head], t)
            for i, part in enumerate(parts):
                at = i * STATE + head * 64
                exact = by_rows[window, :, at : at + 64]
                assert np.allclose(units[i], expected_units[i], rtol=1e-5)
                assert np.all(np.abs(part - exact) <= 0.501 * units[i] + 1e-6)
        assert np.array_equal(ours[window, :, : t * 64], kernels.run(
            "norm_heads.int8", x[window : window + 1], *given[1:]
        )[0, :, : t * 64])  # fmt: skip


@pytest.mark.parametrize("slots", [[2], [1, 0]])
def test_keys_and_values_are_made_and_stored_at_once(kernels: Kernels, slots: list[int]) -> None:
    k = 64
    x, w = normal(len(slots), 1500, k), Int8Matrix(2 * STATE, k, many_rows=True)
    bias, layer = normal(2 * STATE), np.array([1])
    shapes = [(LAYERS, SLOTS, HEADS, *s) for s in (AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE)]
    ours, expected = ([Buffer.from_numpy(np.zeros(s, np.uint8)) for s in shapes] for _ in range(2))
    kernels.run("cross_kv.int8", *ours, x, *w.parts, bias, np.array(slots), layer)
    kv = kernels.run("matmul_bias.int8", x, *w.parts, bias)
    kernels.run("store_cross_kv.int8", *expected, kv, np.array(slots), layer)
    for one, other in zip(ours, expected, strict=True):
        assert np.array_equal(one.to_numpy(), other.to_numpy())
        assert one.to_numpy()[1, slots].any()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("b", "d", "n"), [(1, 16, 8), (3, 80, 33), (2, 128, 64)])
def test_convolutions(kernels: Kernels, stride: int, b: int, d: int, n: int) -> None:
    x, w, bias = normal(b, FRAMES, d), Int8Matrix(n, 3 * d, many_rows=True), normal(n)
    n_frames = np.full(b, FRAMES)
    ours = kernels.run(f"conv{stride}.int8", x, *w.parts, bias, n_frames)
    exact = gelu(byte_sums(side_by_side(x, stride), w) + bias)
    assert ours.shape == exact.shape
    assert np.abs(ours - exact).max() < GELU_WITHIN + RELATIVE * np.abs(ours).max()
    for i in range(b):
        alone = kernels.run(f"conv{stride}.int8", x[i : i + 1], *w.parts, bias, n_frames[:1])
        assert np.array_equal(ours[i], alone[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("d", "n"), [(16, 8), (80, 33), (128, 64)])
def test_frames_past_the_audio_are_convolved_once(
    kernels: Kernels, stride: int, d: int, n: int
) -> None:
    name, w, bias = f"conv{stride}.int8", Int8Matrix(n, 3 * d, many_rows=True), normal(n)
    n_frames = np.array(AUDIO_FRAMES)
    x = frames_of_audio(n_frames, FRAMES, d, stride)
    ours = kernels.run(name, x, *w.parts, bias, n_frames)
    assert np.array_equal(ours, kernels.run(name, x, *w.parts, bias, np.full(len(x), FRAMES)))
    for i, held in enumerate(n_frames):
        x[i, held + 5 :] = np.nan  # which nobody reads
        alone = kernels.run(name, x[i : i + 1], *w.parts, bias, n_frames[i : i + 1])
        assert np.array_equal(alone[0], ours[i])


@pytest.mark.parametrize(("b", "t"), [(1, 1), (2, 31), (1, 100)])
def test_feed_forward_is_its_two_products(kernels: Kernels, b: int, t: int) -> None:
    k, h = 64, 256
    x, w1, w2 = normal(b, t, k), Int8Matrix(h, k, many_rows=True), Int8Matrix(k, h, many_rows=True)
    bias1, bias2, gamma, beta = normal(h), normal(k), 1 + normal(k, seed=2) / 4, normal(k, seed=3)
    hidden = kernels.run("norm_matmul_gelu.int8", x, *w1.parts, bias1, gamma, beta)
    expected = kernels.run("matmul_residual.int8", hidden, *w2.parts, bias2, x)
    ours = kernels.run("feed_forward.int8", x, gamma, beta, *w1.parts, bias1, *w2.parts, bias2)
    assert np.array_equal(ours, expected)


LINEAR_PARTS = ("weight", "scale", "group_scale")
"""What a matrix of the decoder is stored as."""


def decoder_layer_weights(layer: int) -> dict[str, Array]:
    """Random weights of a decoder layer by name, as the kernels take them."""
    weights: dict[str, Array] = {}
    for i, (name, (dtype, *shape)) in enumerate(DECODER_LAYER.items()):
        if dtype == "int8":
            matrix = Int8Matrix(shape[0] * 16, shape[1] * 4, seed=1 + layer)
            parts = (name.replace("weight", part) for part in LINEAR_PARTS)
            weights |= dict(zip(parts, matrix.parts, strict=True))
        elif not name.endswith("scale"):
            values = normal(*shape, seed=100 * layer + i) / 4
            weights[name] = values + name.endswith("norm.weight")
    return {name: weights[name] for name in DECODER_LAYER}


def caches_of(kernels: Kernels, seed: int) -> list[Buffer]:
    """Random self-attention caches in float16, and cross-attention caches of bytes."""
    slots = (LAYERS, SLOTS, HEADS)
    text = [
        to_buffer(normal(*slots, *shape, seed=seed), "float16")
        for shape in (TEXT_KEY_SHAPE, TEXT_VALUE_SHAPE)
    ]
    audio = [
        Buffer.from_numpy(np.zeros((*slots, *shape), np.uint8))
        for shape in (AUDIO_KEY_BYTES_SHAPE, AUDIO_VALUE_BYTES_SHAPE)
    ]
    for layer in range(LAYERS):
        kv = normal(SLOTS, 1500, 2 * STATE, seed=seed + layer)
        kernels.run("store_cross_kv.int8", *audio, kv, np.arange(SLOTS), np.array([layer]))
    return [*text, *audio]


def layer_by_parts(
    kernels: Kernels,
    caches: list[Buffer],
    x: Array,
    tokens: tuple[Array, Array, Array],
    layer: int,
    weights: dict[str, Array],
) -> tuple[Array, Array]:
    """A decoder layer's output and the queries of its cross-attention, kernel by kernel."""
    rows, positions, windows = tokens

    def linear(name: str) -> list[Array]:
        return [weights[f"{name}.{part}"] for part in (*LINEAR_PARTS, "bias")]

    def normed(graph: str, x: Array, norm: str, name: str) -> Array:
        gamma, beta = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        return kernels.run(graph, x, *linear(name), gamma, beta)

    def closed(mixed: Array, name: str, x: Array) -> Array:
        return kernels.run("linear_residual.int8", mixed, *linear(name), x)

    which = np.array([layer])
    qkv = normed("norm_linear.int8", x, "self_attn_layer_norm", "self_attn.qkv")
    mixed = kernels.run("self_attention.float16", *caches[:2], qkv, rows, positions, which)
    x = closed(mixed, "self_attn.out_proj", x)
    q = normed("norm_linear.int8", x, "encoder_attn_layer_norm", "encoder_attn.q_proj")
    mixed = kernels.run("cross_attention.int8", *caches[2:], q, windows, which)
    x = closed(mixed, "encoder_attn.out_proj", x)
    hidden = normed("norm_linear_gelu.int8", x, "final_layer_norm", "fc1")
    return closed(hidden, "fc2", x), q


@pytest.mark.parametrize("m", [1, 3, 9, 40])
@pytest.mark.parametrize("first", range(LAYERS))
def test_decoder_layers_are_their_parts(kernels: Kernels, m: int, first: int) -> None:
    """All layers, and those from one on."""
    by_layer = [decoder_layer_weights(layer) for layer in range(LAYERS)]
    stacked = [np.stack([weights[name] for weights in by_layer]) for name in DECODER_LAYER]
    x, which = normal(m, STATE), np.array([first, LAYERS])
    rows, positions = np.full(m, 2), 20 + np.arange(m)
    windows = np.zeros(m) if m > 8 else np.arange(m) % SLOTS
    tokens = rows, positions, windows
    together, apart = caches_of(kernels, seed=7), caches_of(kernels, seed=7)
    y, queries = kernels.run("decoder_layers.int8", *together, x, *tokens, which, *stacked)
    for layer in range(first, LAYERS):
        x, q = layer_by_parts(kernels, apart, x, tokens, layer, by_layer[layer])
        assert np.array_equal(queries[layer - first], q)
    assert np.array_equal(y, x)
    for ours, theirs in zip(together, apart, strict=True):
        assert np.array_equal(ours.to_numpy(), theirs.to_numpy())


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_of_one_sign_and_of_zeros(kernels: Kernels, sign: int) -> None:
    """The scale of 8 bits reaches from 0 to the largest value, or from the least to 0."""
    x, w = sign * np.abs(normal(1, 5, 64)), Int8Matrix(32, 64, many_rows=True)
    x[0, 2] = 0
    ours = kernels.run("matmul_bias.int8", x, *w.parts, np.zeros(32))
    assert_equal_sums(ours, byte_sums(x, w))
    assert not ours[0, 2].any()
