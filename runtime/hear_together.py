"""Log-mel frames and speech of files that are heard at the same time, by the same calls.

For a GPU a call is a round trip, and the speech detector's LSTM keeps one of its multiprocessors
busy for each file. So what several threads ask for while another call runs goes into one.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from mwc.runtime.decoder import Decoder, Float32
from mwc.runtime.together import Together
from mwc.runtime.turns import Turns


class HearTogether:
    """What a file is read with (`Hearing`), for any number of threads, over one decoder."""

    def __init__(self, decoder: Decoder, turns: Turns) -> None:
        """Call the decoder in turns with others."""
        self._decoder = decoder
        self._log_mel = Together(turns, self._log_mel_of, decoder.heard_together)
        self._vad = Together(turns, self._vad_of, decoder.heard_together)
        self._room = np.empty(0, np.float32)

    def log_mel(self, samples: Float32) -> Float32:
        """Raw log10-mel frames of a file; see `Hearing.log_mel`."""
        frames, first = self._log_mel(samples)
        if len(frames) == len(samples):
            return frames
        # Kept on their own: a file's frames may stay for long, and others' must not with them.
        return frames[first : first + len(samples)].copy()

    def vad(self, samples: Float32, state: Float32) -> tuple[Float32, Float32]:
        """How likely frames of a file hold speech; see `Hearing.vad`."""
        return self._vad((samples, state))

    def _log_mel_of(self, asked: Sequence[Float32]) -> list[tuple[Float32, int]]:
        """The frames of everybody's pieces, and each one's first piece among them."""
        frames = self._decoder.log_mel(self._joined(asked))
        firsts = accumulate((len(samples) for samples in asked), initial=0)
        return [(frames, first) for _, first in zip(asked, firsts, strict=False)]

    def _vad_of(self, asked: Sequence[tuple[Float32, Float32]]) -> list[tuple[Float32, Float32]]:
        """Each one's probabilities and state."""
        counts = [len(samples) for samples, _ in asked]
        probabilities, states = self._decoder.vad(
            self._joined([samples for samples, _ in asked]),
            np.stack([state for _, state in asked]),
            np.array(counts, np.int32),
        )
        ends = list(accumulate(counts))
        own = [probabilities[end - count : end] for end, count in zip(ends, counts, strict=True)]
        return list(zip(own, states, strict=True))

    def _joined(self, parts: Sequence[Float32]) -> Float32:
        """Rows one after the other, where those of the last call were; one part as it is."""
        if len(parts) == 1:
            return parts[0]
        n_rows, width = sum(len(part) for part in parts), parts[0].shape[1]
        if self._room.size < n_rows * width:
            self._room = np.empty(n_rows * width, np.float32)
        joined = self._room[: n_rows * width].reshape(n_rows, width)
        return np.concatenate(parts, out=joined)
