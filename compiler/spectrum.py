"""The factors of a short frame's DFT in two steps, as kernels/spectrum.mojo takes them.

J. W. Cooley and J. W. Tukey, "An Algorithm for the Machine Calculation of Complex Fourier Series",
Mathematics of Computation 19 (1965): a frame of 16 R samples takes R DFTs of 16 terms and 16 of R
terms, and no matrix with a row for each bin.
"""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LANES = 16
"""Numbers in a row, and terms of the second step."""


def factor_rows(n_fft: int) -> int:
    """Rows of `spectrum_factors`: of the window, of each k four, and of the second step 18."""
    terms = n_fft // LANES
    return terms + 4 * (terms // 2 + 1) + 2 * (LANES // 2 + 1)


def spectrum_factors(n_fft: int) -> Float32:
    """float32 [factor_rows, 16]: the window and the factors of both steps, in the kernel's order.

    The window is a periodic Hann's, as torch.stft has it from openai/whisper audio.py,
    `log_mel_spectrogram`.

    Args:
        n_fft: samples of a frame, 16 times 2 to 31.

    Raises:
        ValueError: it is none of these.
    """
    terms = n_fft // LANES
    if n_fft % LANES or not 2 <= terms <= 2 * LANES - 1:
        raise ValueError(f"n_fft is {n_fft}; the DFT in two steps takes 16 times 2 to 31 samples")
    k = np.arange(terms // 2 + 1)
    a, b, j = np.arange(terms // 2 + 1), np.arange(LANES // 2 + 1), np.arange(LANES)
    first = np.zeros((len(k), 2, LANES))
    first[:, :, : len(a)] = _turns(np.outer(k, a), terms)
    turns = _turns(np.outer(k, j), n_fft)
    second = _turns(np.outer(b, j), LANES) * [[1.0], [-1.0]]
    second[[0, -1]] /= 2  # these stand opposite themselves, and come twice
    rows = (hann(n_fft), first, turns, second)
    return np.concatenate([part.reshape(-1, LANES) for part in rows]).astype(np.float32)


def hann(n_fft: int) -> Float64:
    """float64 [n_fft]: a periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)


def _turns(products: npt.NDArray[np.int64], period: int) -> Float64:
    """[n, m] -> [n, 2, m]: real and imaginary parts of exp(-2 pi i products / period)."""
    angles = 2.0 * np.pi * (products % period) / period
    return np.stack([np.cos(angles), -np.sin(angles)], axis=1)
