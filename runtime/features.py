"""One file's log-mel frames: its length and maximum first, then any 30 s window of it.

The numbers are those of openai/whisper's `transcribe`, which computes
`log_mel_spectrogram(audio, padding=N_SAMPLES)` over the whole file: the samples reflected at the
start, 30 s of zeros after the end, and one maximum for the whole file (`whisper/audio.py`,
`whisper/transcribe.py`). Here the mel itself is computed by the compiled graph, 10 s at a time, so
the file is never in memory as a whole: its samples pass through a buffer, and its frames are kept
only up to `keep_seconds`; beyond, the audio is read a second time as the windows move forward.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import numpy as np
import numpy.typing as npt

from mwc.runtime.audio import AudioSource
from mwc.runtime.decoder import PIECE_FRAMES, PIECE_SAMPLES
from mwc.runtime.errors import AudioError
from mwc.runtime.progress import Progress, ProgressEvent, silent
from mwc.runtime.spec import HOP_LENGTH, SAMPLE_RATE

Float32 = npt.NDArray[np.float32]

LogMel = Callable[[Float32], Float32]
"""Raw log10 mel of pieces: float32 [pieces, 160240] -> [pieces, 1000, n_mels]."""

Listener = Callable[[Float32], None]
"""What is given blocks of samples, float32 [n], as they are read."""

HALF_FFT = 200
"""Samples that a frame reaches back from its hop: torch.stft centres its 400-sample frames."""

WINDOW_FRAMES = 3000
"""30 s, the encoder's input (`AudioSpec.n_frames`)."""

PIECE_HOP = PIECE_FRAMES * HOP_LENGTH
"""Samples from one piece to the next: 10 s; pieces overlap by the 240 that frames share."""

PIECES_PER_CALL = 3
"""Pieces computed in one call of log_mel while more audio follows: one window."""

OVERLAP = PIECE_SAMPLES - PIECE_HOP
"""Samples that a piece shares with the next one."""

CALL_SAMPLES = PIECES_PER_CALL * PIECE_HOP + OVERLAP
"""Samples that so many pieces take."""

LOG_MEL_FLOOR = -10.0
"""log10 of 1e-10, where openai/whisper clamps the mel spectrum: what digital silence gives."""


