"""Several files through one engine: each gets its own transcript, in order, in any company."""

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from audio_files import wav
from descriptors import open_files
from fake_decoder import FakeDecoder, fake_spec, noise
from fake_model import fake_model
from said import outcome

from mwc.runtime import hear_ahead
from mwc.runtime.audio import AudioSource
from mwc.runtime.decoder import Float32
from mwc.runtime.errors import AudioError, Cancelled, MemoryShortage, OptionError
from mwc.runtime.features import Features
from mwc.runtime.model import Model
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.transcript import Transcript

SPEC = fake_spec()
Samples = npt.NDArray[np.float32]


class HearingDecoder(FakeDecoder):
    """What it writes depends on how loud the audio is; it counts how many windows run together."""

    def __init__(self) -> None:
        super().__init__(SPEC, noise(SPEC))
        self.together = 0
        self.calls: list[str] = []

    def log_mel(self, samples: Float32) -> Float32:
        self.calls.append("log_mel")
        loudness = np.rint(1000 * samples.max(axis=1))
        shape = (len(samples), 1000, self.spec.model.n_mels)
        return np.broadcast_to(loudness[:, None, None], shape).astype(np.float32)

    def encode(self, *inputs: Any) -> None:
        self.calls.append("encode")
        super().encode(*inputs)

    def reserve(self, n_windows: int, n_rows: int) -> None:
        super().reserve(n_windows, n_rows)
        self.together = 0

    def steps(self, batch: Any, suppress: Float32) -> Any:
        self.calls.append("steps")
        self.together = max(self.together, len(set(batch.windows.tolist())))
        return super().steps(batch, suppress)

    def before_steps(self) -> list[str]:
        """What was called before any step."""
        return self.calls[: self.calls.index("steps")]


LONG = 20.0
"""Seconds after which what should have come has not."""


