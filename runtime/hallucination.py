"""Text that was hardly said: words too short, too long or too improbable, amid silence.

Algorithm: openai/whisper `whisper/transcribe.py`, `transcribe`, what it does with
`hallucination_silence_threshold`; the numbers are its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mwc.runtime.spec import AudioSpec
from mwc.runtime.transcript import Segment, Word
from mwc.runtime.words import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS

PUNCTUATIONS = PREPEND_PUNCTUATIONS + APPEND_PUNCTUATIONS
"""A word that is part of this does not count."""

IMPROBABLE = 0.15
"""Probability below which a word is an anomaly."""

SHORT = 0.133
"""Seconds below which a word is the more of an anomaly the shorter it is."""

LONG = 2.0
"""Seconds above which a word is the more of an anomaly the longer it is."""

N_WORDS = 8
"""Words of a segment that are looked at."""

ANOMALY = 3.0
"""Score from which a segment is an anomaly; as is one whose words score 1 on average."""

EDGE = 2.0
"""Seconds from the edge of a window in which silence is assumed."""


@dataclass(frozen=True)
class WindowPlace:
    """Where a window lies in its file.

    Attributes:
        seek: frame at which it starts.
        n_frames: its frames that count, 1 to 3000.
        n_file_frames: frames of the file.
        audio: how long a frame is.
    """

    seek: int
    n_frames: int
    n_file_frames: int
    audio: AudioSpec

    def seconds(self, n_frames: int) -> float:
        """Turn frames into seconds."""
        return n_frames * self.audio.hop_length / self.audio.sample_rate

    @property
    def start(self) -> float:
        """Seconds at which it starts."""
        return self.seconds(self.seek)

    @property
    def full_end(self) -> float:
        """Seconds at which it would end if all its 30 s counted."""
        return self.seconds(self.seek + self.audio.n_frames)


@dataclass(frozen=True)
class Verdict:
    """What is kept of a window.

    Attributes:
        n_kept: how many of its segments, from the first.
        seek: frame at which the next window starts; None where nothing was dropped.
        is_lead: whether all were dropped for the silence before them.
    """

    n_kept: int
    seek: int | None = None
    is_lead: bool = False


def judge(
    segments: Sequence[Segment], place: WindowPlace, threshold: float, last_speech_end: float
) -> Verdict:
    """Find the first segment that is probably made up, and where to go on instead.

    Args:
        segments: of one window, with words.
        place: where the window lies.
        threshold: seconds of silence above which an anomalous segment is made up.
        last_speech_end: seconds at which the last segment before the window ended.
    """
    rate = place.audio.frames_per_second
    first = _next_spoken(segments)
    if first is not None and is_anomalous(first):
        gap = first.start - place.start
        if gap > threshold:
            return Verdict(0, place.seek + round(gap * rate), is_lead=True)
    speech_end = last_speech_end
    for i, segment in enumerate(segments):
        if not segment.words:
            continue
        following = _next_spoken(segments[i + 1 :])
        if is_anomalous(segment) and _is_amid_silence(
            segment, following, place, threshold, speech_end
        ):
            seek = round(max(place.start + 1, segment.start) * rate)
            if place.seconds(place.n_file_frames) - segment.end < threshold:
                seek = place.n_file_frames
            return Verdict(i, seek)
        speech_end = segment.end
    return Verdict(len(segments))


def is_anomalous(segment: Segment) -> bool:
    """Whether the first words of a segment are on the whole too short, long or improbable."""
    words = [word for word in segment.words or () if word.word not in PUNCTUATIONS][:N_WORDS]
    if not segment.words:
        return False
    score = sum(anomaly_score(word) for word in words)
    return score >= ANOMALY or score + 0.01 >= len(words)


def anomaly_score(word: Word) -> float:
    """How unlike speech a word is; 0 for a usual one."""
    duration = word.end - word.start
    score = 1.0 if word.probability < IMPROBABLE else 0.0
    if duration < SHORT:
        score += (SHORT - duration) * 15
    if duration > LONG:
        score += duration - LONG
    return score


def _is_amid_silence(
    segment: Segment,
    following: Segment | None,
    place: WindowPlace,
    threshold: float,
    speech_end: float,
) -> bool:
    """Whether there is silence, an edge of the window or another anomaly on both sides."""
    if following is not None and following.words:
        next_start = following.words[0].start
    else:
        next_start = place.start + place.seconds(place.n_frames)
    silence_before = (
        segment.start - speech_end > threshold
        or segment.start < threshold
        or segment.start - place.start < EDGE
    )
    silence_after = (
        next_start - segment.end > threshold
        or (following is not None and is_anomalous(following))
        or place.full_end - segment.end < EDGE
    )
    return silence_before and silence_after


def _next_spoken(segments: Sequence[Segment]) -> Segment | None:
    """Return the first segment with words."""
    return next((segment for segment in segments if segment.words), None)
