"""Words: how tokens fall into them, which punctuation belongs to them, when they were said.

`timing.py` tells when each token was said; here tokens become words, and words become part of
segments, with the corrections that openai/whisper makes where alignment is known to go wrong.

Algorithm: openai/whisper `whisper/tokenizer.py`, `split_to_word_tokens`, and `whisper/timing.py`,
`merge_punctuations` and `add_word_timestamps`. What is a word's text there may be empty here too,
and `in` looks for a substring, as there.
"""

import statistics
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment, Word

LANGUAGES_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages whose words are single characters here (openai/whisper `split_to_word_tokens`)."""

PREPEND_PUNCTUATIONS = "\"'“¿([{-"
"""Belongs to the word after it (openai/whisper `transcribe`)."""

APPEND_PUNCTUATIONS = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
"""Belongs to the word before it (openai/whisper `transcribe`)."""

SENTENCE_END_MARKS = ".。!！?？"  # noqa: RUF001

LONGEST_MEDIAN = 0.7
"""Seconds: what counts at most as a median word."""

SEGMENT_TOLERANCE = 0.5
"""Seconds by which a word may begin before its segment, or end after it, and be believed."""

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class WordTiming:
    """A word as alignment found it.

    Attributes:
        word: its text; empty once it has become part of a neighbour.
        tokens: its tokens; empty likewise.
        start: seconds from the start of the window.
        end: seconds from the start of the window.
        probability: mean probability of its tokens.
    """

    word: str
    tokens: tuple[int, ...]
    start: float
    end: float
    probability: float


def split_words(
    tokenizer: Tokenizer, tokens: Sequence[int], language: str
) -> list[tuple[str, tuple[int, ...]]]:
    """Cut tokens into words, each with its tokens: at spaces and punctuation, or at characters."""
    pieces = _split_at_characters(tokenizer, tokens)
    if language in LANGUAGES_WITHOUT_SPACES:
        return pieces
    words: list[tuple[str, tuple[int, ...]]] = []
    for text, ids in pieces:
        begins_word = (
            not words
            or ids[0] >= tokenizer.tokens.eot
            or text.startswith(" ")
            or text.strip() in string.punctuation
        )
        if begins_word:
            words.append((text, ids))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + ids)
    return words


def _split_at_characters(
    tokenizer: Tokenizer, tokens: Sequence[int]
) -> list[tuple[str, tuple[int, ...]]]:
    """Cut tokens where no character is left half: one may take several tokens in UTF-8.

    A replacement character ends a piece only where the whole text has one too.
    """
    whole = tokenizer.decode_with_timestamps(tokens)
    pieces = []
    pending: tuple[int, ...] = ()
    n_done = 0
    for token in tokens:
        pending += (token,)
        text = tokenizer.decode_with_timestamps(pending)
        broken = text.find(_REPLACEMENT)
        if broken < 0 or whole[n_done + broken : n_done + broken + 1] == _REPLACEMENT:
            pieces.append((text, pending))
            n_done += len(text)
            pending = ()
    return pieces


def merge_punctuations(
    timings: Sequence[WordTiming], prepended: str, appended: str
) -> list[WordTiming]:
    """Join punctuation to its word; what was joined stays in its place without text and tokens.

    A joined word keeps the times and the probability of the word.
    """
    merged = list(timings)
    following = len(merged) - 1
    for i in range(len(merged) - 2, -1, -1):
        mark = merged[i].word
        if mark.startswith(" ") and mark.strip() in prepended:
            _join(merged, into=following, other=i)
        else:
            following = i
    previous = 0
    for i in range(1, len(merged)):
        if not merged[previous].word.endswith(" ") and merged[i].word in appended:
            _join(merged, into=previous, other=i)
        else:
            previous = i
    return merged


def _join(timings: list[WordTiming], *, into: int, other: int) -> None:
    """Make one timing part of another."""
    first, second = sorted((into, other))
    timings[into] = replace(
        timings[into],
        word=timings[first].word + timings[second].word,
        tokens=timings[first].tokens + timings[second].tokens,
    )
    timings[other] = replace(timings[other], word="", tokens=())


def median_duration(timings: Sequence[WordTiming]) -> float:
    """Median seconds of the words that have a length, at most LONGEST_MEDIAN; 0 without any."""
    durations = [timing.end - timing.start for timing in timings if timing.end != timing.start]
    return min(LONGEST_MEDIAN, statistics.median(durations)) if durations else 0.0


def add_words(
    segments: Sequence[Segment],
    timings: Sequence[WordTiming],
    *,
    eot: int,
    offset: float,
    last_speech_end: float,
    prepended: str = PREPEND_PUNCTUATIONS,
    appended: str = APPEND_PUNCTUATIONS,
) -> list[Segment]:
    """Give the segments of one window their words, and the times that follow from them.

    Args:
        segments: of one window, in order.
        timings: of all their text tokens, in order.
        eot: ids below it are text.
        offset: seconds at which the window starts.
        last_speech_end: seconds at which the last segment before the window ended.
        prepended: punctuation that belongs to the word after it.
        appended: punctuation that belongs to the word before it.
    """
    median = median_duration(timings)
    cut = _shorten_at_sentence_ends(timings, 2 * median) if median else timings
    waiting = merge_punctuations(cut, prepended, appended)
    waiting.reverse()
    result = []
    for segment in segments:
        n_missing = sum(token < eot for token in segment.tokens)
        words = []
        while waiting and n_missing > 0:
            timing = waiting.pop()
            n_missing -= len(timing.tokens)
            if timing.word:
                words.append(_in_file(timing, offset))
        if words:
            words = _shorten_after_pause(words, median, last_speech_end)
            segment = _agree(segment, words, median)
            last_speech_end = segment.end
        else:
            segment = replace(segment, words=())
        result.append(segment)
    return result


def last_word_end(segments: Sequence[Segment]) -> float | None:
    """Seconds at which the last word ends; without words the last segment; None without any."""
    for segment in reversed(segments):
        if segment.words:
            return segment.words[-1].end
    return segments[-1].end if segments else None


def cut_to_segment(segment: Segment) -> Segment:
    """Cut the words of a segment to its times.

    Only a first or last word that openai/whisper leaves beyond them, so that it is not shorter
    than a median word, is changed; it keeps some length.
    """
    if not segment.words:
        return segment
    start, end = segment.start, segment.end
    words = tuple(
        replace(word, start=max(word.start, start), end=min(word.end, end))
        for word in segment.words
    )
    return replace(segment, words=words)


def _in_file(timing: WordTiming, offset: float) -> Word:
    """Count from the start of the file, in whole centiseconds."""
    return Word(
        word=timing.word,
        start=round(offset + timing.start, 2),
        end=round(offset + timing.end, 2),
        probability=timing.probability,
    )


def _shorten_at_sentence_ends(timings: Sequence[WordTiming], longest: float) -> list[WordTiming]:
    """Cut a mark that ends a sentence, or the word after one, where it is longer than `longest`.

    Silence between sentences would else be part of them.
    """
    result = list(timings)
    for i in range(1, len(result)):
        timing = result[i]
        if timing.end - timing.start > longest:
            if timing.word in SENTENCE_END_MARKS:
                result[i] = replace(timing, end=timing.start + longest)
            elif result[i - 1].word in SENTENCE_END_MARKS:
                result[i] = replace(timing, start=timing.end - longest)
    return result


def _shorten_after_pause(words: list[Word], median: float, last_speech_end: float) -> list[Word]:
    """Cut the first two words of a segment that comes after a pause, where they are too long.

    A pause lasts 4 median words; too long is above 2 of them.
    """
    longest = 2 * median
    first, second = words[0], words[1] if len(words) > 1 else None
    is_long = first.end - first.start > longest or (
        second is not None and second.end - first.start > 2 * longest
    )
    if not is_long or first.end - last_speech_end <= 4 * median:
        return words
    if second is not None and second.end - second.start > longest:
        between = max(second.end / 2, second.end - longest)
        first, second = replace(first, end=between), replace(second, start=between)
    first = replace(first, start=max(0.0, first.end - longest))
    return [first, *([] if second is None else [second]), *words[2:]]


def _agree(segment: Segment, words: list[Word], median: float) -> Segment:
    """Make the times of a segment and its words agree.

    The segment takes them from its first and last word, unless one of these is so long that the
    segment's own time lies well inside it: then the word is cut there, but not below `median`.
    """
    start, end = segment.start, segment.end
    first = words[0]
    if first.start < start - SEGMENT_TOLERANCE and start < first.end:
        words = [replace(first, start=max(0.0, min(first.end - median, start))), *words[1:]]
    else:
        start = first.start
    last = words[-1]
    if last.start < end and end + SEGMENT_TOLERANCE < last.end:
        words = [*words[:-1], replace(last, end=max(last.start + median, end))]
    else:
        end = last.end
    return replace(segment, start=start, end=end, words=tuple(words))
