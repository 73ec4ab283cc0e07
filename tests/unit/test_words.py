"""Words: cut, joined with their punctuation, put into segments; by hand and as openai/whisper."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from fake_decoder import fake_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcript import Segment, Word
from mwc.runtime.words import (
    APPEND_PUNCTUATIONS,
    LANGUAGES_WITHOUT_SPACES,
    PREPEND_PUNCTUATIONS,
    WordTiming,
    add_words,
    cut_to_segment,
    last_word_end,
    median_duration,
    merge_punctuations,
    split_words,
)

SPEC = fake_spec()
EOT = SPEC.tokens.eot


def texts(tokenizer: Tokenizer, text: bytes, language: str) -> list[str]:
    words = split_words(tokenizer, [*text, EOT], language)
    assert words[-1] == ("<|endoftext|>", (EOT,))
    assert [token for _, tokens in words for token in tokens] == [*text, EOT]
    return [word for word, _ in words[:-1]]


def test_words_begin_at_spaces_and_punctuation(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, b" Oh, my (dear) Ann's", "en") == [
        *(" Oh", ",", " my", " ", "(dear", ")", " Ann", "'s"),
    ]
    assert texts(tokenizer, b"one two", "de") == ["one", " two"]


def test_a_character_of_several_tokens_stays_whole(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, " Größe".encode(), "de") == [" Größe"]
    for language in sorted(LANGUAGES_WITHOUT_SPACES):
        assert texts(tokenizer, "東京 é".encode(), language) == ["東", "京", " ", "é"]


def test_a_broken_character_is_a_word_of_its_own(tokenizer: Tokenizer) -> None:
    assert texts(tokenizer, b"a\xffb", "ja") == ["a", "\ufffd", "b"]


def test_half_a_character_ends_the_words_as_in_openai_whisper(tokenizer: Tokenizer) -> None:
    words = split_words(tokenizer, [*"a東".encode()[:-1], EOT], "ja")
    assert words == [("a", (97,)), ("\ufffd", (0xE6,))]


@pytest.mark.parametrize("language", ["en", "ja", "th", "de"])
@pytest.mark.parametrize(
    "text",
    [
        ' And so, my fellow Americans: ask not (what) your country\'s doing -- "for you"!',
        "東京は、日本の首都です。人口は約1400万人。",
        " ภาษาไทย ไม่มีช่องว่าง 👩‍👩‍👧 🇩🇪 naïve Ærøskøbing …",
        "",
    ],
)
def test_words_are_cut_like_openai_whispers(text: str, language: str) -> None:
    module = pytest.importorskip("whisper.tokenizer")
    theirs = module.get_tokenizer(True, language=language, task="transcribe")
    ours: Any = SimpleNamespace(
        decode_with_timestamps=theirs.decode_with_timestamps,
        tokens=SimpleNamespace(eot=theirs.eot),
    )
    tokens = theirs.encode(text)
    for part in (tokens, tokens[:-1], tokens[1:], tokens[::-1]):
        ids = [*part, theirs.eot]
        expected = list(zip(*theirs.split_to_word_tokens(list(ids)), strict=True))
        assert [(word, list(t)) for word, t in split_words(ours, ids, language)] == expected


def timing(word: str, start: float = 0.0, end: float = 1.0) -> WordTiming:
    return WordTiming(word, tuple(word.encode()), start, end, 0.5)


def merged(*words: str) -> list[str]:
    timings = [timing(word) for word in words]
    result = merge_punctuations(timings, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)
    assert all(t.word.encode() == bytes(t.tokens) for t in result)
    return [t.word for t in result]


def test_punctuation_joins_its_word() -> None:
    assert merged(" Oh", ",", " my", "!") == [" Oh,", "", " my!", ""]
    assert merged(" say", ' "', "no", '."', " twice") == [" say", "", ' "no', '."', " twice"]
    assert merged(" say", ' "', "no", ".", '"') == [" say", "", ' "no."', "", ""]
    assert merged(" a", " (", "-", "b", ")") == [" a", "", " (-", "b)", ""]
    assert merged("東", "。", "京") == ["東。", "", "京"]
    assert merged() == []


def test_other_marks_can_be_chosen() -> None:
    timings = [timing(" *"), timing("a"), timing("."), timing("~")]
    words = [t.word for t in merge_punctuations(timings, "*", "~")]
    assert words == ["", " *a", ".~", ""]


def test_a_joined_word_keeps_its_own_time() -> None:
    first, second = merge_punctuations(
        [timing(" Oh", 1.0, 1.5), timing(",", 1.5, 4.0)], PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS
    )
    assert (first.word, first.start, first.end) == (" Oh,", 1.0, 1.5)
    assert (second.word, second.tokens) == ("", ())


def test_the_median_word_lasts_at_most_700_ms() -> None:
    assert median_duration([]) == 0.0
    assert median_duration([timing("a", 1, 1)]) == 0.0
    assert median_duration([timing("a", 0, 0), timing("b", 0, 0.2), timing("c", 0, 0.4)]) == (
        pytest.approx(0.3)
    )
    assert median_duration([timing("a", 0, 5)]) == 0.7


def segment(text: str, start: float, end: float) -> Segment:
    return Segment(0, 0, start, end, text, tuple(text.encode()), 0.0, -0.1, 1.0, 0.0)


def chain(text: str, *ends: float) -> list[WordTiming]:
    """Words one after another, split at spaces and before a final mark, up to these times."""
    words = [f" {word}" for word in text.split()]
    starts = [0.0, *ends[:-1]]
    return [timing(w, s, e) for w, s, e in zip(words, starts, ends, strict=True)]


def place(
    segments: list[Segment], timings: list[WordTiming], offset: float = 0.0, before: float = 0.0
) -> list[Segment]:
    return add_words(segments, timings, eot=EOT, offset=offset, last_speech_end=before)


def spans(segment: Segment) -> list[tuple[float, float]]:
    return [(word.start, word.end) for word in segment.words or ()]


def test_segments_take_their_words_and_their_times() -> None:
    timings = chain("one two three four", 0.3, 0.6, 0.9, 1.2)
    first, second = place(
        [segment(" one two", 60.0, 60.58), segment(" three four", 60.6, 61.4)], timings, 60.0
    )
    assert first.words == (Word(" one", 60.0, 60.3, 0.5), Word(" two", 60.3, 60.6, 0.5))
    assert second.words == (Word(" three", 60.6, 60.9, 0.5), Word(" four", 60.9, 61.2, 0.5))
    assert (first.start, first.end) == (60.0, 60.6)
    assert (second.start, second.end) == (60.6, 61.2)


def test_a_segment_without_text_has_no_words() -> None:
    empty = replace(segment("", 0.0, 0.4), tokens=(EOT + 1, EOT + 2))
    first, second = place([empty, segment(" one", 0.4, 1.0)], chain("one", 0.5))
    assert first == replace(empty, words=())
    assert spans(second) == [(0.0, 0.5)]


def test_a_word_over_two_segments_belongs_to_the_first() -> None:
    timings = [timing("abcd", 0.0, 0.4), timing(" e", 0.4, 0.8)]
    first, second = place([segment("ab", 0.0, 0.2), segment("cd e", 0.2, 0.8)], timings)
    assert [word.word for word in first.words or ()] == ["abcd"]
    assert [word.word for word in second.words or ()] == [" e"]


def test_words_at_the_end_of_a_sentence_are_cut() -> None:
    timings = [
        *chain("a b c d", 0.2, 0.4, 0.6, 0.8),
        *(timing(".", 0.8, 2.0), timing(" e", 2.0, 5.0), timing(" f", 5.0, 5.2)),
    ]
    (result,) = place([segment(" a b c d. e f", 0.0, 5.2)], timings)
    *_, d, e, f = spans(result)
    assert d == (0.6, 0.8)
    assert e == (4.6, 5.0)  # twice the median before the word's end
    assert f == (5.0, 5.2)


def test_the_first_words_after_a_pause_are_cut() -> None:
    # Median 0.2: the first word may last 0.4.
    timings = chain("a b c d e", 3.0, 3.2, 3.4, 3.6, 3.8)
    (result,) = place([segment(" a b c d e", 0.0, 3.8)], timings)
    first, second, *_ = spans(result)
    assert first == pytest.approx((2.6, 3.0))
    assert second == (3.0, 3.2)
    assert result.start == first[0]
    # The two first share what a long second takes.
    timings = chain("a b c d e", 1.0, 3.2, 3.4, 3.6, 3.8)
    (result,) = place([segment(" a b c d e", 0.0, 3.8)], timings)
    first, second, *_ = spans(result)
    assert first == pytest.approx((2.4, 2.8))
    assert second == pytest.approx((2.8, 3.2))
    # Where speech has just ended there was no pause.
    timings = chain("a b c d e", 0.7, 0.9, 1.1, 1.3, 1.5)
    (result,) = place([segment(" a b c d e", 0.0, 1.5)], timings, before=0.0)
    assert spans(result)[0] == (0.0, 0.7)


def test_a_segments_own_times_cut_words_that_are_too_long() -> None:
    timings = chain("a b c d", 1.0, 1.3, 1.6, 4.0)
    (result,) = place([segment(" a b c d", 0.8, 2.0)], timings, before=0.5)
    assert spans(result)[0] == pytest.approx((0.35, 1.0))
    assert spans(result)[-1] == pytest.approx((1.6, 2.25))
    assert (result.start, result.end) == (0.8, 2.0)


def test_words_are_cut_to_their_segment() -> None:
    words = (Word(" a", 0.5, 1.2, 0.5), Word(" b", 1.2, 2.0, 0.5), Word(" c", 2.0, 2.9, 0.5))
    inside = cut_to_segment(replace(segment(" a b c", 1.0, 2.5), words=words))
    assert spans(inside) == [(1.0, 1.2), (1.2, 2.0), (2.0, 2.5)]
    assert (inside.start, inside.end) == (1.0, 2.5)
    without = segment(" a", 0.0, 1.0)
    assert cut_to_segment(without) == without


def test_the_end_of_the_last_word() -> None:
    spoken = replace(segment(" a", 0.0, 9.0), words=(Word(" a", 1.0, 2.0, 0.5),))
    silent = replace(segment("", 9.0, 10.0), words=())
    assert last_word_end([spoken, silent]) == 2.0
    assert last_word_end([silent]) == 10.0
    assert last_word_end([]) is None


MARKS = (".", ",", "!", "?", "。", ' "', '"', " (", ")", " -", "'", " ")
WORDS = st.sampled_from((" one", " two", "x", " y", "a ", *MARKS))
STEPS = st.sampled_from([0, 1, 5, 10, 15, 20, 33, 40, 100, 300])


@st.composite
def spoken(draw: st.DrawFn) -> list[WordTiming]:
    """Words one after another, in steps of 20 ms."""
    result, at = [], 0
    for word in draw(st.lists(WORDS, max_size=25)):
        end = at + draw(STEPS)
        probability = draw(st.sampled_from([0.1, 0.5, 0.9]))
        result.append(WordTiming(word, tuple(word.encode()), at / 50, end / 50, probability))
        at = end
    return result


def their_timings(module: Any, timings: list[WordTiming]) -> list[Any]:
    return [
        module.WordTiming(t.word, list(t.tokens), t.start, t.end, t.probability) for t in timings
    ]


@given(spoken())
@settings(max_examples=300, deadline=None)
def test_punctuation_is_joined_like_openai_whispers(timings: list[WordTiming]) -> None:
    module = pytest.importorskip("whisper.timing")
    theirs = their_timings(module, timings)
    module.merge_punctuations(theirs, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)
    ours = merge_punctuations(timings, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)
    assert [vars(t) | {"tokens": list(t.tokens)} for t in ours] == [vars(t) for t in theirs]


@given(
    timings=spoken(),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    shifts=st.lists(st.sampled_from([-1.0, -0.4, 0.0, 0.02, 0.6, 2.0]), min_size=10, max_size=10),
    seek=st.sampled_from([0, 1, 333, 123456]),
    silence=st.sampled_from([0.0, 0.5, 10.0]),
)
@settings(max_examples=600, deadline=None)
def test_words_and_segments_are_openai_whispers(
    timings: list[WordTiming], cuts: list[int], shifts: list[float], seek: int, silence: float
) -> None:
    module = pytest.importorskip("whisper.timing")
    tokens = [token for t in timings for token in t.tokens]
    offset = seek * 160 / 16000
    before = max(0.0, offset - silence)
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    length = timings[-1].end if timings else 1.0
    segments = []
    for i, (first, after) in enumerate(pairwise(edges)):
        start, end = (offset + length * edge / max(len(tokens), 1) for edge in (first, after))
        ids = tuple(tokens[first:after])
        text = bytes(ids).decode(errors="replace")
        segments.append(
            replace(segment(text, start + shifts[i], end + shifts[-i - 1]), tokens=ids, seek=seek)
        )
    theirs: list[dict[str, Any]] = [segment.to_dict() for segment in segments]
    with pytest.MonkeyPatch.context() as patch:
        found = their_timings(module, timings)
        patch.setattr(module, "find_alignment", lambda *_, **__: found)
        module.add_word_timestamps(
            segments=theirs,
            model=None,
            tokenizer=SimpleNamespace(eot=EOT),
            mel=None,
            num_frames=3000,
            last_speech_timestamp=before,
        )
    ours = place(segments, timings, offset, before)
    assert [segment.to_dict() for segment in ours] == theirs
