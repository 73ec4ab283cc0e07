"""Speech segments against faster-whisper's function and by hand; the detector's frames."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy_vad import frames_of

from mwc.runtime.errors import OptionError
from mwc.runtime.vad import (
    FRAMES_PER_CALL,
    SpeechDetector,
    SpeechSegment,
    VadOptions,
    speech_segments,
)

Float32 = npt.NDArray[np.float32]

NO_PADDING = {"speech_pad_ms": 0}


def segments(runs: list[tuple[float, int]], **options: Any) -> list[tuple[int, int]]:
    """Segments, in frames, of runs of (probability, frames)."""
    probabilities = [p for p, count in runs for _ in range(count)]
    found = speech_segments(probabilities, VadOptions(**options), 512 * len(probabilities))
    return [(segment.start // 512, segment.end // 512) for segment in found]


def test_no_speech_and_nothing_at_all() -> None:
    assert segments([(0.49, 100)]) == []
    assert speech_segments([], VadOptions(), 0) == ()


def test_a_segment_is_padded_but_stays_in_the_file() -> None:
    probabilities = [0.0] * 3 + [0.9] * 10 + [0.0] * 100
    (found,) = speech_segments(probabilities, VadOptions(), 512 * 113)
    assert found == SpeechSegment(0, 13 * 512 + 6400)
    (found,) = speech_segments(probabilities[:20], VadOptions(), 512 * 20 - 100)
    assert found == SpeechSegment(0, 512 * 20 - 100)


def test_hysteresis_between_the_thresholds() -> None:
    runs = [(0.0, 2), (0.5, 4), (0.36, 100), (0.34, 80), (0.4, 5)]
    assert segments(runs, **NO_PADDING) == [(2, 106)]
    assert segments(runs, **NO_PADDING, neg_threshold=0.4) == [(2, 6)]


def test_a_silence_must_last_to_end_a_segment() -> None:
    # 160 ms are 5 frames; a silence is as long as its last frame is far from its first.
    runs = [(0.9, 10), (0.0, 5), (0.9, 10), (0.0, 6), (0.9, 1)]
    assert segments(runs, **NO_PADDING, min_silence_duration_ms=160) == [(0, 25), (31, 32)]


def test_short_segments_are_dropped() -> None:
    runs = [(0.9, 4), (0.0, 20), (0.9, 5), (0.0, 20)]
    options = {**NO_PADDING, "min_silence_duration_ms": 100}
    assert segments(runs, **options, min_speech_duration_ms=128) == [(24, 29)]


def test_neighbours_share_a_short_gap() -> None:
    probabilities = [0.9] * 4 + [0.0] * 10 + [0.9] * 4
    options = VadOptions(min_silence_duration_ms=100, speech_pad_ms=400)
    found = speech_segments(probabilities, options, 512 * 18)
    assert found == (SpeechSegment(0, 9 * 512), SpeechSegment(9 * 512, 18 * 512))


def test_long_speech_is_cut_at_its_last_long_silence() -> None:
    # The silences of 4 frames are too short to cut at; those of 6 are not.
    speech = [(0.9, 10), (0.0, 6), (0.9, 5), (0.0, 6), (0.9, 5), (0.0, 4), (0.9, 60)]
    options = {**NO_PADDING, "max_speech_duration_s": 41 * 512 / 16000}
    assert segments(speech, **options)[0] == (0, 21)
    assert segments(speech, **options)[1][0] == 27


def test_long_speech_without_a_silence_is_cut_where_it_is_too_long() -> None:
    options = {**NO_PADDING, "max_speech_duration_s": 41 * 512 / 16000}
    assert segments([(0.9, 100)], **options) == [(0, 41), (42, 83), (84, 100)]


def test_segments_are_faster_whispers(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("faster_whisper.vad")
    rng = np.random.default_rng(0)
    several = 0
    for trial in range(1500):
        n = int(rng.integers(1, 400))
        n_samples = 512 * n - int(rng.integers(1, 512))
        walk = np.cumsum(rng.standard_normal(n) * rng.choice([0.05, 0.2, 0.6])) / 2
        probabilities = np.abs(walk % 2 - 1) if trial % 2 else rng.random(n)
        if trial % 3 == 0:
            probabilities = np.repeat(probabilities, int(rng.integers(1, 12)))[:n]
        options = {
            "threshold": float(rng.choice([0.3, 0.5, 0.7])),
            "neg_threshold": None if trial % 4 else float(rng.choice([0.1, 0.3])),
            "min_speech_duration_ms": int(rng.choice([0, 64, 250])),
            "min_silence_duration_ms": int(rng.choice([0, 50, 100, 160, 500, 2000])),
            "speech_pad_ms": int(rng.choice([0, 30, 100, 133, 400])),
            "max_speech_duration_s": float(rng.choice([math.inf, 1.0, 2.0, 5.0])),
        }
        monkeypatch.setattr(theirs, "get_vad_model", lambda p=probabilities: lambda audio: p)
        expected = theirs.get_speech_timestamps(np.zeros(n_samples, np.float32), **options)
        ours = speech_segments(probabilities, VadOptions.read(options), n_samples)
        assert [(s.start, s.end) for s in ours] == [(s["start"], s["end"]) for s in expected]
        several += len(ours) > 3
    assert several > 300


@pytest.mark.parametrize("seed", range(20))
def test_frames_that_change_nothing_need_not_be_heard(seed: int) -> None:
    """Speech that is never cut is as speech cut only after days, for which every frame is heard."""
    rng = np.random.default_rng(seed)
    probabilities = np.repeat(rng.random(200), rng.integers(1, 12, 200)).astype(np.float32)
    probabilities[rng.integers(0, len(probabilities), 30)] = np.float32(0.35)
    silence, speech, threshold = rng.integers(0, 300, 3)
    options = {
        "threshold": 0.3 + threshold / 600,
        "min_silence_duration_ms": int(silence),
        "min_speech_duration_ms": int(speech),
        "speech_pad_ms": 30,
    }
    n_samples = 512 * len(probabilities)
    quick = speech_segments(probabilities, VadOptions(**options), n_samples)
    whole = VadOptions(**options, max_speech_duration_s=1e6)
    assert quick == speech_segments(probabilities, whole, n_samples)
    assert len(quick) > 3


def test_probabilities_must_fit_the_samples() -> None:
    with pytest.raises(ValueError, match="3 probabilities do not fit 1000 samples"):
        speech_segments([0.1, 0.2, 0.3], VadOptions(), 1000)


def test_options_are_read_by_name() -> None:
    assert VadOptions.read(None) == VadOptions()
    assert VadOptions.read(VadOptions(0.6)) == VadOptions(threshold=0.6)
    assert VadOptions.read({"speech_pad_ms": 30}) == VadOptions(speech_pad_ms=30)
    assert VadOptions(0.6).end_threshold == pytest.approx(0.45)
    assert VadOptions(0.1).end_threshold == 0.01
    assert VadOptions(neg_threshold=0.2).end_threshold == 0.2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 0}, "threshold is 0; it takes a probability above 0, up to 1"),
        ({"threshold": 1.5}, "threshold is 1.5; it takes a probability"),
        ({"threshold": None}, "threshold is None; it takes a number"),
        ({"threshold": True}, "threshold is True; it takes a number"),
        ({"threshold": math.nan}, "threshold is nan; it takes a number"),
        ({"neg_threshold": 0.6}, "neg_threshold is 0.6; it takes a probability from 0 to the"),
        ({"neg_threshold": "0.3"}, "neg_threshold is '0.3'; it takes a number"),
        ({"min_speech_duration_ms": -1}, "min_speech_duration_ms is -1; it takes 0 ms or more"),
        ({"min_silence_duration_ms": math.inf}, "min_silence_duration_ms is inf"),
        ({"speech_pad_ms": -5}, "speech_pad_ms is -5; it takes 0 ms or more"),
        ({"max_speech_duration_s": 0.8}, "it must be more than 0.832 s, twice speech_pad_ms"),
        ({"max_speech_duration_s": 0}, "max_speech_duration_s is 0; it must be more than"),
        ({"onset": 0.5, "offset": 1}, "vad_parameters has no onset, offset; it takes threshold,"),
        ([0.5], r"vad_parameters is \[0.5\]; it takes a dictionary of threshold,"),
    ],
)
def test_wrong_options_are_one_sentence(options: Any, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        VadOptions.read(options)


class Recorder:
    """Notes the frames it is given; the state counts them."""

    def __init__(self) -> None:
        self.calls: list[Float32] = []

    def __call__(self, samples: Float32, state: Float32) -> tuple[Float32, Float32]:
        assert state[0, 0] == sum(len(call) for call in self.calls)
        self.calls.append(samples.copy())
        return samples.mean(axis=1), state + np.float32(len(samples))


@pytest.mark.parametrize(
    "length", [0, 1, 511, 512, 513, FRAMES_PER_CALL * 512, FRAMES_PER_CALL * 512 + 1, 1_300_001]
)
@pytest.mark.parametrize("size", [1000, 524_289, 10**6])
def test_frames_are_cut_with_their_context(length: int, size: int) -> None:
    samples = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    record = Recorder()
    detector = SpeechDetector(record)
    for at in range(0, length, size):
        detector.add(samples[at : at + size])
    probabilities = detector.finish()
    assert detector.n_samples == length
    assert probabilities.dtype == np.float32
    if length == 0:
        assert probabilities.shape == (0,)
        assert not record.calls
        return
    expected = frames_of(samples)
    assert np.array_equal(np.concatenate(record.calls), expected)
    assert np.array_equal(probabilities, expected.mean(axis=1))
    assert max(len(call) for call in record.calls) <= FRAMES_PER_CALL
