"""What a transcription gives.

Field names are openai/whisper's (`transcribe.py`, `timing.py`); `mwc.runtime.writers` makes files
of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mwc.runtime.report import Coverage, WindowReport


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
        language: code of the language its window was decoded in.
        n_attempts: how often its window was decoded until the text could stand.
        repetition: share of its word triples that have occurred before in it, 0 to almost 1.
        speech: share of its time that was detected as speech, 0 to 1; None where speech was not
            detected.
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
    language: str | None = None
    n_attempts: int = 1
    repetition: float = 0.0
    speech: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return openai/whisper's fields, in its order; `words` only where there are any times.

        Then those it has not.
        """
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
        return {
            **fields,
            "language": self.language,
            "n_attempts": self.n_attempts,
            "repetition": self.repetition,
            "speech": self.speech,
        }


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
        windows: what happened to each window, in order of time.
        coverage: how much of the detected speech has text; None where speech was not detected.
        warnings: what was wrong with the audio or cut off the options, a sentence each.
    """

    text: str
    language: str
    duration: float
    segments: tuple[Segment, ...]
    language_probability: float | None = None
    windows: tuple[WindowReport, ...] = ()
    coverage: Coverage | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return openai/whisper's fields (text, segments, language), then those it has not."""
        return {
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "language": self.language,
            "duration": self.duration,
            "language_probability": self.language_probability,
            "windows": [window.to_dict() for window in self.windows],
            "coverage": None if self.coverage is None else self.coverage.to_dict(),
            "warnings": list(self.warnings),
        }

    def to_txt(self) -> str:
        """Return each segment's text on a line of its own."""
        return self._render("txt")

    def to_json(self) -> str:
        """Return `to_dict` as one line of ASCII JSON."""
        return self._render("json")

    def to_srt(self, **layout: Any) -> str:
        """Return SubRip subtitles.

        Args:
            layout: max_line_width, max_line_count, max_words_per_line or highlight_words, as
                `mwc.runtime.writers.WriteOptions` explains them; each needs word times.

        Raises:
            OptionError: an option is unknown, not allowed, or there are no word times for it.
        """
        return self._render("srt", **layout)

    def to_vtt(self, **layout: Any) -> str:
        """Return WebVTT subtitles; see `to_srt`."""
        return self._render("vtt", **layout)

    def to_tsv(self) -> str:
        """Return a table with tabs: start and end in milliseconds, and the text."""
        return self._render("tsv")

    def to_csv(self) -> str:
        """Return a table with commas: start and end in milliseconds, and the quoted text."""
        return self._render("csv")

    def to_lrc(self, *, highlight_words: bool = False) -> str:
        """Return lyrics: a time before each segment, or with highlight_words before each word."""
        return self._render("lrc", highlight_words=highlight_words)

    def to_html(
        self,
        audio: str | Path | None = None,
        *,
        folder: str | Path = ".",
        title: str | None = None,
        text_language: str | None = None,
    ) -> str:
        """Return a page that lights the words as the audio plays.

        Args:
            audio: file that was transcribed: up to 8 MiB it becomes part of the page, a larger
                one is linked. None gives a page without audio.
            folder: where the page will be, for the link.
            title: its heading; None for the audio's name.
            text_language: code of the text's language where it is not the spoken one ("en" after
                translating).

        Raises:
            AudioError: the audio cannot be read.
        """
        from mwc.runtime.errors import AudioError
        from mwc.runtime.writers import audio_url

        try:
            url = None if audio is None else audio_url(audio, folder)
        except OSError as error:
            raise AudioError(
                f"{audio} cannot be put into the page: {error.strerror}; check the file, or leave "
                "audio out"
            ) from error
        name = "Transcript" if audio is None else Path(audio).name
        return self._render(
            "html",
            audio=url,
            title=name if title is None else title,
            text_language=text_language,
        )

    def _render(self, format_name: str, **options: Any) -> str:
        from mwc.runtime.writers import make_write_options, render

        return render(format_name, self, make_write_options(**options))
