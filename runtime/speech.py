"""The speech that was detected in a file: where it is, how much of a stretch is speech."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mwc.runtime.decoder import VAD_FRAME
from mwc.runtime.report import Range
from mwc.runtime.spec import HOP_LENGTH, SAMPLE_RATE
from mwc.runtime.transcript import Word
from mwc.runtime.vad import VadOptions, speech_segments

Clip = tuple[int, int]
"""Log-mel frames of 10 ms: the first one, and the one after the last."""

PAUSE = 0.3
"""Seconds of silence between stretches of speech that no word spans."""

SHORTEST_WORD = 0.02
"""Seconds: one step of the alignment."""

PLAIN = VadOptions(min_speech_duration_ms=250, min_silence_duration_ms=100, speech_pad_ms=30)
"""How speech is counted: Silero's own defaults (snakers4/silero-vad `utils_vad.py`,
`get_speech_timestamps`), which keep close to the sound."""


@dataclass(frozen=True)
class Speech:
    """What the detector heard in a file.

    Attributes:
        detector: its name and version.
        probabilities: float32, of speech in each VAD_FRAME samples, zeros after the last of them.
        n_samples: of the file, at 16 kHz.
    """

    detector: str
    probabilities: npt.NDArray[np.float32]
    n_samples: int

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """Seconds of speech, ascending and apart, by Silero's defaults."""
        found = speech_segments(self.probabilities, PLAIN, self.n_samples)
        return tuple((s.start / SAMPLE_RATE, s.end / SAMPLE_RATE) for s in found)

    def ranges_in(self, clips: Iterable[Clip]) -> list[Range]:
        """The part of `ranges` that lies in clips."""
        rate = SAMPLE_RATE // HOP_LENGTH
        cut = [
            (max(start, first / rate), min(end, last / rate))
            for first, last in clips
            for start, end in self.ranges
        ]
        return [(start, end) for start, end in cut if start < end]

    def clips(self, options: VadOptions) -> list[Clip]:
        """Stretches of speech in log-mel frames, ascending and apart."""
        found = speech_segments(self.probabilities, options, self.n_samples)
        return [(s.start // HOP_LENGTH, -(-s.end // HOP_LENGTH)) for s in found]

    def keep(self, word: Word) -> Word:
        """Cut a word's times to the stretch of speech in which most of it lies.

        Alignment lets a word beside a pause begin or end in the pause, or in what was said on the
        other side of it. A word of which hardly anything was detected is left as it is.
        """
        first = bisect_left(self._stretches, word.start, key=lambda stretch: stretch[1])
        best, start, end = 0.0, word.start, word.end
        for stretch in self._stretches[first:]:
            if stretch[0] >= word.end:
                break
            cut = max(word.start, stretch[0]), min(word.end, stretch[1])
            if cut[1] - cut[0] > best:
                best, (start, end) = cut[1] - cut[0], cut
        return replace(word, start=start, end=end) if best >= SHORTEST_WORD else word

    @cached_property
    def _stretches(self) -> list[Range]:
        """Speech without anything added around it, with the silences shorter than PAUSE in it."""
        bare = replace(PLAIN, speech_pad_ms=0)
        found = speech_segments(self.probabilities, bare, self.n_samples)
        stretches: list[Range] = []
        for start, end in ((s.start / SAMPLE_RATE, s.end / SAMPLE_RATE) for s in found):
            if stretches and start - stretches[-1][1] < PAUSE:
                stretches[-1] = (stretches[-1][0], end)
            else:
                stretches.append((start, end))
        return stretches

    def share(self, start: float, end: float) -> float:
        """How much of the time from a second to another is speech, 0 to 1; 0 of no time."""
        first, last = (round(time * SAMPLE_RATE / VAD_FRAME) for time in (start, end))
        last = min(last, len(self.probabilities))
        if last <= first:
            return 0.0
        return float(self._running[last] - self._running[first]) / (last - first)

    def seconds(self, start: float, end: float) -> float:
        """Seconds of speech from one second to another."""
        return self.share(start, end) * (end - start)

    @cached_property
    def _running(self) -> npt.NDArray[np.int64]:
        """Frames of speech before each frame."""
        is_speech = np.zeros(len(self.probabilities), np.int64)
        for start, end in self.ranges:
            first, last = (round(time * SAMPLE_RATE / VAD_FRAME) for time in (start, end))
            is_speech[first:last] = 1
        return np.concatenate([[0], np.cumsum(is_speech)])
