"""What counts as made up: improbable words amid silence."""

import pytest

from mwc.runtime.hallucination import Verdict, WindowPlace, anomaly_score, is_anomalous, judge
from mwc.runtime.spec import AudioSpec
from mwc.runtime.transcript import Segment, Word

PLACE = WindowPlace(seek=1000, n_frames=3000, n_file_frames=9000, audio=AudioSpec())
"""A window from 10 s to 40 s in a file of 90 s."""


def word(start: float, end: float, probability: float = 0.9, text: str = " word") -> Word:
    return Word(text, start, end, probability)


def segment(*words: Word, start: float | None = None) -> Segment:
    first = words[0].start if words else 0.0
    last = words[-1].end if words else 0.0
    begin = first if start is None else start
    return Segment(0, 1000, begin, last, " text", (65,), 0.0, -0.1, 1.0, 0.0, words)


def said(start: float, n_words: int = 4) -> Segment:
    """Words of 0.3 s that are likely."""
    return segment(*(word(start + 0.3 * i, start + 0.3 * i + 0.3) for i in range(n_words)))


def made_up(start: float, n_words: int = 4) -> Segment:
    """Words of 0.3 s that are not."""
    times = [start + 0.3 * i for i in range(n_words)]
    return segment(*(word(time, time + 0.3, probability=0.1) for time in times))


@pytest.mark.parametrize(
    ("start", "end", "probability", "score"),
    [
        (1.0, 1.3, 0.9, 0.0),
        (1.0, 1.3, 0.15, 0.0),
        (1.0, 1.3, 0.149, 1.0),
        (1.0, 1.033, 0.9, 1.5),
        (1.0, 1.0, 0.1, 1 + 0.133 * 15),
        (1.0, 3.0, 0.9, 0.0),
        (1.0, 5.5, 0.9, 2.5),
    ],
)
def test_a_words_score(start: float, end: float, probability: float, score: float) -> None:
    assert anomaly_score(word(start, end, probability)) == pytest.approx(score)


def test_a_segment_is_anomalous_by_its_first_eight_words() -> None:
    assert not is_anomalous(segment())
    assert not is_anomalous(said(0.0, 20))
    assert is_anomalous(made_up(0.0, 1))
    likely, unlikely = said(0.0, 8).words or (), made_up(2.4, 9).words or ()
    assert not is_anomalous(segment(*likely, *unlikely))
    assert not is_anomalous(segment(*likely[:6], *unlikely))
    assert is_anomalous(segment(*likely[:5], *unlikely))
    # Punctuation does not count, so nothing is left that could speak for the segment.
    assert is_anomalous(segment(word(0, 0.3, text=",")))


def test_speech_is_kept() -> None:
    assert judge([said(12.0), said(14.0)], PLACE, 2.0, 10.0) == Verdict(2)
    assert judge([], PLACE, 2.0, 0.0) == Verdict(0)
    assert judge([segment()], PLACE, 2.0, 0.0) == Verdict(1)


def test_silence_before_a_made_up_start_is_skipped() -> None:
    silent = segment()
    lead = Verdict(0, seek=1000 + 250, is_lead=True)
    assert judge([silent, made_up(12.5), said(20.0)], PLACE, 2.0, 10.0) == lead
    # The gap must be longer than the threshold, here it is as long.
    assert judge([silent, made_up(12.5), said(14.0)], PLACE, 2.5, 10.0) == Verdict(3)


def test_made_up_text_amid_silence_is_dropped_with_all_after_it() -> None:
    segments = [said(11.0), made_up(20.0), said(30.0)]
    assert judge(segments, PLACE, 2.0, 10.0) == Verdict(1, seek=2000)
    # Not if speech touches it before, or after.
    assert judge([said(18.5), made_up(20.0), said(30.0)], PLACE, 2.0, 10.0) == Verdict(3)
    assert judge([said(11.0), made_up(20.0), said(21.5)], PLACE, 2.0, 10.0) == Verdict(3)
    # More of its kind, or the end of the window, is as good as silence.
    assert judge([said(11.0), made_up(20.0), made_up(21.5)], PLACE, 2.0, 10.0) == (
        Verdict(1, seek=2000)
    )
    assert judge([said(11.0), made_up(37.0)], PLACE, 2.0, 10.0) == Verdict(1, seek=3700)


def test_the_window_goes_on_by_at_least_a_second() -> None:
    segments = [made_up(10.4), said(20.0)]
    assert judge(segments, PLACE, 2.0, 0.0) == Verdict(0, seek=1100)


def test_near_the_end_of_the_file_nothing_follows() -> None:
    place = WindowPlace(seek=1000, n_frames=1200, n_file_frames=2200, audio=AudioSpec())
    assert judge([said(11.0), made_up(20.0)], place, 2.0, 10.0) == Verdict(2)
    assert judge([said(11.0), made_up(19.0)], place, 1.0, 10.0) == Verdict(1, seek=1900)
    assert judge([said(11.0), made_up(20.0)], place, 0.5, 10.0) == Verdict(1, seek=2000)
    segments = [said(11.0), made_up(20.0), made_up(21.2)]
    assert judge(segments, place, 2.0, 10.0) == Verdict(1, seek=2200)
