"""Where a file holds speech: probabilities of its frames, and the segments they make.

The probabilities are Silero VAD's, from the compiled graph, 32 ms each. Segments follow the rules
of Silero's `get_speech_timestamps` (snakers4/silero-vad, utils_vad.py) as faster-whisper has them
(SYSTRAN/faster-whisper, vad.py), with faster-whisper's names and defaults: few, long segments that
hardly ever lose a word. Where speech has to be cut for length, that is at the start of the last
long enough silence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mwc.runtime.decoder import VAD_CONTEXT, VAD_FRAME, VAD_STATE_SHAPE
from mwc.runtime.errors import OptionError
from mwc.runtime.spec import SAMPLE_RATE

Float32 = npt.NDArray[np.float32]

Vad = Callable[[Float32, Float32], tuple[Float32, Float32]]
"""`Hearing.vad`: float32 [frames, 576] and state [2, 128] -> probabilities [frames] and state."""

FRAMES_PER_CALL = 1024
"""Frames computed in one call while more audio follows: 33 s, so that a window's are one call."""

CUT_SILENCE_MS = 98
"""A silence longer than this may cut speech that is too long (both sources' constant)."""

NEG_THRESHOLD_BELOW, NEG_THRESHOLD_MIN = 0.15, 0.01
"""Without `neg_threshold`: this far below `threshold`, but never lower (both sources)."""


