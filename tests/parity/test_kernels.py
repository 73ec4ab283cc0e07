"""The CPU's matrix products against numpy in float64: odd sizes, every weight dtype, any batch."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_graphs import AUDIO_FRAMES, BANDS, FACTORS, FRAMES, WEIGHT_DTYPES, Kernels
from numpy_layers import frames_of_audio, gelu, layer_norm, normal, side_by_side
from tiny_layouts import rounded

Array = npt.NDArray[Any]

RELATIVE = 3e-6
"""Of the largest value; float32 sums over up to 1280 terms."""


def assert_close(ours: Array, exact: Array) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == exact.shape
    assert np.abs(ours - exact).max() <= RELATIVE * np.abs(exact).max()


def weights(n: int, k: int, dtype: str) -> Array:
    return rounded(normal(n, k, seed=1) / np.float32(k**0.5), dtype)


# (columns, terms): fewer than a block of columns more, a tail of one; serial and shared work.
FEW_ROWS = [(8, 16), (9, 64), (15, 128), (205, 384), (1536, 1280)]


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize(("n", "k"), FEW_ROWS)
@pytest.mark.parametrize("m", [*range(1, 10), 12, 25])  # from 12 rows on weights are widened once
def test_products_of_few_rows(kernels: Kernels, dtype: str, n: int, k: int, m: int) -> None:
    x, w, bias, residual = normal(m, k), weights(n, k, dtype), normal(n), normal(m, n)
    gamma, beta = 1 + normal(k, seed=2) / 4, normal(k, seed=3)
    product = x.astype(np.float64) @ w.T
    normed = layer_norm(x, gamma, beta) @ w.T.astype(np.float64)

    ours = kernels.run(f"linear_residual.{dtype}", x, w, bias, residual)
    assert_close(ours, residual + product + bias)
    ours = kernels.run(f"norm_linear.{dtype}", x, gamma, beta, w, bias)
    assert_close(ours, normed + bias)
    ours = kernels.run(f"norm_linear_gelu.{dtype}", x, gamma, beta, w, bias)
    assert_close(ours, gelu(normed + bias))
    assert_close(kernels.run(f"norm_logits.{dtype}", x, gamma, beta, w), normed)


@pytest.mark.parametrize("n", [51864, 51865, 51866])
def test_logits_over_a_whole_vocabulary(kernels: Kernels, n: int) -> None:
    x, w = normal(3, 64), weights(n, 64, "float32")
    gamma, beta = normal(64, seed=2), normal(64, seed=3)
    ours = kernels.run("norm_logits.float32", x, gamma, beta, w)
    assert_close(ours, layer_norm(x, gamma, beta) @ w.T.astype(np.float64))


def test_columns_of_two_blocks_are_the_same_whichever_thread_is_later(kernels: Kernels) -> None:
    """The last block of columns begins inside the one before it, which another thread may have."""
    m, n, k = 40, 9, 1536  # two blocks, seven columns in both
    x, w, bias, residual = normal(m, k), weights(n, k, "float32"), normal(n), normal(m, n)
    exact = residual + x.astype(np.float64) @ w.T + bias
    first = kernels.run("linear_residual.float32", x, w, bias, residual)
    assert_close(first, exact)
    for _ in range(300):
        again = kernels.run("linear_residual.float32", x, w, bias, residual)
        assert np.array_equal(again, first)


def test_layer_norm_of_a_large_mean_keeps_its_digits(kernels: Kernels) -> None:
    """One pass over x and x² would lose them all at a mean of 1000 and a deviation of 0.1."""
    x = (1000 + normal(2, 128) / 10).astype(np.float32)
    w, zeros, ones = np.eye(128, dtype=np.float32), np.zeros(128), np.ones(128)
    ours = kernels.run("norm_logits.float32", x, ones, zeros, w)
    np.testing.assert_allclose(ours, layer_norm(x, ones, zeros), atol=2e-3)


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize(("n", "k"), FEW_ROWS)
def test_a_row_never_depends_on_its_neighbours(
    kernels: Kernels, dtype: str, n: int, k: int
) -> None:
    x, w, bias, residual = normal(14, k), weights(n, k, dtype), normal(n), normal(14, n)
    gamma, beta = normal(k, seed=2), normal(k, seed=3)

    def outputs(rows: slice) -> list[Array]:
        return [
            kernels.run(f"linear_residual.{dtype}", x[rows], w, bias, residual[rows]),
            kernels.run(f"norm_linear_gelu.{dtype}", x[rows], gamma, beta, w, bias),
            kernels.run(f"norm_logits.{dtype}", x[rows], gamma, beta, w),
        ]

    together = outputs(slice(0, 14))
    several = [(0, 2), (1, 4), (2, 6), (1, 8), (5, 14), (1, 13)]
    for first, last in [(i, i + 1) for i in range(14)] + several:
        for whole, part in zip(together, outputs(slice(first, last)), strict=True):
            assert np.array_equal(whole[first:last], part)


# (windows, rows, columns, terms): the log-mel's two products, tails of every block, tiny ones.
MANY_ROWS = [
    (3, 40, 402, 400),
    (2, 50, 80, 201),
    (1, 300, 33, 513),
    (2, 8, 31, 255),
    (1, 1, 1, 1),
    (4, 7, 96, 256),
    (1, 13, 17, 3),
]


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize(("b", "t", "n", "k"), MANY_ROWS)
def test_products_of_many_rows(
    kernels: Kernels, dtype: str, b: int, t: int, n: int, k: int
) -> None:
    x, w, bias, residual = normal(b, t, k), weights(n, k, dtype), normal(n), normal(b, t, n)
    product = x.astype(np.float64) @ w.T
    assert_close(kernels.run(f"matmul_bias.{dtype}", x, w, bias), product + bias)
    assert_close(kernels.run(f"matmul_gelu.{dtype}", x, w, bias), gelu(product + bias))
    ours = kernels.run(f"matmul_residual.{dtype}", x, w, bias, residual)
    assert_close(ours, residual + product + bias)
    if dtype == "float32":
        assert_close(kernels.run("matmul", x, w), product)


def test_a_window_never_depends_on_its_neighbours(kernels: Kernels) -> None:
    x, w, bias = normal(3, 259, 300), weights(131, 300, "float32"), normal(131)
    together = kernels.run("matmul_gelu.float32", x, w, bias)
    for i in range(3):
        alone = kernels.run("matmul_gelu.float32", x[i : i + 1], w, bias)
        assert np.array_equal(together[i], alone[0])


# (windows, rows, terms): one row, more rows than a thread takes, by one thread and by several.
NORMED = [(1, 1, 16), (2, 7, 64), (3, 50, 384), (1, 333, 1280)]


@pytest.mark.parametrize(("b", "t", "k"), NORMED)
def test_layer_norm_of_many_rows(kernels: Kernels, b: int, t: int, k: int) -> None:
    x, gamma, beta = normal(b, t, k), 1 + normal(k, seed=2) / 4, normal(k, seed=3)
    ours = kernels.run("layer_norm", x, gamma, beta)
    assert_close(ours, layer_norm(x, gamma, beta))
    assert np.array_equal(kernels.run("layer_norm", x[:, -1:], gamma, beta), ours[:, -1:])


@pytest.mark.parametrize(("t", "n_mels"), [(1, 80), (50, 7), (170, 80), (99, 128)])
def test_log_mel_is_normalised_up_to_its_windows_frames(
    kernels: Kernels, t: int, n_mels: int
) -> None:
    n_frames = np.array([0, 1, t // 2, t - 1, t], np.int32)
    x = 6 * normal(len(n_frames), t, n_mels)
    tops = x.max((1, 2)) + np.array([0, 0, 3, 9, 0.5], np.float32)
    exact = (np.maximum(x, (tops - np.float32(8))[:, None, None]) + np.float32(4)) / np.float32(4)
    exact[np.arange(t) >= n_frames[:, None]] = 0
    assert np.array_equal(kernels.run("normalise", x, tops, n_frames), exact)


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("b", "d", "n"), [(1, 1, 1), (3, 80, 33), (2, 128, 64)])
def test_convolutions(kernels: Kernels, dtype: str, stride: int, b: int, d: int, n: int) -> None:
    x, w, bias = normal(b, FRAMES, d), weights(n, 3 * d, dtype), normal(n)
    ours = kernels.run(f"conv{stride}.{dtype}", x, w, bias, np.full(b, FRAMES))
    assert_close(ours, gelu(side_by_side(x, stride).astype(np.float64) @ w.T + bias))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("d", "n"), [(1, 1), (80, 33), (128, 64)])
def test_frames_past_the_audio_are_convolved_once(
    kernels: Kernels, stride: int, d: int, n: int
) -> None:
    name, w, bias = f"conv{stride}.float32", weights(n, 3 * d, "float32"), normal(n)
    n_frames = np.array(AUDIO_FRAMES)
    x = frames_of_audio(n_frames, FRAMES, d, stride)
    ours = kernels.run(name, x, w, bias, n_frames)
    assert np.array_equal(ours, kernels.run(name, x, w, bias, np.full(len(x), FRAMES)))
    for i, held in enumerate(n_frames):
        x[i, held + 5 :] = np.nan  # which nobody reads
        alone = kernels.run(name, x[i : i + 1], w, bias, n_frames[i : i + 1])
        assert np.array_equal(alone[0], ours[i])


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
@pytest.mark.parametrize("k", [16, 384])
def test_embedding_is_a_row_of_each_table(kernels: Kernels, dtype: str, k: int) -> None:
    w, table = weights(50, k, dtype), normal(9, k)
    tokens, positions = np.array([49, 0, 7], np.int32), np.array([0, 8, 3], np.int32)
    ours = kernels.run(f"embed.{dtype}", tokens, positions, w, table)
    assert np.array_equal(ours, w[tokens] + table[positions])


def mel_powers(samples: Array) -> Array:
    """Seven frames of each piece of samples [b, 1360], 160 apart, in float64."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 400, axis=1)
    power = np.abs(np.fft.rfft(frames[:, ::160] * np.hanning(401)[:-1])) ** 2
    return np.asarray(power @ BANDS)


