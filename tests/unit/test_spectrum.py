"""The factors of a DFT in two steps: put together again by numpy they are the whole DFT."""

import numpy as np
import pytest

from mwc.compiler.spectrum import LANES, factor_rows, spectrum_factors
from mwc.compiler.vad_weights import FFT, installed_detector


def spectrum(frame: np.ndarray) -> np.ndarray:
    """Bins 0 to n / 2 of a frame, in float64, by the steps of kernels/spectrum.mojo."""
    terms = len(frame) // LANES
    ks, bs = terms // 2 + 1, LANES // 2 + 1
    rows = spectrum_factors(len(frame)).astype(np.float64)
    window, first, turns, second = np.split(rows, np.cumsum([terms, 2 * ks, 2 * ks]))
    x = (frame * window.reshape(-1)).reshape(terms, LANES)
    cosines, sines = first.reshape(ks, 2, LANES)[:, :, :ks].transpose(1, 0, 2)
    folded = np.zeros((2, ks, LANES))
    for a in range(ks):
        alone = a in (0, terms - a)
        folded[:, a] = [x[a], 0 * x[a]] if alone else [x[a] + x[-a], x[a] - x[-a]]
    turned = (cosines @ folded[0] + 1j * (sines @ folded[1])) * (turns[::2] + 1j * turns[1::2])
    opposite = turned[:, -np.arange(bs) % LANES]
    sums, differences = turned[:, :bs] + opposite, turned[:, :bs] - opposite
    even, odd = second.reshape(bs, 2, LANES).transpose(1, 0, 2)
    bins = sums @ even - 1j * (differences @ odd)  # [k, j] is bin k + terms * j
    return place(bins, terms)


def place(bins: np.ndarray, terms: int) -> np.ndarray:
    """[k, j] in the order of the bins; those with k above terms / 2 are mirrored."""
    found = []
    for bin in range(terms * LANES // 2 + 1):
        k, j = bin % terms, bin // terms
        found.append(bins[k, j] if k <= terms // 2 else bins[terms - k, LANES - 1 - j].conj())
    return np.array(found)


@pytest.mark.parametrize("n_fft", [32, 48, 256, 400, 496])
def test_two_steps_are_the_whole_dft_under_a_hann_window(n_fft: int) -> None:
    frame = np.random.default_rng(n_fft).standard_normal(n_fft)
    exact = np.fft.rfft(frame * np.hanning(n_fft + 1)[:-1])
    np.testing.assert_allclose(spectrum(frame), exact, rtol=0, atol=2e-6)
    assert spectrum_factors(n_fft).shape == (factor_rows(n_fft), LANES)


@pytest.mark.parametrize("n_fft", [0, 16, 401, 512])
def test_other_lengths_are_refused(n_fft: int) -> None:
    with pytest.raises(ValueError, match=f"n_fft is {n_fft}; the DFT in two steps takes"):
        spectrum_factors(n_fft)


def test_the_speech_detectors_spectrum_is_that_dft() -> None:
    """Silero's matrix is the DFT under a Hann window, to the last bits of float32."""
    real, imaginary = installed_detector().tensors["stft.forward_basis_buffer"].reshape(2, 129, FFT)
    for sample in range(FFT):
        ours = spectrum(np.eye(FFT)[sample])
        np.testing.assert_allclose(ours.real, real[:, sample], rtol=0, atol=2e-7)
        np.testing.assert_allclose(ours.imag, imaginary[:, sample], rtol=0, atol=2e-7)
