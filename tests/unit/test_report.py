"""What is told of a transcription: speech without text, repetition, windows as JSON."""

import json

import pytest

from mwc.runtime.report import Attempt, Coverage, WindowReport, measure_coverage, repetition


@pytest.mark.parametrize(
    ("texts", "uncovered"),
    [
        ([], [(1.0, 3.0), (5.0, 6.0)]),
        ([(0.0, 10.0)], []),
        # 0.2 s around a text count as covered.
        ([(1.2, 2.8), (5.2, 5.8)], []),
        ([(1.5, 2.0)], [(1.0, 1.3), (2.2, 3.0), (5.0, 6.0)]),
        # Several in one stretch, in any order, overlapping; one that lies in silence.
        ([(2.5, 2.6), (1.0, 1.4), (1.3, 1.5), (4.0, 4.5)], [(1.7, 2.3), (2.8, 3.0), (5.0, 6.0)]),
        ([(2.9, 5.3)], [(1.0, 2.7), (5.5, 6.0)]),
    ],
)
def test_speech_that_no_text_covers(
    texts: list[tuple[float, float]], uncovered: list[tuple[float, float]]
) -> None:
    coverage = measure_coverage("silero-vad 6.2", [(1.0, 3.0), (5.0, 6.0)], texts)
    assert coverage.speech == 3.0
    assert [pytest.approx(gap) for gap in coverage.uncovered] == uncovered
    assert coverage.uncovered_seconds == pytest.approx(sum(b - a for a, b in uncovered))


def test_coverage_as_json() -> None:
    coverage = Coverage("silero-vad 6.2", 12.34567, ((1.0, 1.55555), (3.0, 4.0)))
    assert json.loads(json.dumps(coverage.to_dict())) == {
        "detector": "silero-vad 6.2",
        "speech": 12.346,
        "uncovered_seconds": 1.556,
        "uncovered": [[1.0, 1.556], [3.0, 4.0]],
    }


def test_a_window_as_json() -> None:
    attempts = (Attempt(0.0, -1.5, 1.25, "avg_logprob -1.50 is below -1"),)
    report = WindowReport(0.0, 30.0, "de", 0.75, 0.5, attempts, None)
    assert json.loads(json.dumps(report.to_dict())) == {
        "start": 0.0,
        "end": 30.0,
        "language": "de",
        "language_probability": 0.75,
        "no_speech_prob": 0.5,
        "attempts": [
            {
                "temperature": 0.0,
                "avg_logprob": -1.5,
                "compression_ratio": 1.25,
                "refused": "avg_logprob -1.50 is below -1",
            }
        ],
        "skipped": None,
    }


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two", 0.0),
        ("one two three four", 0.0),
        # Eight triples of which two differ.
        ("ha ha Ha ha ha ha ha ha ha ho", 1 - 2 / 8),
        ("a b c a b c", 1 - 3 / 4),
        # Without spaces, by characters: six triples of which three differ.
        ("吧吧吧吧吧吧吗呢", 1 - 3 / 6),
    ],
)
def test_repetition(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)
