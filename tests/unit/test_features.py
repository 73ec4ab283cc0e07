import tracemalloc
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_log_mel import numpy_log_mel

from mwc.compiler.reference_numpy import log_mel as whole_log_mel
from mwc.runtime.audio import AudioSource, open_audio
from mwc.runtime.errors import AudioError
from mwc.runtime.features import Features
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.spec import AudioSpec

Float32 = npt.NDArray[np.float32]


class Cut(AudioSource):
    """Samples in blocks of given sizes, the last of which repeats; counts its readings."""

    def __init__(self, samples: Float32, *sizes: int) -> None:
        super().__init__("<cut>", None)
        self.samples = samples
        self.sizes = sizes or (len(samples),)
        self.readings = 0

    def blocks(self) -> Iterator[Float32]:
        self.readings += 1
        start = turn = 0
        while start < len(self.samples):
            size = self.sizes[min(turn, len(self.sizes) - 1)]
            yield self.samples[start : start + size]
            start += size
            turn += 1


def noise(n_samples: int, seed: int = 0) -> Float32:
    """Noise that swells and dies away, so that frames differ from one another."""
    rng = np.random.default_rng(seed)
    swell = 0.02 + np.abs(np.sin(np.arange(n_samples) / 30000.0))
    return (rng.standard_normal(n_samples) * swell * 0.1).astype(np.float32)


def normalised(features: Features, seek: int) -> Float32:
    """A window's frames as the encoder graph normalises them."""
    window = np.maximum(features.window(seek), features.log_mel_max - 8.0)
    window = (window + 4.0) / 4.0
    window[max(features.n_frames - seek, 0) :] = 0.0
    return window


def expected(reference: Float32, n_samples: int, seek: int) -> Float32:
    """The window that openai/whisper's `transcribe` cuts from a whole file's log-mel."""
    content = reference[: n_samples // 160][seek : seek + 3000]
    return np.pad(content, ((0, 3000 - len(content)), (0, 0)))


def openai_log_mel(samples: Float32, n_mels: int) -> Float32:
    """openai/whisper's own log-mel of a file, [n_samples // 160 + 3000, n_mels]."""
    whisper = pytest.importorskip("whisper")
    return whisper.log_mel_spectrogram(samples, n_mels, padding=480000).numpy().T


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.05, 4.0, 71.3])
def test_windows_are_those_of_openai_whisper(n_mels: int, seconds: float) -> None:
    samples = noise(int(seconds * 16000))
    features = Features(Cut(samples, 4099), numpy_log_mel(n_mels), n_mels)
    reference = openai_log_mel(samples, n_mels)
    assert features.n_frames == len(reference) - 3000
    for seek in range(0, features.n_frames, 1777):
        want = expected(reference, len(samples), seek)
        np.testing.assert_allclose(normalised(features, seek), want, atol=2e-4)


# Lengths around everything that divides the samples: the reflection, frames, pieces, calls.
EDGES = [1, 2, 159, 160, 199, 200, 201, 359, 360, 16000, 159800, 159999, 160000, 160039, 160040]
EDGES += [160200, 160240, 319800, 480000 - 201, 480000 - 200, 480000, 480039, 480040, 480041]
EDGES += [480240, 640000, 960000 - 200, 960000, 960040]


@pytest.mark.parametrize("n_samples", EDGES)
def test_every_length_matches_the_log_mel_of_the_whole_file(n_samples: int) -> None:
    samples = noise(n_samples, seed=n_samples)
    features = Features(Cut(samples, 7001), numpy_log_mel(80), 80)
    reference = whole_log_mel(np.pad(samples, (0, 480000)), 80, AudioSpec())
    assert (features.n_samples, features.n_frames) == (n_samples, n_samples // 160)
    assert features.duration == n_samples / 16000
    np.testing.assert_allclose((features.log_mel_max + 4.0) / 4.0, reference.max(), atol=1e-5)
    for seek in {0, max(0, features.n_frames - 3), features.n_frames // 2}:
        want = expected(reference, n_samples, seek)
        np.testing.assert_allclose(normalised(features, seek), want, atol=1e-4)
        # What language detection hears: the frames after the last whole one too.
        heard = (np.maximum(features.window(seek), features.log_mel_max - 8.0) + 4.0) / 4.0
        np.testing.assert_allclose(heard, reference[seek : seek + 3000], atol=1e-4)


def test_a_maximum_behind_the_last_whole_frame_counts() -> None:
    samples = noise(480159)
    samples[-100:] = 0.9  # only frames past n_frames are centred near here
    features = Features(Cut(samples), numpy_log_mel(80), 80)
    reference = whole_log_mel(np.pad(samples, (0, 480000)), 80, AudioSpec())
    np.testing.assert_allclose((features.log_mel_max + 4.0) / 4.0, reference.max(), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 600000), min_size=1, max_size=6), n=st.integers(1, 1100000))
