"""Transcripts with words, for the tests of what is made of them; and what files gave."""

from collections.abc import Sequence

from mwc.runtime.errors import AudioError
from mwc.runtime.transcript import Segment, Transcript, Word


def spoken(*texts: str, start: float = 0.0) -> tuple[Word, ...]:
    """Words of 0.4 s, each half a second after the one before."""
    return tuple(
        Word(text, start + i / 2, start + i / 2 + 0.4, 0.9 - i / 10) for i, text in enumerate(texts)
    )


def segment(
    i: int, text: str, start: float, end: float, words: Sequence[Word] | None = None
) -> Segment:
    """A segment that no threshold doubts."""
    return Segment(
        id=i,
        seek=0,
        start=start,
        end=end,
        text=text,
        tokens=(7,),
        temperature=0.0,
        avg_logprob=-0.25,
        compression_ratio=1.5,
        no_speech_prob=0.125,
        words=None if words is None else tuple(words),
    )


def transcript(*segments: Segment, language: str = "en") -> Transcript:
    """A transcript of segments."""
    text = "".join(segment.text for segment in segments)
    return Transcript(text, language, segments[-1].end if segments else 1.0, segments, 0.5)


def outcome(found: Transcript | AudioError) -> object:
    """What a file gave, as it can be compared: a transcript, or the text of its error."""
    return str(found) if isinstance(found, AudioError) else found
