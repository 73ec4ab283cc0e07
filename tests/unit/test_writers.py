"""The files of a transcript, by hand and beside openai/whisper's own writers."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from said import segment, spoken, transcript

from mwc.runtime.errors import OptionError
from mwc.runtime.transcript import Transcript, Word
from mwc.runtime.writers import WRITERS, WriteOptions, make_write_options, render, write_file

PLAIN = transcript(
    segment(0, " Größe,", 0.0, 1.5),
    segment(1, "", 1.5, 1.5),
    segment(2, " a\tb --> c", 3599.9995, 7322.05),
)
TIMED = transcript(
    segment(0, " one two three", 0.0, 1.4, spoken(" one", " two", " three")),
    segment(1, " four five", 1.5, 2.4, spoken(" four", " five", start=1.5)),
)


def test_srt() -> None:
    assert PLAIN.to_srt() == (
        "1\n00:00:00,000 --> 00:00:01,500\nGröße,\n\n"
        "2\n00:00:01,500 --> 00:00:01,500\n\n\n"
        "3\n01:00:00,000 --> 02:02:02,050\na\tb -> c\n\n"
    )


def test_vtt() -> None:
    assert PLAIN.to_vtt() == (
        "WEBVTT\n\n00:00.000 --> 00:01.500\nGröße,\n\n00:01.500 --> 00:01.500\n\n\n"
        "01:00:00.000 --> 02:02:02.050\na\tb -> c\n\n"
    )


@pytest.mark.parametrize("arrow", ["-->", "--->", "------>"])
def test_no_text_ends_a_cue(arrow: str) -> None:
    said = transcript(segment(0, f" a {arrow} b", 0.0, 1.0))
    assert said.to_srt().count("-->") == said.to_vtt().count("-->") == 1
    assert "a -> b" in said.to_srt()


def test_tsv() -> None:
    assert PLAIN.to_tsv() == (
        "start\tend\ttext\n0\t1500\tGröße,\n1500\t1500\t\n3600000\t7322050\ta b --> c\n"
    )


def test_a_line_break_in_a_text_does_not_end_a_record() -> None:
    broken = transcript(segment(0, ' say "a,\nb"', 0.0, 1.0))
    assert broken.to_tsv() == 'start\tend\ttext\n0\t1000\tsay "a, b"\n'
    assert list(csv.reader(io.StringIO(broken.to_csv()))) == [
        ["start", "end", "text"],
        ["0", "1000", 'say "a, b"'],
    ]
    assert broken.to_lrc() == '[00:00.00]say "a, b"\n'


def test_csv_quotes_its_texts() -> None:
    assert PLAIN.to_csv() == (
        'start,end,text\n0,1500,"Größe,"\n1500,1500,""\n3600000,7322050,"a\tb --> c"\n'
    )


def test_lrc() -> None:
    assert PLAIN.to_lrc() == "[00:00.00]Größe,\n[60:00.00]a\tb --> c\n"
    assert TIMED.to_lrc() == "[00:00.00]one two three\n[00:01.50]four five\n"
    assert TIMED.to_lrc(highlight_words=True) == (
        "[00:00.00]<00:00.00>one <00:00.50>two <00:01.00>three <00:01.40>\n"
        "[00:01.50]<00:01.50>four <00:02.00>five <00:02.40>\n"
    )
    chinese = transcript(segment(0, "你好", 0.0, 0.9, spoken("你", "好")), language="zh")
    assert chinese.to_lrc(highlight_words=True) == "[00:00.00]<00:00.00>你<00:00.50>好 <00:00.90>\n"


THEIR_FIELDS = ("text", "segments", "language")
OUR_FIELDS = ("duration", "language_probability", "windows", "coverage", "warnings")


def test_json_has_openai_whispers_fields_then_ours() -> None:
    text = TIMED.to_json()
    assert text.isascii()
    data = json.loads(text)
    assert list(data) == [*THEIR_FIELDS, *OUR_FIELDS]
    assert data["duration"] == 2.4
    assert data["language_probability"] == 0.5
    assert data["segments"][1]["words"] == [
        {"word": " four", "start": 1.5, "end": 1.9, "probability": 0.9},
        {"word": " five", "start": 2.0, "end": 2.4, "probability": 0.8},
    ]
    assert "words" not in json.loads(PLAIN.to_json())["segments"][0]


def test_words_per_cue() -> None:
    assert TIMED.to_srt(max_words_per_line=2) == (
        "1\n00:00:00,000 --> 00:00:00,900\none two\n\n"
        "2\n00:00:01,000 --> 00:00:01,400\nthree\n\n"
        "3\n00:00:01,500 --> 00:00:02,400\nfour five\n\n"
    )


def test_lines_and_widths() -> None:
    assert TIMED.to_vtt(max_line_width=8) == (
        "WEBVTT\n\n00:00.000 --> 00:01.400\none two\nthree\n\n"
        "00:01.500 --> 00:02.400\nfour\nfive\n\n"
    )
    assert TIMED.to_vtt(max_line_width=10, max_line_count=1) == (
        "WEBVTT\n\n00:00.000 --> 00:00.900\none two\n\n00:01.000 --> 00:01.900\nthree four\n\n"
        "00:02.000 --> 00:02.400\nfive\n\n"
    )


def test_a_pause_ends_a_cue_that_runs_across_segments() -> None:
    late = transcript(*TIMED.segments, segment(2, " six", 9.0, 9.4, spoken(" six", start=9.0)))
    cues = late.to_srt(max_line_width=40, max_line_count=2).split("\n\n")
    assert cues == [
        "1\n00:00:00,000 --> 00:00:02,400\none two three four five",
        "2\n00:00:09,000 --> 00:00:09,400\nsix",
        "",
    ]


def test_highlighted_words() -> None:
    assert transcript(TIMED.segments[1]).to_vtt(highlight_words=True) == (
        "WEBVTT\n\n00:01.500 --> 00:01.900\n<u>four</u> five\n\n"
        "00:01.900 --> 00:02.000\nfour five\n\n"
        "00:02.000 --> 00:02.400\nfour <u>five</u>\n\n"
    )


def test_right_to_left_and_chinese_keep_their_order_and_spaces() -> None:
    hebrew = transcript(segment(0, " שלום, עולם!", 0.0, 0.9, spoken(" שלום,", " עולם!")))
    assert "שלום, עולם!\n" in hebrew.to_srt()
    assert "<u>שלום,</u> עולם!\n" in hebrew.to_srt(highlight_words=True)
    chinese = transcript(segment(0, "你好世界。", 0.0, 1.9, spoken("你", "好", "世", "界。")))
    assert "\n你好世界。\n" in chinese.to_srt()
    assert "\n你好世\n界。\n" in chinese.to_vtt(max_line_width=3)
    assert "\n你好<u>世</u>界。\n" in chinese.to_vtt(highlight_words=True)


def test_an_arrow_does_not_end_a_cue() -> None:
    arrow = transcript(segment(0, " a --> b", 0.0, 1.4, spoken(" a", " --", ">", " b")))
    assert "\na -> b\n" in arrow.to_vtt()


def test_nothing_said() -> None:
    empty = Transcript("", "en", 3.0, ())
    assert [empty.to_txt(), empty.to_srt(), empty.to_lrc()] == ["", "", ""]
    assert empty.to_vtt(max_line_width=20) == "WEBVTT\n\n"
    assert empty.to_tsv() == "start\tend\ttext\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_line_width": 0}, "max_line_width is 0; it takes a whole number from 1"),
        ({"max_words_per_line": 2.5}, "max_words_per_line is 2.5"),
        ({"max_words_per_line": True}, "max_words_per_line is True"),
        ({"highlight_words": "yes"}, "either True or False"),
        ({"max_line_count": 2}, "no effect without max_line_width"),
        ({"max_line_width": 9, "max_line_count": 2, "max_words_per_line": 3}, "leave it or"),
        ({"max_line_with": 9}, "did you mean 'max_line_width'"),
    ],
)
def test_options_that_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told.replace("(", r"\(")):
        make_write_options(**given)
    with pytest.raises(OptionError):
        TIMED.to_srt(**given)


@pytest.mark.parametrize("name", ["srt", "vtt", "lrc"])
def test_a_subtitle_option_needs_words(name: str) -> None:
    with pytest.raises(OptionError, match="highlight_words needs the times of the words"):
        render(name, PLAIN, WriteOptions(highlight_words=True))


def test_a_subtitle_option_needs_subtitles() -> None:
    with pytest.raises(OptionError, match="max_line_width changes srt and vtt only, not json"):
        render("json", TIMED, WriteOptions(max_line_width=9))


def test_files_are_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.srt"
    write_file(path, "srt", PLAIN)
    assert path.read_text(encoding="utf-8") == PLAIN.to_srt()
    path.write_text("old")

    def fail(transcript: Transcript, file: io.TextIOBase, options: WriteOptions) -> None:
        file.write("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(WRITERS, "srt", fail)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, "srt", PLAIN)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


WORDS = st.lists(
    st.tuples(
        st.sampled_from([" ", " ", "", "  "]),
        st.text("abcß,.世界שלםä'-", min_size=0, max_size=12),
        st.floats(0, 0.6),
        st.sampled_from([0.0, 0.1, 0.25, 4.0]),
    ),
    max_size=8,
)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    time = draw(st.sampled_from([0.0, 0.4, 3598.5]))
    segments = []
    for i, texts in enumerate(draw(st.lists(WORDS, max_size=5))):
        words = []
        for space, text, length, gap in texts:
            time += gap
            words.append(Word(space + text, round(time, 2), round(time + length, 2), 0.5))
            time = words[-1].end
        text = "".join(word.word for word in words)
        start = words[0].start if words else round(time, 2)
        segments.append(segment(i, text, start, round(time, 2), tuple(words)))
    if draw(st.booleans()):
        return transcript(*segments)
    return transcript(*(segment(s.id, s.text, s.start, s.end) for s in segments))


@settings(max_examples=300, deadline=None)
@given(
    transcripts(),
    st.fixed_dictionaries(
        {},
        optional={
            "max_line_width": st.integers(1, 30),
            "max_line_count": st.integers(1, 3),
            "max_words_per_line": st.integers(1, 4),
            "highlight_words": st.booleans(),
        },
    ),
)
def test_as_openai_whisper_writes(said: Transcript, layout: dict[str, Any]) -> None:
    utils = pytest.importorskip("whisper.utils")
    if "max_line_count" in layout:
        layout.setdefault("max_line_width", 12)
        layout.pop("max_words_per_line", None)
    if any(segment.words is None for segment in said.segments):
        layout = {}
    options = WriteOptions(**layout)
    result = said.to_dict()
    for name in ("txt", "srt", "vtt", "tsv"):
        file = io.StringIO()
        utils.get_writer(name, ".").write_result(result, file, options=dict(layout))
        ours = io.StringIO()
        WRITERS[name](said, ours, options)
        assert ours.getvalue() == file.getvalue(), name
    theirs = {k: v for k, v in json.loads(said.to_json()).items() if k in result}
    assert theirs == json.loads(json.dumps(result))