@pytest.fixture(params=[(0, 1), (3, 1), (3, 4)], ids=["", "ahead", "together"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HearingDecoder:
    monkeypatch.setattr(hear_ahead, "MOMENT", LONG)  # however slow the machine is, none is late
    decoder = HearingDecoder()
    decoder.heard_ahead, decoder.heard_together = request.param
    return decoder


@pytest.fixture
def model(tmp_path: Path, decoder: HearingDecoder, monkeypatch: pytest.MonkeyPatch) -> Model:
    return fake_model(tmp_path, decoder, monkeypatch)


def audio(seconds: float, loudness: int) -> Samples:
    """Sound that the fake detector takes for speech and the fake decoder for other words."""
    return np.full(round(seconds * 16000), loudness / 1000, np.float32)


def alone(model: Model, samples: Samples, **options: Any) -> object:
    try:
        return model.transcribe(samples, **options)
    except AudioError as error:
        return str(error)


OPTIONS: list[dict[str, Any]] = [
    {"language": "en"},
    {"language": None},
    {"language": None, "multilingual": True, "vad_filter": True},
    {"language": "de", "beam_size": 2, "word_timestamps": True},
    {"language": "en", "temperature": (0.0, 0.8), "compression_ratio_threshold": 1.2, "best_of": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(6))
def test_a_file_gets_what_it_gets_alone(model: Model, options: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch_size = int(rng.choice([2, 3, 8, 16]))
    files = [
        # One in six is empty, which is an error; one in six is silent.
        audio(rng.choice([0, 0.5, 3, 20, 45, 130], p=[1 / 6] * 6), int(rng.choice([0, *[k] * 5])))
        for k in range(1, 1 + int(rng.integers(1, 14)))
    ]
    given = {**options, "batch_size": batch_size}
    together = model.transcribe_many(files, skip_errors=True, **given)
    assert [outcome(found) for found in together] == [alone(model, f, **given) for f in files]


def test_short_files_share_the_calls_of_the_model(model: Model, decoder: HearingDecoder) -> None:
    files = [audio(2, k) for k in range(1, 21)]
    transcripts = list(model.transcribe_many(files, language="en", batch_size=8))
    assert decoder.together == 8
    assert len({transcript.text for transcript in transcripts}) > 10
    assert [transcript.duration for transcript in transcripts] == [2.0] * 20


def test_files_are_opened_as_lanes_fall_free(model: Model) -> None:
    opened = []

    def files() -> Iterator[Samples]:
        for k in range(1, 31):
            opened.append(k)
            yield audio(2, k)

    transcripts = model.transcribe_many(files(), language="en", batch_size=4)
    for given in range(1, 31):
        next(transcripts)
        assert len(opened) <= min(given + 2 * 4 + 3, 30)
    assert next(transcripts, None) is None


def test_all_lanes_are_heard_before_any_is_encoded(model: Model, decoder: HearingDecoder) -> None:
    """Where calls are done in order, hearing a file would wait for the encoder."""
    decoder.encoded_together = 4
    list(model.transcribe_many([audio(2, k) for k in range(1, 9)], language="en", batch_size=8))
    *heard, first, second = decoder.before_steps()
    assert first == second == "encode"
    assert heard == ["log_mel"] * len(heard)
    assert len(heard) <= 8


def test_a_file_that_is_long_in_coming_keeps_no_other_waiting(
    model: Model, decoder: HearingDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.heard_ahead = 1
    monkeypatch.setattr(hear_ahead, "MOMENT", 0.001)
    first_is_done = threading.Event()
    listen = model._listen

    def listen_slowly(source: AudioSource, *args: Any, **options: Any) -> Any:
        if source.duration_hint == 3.0:
            assert first_is_done.wait(LONG)
        return listen(source, *args, **options)

    monkeypatch.setattr(model, "_listen", listen_slowly)
    files = [audio(2, 1), audio(3, 2), audio(2, 3)]
    transcripts = model.transcribe_many(files, language="en", batch_size=3)
    found = [next(transcripts)]
    first_is_done.set()
    found += transcripts
    assert [transcript.duration for transcript in found] == [2.0, 3.0, 2.0]


@pytest.mark.parametrize(("seconds", "n_encoded"), [(30, 1), (29, 2)])
def test_a_full_window_is_not_encoded_again_for_its_language(
    model: Model, decoder: HearingDecoder, seconds: float, n_encoded: int
) -> None:
    """In a shorter one silence follows, which was not cut for the language."""
    list(model.transcribe_many([audio(seconds, 3)], batch_size=2))
    assert decoder.before_steps().count("encode") == n_encoded


def test_an_error_is_raised_in_its_place_and_frees_the_model(model: Model) -> None:
    files = [audio(2, 1), audio(0, 1), audio(2, 2)]
    transcripts = model.transcribe_many(files, language="en", batch_size=4)
    assert next(transcripts).duration == 2.0
    with pytest.raises(AudioError) as caught:
        next(transcripts)
    assert model.transcribe(files[0], language="en").duration == 2.0  # with the error still held
    assert "no samples" in str(caught.value) or "empty" in str(caught.value)
    found = list(model.transcribe_many(files, language="en", skip_errors=True))
    assert isinstance(found[1], AudioError)
    assert isinstance(found[2], Transcript)


def test_each_file_is_given_as_soon_as_it_is_done(model: Model) -> None:
    files = [audio(130, 1), audio(0, 1), *(audio(2, k) for k in range(2, 8))]
    options: dict[str, Any] = {"language": "en", "batch_size": 8, "beam_size": 1}
    completed = list(model.transcribe_as_completed(files, **options))
    numbers = [number for number, _ in completed]
    assert sorted(numbers) == list(range(8))
    assert numbers[0] != 0  # the long one, and the one after it does not wait for it
    by_number = [found for _, found in sorted(completed, key=lambda each: each[0])]
    alike = model.transcribe_many(files, skip_errors=True, **options)
    assert [outcome(found) for found in by_number] == [outcome(found) for found in alike]
    one_by_one = model.transcribe_as_completed(files, language="en")
    assert [number for number, _ in one_by_one] == list(range(8))


def test_files_are_closed_however_it_ends(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files are open while they are decoded only if they are too long to be kept.
    monkeypatch.setitem(Features.__init__.__kwdefaults__, "keep_seconds", 5.0)  # type: ignore[arg-type]
    cancel = threading.Event()
    paths = []
    for k in range(1, 9):
        paths.append(tmp_path / f"{k}.wav")
        paths[-1].write_bytes(wav(audio(2 if k == 1 else 200, k)))
    completed: Any = model.transcribe_as_completed(
        paths, language="en", batch_size=4, cancel=cancel
    )
    assert next(completed)[0] == 0
    assert open_files_in(tmp_path)
    cancel.set()
    gc.disable()
    try:
        with pytest.raises(Cancelled):
            list(completed)
        end = time.monotonic() + 30  # what is heard ahead stops by itself, and nobody waits for it
        while open_files_in(tmp_path) and time.monotonic() < end:
            time.sleep(0.01)
        assert not open_files_in(tmp_path)
    finally:
        gc.enable()


def open_files_in(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    return [path for path in open_files() if path.startswith(str(folder.resolve()))]


def test_closing_frees_the_model(model: Model) -> None:
    transcripts: Any = model.transcribe_many(
        [audio(2, k) for k in range(9)], language="en", batch_size=2
    )
    next(transcripts)
    transcripts.close()
    assert model.transcribe(audio(1, 1), language="en").duration == 1.0


class Asked:
    """An event that notes which threads look at it: it may be for one only."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.threads: set[int] = set()

    def is_set(self) -> bool:
        self.threads.add(threading.get_ident())
        return self.event.is_set()


def test_whether_to_stop_is_asked_by_the_thread_that_called(model: Model) -> None:
    cancel = Asked()
    files = [audio(20, k) for k in range(8)]
    list(model.transcribe_many(files, language="en", batch_size=2, cancel=cancel))
    assert cancel.threads == {threading.get_ident()}


@pytest.mark.parametrize("kind", [list, iter])
def test_it_ends_when_cancelled(model: Model, kind: Any) -> None:
    cancel = threading.Event()
    files = kind([audio(2, k) for k in range(100)])
    transcripts = model.transcribe_many(files, language="en", batch_size=2, cancel=cancel)
    next(transcripts)
    cancel.set()
    with pytest.raises(Cancelled):
        list(transcripts)
    assert model.transcribe(audio(1, 1), language="en").duration == 1.0


def test_progress_is_of_all_files_opened(model: Model) -> None:
    events: list[ProgressEvent] = []
    files = [audio(2, 1), audio(40, 2), audio(3, 3)]
    list(model.transcribe_many(files, language="en", batch_size=2, progress=events.append))
    assert [e.done for e in events] == sorted(e.done for e in events)
    assert events[-1].done == events[-1].total == 45.0


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, (1, 1)),
        ({"batch_size": 3, "beam_size": 4}, (3, 12)),
        ({"batch_size": 2, "temperature": (0.0, 0.5), "beam_size": 2, "best_of": 5}, (2, 10)),
    ],
)
def test_what_there_is_no_memory_for_is_refused_before_anything_is_heard(
    model: Model,
    decoder: HearingDecoder,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    wanted: tuple[int, int],
) -> None:
    asked: list[tuple[int, int]] = []

    def refuse(n_windows: int, n_rows: int) -> None:
        asked.append((n_windows, n_rows))
        raise MemoryShortage("too much")

    monkeypatch.setattr(decoder, "check_memory", refuse)
    transcripts = model.transcribe_many([audio(2, 1)], language="en", **options)
    with pytest.raises(MemoryShortage, match="too much"):
        next(transcripts)
    with pytest.raises(MemoryShortage, match="too much"):
        model.transcribe(audio(2, 1), language="en", **options)
    assert asked == [wanted] * 2
    assert decoder.calls == []


def test_options_are_checked_at_once(model: Model) -> None:
    with pytest.raises(OptionError):
        model.transcribe_many([audio(1, 1)], batch_size=8, beam_size=0.5)


def test_no_files(model: Model) -> None:
    assert list(model.transcribe_many([], language="en", batch_size=8)) == []
