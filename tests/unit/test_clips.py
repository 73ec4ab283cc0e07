"""Which stretches of a file are heard: clips, speech, cuts at silences."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fake_decoder import fake_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from mwc.runtime.clips import CHAINED, cut_at_silences, heard_parts, requested_clips
from mwc.runtime.errors import AudioError
from mwc.runtime.options import make_options
from mwc.runtime.speech import Clip, Speech
from mwc.runtime.transcript import Word
from mwc.runtime.vad import VadOptions

SPEC = fake_spec()
PER_SECOND = 16000 / 512
"""Frames of the speech detector."""


def speech(seconds: float, *stretches: tuple[float, float]) -> Speech:
    """Speech in these seconds and nowhere else."""
    probabilities = np.full(math.ceil(seconds * PER_SECOND), 0.01, np.float32)
    for start, end in stretches:
        probabilities[round(start * PER_SECOND) : round(end * PER_SECOND)] = 0.99
    return Speech("silero-vad 6.2", probabilities, round(seconds * 16000))


def parts(found: Speech, **options: Any) -> list[list[Clip]]:
    chosen = make_options(**options)
    n_frames = found.n_samples // 160
    return heard_parts(requested_clips(chosen, SPEC, n_frames, "a.wav"), chosen, found)


def heard(found: Speech, **options: Any) -> list[Clip]:
    return [clip for part in parts(found, **options) for clip in part]


def test_clips_as_asked_for() -> None:
    assert requested_clips(make_options(), SPEC, 6500, "a.wav") == [(0, 6500)]
    assert requested_clips(make_options(clip_timestamps="1,4.5,60"), SPEC, 6500, "a.wav") == [
        (100, 450),
        (6000, 6500),
    ]
    assert requested_clips(make_options(clip_timestamps="60,99"), SPEC, 6500, "a.wav") == [
        (6000, 6500)
    ]
    with pytest.raises(AudioError, match=r"starts at 65 s, but a\.wav ends after 65 s"):
        requested_clips(make_options(clip_timestamps="1,2,65"), SPEC, 6500, "a.wav")
    assert requested_clips(make_options(), SPEC, 0, "a.wav") == [(0, 0)]


def test_a_filter_hears_speech_with_what_is_around_it() -> None:
    found = speech(100, (10, 12), (13, 14), (60, 61))
    (first, second) = heard(found, vad_filter=True)
    # 0.4 s before and after; the second of silence between is no gap.
    assert first == (pytest.approx(960, abs=4), pytest.approx(1440, abs=4))
    assert second == (pytest.approx(5960, abs=4), pytest.approx(6140, abs=4))


def test_a_noise_is_not_worth_hearing_unless_asked_for() -> None:
    found = speech(100, (10, 10.1), (60, 61))
    assert len(found.clips(VadOptions())) == 2
    assert len(heard(found, vad_filter=True)) == 1
    assert len(heard(found, vad_filter=True, vad_parameters={"threshold": 0.5})) == 2


def test_neighbours_share_a_window_with_the_silence_between() -> None:
    found = speech(100, (10, 12), (20, 22), (36, 37), (45, 46))
    clips = heard(found, vad_filter=True)
    assert [round(start / 100) for start, _ in clips] == [10, 45]
    assert [round(end / 100) for _, end in clips] == [37, 46]


def test_a_short_silence_is_not_left_out() -> None:
    found = speech(100, (10, 30), (33.5, 60), (64.2, 90))
    clips = heard(found, vad_filter=True)  # 2.7 s and 3.4 s between, with 0.4 s on either side
    assert [round(start / 100) for start, _ in clips] == [10, 64]
    assert [round(end / 100) for _, end in clips] == [60, 90]


def test_a_filter_cuts_the_clips_asked_for_down() -> None:
    found = speech(100, (10, 20))
    ((start, end),) = heard(found, vad_filter=True, clip_timestamps="15,40,50,60")
    assert (start, end) == (1500, pytest.approx(2040, abs=4))


def test_how_speech_is_found_can_be_changed() -> None:
    found = speech(100, (10, 12), (13, 14), (60, 60.2))
    parameters = {"min_silence_duration_ms": 500, "min_speech_duration_ms": 300, "speech_pad_ms": 0}
    clips = heard(found, vad_filter=True, vad_parameters=parameters)
    assert clips == [(pytest.approx(1000, abs=4), pytest.approx(1400, abs=4))]


def test_nothing_is_heard_of_silence() -> None:
    assert parts(speech(100), vad_filter=True) == [[]]
    assert parts(speech(100), vad_filter=True, batch_size=4) == []


def test_windows_are_cut_in_the_longest_silence_of_their_last_6_s() -> None:
    talk = speech(105, (0, 20), (22, 24.5), (25.5, 29), (29.4, 51), (54.4, 79), (80, 105))
    assert heard(talk, batch_size=4) == [
        (0, pytest.approx(2500, abs=4)),  # 20 s is too early, and 29.2 s a shorter silence
        (pytest.approx(2500, abs=4), pytest.approx(5270, abs=4)),
        (pytest.approx(5270, abs=4), pytest.approx(7950, abs=4)),
        (pytest.approx(7950, abs=4), 10500),
    ]


@pytest.mark.parametrize(
    ("seconds", "silence", "cut"),
    [
        (31, 5, 21),  # neither window is shorter than 10 s: where there is no silence, the last
        (31, 12, 12),
        (40, 12, 12),
        (45, 14, 30),  # the rest would be longer than a window
        (45, 16, 16),
        (58, 26, 26),  # three windows, rather than a cut in speech
        (58, 29, 29),
        (70, 22, 30),  # that takes three windows: each as long as it can be
        (70, 25, 25),
    ],
)
def test_the_last_cut_has_more_silences_to_choose_from(
    seconds: float, silence: float, cut: float
) -> None:
    talk = speech(seconds, (0, silence - 0.2), (silence + 0.2, seconds))
    windows = heard(talk, batch_size=2)
    assert windows[0] == (0, pytest.approx(100 * cut, abs=7))


def test_windows_of_a_batch_are_parts_unless_they_are_to_know_the_text_before() -> None:
    talk = speech(200, *((k, k + 6.5) for k in range(0, 200, 7)))
    alone = parts(talk, batch_size=2)
    assert len(alone) == 8
    assert parts(talk, batch_size=2, condition_on_previous_text=False) == alone
    chained = parts(talk, batch_size=2, condition_on_previous_text=True)
    assert [len(part) for part in chained] == [CHAINED, CHAINED, 2]
    assert [[clip] for part in chained for clip in part] == alone
    assert len(parts(talk)) == 1


def test_the_number_decoded_together_changes_no_cut() -> None:
    talk = speech(400, *((k, k + 6.5) for k in range(0, 400, 7)))
    assert heard(talk, batch_size=2) == heard(talk, batch_size=16)
    assert len(heard(talk, batch_size=2)) > 4


def test_without_any_silence_parts_are_cut_where_speech_is_least_likely() -> None:
    found = speech(100, (0, 100))
    assert cut_at_silences((0, 10000), found)[0][1] == pytest.approx(3000, abs=4)
    found.probabilities[round(26 * PER_SECOND)] = 0.6
    assert cut_at_silences((0, 10000), found)[0][1] == pytest.approx(2600, abs=4)


def test_a_filter_and_a_batch_leave_out_the_silence_around_parts() -> None:
    found = speech(300, (10, 35), (36, 50), (200, 201), (210, 215))
    clips = heard(found, vad_filter=True, batch_size=2)
    assert len(clips) == 3
    assert clips[0][0] == pytest.approx(960, abs=4)
    assert clips[0][1] == clips[1][0]
    assert clips[1][0] == pytest.approx(3550, abs=4)
    assert clips[1][1] == pytest.approx(5040, abs=4)
    assert clips[2] == (pytest.approx(19960, abs=4), pytest.approx(21540, abs=4))


@settings(max_examples=300, deadline=None)
@given(
    probabilities=st.lists(st.floats(0, 1, width=32), max_size=400),
    repeats=st.integers(1, 30),
    edges=st.lists(st.integers(0, 400000), min_size=2, max_size=6).map(sorted),
    use_filter=st.booleans(),
)
def test_parts_are_short_apart_and_lose_nothing(
    probabilities: Sequence[float], repeats: int, edges: list[int], use_filter: bool
) -> None:
    values = np.repeat(np.array(probabilities, np.float32), repeats)
    n_samples = len(values) * 512
    n_frames = n_samples // 160
    asked = [(a, min(b, n_frames)) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    found = Speech("silero-vad 6.2", values, n_samples)
    options = make_options(batch_size=8, vad_filter=use_filter)
    clips = [clip for part in heard_parts(asked, options, found) for clip in part]
    assert all(0 < end - start <= 3000 for start, end in clips)
    assert all(a[1] <= b[0] for a, b in pairwise(clips))
    covered = np.zeros(max(n_frames, 1), bool)
    for start, end in clips:
        covered[start:end] = True
    wanted = np.zeros(max(n_frames, 1), bool)
    for start, end in asked:
        wanted[start:end] = True
    assert not (covered & ~wanted).any()
    if not use_filter:
        assert (covered == wanted).all()
        return
    for start, end in found.ranges:  # whatever is found with gaps of 0.1 s is found with 2 s too
        first, last = math.ceil(start * 100), math.floor(min(end * 100, n_frames))
        assert covered[first:last].sum() == wanted[first:last].sum()


def test_how_much_of_a_time_is_speech() -> None:
    found = speech(20, (5, 10))
    assert found.share(6, 9) == 1.0
    assert found.share(12, 15) == 0.0
    assert found.share(0, 20) == pytest.approx(5.06 / 20, abs=0.01)  # 30 ms around it count
    assert found.share(7, 7) == 0.0
    assert found.share(19, 99) == 0.0


@pytest.mark.parametrize(
    ("start", "end", "kept"),
    [
        (5.5, 6.0, (5.5, 6.0)),
        (4.0, 5.6, (5.0, 5.6)),  # began in the silence before it
        (7.7, 9.5, (7.7, 8.0)),  # ends in the silence after it
        (7.9, 10.6, (10.0, 10.6)),  # more of it lies after the pause
        (7.2, 10.1, (7.2, 8.0)),
        (10.9, 11.6, (10.9, 11.6)),  # over a pause that is too short to count
        (15.0, 15.5, (15.0, 15.5)),  # where nothing was detected
        (12.9, 14.0, (12.9, 13.0)),
        (12.99, 14.0, (12.99, 14.0)),  # hardly any of it was
    ],
)
def test_words_keep_to_speech(start: float, end: float, kept: tuple[float, float]) -> None:
    found = speech(20, (5, 8), (10, 11), (11.2, 13))
    word = found.keep(Word(" a", start, end, 0.5))
    assert (word.start, word.end) == (
        pytest.approx(kept[0], abs=0.017),
        pytest.approx(kept[1], abs=0.017),
    )
    assert (word.word, word.probability) == (" a", 0.5)
