"""What a transcription gives, and the files it can be written to.

Field names and file contents are openai/whisper's (`transcribe.py`, `utils.py`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Word:
    """A word and the time at which it was said.

    Attributes:
        word: its text with the spaces and punctuation that belong to it, as openai/whisper cuts
            them: the words of a segment, joined, are the segment's text.
        start: seconds.
        end: seconds.
        probability: mean probability of its tokens, from 0 to 1.
    """

    word: str
    start: float
    end: float
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return openai/whisper's fields, in its order."""
        return {
            "word": self.word,
            "start": self.start,
            "end": self.end,
            "probability": self.probability,
        }


@dataclass(frozen=True)
class Segment:
    """A stretch of speech.

    Attributes:
        id: its place in the transcript, from 0.
        seek: log-mel frame (10 ms) at which its window starts.
        start: seconds.
        end: seconds.
        text: its text, with the leading space the model gave it; empty where the segment was
            cleared because it had no length or no words.
        tokens: its tokens, timestamps included.
        temperature: at which it was sampled.
        avg_logprob: mean log-probability of its window's tokens.
        compression_ratio: of its window's text.
        no_speech_prob: of its window.
        words: its words, in order; None where no word times were asked for.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return openai/whisper's fields, in its order; `words` only where there are any times."""
        fields: dict[str, Any] = {
            "id": self.id,
            "seek": self.seek,
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "tokens": list(self.tokens),
            "temperature": self.temperature,
            "avg_logprob": self.avg_logprob,
            "compression_ratio": self.compression_ratio,
            "no_speech_prob": self.no_speech_prob,
        }
        if self.words is not None:
            fields["words"] = [word.to_dict() for word in self.words]
        return fields


@dataclass(frozen=True)
class Transcript:
    """The transcript of one audio file.

    Attributes:
        text: everything that was said, with the leading space the model gave it.
        language: code of the spoken language.
        duration: seconds of audio.
        segments: in order of time.
        language_probability: of the detected language; None where it was not detected because it
            was given or the model knows English only.
    """

    text: str
    language: str
    duration: float
    segments: tuple[Segment, ...]
    language_probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return openai/whisper's fields: text, segments, language."""
        return {
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "language": self.language,
        }


def write_txt(transcript: Transcript, file: TextIO) -> None:
    """Write the stripped text of each segment on a line of its own."""
    for segment in transcript.segments:
        file.write(segment.text.strip() + "\n")


def write_json(transcript: Transcript, file: TextIO) -> None:
    """Write `Transcript.to_dict` as one line of ASCII JSON."""
    file.write(json.dumps(transcript.to_dict()) + "\n")


WRITERS: dict[str, Callable[[Transcript, TextIO], None]] = {"txt": write_txt, "json": write_json}
"""What writes each format, by its name and file suffix."""
