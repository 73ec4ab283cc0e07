"""How a transcript is written: openai/whisper's subtitle options, and what the page needs."""

import difflib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mwc.runtime.errors import OptionError

if TYPE_CHECKING:
    from mwc.runtime.transcript import Transcript

LAYOUT = ("max_line_width", "max_line_count", "max_words_per_line", "highlight_words")
"""Options of subtitles; each of them needs word times."""


@dataclass(frozen=True)
class WriteOptions:
    """Options of the writers (the first four: openai/whisper `utils.py`, `SubtitlesWriter`).

    Attributes:
        max_line_width: most characters in a line of srt and vtt; None for no limit.
        max_line_count: most lines in a cue, with `max_line_width`; cues then run across segments
            and break at pauses of 3 s. None begins a cue with each segment.
        max_words_per_line: most words in a cue; None for no limit.
        highlight_words: a cue for each word, in which it is underlined (srt, vtt); a time before
            each word (lrc).
        title: heading of the page.
        audio: URL of what the page plays, see `mwc.runtime.writers.media.audio_url`; None for a
            page without audio.
        text_language: language code of the text where it is not the spoken language, as after
            translating; None where it is.

    Raises:
        OptionError: a number below 1; options in conflict.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None
    highlight_words: bool = False
    title: str = "Transcript"
    audio: str | None = None
    text_language: str | None = None

    def __post_init__(self) -> None:
        for name in LAYOUT[:3]:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise OptionError(f"{name} is {value!r}; it takes a whole number from 1, or None.")
        if not isinstance(self.highlight_words, bool):
            raise OptionError(
                f"highlight_words is {self.highlight_words!r}; it is either True or False."
            )
        if self.max_line_count is not None and self.max_line_width is None:
            raise OptionError(
                "max_line_count has no effect without max_line_width; give both, or only the "
                "latter."
            )
        if self.max_words_per_line is not None and self.max_line_count is not None:
            raise OptionError(
                "max_words_per_line has no effect with max_line_width and max_line_count; "
                "leave it or max_line_count out."
            )

    @property
    def layout(self) -> tuple[str, ...]:
        """Names of the subtitle options that were given."""
        return tuple(name for name in LAYOUT if getattr(self, name))


def make_write_options(**given: Any) -> WriteOptions:
    """Make options from names and values as a caller wrote them.

    Raises:
        OptionError: a name is unknown (the message holds the nearest), a value is not allowed.
    """
    names = [field.name for field in fields(WriteOptions)]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}."
            raise OptionError(f"there is no option {name!r} of a written transcript; {advice}")
    return WriteOptions(**given)


def require_words(transcript: "Transcript", options: WriteOptions) -> None:
    """Refuse a subtitle option for a transcript that has segments, but not their words.

    Raises:
        OptionError: names the option.
    """
    if options.layout and any(segment.words is None for segment in transcript.segments):
        raise OptionError(
            f"{options.layout[0]} needs the times of the words; transcribe with "
            "word_timestamps=True."
        )