@pytest.mark.parametrize("b", [1, 5, 9])  # a thread takes 40 frames, four at a time
def test_log_mel_is_that_of_numpys_fft(kernels: Kernels, b: int) -> None:
    loudness = np.logspace(0, -6, b, dtype=np.float32)[:, None]
    samples = normal(b, 1360) * loudness
    ours = kernels.run("log_mel", samples, FACTORS, BANDS)
    exact = np.log10(np.maximum(mel_powers(samples), 1e-10))
    assert ours.shape == (b, 7, 80)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("hertz", [0, 40, 997, 3000, 7990])
def test_the_log_mel_of_a_tone_rises_from_the_floor(kernels: Kernels, hertz: int) -> None:
    """What rounding puts beside the tone is a five-millionth of its amplitude at most."""
    samples = np.cos(2 * np.pi * hertz / 16000 * np.arange(1360))[None].astype(np.float32)
    ours = kernels.run("log_mel", samples, FACTORS, BANDS)
    exact = np.maximum(mel_powers(samples), 1e-10)
    loudest = np.sqrt(exact.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(
        10.0 ** (ours / 2.0) / loudest, np.sqrt(exact) / loudest, rtol=2e-6, atol=2e-7
    )


def test_the_log_mel_of_silence_is_the_floor(kernels: Kernels) -> None:
    ours = kernels.run("log_mel", np.zeros((2, 1360), np.float32), FACTORS, BANDS)
    assert np.array_equal(ours, np.full((2, 7, 80), -10, np.float32))


def test_a_frame_of_log_mel_never_depends_on_its_neighbours(kernels: Kernels) -> None:
    samples = normal(9, 1360)
    together = kernels.run("log_mel", samples, FACTORS, BANDS)
    for i in range(9):
        alone = kernels.run("log_mel", samples[i : i + 1], FACTORS, BANDS)
        assert np.array_equal(together[i], alone[0])
