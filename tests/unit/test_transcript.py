"""Transcripts as openai/whisper's fields, and the files they are written to."""

import json
from dataclasses import replace

from mwc.runtime.transcript import Segment, Transcript, Word
from mwc.runtime.writers import WriteOptions, render


def segment(i: int, text: str) -> Segment:
    return Segment(
        id=i,
        seek=0,
        start=float(i),
        end=i + 0.5,
        text=text,
        tokens=(50363, 7, 50388),
        temperature=0.0,
        avg_logprob=-0.25,
        compression_ratio=1.5,
        no_speech_prob=0.125,
    )


TRANSCRIPT = Transcript(
    text=" Größe,\n東京",
    language="de",
    duration=2.0,
    segments=(segment(0, " Größe,"), segment(1, ""), segment(2, " 東京 ")),
)


def written(name: str) -> str:
    return render(name, TRANSCRIPT, WriteOptions())


def test_txt_has_a_line_for_each_segment() -> None:
    assert written("txt") == "Größe,\n\n東京\n"


def test_json_has_openai_whispers_fields() -> None:
    text = written("json")
    assert text.isascii()
    assert text.endswith("}\n")
    data = json.loads(text)
    assert list(data)[:3] == ["text", "segments", "language"]  # openai/whisper's, in its order
    assert data["text"] == " Größe,\n東京"
    assert data["segments"][2] == {
        "id": 2,
        "seek": 0,
        "start": 2.0,
        "end": 2.5,
        "text": " 東京 ",
        "tokens": [50363, 7, 50388],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.125,
        "language": None,
        "n_attempts": 1,
        "repetition": 0.0,
        "speech": None,
    }


def test_words_are_openai_whispers_too() -> None:
    timed = replace(TRANSCRIPT.segments[0], words=(Word(" Größe,", 0.0, 0.5, 0.75),))
    assert timed.to_dict()["words"] == [
        {"word": " Größe,", "start": 0.0, "end": 0.5, "probability": 0.75}
    ]