@dataclass(frozen=True)
class VadOptions:
    """How probabilities become segments.

    Attributes:
        threshold: speech begins with a frame at least this probable; above 0, at most 1.
        neg_threshold: speech ends only below this; None for 0.15 less than `threshold`, but 0.01
            at least.
        min_speech_duration_ms: segments no longer than this are dropped.
        max_speech_duration_s: longer speech is cut; padding counts. More than twice the padding
            and a frame of 32 ms.
        min_silence_duration_ms: shorter silences do not end a segment.
        speech_pad_ms: what is added before and after each segment; neighbours share a gap that is
            too short for both.

    Raises:
        OptionError: a value is not allowed.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration_ms: float = 0
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: float = 2000
    speech_pad_ms: float = 400

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value is None and field.name == "neg_threshold"):
                _check_number(field.name, value)
        if not 0 < self.threshold <= 1:
            raise OptionError(
                f"threshold is {self.threshold!r}; it takes a probability above 0, up to 1."
            )
        if self.neg_threshold is not None and not 0 <= self.neg_threshold <= self.threshold:
            raise OptionError(
                f"neg_threshold is {self.neg_threshold!r}; it takes a probability from 0 to the "
                f"threshold, {self.threshold!r}, or None."
            )
        for name in ("min_speech_duration_ms", "min_silence_duration_ms", "speech_pad_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} is {getattr(self, name)!r}; it takes 0 ms or more.")
        if not self.max_speech_samples > 0:
            least = 2 * self.speech_pad_ms / 1000 + VAD_FRAME / SAMPLE_RATE
            raise OptionError(
                f"max_speech_duration_s is {self.max_speech_duration_s!r}; it must be more than "
                f"{least:g} s, twice speech_pad_ms and a frame of 32 ms."
            )

    @classmethod
    def read(cls, parameters: "VadOptions | Mapping[str, Any] | None") -> "VadOptions":
        """Options from a dictionary of their names, as faster-whisper's `vad_parameters`.

        Raises:
            OptionError: a name is unknown, or a value is not allowed.
        """
        if isinstance(parameters, VadOptions):
            return parameters
        if parameters is None:
            return cls()
        names = [field.name for field in fields(cls)]
        if not isinstance(parameters, Mapping):
            raise OptionError(
                f"vad_parameters is {parameters!r}; it takes a dictionary of {', '.join(names)}."
            )
        unknown = [str(name) for name in parameters if name not in names]
        if unknown:
            raise OptionError(
                f"vad_parameters has no {', '.join(unknown)}; it takes {', '.join(names)}."
            )
        return cls(**parameters)

    @property
    def end_threshold(self) -> float:
        """The probability below which speech ends: `neg_threshold`, or what None stands for."""
        if self.neg_threshold is not None:
            return self.neg_threshold
        return max(self.threshold - NEG_THRESHOLD_BELOW, NEG_THRESHOLD_MIN)

    @property
    def max_speech_samples(self) -> float:
        """Samples of speech without padding after which it is cut."""
        padding = 2 * _samples(self.speech_pad_ms)
        return SAMPLE_RATE * self.max_speech_duration_s - VAD_FRAME - padding


@dataclass(frozen=True)
class SpeechSegment:
    """Samples `start` to `end` (without the last) at 16 kHz, which hold speech."""

    start: int
    end: int


class SpeechDetector:
    """The probabilities of one file, which is fed in blocks of any size.

    Nothing of the audio is kept but a buffer of 33 s.

        detector = SpeechDetector(engine.vad)
        for block in source.blocks():
            detector.add(block)
        probabilities = detector.finish()

    Attributes:
        n_samples: samples added so far.
    """

    def __init__(self, vad: Vad) -> None:
        self.n_samples = 0
        self._vad = vad
        self._state = np.zeros(VAD_STATE_SHAPE, np.float32)
        self._probabilities: list[Float32] = []
        # Each frame stands where it is read, behind its context: samples of the frame before it;
        # before the first one they are zeros, as in Silero's own wrapper.
        self._frames = np.zeros((FRAMES_PER_CALL, VAD_CONTEXT + VAD_FRAME), np.float32)
        self._filled = 0

    def add(self, block: Float32) -> None:
        """Take the next samples: float32 [n], mono, 16 kHz, in [-1, 1]."""
        self.n_samples += len(block)
        taken = 0
        while taken < len(block):
            taken += self._fill(block[taken:])
            if self._filled == FRAMES_PER_CALL * VAD_FRAME:
                self._compute(FRAMES_PER_CALL)

    def finish(self) -> Float32:
        """Probabilities of speech: float32 [ceil(n_samples / 512)], the last frame zero-padded."""
        n_frames, start = divmod(self._filled, VAD_FRAME)
        if start:
            self._frames[n_frames, VAD_CONTEXT + start :] = 0.0
            n_frames += 1
        if n_frames:
            self._compute(n_frames)
        return np.concatenate([np.zeros(0, np.float32), *self._probabilities])

    def _fill(self, samples: Float32) -> int:
        """Take whole frames as far as there is room, or some of one; return how many samples."""
        first, start = divmod(self._filled, VAD_FRAME)
        n_whole = 0 if start else min(len(samples) // VAD_FRAME, FRAMES_PER_CALL - first)
        if n_whole:
            part = samples[: n_whole * VAD_FRAME]
            self._frames[first : first + n_whole, VAD_CONTEXT:] = part.reshape(n_whole, VAD_FRAME)
        else:
            part = samples[: VAD_FRAME - start]
            at = VAD_CONTEXT + start
            self._frames[first, at : at + len(part)] = part
        self._filled += len(part)
        return len(part)

    def _compute(self, n_frames: int) -> None:
        """Run the first frames; the last samples are the context of what follows."""
        frames = self._frames[:n_frames]
        frames[1:, :VAD_CONTEXT] = frames[:-1, -VAD_CONTEXT:]
        probabilities, self._state = self._vad(frames, self._state)
        self._probabilities.append(probabilities)
        self._frames[0, :VAD_CONTEXT] = frames[-1, -VAD_CONTEXT:]
        self._filled = 0


def speech_segments(
    probabilities: Float32 | Sequence[float], options: VadOptions, n_samples: int
) -> tuple[SpeechSegment, ...]:
    """Find the segments of speech, in order, without overlap.

    Args:
        probabilities: one for each 512 samples, as `SpeechDetector.finish` gives them.
        options: the rules.
        n_samples: samples in the file; nothing reaches beyond.

    Raises:
        ValueError: there is not one probability for each 512 samples.
    """
    if len(probabilities) != -(-n_samples // VAD_FRAME):
        raise ValueError(f"{len(probabilities)} probabilities do not fit {n_samples} samples")
    finder = _SegmentFinder(options)
    values = np.asarray(probabilities, np.float64)
    heard = _frames_that_matter(values, options)
    for i, probability in zip(heard.tolist(), values[heard].tolist(), strict=True):
        finder.add(i * VAD_FRAME, probability)
    return _padded(finder.finish(n_samples), _samples(options.speech_pad_ms), n_samples)


def _frames_that_matter(
    probabilities: npt.NDArray[np.float64], options: VadOptions
) -> npt.NDArray[np.intp]:
    """The frames that can change anything, in order.

    Where speech is not cut for its length, these are the first of each run of speech and all of
    silence.
    """
    if options.max_speech_samples < math.inf:
        return np.arange(len(probabilities))
    speech = probabilities >= options.threshold
    first = speech.copy()
    first[1:] &= ~speech[:-1]
    return np.flatnonzero(first | (probabilities < options.end_threshold))


class _SegmentFinder:
    """Hysteresis over probabilities; all places are samples."""

    def __init__(self, options: VadOptions) -> None:
        self._options = options
        self._end_threshold = options.end_threshold
        self._max_speech = options.max_speech_samples
        self._min_speech = _samples(options.min_speech_duration_ms)
        self._min_silence = _samples(options.min_silence_duration_ms)
        self._cut_silence = _samples(CUT_SILENCE_MS)
        self._spans: list[tuple[int, int]] = []
        self._begin(None)

    def _begin(self, start: int | None) -> None:
        """Be in speech since `start`, or in none, with nothing heard since."""
        self._start = start
        # Where the present silence began, if there is one.
        self._quiet: int | None = None
        # Where the last silence began that may cut, and where speech came back after it.
        self._cut: int | None = None
        self._resumed: int | None = None

    def add(self, at: int, probability: float) -> None:
        """Hear the frame that begins at sample `at`."""
        if probability >= self._options.threshold:
            if self._quiet is not None and self._cut is not None and self._resumed is None:
                self._resumed = at
            self._quiet = None
            if self._start is None:
                self._begin(at)
                return
        if self._start is not None and at - self._start > self._max_speech:
            self._cut_long_speech(self._start, at)
        if self._start is not None and probability < self._end_threshold:
            self._hear_silence(self._start, at)

    def _cut_long_speech(self, start: int, at: int) -> None:
        """End the segment at its last long silence, or here; go on where speech came back."""
        self._spans.append((start, at if self._cut is None else self._cut))
        self._begin(self._resumed)

    def _hear_silence(self, start: int, at: int) -> None:
        """Note where the segment may be cut; end it where the silence lasts."""
        quiet = at if self._quiet is None else self._quiet
        self._quiet = quiet
        if at - quiet > self._cut_silence and self._cut != quiet:
            self._cut, self._resumed = quiet, None
        if at - quiet >= self._min_silence:
            self._keep(start, quiet)
            self._begin(None)

    def _keep(self, start: int, end: int) -> None:
        if end - start > self._min_speech:
            self._spans.append((start, end))

    def finish(self, n_samples: int) -> list[tuple[int, int]]:
        """End with the file, and return the segments, not padded."""
        if self._start is not None:
            self._keep(self._start, n_samples)
        return self._spans


def _padded(
    spans: list[tuple[int, int]], padding: float, n_samples: int
) -> tuple[SpeechSegment, ...]:
    """Widen every segment; a gap shorter than two paddings is halved between its neighbours."""
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    shares = [gap // 2 if gap < 2 * padding else padding for gap in gaps]
    return tuple(
        SpeechSegment(int(max(0, start - before)), int(min(n_samples, end + after)))
        for (start, end), before, after in zip(
            spans, [padding, *shares], [*shares, padding], strict=False
        )
    )


def _samples(milliseconds: float) -> float:
    return SAMPLE_RATE * milliseconds / 1000


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise OptionError(f"{name} is {value!r}; it takes a number.")