class LogMelPieces:
    """The pieces of one reading, in order: an iterator of float32 [1000, n_mels].

    Piece k covers frames 1000k to 1000k + 999, that is samples 160000k - 200 to 160000k + 160040:
    reflected before the start (x[200] .. x[1]), zero past the end. The last piece is the last one
    with a frame that touches audio.

    Attributes:
        n_samples: samples read so far; all of them once the iterator is exhausted.
    """

    def __init__(self, blocks: Iterator[Float32], log_mel: LogMel) -> None:
        self.n_samples = 0
        self._blocks = blocks
        self._log_mel = log_mel
        # A piece in each row: a hop's samples as they come, then those that the next piece has too.
        # The reflection before the first one is filled in when there is what it reflects.
        self._samples = np.empty((PIECES_PER_CALL + 1, PIECE_SAMPLES), np.float32)
        self._filled = HALF_FFT
        self._at_start = True

    def __iter__(self) -> Iterator[Float32]:
        for block in self._blocks:
            self.n_samples += len(block)
            taken = 0
            while taken < len(block):
                taken += self._fill(block[taken:])
                if self._filled == CALL_SAMPLES:
                    yield from self._compute(PIECES_PER_CALL)
                    self._keep_overlap()
        if self.n_samples:
            self._end_in_zeros()
            yield from self._compute(self._n_last_pieces())

    def _fill(self, samples: Float32) -> int:
        """Take as many of the next samples as their piece has room for; return how many."""
        k, start = divmod(self._filled, PIECE_HOP)
        end = PIECE_HOP if k < PIECES_PER_CALL else OVERLAP
        part = samples[: end - start]
        self._samples[k, start : start + len(part)] = part
        self._filled += len(part)
        return len(part)

    def _n_last_pieces(self) -> int:
        """How many pieces the samples need that are there, so that each touches some of them."""
        n_frames = -(-self._filled // HOP_LENGTH)
        return -(-n_frames // PIECE_FRAMES)

    def _end_in_zeros(self) -> None:
        """Have zeros after the last sample, as far as the last piece or its neighbour reaches."""
        k, start = divmod(self._filled, PIECE_HOP)
        self._samples[k, start:] = 0.0

    def _keep_overlap(self) -> None:
        """Go on with what the next piece shares with the last one."""
        self._samples[0, :OVERLAP] = self._samples[PIECES_PER_CALL, :OVERLAP]
        self._filled = OVERLAP

    def _compute(self, n_pieces: int) -> Iterator[Float32]:
        """Give each piece what it shares with the next one, and give the frames of all."""
        if self._at_start:
            self._samples[0, :HALF_FFT] = self._samples[0, 2 * HALF_FFT : HALF_FFT : -1]
            self._at_start = False
        for k in range(self._filled // PIECE_HOP):
            self._samples[k, PIECE_HOP:] = self._samples[k + 1, :OVERLAP]
        yield from self._log_mel(self._samples[:n_pieces])


class Features:
    """The log-mel frames of one source, by window; see the module's docstring.

    Making one reads the source through once. Afterwards windows may be asked for in any order;
    going back in a file longer than `keep_seconds` starts another reading, which is slow.

    Attributes:
        name: the source's.
        n_samples: 16 kHz samples in the source.
        n_frames: frames that hold audio: n_samples // 160, as openai/whisper counts them.
        duration: seconds, n_samples / 16000.
        log_mel_max: the largest raw log10 mel of the whole padded file; this minus 8 is the floor.
        warnings: one sentence for each thing that was wrong with the source but not fatal.
    """

    def __init__(
        self,
        source: AudioSource,
        log_mel: LogMel,
        n_mels: int,
        *,
        keep_seconds: float = 1800.0,
        progress: Progress = silent,
        listener: Listener = lambda block: None,
    ) -> None:
        """Read the source once for its length and maximum.

        Args:
            source: the audio.
            log_mel: float32 [pieces, 160240] -> [pieces, 1000, n_mels], raw log10 mel, pieces free.
            n_mels: mel bins, 80 or 128.
            keep_seconds: keep the frames of files up to this long (1800 s of 80 mels: 58 MB).
            progress: told the seconds read, stage "read audio".
            listener: given each block of samples of this first reading.

        Raises:
            AudioError: the source cannot be read, or has no samples.
        """
        self.name = source.name
        self._source = source
        self._log_mel = log_mel
        self._n_mels = n_mels
        self._pieces: dict[int, Float32] = {}
        self._reading: _Reading | None = None
        self.log_mel_max = LOG_MEL_FLOOR
        complete = True
        with closing(_Reading(source, log_mel, listener)) as reading:
            for k, piece in reading.pieces:
                self.log_mel_max = max(self.log_mel_max, float(piece.max()))
                complete = complete and reading.n_samples <= keep_seconds * SAMPLE_RATE
                if complete:
                    self._pieces[k] = piece
                else:
                    self._pieces.clear()
                seconds = reading.n_samples / SAMPLE_RATE
                progress(ProgressEvent("read audio", seconds, source.duration_hint, "seconds"))
        if reading.n_samples == 0:
            raise AudioError(f"{source.name} has less audio than one sample at 16 kHz; give more")
        self._complete = complete
        self.warnings = tuple(source.warnings)
        self.n_samples = reading.n_samples
        self.n_frames = self.n_samples // HOP_LENGTH
        self.duration = self.n_samples / SAMPLE_RATE

    def close(self) -> None:
        """Let go of a reading under way, and what is kept of it; a window begins another."""
        reading, self._reading = self._reading, None
        if reading is not None:
            self._pieces.clear()
            reading.close()

    def window(
        self, seek: int, *, keep_from: int | None = None, into: Float32 | None = None
    ) -> Float32:
        """Frames seek to seek + 2999, raw log10 mel: float32 [3000, n_mels].

        Args:
            seek: the first frame.
            keep_from: the first frame that will still be asked for, up to `seek`; None for `seek`.
            into: float32 [3000, n_mels] to hold them, which is returned; None for a new array.

        Frames from `n_frames` on hold -10.0, the value of silence, but for the first that still
        touch audio. To transcribe, openai/whisper replaces all of them by a normalised 0.0, which
        the encoder graph does, which is told how many hold audio; to detect a language, it hears
        them.

        Raises:
            ValueError: seek is negative.
            AudioError: the source gives less audio than it did at first.
        """
        if seek < 0:
            raise ValueError(f"seek is {seek}; it counts frames from the start, 0 or more")
        window = np.empty((WINDOW_FRAMES, self._n_mels), np.float32) if into is None else into
        n_touching = -(-(self.n_samples + HALF_FFT) // HOP_LENGTH)
        end = max(seek, min(seek + WINDOW_FRAMES, n_touching))
        window[end - seek :] = LOG_MEL_FLOOR
        if end == seek:
            return window
        first, last = seek // PIECE_FRAMES, (end - 1) // PIECE_FRAMES
        if not self._complete:
            self._slide(first, last, first if keep_from is None else keep_from // PIECE_FRAMES)
        for k in range(first, last + 1):
            start, stop = max(seek, k * PIECE_FRAMES), min(end, (k + 1) * PIECE_FRAMES)
            part = self._pieces[k][start - k * PIECE_FRAMES : stop - k * PIECE_FRAMES]
            window[start - seek : stop - seek] = part
        return window

    def _slide(self, first: int, last: int, kept: int) -> None:
        """Hold pieces first to last and back to `kept`; read on, or anew if they have passed."""
        reading = self._reading
        if reading is None or (self._pieces and first < min(self._pieces)):
            self.close()
            self._reading = reading = _Reading(self._source, self._log_mel)
        kept = min(kept, first)
        for k in [k for k in self._pieces if k < kept]:
            del self._pieces[k]
        while last not in self._pieces:
            k, piece = next(reading.pieces, (-1, None))
            if piece is None:
                raise AudioError(
                    f"{self._source.name} gives less audio than when it was first read; "
                    "leave the file as it is while it is transcribed"
                )
            if k >= kept:
                self._pieces[k] = piece


class _Reading:
    """One reading of a source.

    Attributes:
        pieces: (number, frames) of each piece, in order.
    """

    def __init__(
        self, source: AudioSource, log_mel: LogMel, listener: Listener = lambda block: None
    ) -> None:
        self._blocks = source.blocks()
        self._reader = LogMelPieces(_heard_by(listener, self._blocks), log_mel)
        self.pieces = enumerate(self._reader)

    @property
    def n_samples(self) -> int:
        """Samples read so far."""
        return self._reader.n_samples

    def close(self) -> None:
        """End it: what reads ahead of it stops, and a file is closed."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            # Where another thread is in it, for a call that has just ended, it ends with that.
            with suppress(ValueError):
                close()


def _heard_by(listener: Listener, blocks: Iterator[Float32]) -> Iterator[Float32]:
    for block in blocks:
        listener(block)
        yield block
