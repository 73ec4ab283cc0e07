"""What happened to each window on the way, and how far a transcript covers what was said.

No surveyed Whisper program tells this: a window skipped as silent, text thrown away as repetition,
speech that no segment covers. Times are seconds from the start of the file.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

NGRAM = 3
"""Words that are looked at together for repetition."""

SHORTEST_GAP = 0.2
"""Seconds of detected speech beyond a segment that count as covered: detection is not finer."""

Range = tuple[float, float]
"""From second, to second."""


@dataclass(frozen=True)
class Attempt:
    """One decoding of a window.

    Attributes:
        temperature: at which it was sampled.
        avg_logprob: mean log-probability of its tokens.
        compression_ratio: of its text.
        refused: what speaks against the text, so that another temperature was tried if there was
            one left; None where nothing does.
    """

    temperature: float
    avg_logprob: float
    compression_ratio: float
    refused: str | None


@dataclass(frozen=True)
class WindowReport:
    """One window: where it lay, how it was decoded, what became of its text.

    Attributes:
        start: seconds.
        end: seconds; at most 30 later.
        language: the code it was decoded in.
        language_probability: where the language was detected for this window, else None.
        no_speech_prob: probability of `<|nospeech|>`; None where it was not decoded.
        attempts: its decodings, the last one is the one that counts; empty where it was skipped
            before any.
        skipped: why it gave no text, None where it may have.
    """

    start: float
    end: float
    language: str
    language_probability: float | None
    no_speech_prob: float | None
    attempts: tuple[Attempt, ...]
    skipped: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return its fields as JSON takes them."""
        return {**asdict(self), "attempts": [asdict(attempt) for attempt in self.attempts]}


@dataclass(frozen=True)
class Coverage:
    """Detected speech beside the text.

    Attributes:
        detector: name and version of the speech detector.
        speech: seconds of speech it found.
        uncovered: stretches of it that no segment with text covers.
    """

    detector: str
    speech: float
    uncovered: tuple[Range, ...]

    @property
    def uncovered_seconds(self) -> float:
        """Seconds of detected speech that no segment covers."""
        return sum(end - start for start, end in self.uncovered)

    def to_dict(self) -> dict[str, Any]:
        """Return its fields as JSON takes them."""
        return {
            "detector": self.detector,
            "speech": round(self.speech, 3),
            "uncovered_seconds": round(self.uncovered_seconds, 3),
            "uncovered": [[round(start, 3), round(end, 3)] for start, end in self.uncovered],
        }


def measure_coverage(detector: str, speech: Sequence[Range], texts: Iterable[Range]) -> Coverage:
    """Set detected speech, ascending and apart, beside the times of the text, in any order."""
    covered = _union((start - SHORTEST_GAP, end + SHORTEST_GAP) for start, end in texts)
    return Coverage(
        detector,
        speech=sum(end - start for start, end in speech),
        uncovered=tuple(gap for stretch in speech for gap in _gaps(stretch, covered)),
    )


def _union(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in any order as ascending ones that are apart."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def _gaps(stretch: Range, covered: Sequence[Range]) -> list[Range]:
    """The parts of a stretch that no range covers; `covered` is ascending and apart."""
    start, end = stretch
    gaps = []
    for first, last in covered[bisect_right(covered, start, key=lambda r: r[1]) :]:
        if first >= end:
            break
        if first > start:
            gaps.append((start, first))
        start = last
    if start < end:
        gaps.append((start, end))
    return gaps


def repetition(text: str) -> float:
    """Share of a text's word triples that have occurred before in it: 0 without, to almost 1.

    A text written without spaces is taken character by character.
    """
    words = text.lower().split()
    if len(words) == 1:
        words = list(words[0])
    triples = list(zip(*(words[i:] for i in range(NGRAM)), strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0