def test_the_block_sizes_change_nothing(sizes: list[int], n: int) -> None:
    samples = np.arange(1, n + 1, dtype=np.float32)
    sizes[-1] = max(sizes[-1], 5000)

    def first_samples(pieces: Float32) -> Float32:
        """As "mel", the first two samples of each frame's hop: exact, and cheap."""
        frames = np.lib.stride_tricks.sliding_window_view(pieces, 400, axis=1)[:, ::160]
        return np.ascontiguousarray(frames[:, :, 200:202])

    features = Features(Cut(samples, *sizes), first_samples, 2)
    assert features.n_samples == n
    for seek in (0, features.n_frames // 2):
        m = min(3000, -(-(n + 200) // 160) - seek)  # frames that touch a sample
        hops = (np.arange(seek, seek + m) * 160)[:, None] + [0, 1]
        padded = np.pad(samples, (0, 400))
        np.testing.assert_array_equal(features.window(seek)[:m], padded[hops])
        assert (features.window(seek)[m:] == -10.0).all()


def test_the_start_is_reflected_and_the_end_is_zero() -> None:
    samples = np.arange(1, 100001, dtype=np.float32)
    seen: list[Float32] = []

    def spy(pieces: Float32) -> Float32:
        seen.append(pieces)
        return np.zeros((len(pieces), 1000, 80), np.float32)

    Features(Cut(samples, 150), spy, 80)
    (piece,) = seen[0]
    np.testing.assert_array_equal(piece[:200], samples[200:0:-1])
    np.testing.assert_array_equal(piece[200:100200], samples)
    assert not piece[100200:].any()


def test_a_file_longer_than_keep_seconds_gives_the_same_windows() -> None:
    samples = noise(16000 * 125 + 77)
    kept = Features(Cut(samples, 9999), numpy_log_mel(80), 80)
    source = Cut(samples, 9999)
    slid = Features(source, numpy_log_mel(80), 80, keep_seconds=50.0)
    assert (slid.log_mel_max, slid.n_frames) == (kept.log_mel_max, kept.n_frames)
    # Forward as decoding does: twice the first window, short and long strides, past the end.
    for seek in (0, 0, 10, 2999, 3000, 5980, 6100, 11000, kept.n_frames - 1, kept.n_frames + 5):
        np.testing.assert_array_equal(slid.window(seek), kept.window(seek))
    assert source.readings == 2
    np.testing.assert_array_equal(slid.window(500), kept.window(500))  # back: a third reading
    assert source.readings == 3


def test_windows_asked_for_in_turns_are_read_once_more_only() -> None:
    """As lanes ask: each forward, but not one after the other."""
    samples = noise(200 * 16000)
    source = Cut(samples, 9999)
    slid = Features(source, numpy_log_mel(80), 80, keep_seconds=50.0)
    whole = Features(Cut(samples, 9999), numpy_log_mel(80), 80)
    asked = [0, 3000, 6000, 1500, 9000, 4500, 12000, 7000, 15000, 9500, 17000]
    for i, seek in enumerate(asked):
        found = slid.window(seek, keep_from=min(asked[i:]))
        np.testing.assert_array_equal(found, whole.window(seek))
    assert source.readings == 2


def test_a_short_file_is_read_once() -> None:
    source = Cut(noise(16000 * 40), 16000)
    features = Features(source, numpy_log_mel(80), 80)
    for seek in (0, 3000, 0, 1500):
        features.window(seek)
    assert source.readings == 1


class ThreeHours(AudioSource):
    """10 800 s of a ramp that is never in memory as a whole."""

    def __init__(self) -> None:
        super().__init__("<three hours>", 10800.0)

    def blocks(self) -> Iterator[Float32]:
        block = np.linspace(-0.5, 0.5, 160000, dtype=np.float32)
        for second in range(0, 10800, 10):
            yield block + np.float32(second * 1e-6)


def test_memory_does_not_grow_with_the_length() -> None:
    def cheap(pieces: Float32) -> Float32:
        """Each frame's first sample in every "mel" bin."""
        return np.repeat(pieces[:, 200 : 200 + 160 * 1000 : 160, None], 80, axis=2)

    source = ThreeHours()
    tracemalloc.start()
    try:
        features = Features(source, cheap, 80)
        for seek in range(0, features.n_frames, 2900):
            window = features.window(seek)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert features.n_frames == 1080000
    assert window[0, 0] == pytest.approx(0.3 + 10780e-6, abs=1e-4)
    # 30 minutes of frames are 58 MB, all 180 would be 346 MB, the samples 691 MB.
    assert peak < 90e6


def test_a_source_that_shrinks_between_readings_is_refused() -> None:
    source = Cut(noise(16000 * 60), 16000)
    features = Features(source, numpy_log_mel(80), 80, keep_seconds=10.0)
    source.samples = source.samples[: 16000 * 30]
    with pytest.raises(AudioError, match="less audio than when it was first read"):
        features.window(3000)


def test_a_source_without_samples_is_refused() -> None:
    with pytest.raises(AudioError, match="<cut> has less audio than one sample at 16 kHz"):
        Features(Cut(np.zeros(0, np.float32), 1), numpy_log_mel(80), 80)


def test_negative_seek_is_refused() -> None:
    features = Features(Cut(noise(16000)), numpy_log_mel(80), 80)
    with pytest.raises(ValueError, match="seek is -1"):
        features.window(-1)


def test_silence_is_the_floor() -> None:
    features = Features(open_audio(np.zeros(32000, np.float32)), numpy_log_mel(80), 80)
    assert features.log_mel_max == -10.0
    assert (features.window(0) == -10.0).all()


def test_progress_counts_the_seconds_read() -> None:
    events: list[ProgressEvent] = []
    source = open_audio(noise(16000 * 65))
    Features(source, numpy_log_mel(80), 80, progress=events.append)
    assert {(e.stage, e.total, e.unit) for e in events} == {("read audio", 65.0, "seconds")}
    done = [e.done for e in events]
    assert done == sorted(done)
    assert done[-1] == 65.0


class Warned(Cut):
    """Says at its end that it is damaged, as often as it is read to it."""

    def __init__(self, samples: Float32) -> None:
        super().__init__(samples, 9999)
        self.open = 0

    def blocks(self) -> Iterator[Float32]:
        self.warnings.clear()
        self.open += 1
        try:
            yield from super().blocks()
            self.warnings.append("it is damaged")
        finally:
            self.open -= 1


def test_warnings_are_those_of_the_first_reading() -> None:
    source = Warned(noise(16000 * 60))
    features = Features(source, numpy_log_mel(80), 80, keep_seconds=10.0)
    assert features.warnings == ("it is damaged",)
    features.window(0)
    assert source.warnings == []
    assert features.warnings == ("it is damaged",)


def test_a_closed_reading_lets_go_of_its_source_and_can_begin_again() -> None:
    source = Warned(noise(16000 * 200))
    features = Features(source, numpy_log_mel(80), 80, keep_seconds=10.0)
    assert source.open == 0
    window = features.window(1000)
    assert source.open == 1
    features.close()
    assert source.open == 0
    np.testing.assert_array_equal(features.window(1000), window)
    features.close()


def test_a_listener_that_fails_lets_go_of_the_source() -> None:
    source = Warned(noise(16000 * 60))

    def fail(block: Float32) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        Features(source, numpy_log_mel(80), 80, listener=fail)
    assert source.open == 0, caught.value
