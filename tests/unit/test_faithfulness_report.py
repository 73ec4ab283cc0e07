"""The parts of benchmarks/faithfulness.py that count and decide."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

from engines import GREEDY, Piece, Result, Spoken, official_name
from faithfulness_report import Detected, FaithfulnessReport, ModeReport, write_report
from kept import KeptTranscripts
from segment_parity import compare_segments, equal_segments, first_seek
from text_parity import FirstDifference
from word_parity import Part, WordPlaces, word_places, word_times

from mwc.compiler.word_errors import WordErrors, word_errors

A = Piece(0.0, 1.5, 0, " One.", (90, 1, 91))
B = Piece(1.5, 3.0, 0, " Two.", (91, 2, 92))
C = Piece(3.0, 4.0, 300, " Three.", (90, 3, 91))
TIE = FirstDifference(seek=300, position=1, ours=" Three", theirs=" Free", margin=-5e-4)


def result(*pieces: Piece) -> Result:
    return Result("".join(piece.text for piece in pieces), pieces)


def test_segments_are_equal_in_text_and_times() -> None:
    assert equal_segments([A, B, C], [A, B, C]) == 3
    assert equal_segments([A, replace(B, end=3.02), C], [A, B, C]) == 2
    assert equal_segments([A, replace(B, end=3.0 + 1e-9), C], [A, B, C]) == 3
    assert equal_segments([replace(A, text=" on."), B], [A, B]) == 1
    assert equal_segments([B, C], [A, B, C]) == 2


@pytest.mark.parametrize(
    ("ours", "first", "cause"),
    [
        (replace(C, text=" Free.", tokens=(90, 4, 91)), TIE, "margin"),
        (replace(C, tokens=(90, 4, 91)), replace(TIE, margin=0.1), "unexplained"),
        (replace(C, tokens=(90, 4, 91)), None, "unexplained"),
        (replace(C, text=" F", tokens=(90, 4, 91), temperature=0.2), None, "sampled"),
    ],
)
def test_a_difference_has_a_cause(ours: Piece, first: FirstDifference, cause: str) -> None:
    ours = replace(ours, text=" Free.")
    found = compare_segments(
        {"x": result(A, B, ours), "y": result(A)},
        {"x": result(A, B, C), "y": result(A)},
        lambda name: lambda: first,
    )
    assert (found.clips, found.ours, found.theirs, found.equal) == (2, 4, 4, 3)
    assert found.share == 0.75
    (difference,) = found.differences
    assert (difference.clip, difference.cause, difference.seek) == ("x", cause, 300)
    assert difference.texts == (" Free.", " Three.")


@pytest.mark.parametrize(("gap", "cause"), [(5e-5, "margin"), (2e-4, "unexplained")])
def test_beams_are_a_near_tie_by_their_scores(gap: float, cause: str) -> None:
    ours = replace(C, text=" Free.", tokens=(90, 4, 91), avg_logprob=-0.5 - gap)
    theirs = replace(C, avg_logprob=-0.5)
    found = compare_segments({"x": result(A, B, ours)}, {"x": result(A, B, theirs)}, None)
    assert [d.cause for d in found.differences] == [cause]
    missing = compare_segments({"x": result(A, B)}, {"x": result(A, B, theirs)}, None)
    assert [d.cause for d in missing.differences] == ["unexplained"]


def test_where_two_transcripts_first_differ() -> None:
    assert first_seek([A, B, C], [A, B, replace(C, tokens=(1,))]) == 300
    assert first_seek([A, B], [A, B, C]) == 300
    assert first_seek([A, replace(B, end=2.9), C], [A, B, C]) == 0


def words(*given: tuple[str, float, float]) -> Result:
    return result(replace(A, words=tuple(Spoken(*word) for word in given)))


def test_words_are_matched_in_order_by_their_text() -> None:
    ours = words((" a", 0.0, 0.5), (" b", 0.5, 1.0), (" x", 1.0, 2.0), (" c", 2.0, 2.5))
    theirs = words((" a", 0.0, 0.5), (" b", 0.52, 1.1), (" c", 2.0, 2.5), (" d", 3.0, 4.0))
    found = word_times({"x": ours}, {"x": theirs})
    assert (found.ours, found.theirs, len(found.differences)) == (4, 4, 3)
    np.testing.assert_allclose(found.differences, [(0, 0), (0.02, 0.1), (0, 0)], atol=1e-9)
    assert found.median() == 0
    assert found.percentile(100) == pytest.approx(0.1)
    assert found.cut == 0
    passing = words((" a", 0.0, 0.5), (" b", 0.5, 1.7))
    cut = words((" a", 0.0, 0.5), (" b", 0.5, 1.5))  # 1.5 is where the segment ends
    assert word_times({"x": cut}, {"x": passing}).cut == 1
    assert word_times({"x": passing}, {"x": cut}).cut == 0


def test_words_have_the_clip_in_which_they_were_said() -> None:
    parts = [Part(0.0, 1.0, "one two"), Part(1.5, 3.0, "two three")]
    spoken = words(
        (" One", 0.0, 0.4), (" two", 0.5, 1.2), (" oh", 1.2, 1.3), (" two", 1.4, 1.8),
        (" three.", 1.8, 2.9),
    )  # fmt: skip
    found = word_places(spoken, parts)
    assert (found.words, found.placed, found.inside, found.middle) == (5, 4, 2, 4)
    late, early = found.outside
    assert (late.word, late.clip, late.place, late.before) == (" two", 0, "last", 0)
    assert late.after == pytest.approx(0.2)
    assert (early.word, early.clip, early.place, early.after) == (" two", 1, "first", 0)
    assert early.before == pytest.approx(0.1)


class CountingEngine:
    """An engine that says how often it was asked."""

    packages = ("mwc",)

    def __init__(self) -> None:
        self.calls = 0

    def transcribe(self, audio, language, timestamps, heard=None, options=GREEDY) -> Result:
        self.calls += 1
        return words((" a", 0.0, 0.5))


def test_transcripts_are_kept_until_something_changes(tmp_path: Path) -> None:
    engine, samples = CountingEngine(), np.zeros(10, np.float32)
    path = tmp_path / "kept" / "x.json"
    first = KeptTranscripts(path, ["mwc"], GREEDY).transcribe(engine, "a", samples, "en")
    again = KeptTranscripts(path, ["mwc"], GREEDY)
    assert again.transcribe(engine, "a", samples, "en") == first == words((" a", 0.0, 0.5))
    assert engine.calls == 1
    again.transcribe(engine, "a", samples + 1, "en")
    again.transcribe(engine, "a", samples, "de")
    assert engine.calls == 3
    KeptTranscripts(path, ["mwc"], {"beam_size": 5}).transcribe(engine, "a", samples, "en")
    assert engine.calls == 4


def test_languages_are_normalised_each_in_its_way() -> None:
    assert word_errors(["Grüße, Welt!"], ["grüße welt"], "de") == WordErrors(2, 0, 0, 0)
    assert word_errors(["音楽が、好き"], ["音学が好き。"], "ja") == WordErrors(5, 1, 0, 0)


def test_models_are_known_by_their_dimensions() -> None:
    dims = SimpleNamespace(n_audio_layer=4, n_text_layer=4, n_vocab=51864)
    assert official_name(dims) == "tiny.en"
    assert official_name(SimpleNamespace(**{**vars(dims), "n_vocab": 51865})) == "tiny"
    assert official_name(SimpleNamespace(**{**vars(dims), "n_text_layer": 2})) == ""
    assert official_name(SimpleNamespace(n_audio_layer=32, n_text_layer=32, n_vocab=51866)) == ""


def test_the_report_tells_everything(tmp_path: Path) -> None:
    segments = compare_segments(
        {"x": result(A, B)},
        {"x": result(A, replace(B, text=" Too.", tokens=(91, 5, 92)))},
        lambda name: lambda: TIE,
    )
    mode = ModeReport(
        segments={"greedy": segments},
        beam_errors={"English clips": {"mwc": WordErrors(200, 5, 4, 1)}},
        word_times=word_times({"x": words((" a", 0, 1))}, {"x": words((" a", 0, 1.1))}),
        word_places={"mwc": WordPlaces(1, 1, 1, 1, ())},
        language_errors={"ja": {"mwc": WordErrors(10, 1, 0, 0)}},
        silence={"nonspeech/x": {"mwc, greedy": 2}},
    )
    detected = [Detected("multilingual/x", "sv", "sv", 0.9, "no", 0.5)]
    machine = {
        "cpu": "a CPU", "cpus": 2, "memory_gib": 8.0, "system": "Linux", "python": "3.11.0",
        "versions": {"mwc": "0.1.0"}, "load_average": 0.1, "date": "2026",
        "command": "python",
    }  # fmt: skip
    report = FaithfulnessReport("x", machine, ["x"], 9.0, {"sequential": mode}, detected)
    text = write_report(report, tmp_path)
    assert (tmp_path / "faithfulness-x.md").read_text(encoding="utf-8") == text
    assert "| greedy | 2 | 2 | 50.00 % | 0 of 1 | 1 | 0 | 0 |" in text
    assert "x, greedy: 1 of 2 equal (2 of mwc), margin" in text
    assert "| mwc | 5.00 % | 5 | 4 | 1 |" in text
    assert "0.00 % have the same start and end; absolute difference" in text
    assert "| mwc | 1 | 1 | 100.00 % | 100.00 % |" in text
    assert "| ja | 10 | 10.00 % |" in text
    assert "| nonspeech/x | 2 |" in text
    assert "multilingual/x (sv): mwc sv, openai/whisper no" in text
    stored = json.loads((tmp_path / "faithfulness-x.json").read_text(encoding="utf-8"))
    assert stored["modes"]["sequential"]["word_times"]["differences"] == 1
