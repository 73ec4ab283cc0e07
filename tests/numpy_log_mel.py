"""The log-mel graph's job in numpy, for tests without MAX."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mwc.compiler.reference_numpy import mel_filters
from mwc.runtime.spec import AudioSpec

Float32 = npt.NDArray[np.float32]


def numpy_log_mel(n_mels: int) -> Callable[[Float32], Float32]:
    """A function float32 [pieces, 160240] -> [pieces, 1000, n_mels], raw log10 mel."""
    audio = AudioSpec()
    filters = mel_filters(n_mels, audio)
    hann = np.hanning(audio.n_fft + 1)[:-1]

    def log_mel(samples: Float32) -> Float32:
        frames = np.lib.stride_tricks.sliding_window_view(samples, audio.n_fft, axis=1)
        power = np.abs(np.fft.rfft(frames[:, :: audio.hop_length] * hann)) ** 2
        return np.log10(np.maximum(power @ filters, 1e-10)).astype(np.float32)

    return log_mel
