"""The speech detector's kernels against numpy in float64: odd numbers of frames, states carried."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_graphs import Kernels
from numpy_vad import frames_of, numpy_vad
from tiny_model import speech_like

from mwc.compiler.graphs.vad import ON_CPU
from mwc.compiler.vad_weights import DETECTOR_RULES

Array = npt.NDArray[Any]

TOLERANCE = 2e-5
"""Of probabilities and hidden states: float32 sums over up to 432 terms, through six layers."""

CELL_TOLERANCE = 1e-5
"""Besides, relative to a cell, which adds up over the frames and has no bound."""


def stored() -> list[Array]:
    return [DETECTOR_RULES[f"vad.{name}"].read() for name in ON_CPU]


def run(kernels: Kernels, samples: Array, state: Array) -> tuple[Array, Array]:
    """Of one sequence."""
    count = np.array([len(samples)], np.int32)
    probabilities, after = kernels.run("speech", samples, state[None], count, *stored())
    return probabilities, after[0]


# Alone, fewer than a tile, a tile and some, a block and some, several blocks with a tail.
@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 8, 9, 23, 24, 25, 31, 32, 33, 75, 131])
def test_frames_are_numpys(kernels: Kernels, count: int) -> None:
    rng = np.random.default_rng(count)
    samples = (rng.standard_normal((count, 576)) * rng.choice([1e-4, 0.1, 1.0])).astype(np.float32)
    state = rng.standard_normal((2, 128)).astype(np.float32) / 2
    exact, exact_state = numpy_vad(samples, state)
    ours, our_state = run(kernels, samples, state)
    assert ours.shape == (count,)
    np.testing.assert_allclose(ours, exact, atol=TOLERANCE)
    np.testing.assert_allclose(our_state, exact_state, rtol=CELL_TOLERANCE, atol=TOLERANCE)


def test_speech_like_sound_is_numpys(kernels: Kernels) -> None:
    samples = frames_of(speech_like(20.0))
    zeros = np.zeros((2, 128), np.float32)
    exact, _ = numpy_vad(samples, zeros)
    ours, _ = run(kernels, samples, zeros)
    assert np.ptp(exact) > 0.01
    np.testing.assert_allclose(ours, exact, atol=TOLERANCE)


def test_pieces_give_the_same_bits_as_the_whole(kernels: Kernels) -> None:
    samples = frames_of(speech_like(6.0))
    state = np.zeros((2, 128), np.float32)
    whole, last = run(kernels, samples, state)
    parts, at = [], 0
    for size in (1, 2, 40, 3, 64, 1000):
        part, state = run(kernels, samples[at : at + size], state)
        parts.append(part)
        at += size
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(state, last)


@pytest.mark.parametrize("counts", [[75], [1, 500], [1, 1], [500, 1, 33, 2, 131]])
def test_sequences_are_numpys_and_as_each_alone(kernels: Kernels, counts: list[int]) -> None:
    rng = np.random.default_rng(len(counts))
    sequences = [frames_of(speech_like(0.032 * count, seed=count)) for count in counts]
    assert [len(samples) for samples in sequences] == counts
    states = rng.standard_normal((len(counts), 2, 128)).astype(np.float32) / 2
    inputs = np.concatenate(sequences), states, np.array(counts, np.int32)
    together, after = kernels.run("speech", *inputs, *stored())
    assert after.shape == states.shape
    ours = np.split(together, np.cumsum(counts)[:-1])
    for k, (samples, state) in enumerate(zip(sequences, states, strict=True)):
        exact, exact_state = numpy_vad(samples, state)
        np.testing.assert_allclose(ours[k], exact, atol=TOLERANCE)
        np.testing.assert_allclose(after[k], exact_state, rtol=CELL_TOLERANCE, atol=TOLERANCE)
        alone, alone_state = run(kernels, samples, state)
        assert np.array_equal(ours[k], alone)
        assert np.array_equal(after[k], alone_state)


def test_loud_gates_saturate_without_nan(kernels: Kernels) -> None:
    """Gates of thousands: exp overflows to infinity, and the sigmoid to 0 or 1."""
    weights = dict(zip(ON_CPU, stored(), strict=True))
    rng = np.random.default_rng(0)
    weights["lstm.bias"] = rng.standard_normal(512).astype(np.float32) * 3000
    samples, state = frames_of(speech_like(0.3)), np.zeros((1, 2, 128), np.float32)
    count = np.array([len(samples)], np.int32)
    probabilities, after = kernels.run("speech", samples, state, count, *weights.values())
    assert np.isfinite(probabilities).all()
    assert np.isfinite(after).all()
    assert np.abs(after[0, 0]).max() <= 1
