"""The constants of the log-mel front end: a windowed DFT and the mel filter bank.

openai/whisper takes the filters from librosa (`whisper/assets/mel_filters.npz`, made by
`librosa.filters.mel(sr=16000, n_fft=400, n_mels=80|128)`); here they are computed from the
definition of the Slaney mel scale (M. Slaney, Auditory Toolbox, 1998), in float64.
"""

import numpy as np
import numpy.typing as npt

from mwc.compiler.spectrum import hann
from mwc.runtime.spec import AudioSpec

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LINEAR_HZ_PER_MEL = 200.0 / 3.0
"""Slaney's scale is linear up to 1 kHz …"""
LOG_START_HZ = 1000.0
LOG_STEP = np.log(6.4) / 27.0
"""… and logarithmic above: 27 mels per factor of 6.4."""


def windowed_dft(audio: AudioSpec) -> Float32:
    """float32 [2 * (n_fft // 2 + 1), n_fft]: real parts, then imaginary parts, of each bin.

    This matrix times a frame is the DFT of the frame under a periodic Hann window, as torch.stft.
    """
    n = np.arange(audio.n_fft)
    bins = np.arange(audio.n_fft // 2 + 1)
    window = hann(audio.n_fft)
    angle = 2.0 * np.pi * (np.outer(bins, n) % audio.n_fft) / audio.n_fft
    real = np.cos(angle) * window
    imaginary = -np.sin(angle) * window
    return np.concatenate([real, imaginary]).astype(np.float32)


def mel_filters(audio: AudioSpec, n_mels: int) -> Float32:
    """float32 [n_mels, n_fft // 2 + 1]: triangular filters of equal area (Slaney normalisation)."""
    frequencies = np.linspace(0.0, audio.sample_rate / 2.0, audio.n_fft // 2 + 1)
    top = _hz_to_mel(np.array(audio.sample_rate / 2.0))
    edges = _mel_to_hz(np.linspace(0.0, float(top), n_mels + 2))
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    area = 2.0 / (edges[2:] - edges[:-2])
    return np.ascontiguousarray((triangles * area).T, np.float32)


def mel_bands(audio: AudioSpec, n_mels: int) -> Float32:
    """float32 [n_fft // 2 + 1, n_mels]: the filters as kernels/log_mel.mojo reads them."""
    return np.ascontiguousarray(mel_filters(audio, n_mels).T)


def _hz_to_mel(hz: Float64) -> Float64:
    linear = hz / LINEAR_HZ_PER_MEL
    start = LOG_START_HZ / LINEAR_HZ_PER_MEL
    return np.where(hz < LOG_START_HZ, linear, start + np.log(hz / LOG_START_HZ) / LOG_STEP)


def _mel_to_hz(mel: Float64) -> Float64:
    start = LOG_START_HZ / LINEAR_HZ_PER_MEL
    above = LOG_START_HZ * np.exp(LOG_STEP * (mel - start))
    return np.where(mel < start, mel * LINEAR_HZ_PER_MEL, above)
