"""Windows of files on their way into the encoder's slots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mwc.runtime.decoder import Decoder, Float32
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


def encode_window(decoder: Decoder, window: EncodedWindow) -> None:
    """Read and encode a window."""
    encode_read(decoder, [(window, read_window(window))])


def read_window(window: EncodedWindow, still_wanted: Sequence[int] = ()) -> Float32:
    """Its log-mel frames; those of its file from `still_wanted` on are kept at hand.

    Raises:
        AudioError: the file cannot be read a second time.
    """
    log_mel = window.features.window(window.seek, keep_from=min([window.seek, *still_wanted]))
    if window.ends_in_silence:
        log_mel[window.n_frames :] = LOG_MEL_FLOOR
    return log_mel


def encode_read(decoder: Decoder, read: Sequence[tuple[EncodedWindow, Float32]]) -> None:
    """Encode windows whose frames are read, in one call of the decoder; none if there are none."""
    if not read:
        return
    windows, log_mels = zip(*read, strict=True)
    decoder.encode(
        np.stack(log_mels),
        np.array([window.features.log_mel_max for window in windows], dtype=np.float32),
        np.array([_n_frames(window) for window in windows], dtype=np.int32),
        np.array([window.slot for window in windows], dtype=np.int32),
    )


def _n_frames(window: EncodedWindow) -> int:
    """Frames that the encoder takes for audio."""
    return WINDOW_FRAMES if window.ends_in_silence else window.n_frames
