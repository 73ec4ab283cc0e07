"""The parts of the benchmarks that count and decide; measuring itself is not tested."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

from accuracy_report import AccuracyReport, ClipTokens
from accuracy_report import write_report as write_accuracy
from child import Measured
from engines import Piece
from gpu_transcripts import calls_timed
from quantization import errors_of, ratio_interval
from quantization import report as quantization_report
from refusals import told as refusals_told
from report import Report, write_report
from sizes import Measured as OfASize
from sizes import median_of
from sizes import report as sizes_report
from speech_corpus import Clip, english, other_languages, read_corpus, spread
from startup import ConvertTimes
from text_parity import FirstDifference, TextDifference, agreeing, by_window, cause_of
from token_parity import TokenDifference, WindowTokens

from mwc.compiler.parity import ParityReport, StageError
from mwc.compiler.word_errors import WordErrors, word_errors

MACHINE = {
    "cpu": "a CPU",
    "cpus": 2,
    "memory_gib": 8.0,
    "system": "Linux 6",
    "python": "3.11.0",
    "versions": {"mwc": "0.1.0"},
    "load_average": 0.1,
    "date": "2026-01-01T00:00:00+00:00",
    "command": "python benchmarks/run.py",
}


def clip(name: str, language: str = "en") -> Clip:
    return Clip(name, Path(name), 1.0, language, "words", name.split("/")[0])


def test_the_manifest_is_read_as_it_is_written(tmp_path: Path) -> None:
    rows = (
        "path\tseconds\tlanguage\ttranscript",
        'short/a.wav\t1.5\ten\tthe "forty-two line',
        "nonspeech/b.wav\t2\t\t",
    )
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    first, second = read_corpus(tmp_path)
    assert first.path == tmp_path / "short" / "a.wav"
    assert (first.seconds, first.group, first.transcript) == (1.5, "short", 'the "forty-two line')
    assert (second.language, second.group) == ("", "nonspeech")


def test_clips_are_chosen_by_language_and_evenly() -> None:
    clips = [clip(f"short/{i}") for i in range(10)]
    clips += [clip("long/synthetic.flac"), clip("multilingual/x", "de"), clip("nonspeech/y", "")]
    assert [c.name for c in spread(english(clips), 3)] == ["short/0", "short/3", "short/6"]
    assert len(spread(english(clips), 99)) == 10
    assert [c.name for c in other_languages(clips)] == ["multilingual/x"]


def test_word_errors_are_counted_after_normalising_over_all_clips() -> None:
    pytest.importorskip("jiwer")
    pytest.importorskip("whisper_normalizer")
    references = ["Mr. Smith sat down, uh, twice.", "twenty one colours"]
    found = word_errors(references, ["mister smith stood down", "21 colors now"])
    # mister smith sat down twice / 21 colors
    assert found == WordErrors(words=7, substitutions=1, deletions=1, insertions=1)
    assert found.rate == pytest.approx(3 / 7)


def piece(seek: int, *tokens: int) -> Piece:
    return Piece(0.0, 1.0, seek, "", tokens)


def test_tokens_are_compared_window_by_window() -> None:
    ours = [piece(0, 1, 2), piece(0, 3), piece(3000, 4)]
    theirs = [piece(0, 1, 2, 3), piece(2800, 5)]
    assert by_window(ours, theirs) == [
        (0, [1, 2, 3], [1, 2, 3]),
        (2800, [], [5]),
        (3000, [4], []),
    ]
    assert [agreeing(a, b) for _, a, b in by_window(ours, theirs)] == [3, 0, 0]
    assert agreeing([1, 2, 3], [1, 9, 3]) == 1


def test_a_text_is_explained_by_its_samples_or_a_near_tie() -> None:
    tie = FirstDifference(seek=0, position=1, ours="a", theirs="b", margin=5e-4)
    assert cause_of(True, None) == "samples"
    assert cause_of(False, tie) == "margin"
    for margin in (0.01, -1.0):
        assert cause_of(False, replace(tie, margin=margin)) == "unexplained"
    assert cause_of(False, None) == "unexplained"


def measured(seconds: float) -> Measured:
    return Measured(
        1.0, 0.5, 1.5, seconds, 0.25, 300.0, 100.0, 150.0, 1000, 90, 0.0787, seconds / 2, 0.1
    )


def test_speed_is_told_as_medians_and_ratios(tmp_path: Path) -> None:
    report = Report(
        name="x",
        machine=MACHINE,
        audio="long.flac",
        short="short.flac",
        seconds=100.0,
        threads=2,
        beam_size=1,
        timestamps=True,
        started="f32",
        clips=20,
        engines={
            "mwc": [measured(2.0), measured(9.0), measured(4.0)],
            "other": [measured(8.0), measured(6.0), measured(7.0)],
        },
        start={"import": [0.3, 0.1, 0.2]},
        convert=ConvertTimes("pkg:x", 60.0, 6.0, 3.0, 12.0),
    )
    text = write_report(report, tmp_path)
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == text
    assert "| mwc | 4.00 s | 25.0 | 1.00 |  | 2.00 to 9.00 |" in text
    assert "| other | 7.00 s | 14.3 | 1.75 |  | 6.00 to 8.00 |" in text
    assert "| 100 + 150 | 7.87 % |" in text
    assert "| other | 3.50 s | 1.75 |  | 10.00 % |" in text
    assert "| import | 0.20 s | 0.10 to 0.30 |" in text
    assert "60.0 s with empty caches, 6.0 s once more" in text
    assert "`--no-verify`: 3.0 s" in text
    assert "python benchmarks/run.py" in text
    data = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert [run["transcribe"] for run in data["engines"]["mwc"]] == [2.0, 9.0, 4.0]


def test_accuracy_lists_every_difference(tmp_path: Path) -> None:
    tie = TokenDifference(0, 7, " a", " b", 4e-4, True)
    wrong = TokenDifference(3000, 2, " c", "<|1.00|>", float("inf"), False)
    none = WindowTokens(0, (1, 2, 3), ())
    text_difference = TextDifference(
        clip="short/b",
        timestamps=False,
        ours=" yes",
        theirs=" no",
        cause="margin",
        samples=3e-5,
        lengths=(16000, 16000),
        first=FirstDifference(0, 4, " yes", " no", 2e-4),
    )
    found = WindowTokens(0, (1, 2), (tie,)), WindowTokens(3000, (3,), (wrong,))
    modes = "without timestamps", "with timestamps"
    report = AccuracyReport(
        name="x",
        machine=MACHINE,
        clips=["short/a", "short/b"],
        languages=["en"],
        tokens={
            "short/a": ClipTokens({mode: (none,) for mode in modes}, True),
            "short/b": ClipTokens({modes[0]: found, modes[1]: (none,)}, False),
        },
        texts=[text_difference],
        word_errors={modes[0]: {"mwc": WordErrors(200, 5, 4, 1)}},
    )
    text = write_accuracy(report, tmp_path)
    assert "| without timestamps | 1 of 2 | 6 | 2 | 1 |" in text
    assert "| with timestamps | 2 of 2 | 6 | 0 | 0 |" in text
    assert "same tokens on 1 of 2 clips; not on short/b." in text
    assert "| short/b | without timestamps | 30 s | 2 | ` c` | `<\\|1.00\\|>` | inf |" in text
    assert "| without timestamps | 1 of 2 | 0 | 1 | 0 |" in text
    assert "short/b, without timestamps: margin (samples differ by at most 3.0e-05)" in text
    assert "| mwc | 5.00 % | 5 | 4 | 1 |" in text
    stored = json.loads((tmp_path / "accuracy-x.json").read_text(encoding="utf-8"))
    windows = stored["tokens"]["short/b"]["windows"][modes[0]]
    assert windows[1]["differences"][0]["margin"] is None


def test_errors_of_log_probabilities() -> None:
    errors = errors_of(np.array([0.3, -0.4, 0.0, 0.05]))
    assert errors.rms == pytest.approx((0.2525 / 4) ** 0.5)
    assert errors.mean == pytest.approx(0.75 / 4)
    assert errors.beyond == 0.5


def test_two_arithmetics_are_compared_by_clips() -> None:
    chance = np.random.default_rng(1)
    theirs = [chance.standard_normal(n) for n in (5, 20, 11, 1, 30)]
    ratio, low, high = ratio_interval([d / 2 for d in theirs], theirs)
    assert (ratio, low, high) == pytest.approx((0.5, 0.5, 0.5))
    ratio, low, high = ratio_interval([chance.standard_normal(len(d)) for d in theirs], theirs)
    assert low < ratio < high
    differences = {"mwc int8": [d / 2 for d in theirs], "CTranslate2 int8": theirs}
    text = quantization_report(["# Title"], differences)
    assert "mwc int8 is 0.50 times that of CTranslate2 int8 (95 % interval 0.50 to 0.50" in text
    assert text.count("\n| ") == 3
    assert "times" not in quantization_report(["# Title"], {"mwc int8": theirs})


def test_larger_models_are_told_by_their_medians_and_ratios() -> None:
    rounds = [OfASize(1.0, 2.8, 700.0), OfASize(9.0, 9.0, 900.0), OfASize(0.5, 1.0, 800.0)]
    middle = median_of(rounds)
    assert middle == OfASize(1.0, 2.8, 800.0)
    assert middle.step == pytest.approx(0.02)
    theirs = OfASize(4.0, 9.4, 1200.0)
    text = sizes_report(
        ["# Title"], {"small, 1 window": {"mwc int8": middle, "CTranslate2 int8": theirs}}
    )
    row = "| small, 1 window | 2.80 | 9.40 | 3.4 | 1.00 | 4.00 | 4.0 | 20.00 | 60.00 | 3.0 | "
    assert row + "800, 1200 |" in text
    head, rule = text.splitlines()[2:4]
    assert head.count("|") == rule.count("|") == row.count("|") + 1


def test_calls_of_a_session_are_timed_for_a_while() -> None:
    class Graphs:
        def _called(self, value: int) -> int:
            return value + 1

        log_mel = vad = encode = prefill = steps = step = _called

    graphs: Any = Graphs()
    with calls_timed(graphs) as calls:
        assert graphs.steps(1) == 2
        assert graphs.steps(value=2) == 3
        with pytest.raises(TypeError):
            graphs.encode(None)
    assert graphs.steps(1) == 2
    assert [calls[name].n for name in ("steps", "encode", "vad")] == [2, 1, 0]
    assert not vars(graphs)


def test_clips_beyond_their_bound_are_told_from_those_refused() -> None:
    def report(error: float, ok: bool, n_open: int) -> ParityReport:
        stage = StageError("encoder", error, error, 1e-4, ok, n_open)
        fine = StageError("conv", 1e-6, 1e-6, 1e-4, True)
        return ParityReport("numpy", "f32", 1e-4, (fine, stage), 10, 9, (), ok)

    clips = {"a": report(1e-5, True, 0), "b": report(2e-4, True, 1), "c": report(3e-4, False, 0)}
    first, _, _, _, *rows = refusals_told(clips)
    assert first == "3 clips: 2 with a stage beyond its bound, 1 refused; 27 of 30 tokens equal."
    assert rows == [
        "| b | encoder | 2.0e-04 | 1 | 9 of 10 |  |",
        "| c | encoder | 3.0e-04 | 0 | 9 of 10 | refused |",
    ]
