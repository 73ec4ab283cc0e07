"""Windows of files on their way into the encoder's slots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mwc.runtime.decoder import Decoder
from mwc.runtime.features import LOG_MEL_FLOOR, WINDOW_FRAMES, Features


@dataclass(frozen=True)
class EncodedWindow:
    """What a window slot is to hold: `n_frames` frames of a file from frame `seek` on.

    What follows them in the window is as at the end of a file in openai/whisper, 0.0 after
    normalising; or silence, where the file was cut in one: with that a model knows that the text
    ends there.
    """

    slot: int
    features: Features
    seek: int
    n_frames: int
    ends_in_silence: bool = False


class EncodingBatch:
    """Windows that are read one after the other and encoded in one call of the decoder."""

    def __init__(self, decoder: Decoder, most: int) -> None:
        """Have room for `most` windows."""
        self._decoder = decoder
        self._log_mels = np.empty((most, WINDOW_FRAMES, decoder.spec.model.n_mels), np.float32)
        self._windows: list[EncodedWindow] = []

    def read(self, window: EncodedWindow, still_wanted: Sequence[int] = ()) -> None:
        """Take a window's log-mel frames; those of its file from `still_wanted` on stay at hand.

        Raises:
            AudioError: the file cannot be read a second time; the window is not among the others.
        """
        log_mel = self._log_mels[len(self._windows)]
        keep_from = min([window.seek, *still_wanted])
        window.features.window(window.seek, keep_from=keep_from, into=log_mel)
        if window.ends_in_silence:
            log_mel[window.n_frames :] = LOG_MEL_FLOOR
        self._windows.append(window)

    def encode(self) -> None:
        """Encode what was read, if anything was."""
        windows = self._windows
        if not windows:
            return
        self._decoder.encode(
            self._log_mels[: len(windows)],
            np.array([window.features.log_mel_max for window in windows], dtype=np.float32),
            np.array([_n_frames(window) for window in windows], dtype=np.int32),
            np.array([window.slot for window in windows], dtype=np.int32),
        )


def encode_window(decoder: Decoder, window: EncodedWindow) -> None:
    """Read and encode a window."""
    batch = EncodingBatch(decoder, 1)
    batch.read(window)
    batch.encode()


def _n_frames(window: EncodedWindow) -> int:
    """Frames that the encoder takes for audio."""
    return WINDOW_FRAMES if window.ends_in_silence else window.n_frames
