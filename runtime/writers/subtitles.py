"""Subtitles: srt, vtt and lrc.

Cues are cut as openai/whisper cuts them (`utils.py`, `SubtitlesWriter`): the same text at the same
times. A width is a number of characters, in every script.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TextIO

from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.writers.options import WriteOptions, require_words

PAUSE = 3.0
"""Seconds from a word's start to the next one's after which a cue ends, where cues run across
segments (openai/whisper `utils.py`, `iterate_subtitles`)."""

UNLIMITED = 1000
"""Characters in a line, and words in a cue, where there is no limit (the same function)."""


@dataclass(frozen=True)
class Cue:
    """Text on the screen from `start` to `end`, both in milliseconds."""

    start: int
    end: int
    text: str


def write_srt(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write SubRip: numbered cues, hours always, a comma before the milliseconds."""
    for number, cue in enumerate(cues(transcript, options), start=1):
        start, end = (clock(time, ",", hours=True) for time in (cue.start, cue.end))
        file.write(f"{number}\n{start} --> {end}\n{cue.text}\n\n")


def write_vtt(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write WebVTT: hours only where there are any."""
    file.write("WEBVTT\n\n")
    for cue in cues(transcript, options):
        file.write(f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{cue.text}\n\n")


def write_lrc(transcript: Transcript, file: TextIO, options: WriteOptions) -> None:
    """Write lyrics: "[mm:ss.cc]text" for each segment with text; minutes go beyond 59.

    `highlight_words` puts "<mm:ss.cc>" before each word (the A2 extension) and after the last; of
    the other subtitle options lyrics have none.
    """
    require_words(transcript, options)
    for segment in transcript.segments:
        text = one_line(segment.text)
        if options.highlight_words and segment.words:
            words = (f"<{_lyric(w.start)}>{one_line(w.word)}" for w in segment.words)
            text = f"{_spaced(segment.words, words)} <{_lyric(segment.words[-1].end)}>"
        if text:
            file.write(f"[{_lyric(segment.start)}]{text}\n")


def cues(transcript: Transcript, options: WriteOptions) -> Iterator[Cue]:
    """Cut a transcript into cues: by words where it has them, else one for each segment.

    "-->", which would end a cue's text, becomes "->".

    Raises:
        OptionError: a subtitle option was given, but the transcript has no words.
    """
    require_words(transcript, options)
    segments = transcript.segments
    if any(segment.words is None for segment in segments):
        found = (Cue(_ms(s.start), _ms(s.end), s.text.strip()) for s in segments)
    else:
        found = (
            cue
            for block in _blocks(segments, options)
            for cue in (_lit(block) if options.highlight_words else [_plain(block)])
        )
    for cue in found:
        yield replace(cue, text=re.sub("-{2,}>", "->", cue.text))


def _blocks(segments: Iterable[Segment], options: WriteOptions) -> Iterator[list[Word]]:
    """Gather words into cues; a word that begins a line within a cue has a newline before it."""
    width = options.max_line_width or UNLIMITED
    n_words = options.max_words_per_line or UNLIMITED
    max_lines = options.max_line_count
    keeps_segments = options.max_line_width is None or max_lines is None
    block: list[Word] = []
    length, n_lines = 0, 1
    last: float | None = None
    for segment in segments:
        for i, word in enumerate(segment.words or ()):
            paused = not keeps_segments and last is not None and word.start - last > PAUSE
            new_block = bool(block) and keeps_segments and i % n_words == 0
            last = word.start
            if 0 < length <= width - len(word.word) and not paused and not new_block:
                length += len(word.word)
                block.append(word)
                continue
            text = word.word.strip()
            is_full = max_lines is not None and (paused or n_lines >= max_lines)
            break_line = length > 0
            length = len(text)
            if new_block or (block and is_full):
                yield block
                block, n_lines = [], 1
            elif break_line:
                n_lines += 1
                text = "\n" + text
            block.append(replace(word, word=text))
    if block:
        yield block


def _plain(block: list[Word]) -> Cue:
    text = "".join(word.word for word in block)
    return Cue(_ms(block[0].start), _ms(block[-1].end), text)


def _lit(block: list[Word]) -> Iterator[Cue]:
    """A cue for each word of a block, underlined in it, and one for each gap before a word."""
    last = _ms(block[0].start)
    texts = [word.word for word in block]
    for i, word in enumerate(block):
        start, end = _ms(word.start), _ms(word.end)
        if start != last:
            yield Cue(last, start, "".join(texts))
        yield Cue(start, end, "".join([*texts[:i], _underlined(texts[i]), *texts[i + 1 :]]))
        last = end


def _underlined(text: str) -> str:
    bare = text.lstrip()
    return f"{text[: len(text) - len(bare)]}<u>{bare}</u>"


def clock(milliseconds: int, marker: str, *, hours: bool = False) -> str:
    """A time as "01:02.345", or "00:01:02.345" from an hour on or where `hours` is set."""
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    whole, minutes = divmod(minutes, 60)
    front = f"{whole:02}:" if hours or whole else ""
    return f"{front}{minutes:02}:{seconds:02}{marker}{thousandths:03}"


def one_line(text: str) -> str:
    """Text for a format that has a record to a line: stripped, its line breaks spaces."""
    return " ".join(text.strip().splitlines())


def _ms(seconds: float) -> int:
    return round(seconds * 1000.0)


def _lyric(seconds: float) -> str:
    minutes, hundredths = divmod(round(seconds * 100.0), 6000)
    return f"{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}"


def _spaced(words: Iterable[Word], texts: Iterable[str]) -> str:
    """Join texts made of words with the spaces that the words had before them."""
    joined = (" " * word.word[:1].isspace() + text for word, text in zip(words, texts, strict=True))
    return "".join(joined).strip()
