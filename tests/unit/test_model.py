"""A loaded model as applications use it: from several threads, streams, several files, errors."""

import gc
import io
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_decoder import FakeDecoder, fake_spec, scripted
from fake_model import fake_model

from mwc.runtime.errors import AudioError, BusyError, Cancelled, DeviceError, OptionError
from mwc.runtime.model import Model
from mwc.runtime.progress import ProgressEvent

SPEC = fake_spec()
BEGIN = SPEC.tokens.timestamp_begin
SCRIPT = [BEGIN, 65, BEGIN + 50, BEGIN + 50, 66, BEGIN + 100]
"""Two segments per window, "A" of 1 s and "B" of 1 s; then on to the next window."""

AUDIO = np.zeros(16000 * 65, np.float32)
"""Three windows."""

WAIT = 20.0
"""Seconds after which a thread that should go on is taken to hang."""


class GatedDecoder(FakeDecoder):
    """A decoder that tells when it encodes, and can be held there."""

    def __init__(self) -> None:
        super().__init__(SPEC, scripted(SPEC, lambda window: SCRIPT))
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.threads: list[int] = []

    def encode(self, *arguments: Any) -> None:
        self.threads.append(threading.get_ident())
        self.waiting.set()
        assert self.gate.wait(WAIT)
        super().encode(*arguments)


@pytest.fixture
def decoder() -> GatedDecoder:
    return GatedDecoder()


@pytest.fixture
def model(tmp_path: Path, decoder: GatedDecoder, monkeypatch: pytest.MonkeyPatch) -> Model:
    return fake_model(tmp_path, decoder, monkeypatch)


def is_free(model: Model) -> bool:
    """Whether another thread can use the model at once."""
    done = threading.Event()

    def use() -> None:
        model.transcribe(AUDIO[:16000], language="en")
        done.set()

    threading.Thread(target=use, daemon=True).start()
    return done.wait(5)


class Worker(threading.Thread):
    """A thread that keeps what its function returned or raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function, self.result, self.error = function, None, None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

    def finish(self) -> Any:
        self.join(WAIT)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def test_transcribe_and_stream_give_the_same_segments(model: Model) -> None:
    transcript = model.transcribe(AUDIO, language="en")
    assert transcript.duration == 65.0
    assert transcript.text.startswith("ABAB")
    assert tuple(model.stream(AUDIO, language="en")) == transcript.segments
    assert [s.id for s in transcript.segments] == list(range(len(transcript.segments)))


def test_a_stream_gives_segments_before_the_end_is_decoded(
    model: Model, decoder: GatedDecoder
) -> None:
    stream = model.stream(AUDIO, language="en")
    assert decoder.encoded == []  # nothing is done before the first segment is asked for
    assert next(stream).text == "A"
    assert len(decoder.encoded) == 1
    stream.close()


def calls(model: Model) -> list[Callable[[], Any]]:
    """Everything that needs the model."""
    return [
        lambda: model.transcribe(AUDIO, language="en"),
        lambda: tuple(model.stream(AUDIO, language="en")),
        lambda: list(model.transcribe_many([AUDIO, AUDIO], language="en", batch_size=2)),
        lambda: model.detect_language(AUDIO),
        lambda: model.align(AUDIO[: 16000 * 30], "Oh my", language="en"),
    ]


def test_calls_of_several_threads_are_served_together(model: Model, decoder: GatedDecoder) -> None:
    expected = [call() for call in calls(model)]
    decoder.batch_sizes.clear()
    decoder.gate.clear()
    workers = [Worker(call) for call in calls(model) * 5]
    assert decoder.waiting.wait(WAIT)
    workers[-1].join(1.0)  # by then all have asked, on a busy machine too
    assert all(worker.is_alive() for worker in workers)
    decoder.gate.set()
    assert [worker.finish() for worker in workers] == expected * 5
    assert max(decoder.batch_sizes) > 2


def test_one_lane_serves_them_one_at_a_time(
    tmp_path: Path, decoder: GatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fake_model(tmp_path, decoder, monkeypatch, lanes=1)
    expected = model.transcribe(AUDIO, language="en")
    workers = [Worker(lambda: model.transcribe(AUDIO, language="en")) for _ in range(4)]
    assert [worker.finish() for worker in workers] == [expected] * 4
    assert set(decoder.batch_sizes) == {1}


@pytest.mark.parametrize("lanes", [0, 1.5, "8"])
def test_lanes_are_a_whole_number(
    tmp_path: Path, decoder: GatedDecoder, monkeypatch: pytest.MonkeyPatch, lanes: Any
) -> None:
    with pytest.raises(OptionError, match=f"lanes is {lanes!r}; it takes a whole number from 1"):
        fake_model(tmp_path, decoder, monkeypatch, lanes=lanes)


@pytest.mark.parametrize("which", range(5))
def test_a_thread_may_call_while_it_streams(model: Model, which: int) -> None:
    expected = calls(model)[which]()
    stream = model.stream(AUDIO, language="en")
    first = next(stream)
    assert calls(model)[which]() == expected
    assert (first, *stream) == model.transcribe(AUDIO, language="en").segments


def test_a_progress_callback_may_call(model: Model) -> None:
    found: list[Any] = []

    def again(event: ProgressEvent) -> None:
        found.append(model.detect_language(AUDIO).language)

    model.transcribe(AUDIO, language="en", progress=again)
    assert set(found) == {"en"}


def test_an_event_that_calls_the_model_it_may_stop_gets_busy_error(model: Model) -> None:
    class Calling(threading.Event):
        def is_set(self) -> bool:
            model.transcribe(AUDIO[:16000], language="en")
            return False

    with pytest.raises(BusyError, match="load the model twice"):
        model.transcribe(AUDIO, language="en", cancel=Calling())
    assert is_free(model)


def take_all(stream: Iterator[Any]) -> None:
    for _ in stream:
        pass


@pytest.mark.parametrize("end", [take_all, lambda s: s.close()], ids=["exhausted", "closed"])
def test_a_stream_that_ends_leaves_nothing(
    model: Model, decoder: GatedDecoder, end: Callable[[Any], None]
) -> None:
    stream = model.stream(AUDIO, language="en")
    next(stream)
    end(stream)
    decoder.batch_sizes.clear()
    model.transcribe(AUDIO, language="en")
    assert set(decoder.batch_sizes) == {1}


def test_a_stream_that_is_dropped_leaves_nothing(model: Model, decoder: GatedDecoder) -> None:
    stream = model.stream(AUDIO, language="en")
    next(stream)
    del stream
    gc.collect()
    decoder.batch_sizes.clear()
    model.transcribe(AUDIO, language="en")
    assert set(decoder.batch_sizes) == {1}


def test_a_closed_model_keeps_nothing_and_ends_what_is_under_way(model: Model) -> None:
    whole = model.transcribe(AUDIO, language="en")
    engine = weakref.ref(model._engine)
    with model:
        stream = model.stream(AUDIO, language="en")
        first = next(stream)
    assert (first, *stream) == whole.segments
    del stream
    for call in (lambda: model.transcribe(AUDIO), lambda: model.session, lambda: model.target):
        with pytest.raises(DeviceError, match="the model has been closed; load it again"):
            call()
    gc.collect()
    assert engine() is None
    assert model.spec == SPEC


def test_a_stream_that_was_never_begun_takes_nothing(model: Model) -> None:
    stream = model.stream(AUDIO, language="en")
    assert is_free(model)
    model.transcribe(AUDIO, language="en")
    assert len(list(stream)) == len(model.transcribe(AUDIO, language="en").segments)


def test_a_stream_may_be_closed_by_another_thread(model: Model) -> None:
    stream: Any = model.stream(AUDIO, language="en")
    next(stream)
    Worker(stream.close).finish()
    model.transcribe(AUDIO, language="en")


def test_errors_free_the_model(model: Model, tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        model.transcribe(tmp_path / "missing.wav", language="en")
    with pytest.raises(AudioError):
        list(model.stream(np.zeros(0, np.float32), language="en"))
    with pytest.raises(OptionError):
        model.transcribe(AUDIO, language="tlh")
    assert is_free(model)


def test_options_of_a_stream_are_checked_at_once(model: Model) -> None:
    with pytest.raises(OptionError):
        model.stream(AUDIO, langauge="en")
    with pytest.raises(OptionError):
        model.transcribe_many([AUDIO], beam_size=0.5)


def test_transcribe_many_goes_file_by_file(model: Model, decoder: GatedDecoder) -> None:
    lengths = (1, 65, 3)
    transcripts = model.transcribe_many((AUDIO[: 16000 * n] for n in lengths), language="en")
    assert next(transcripts).duration == 1.0
    assert len(decoder.encoded) == 1
    assert [transcript.duration for transcript in transcripts] == [65.0, 3.0]


def test_a_model_tells_what_it_is(model: Model, decoder: GatedDecoder) -> None:
    assert model.spec == SPEC
    assert model.session is decoder
    assert model.tokenizer.decode([65, 66]) == "AB"
    assert model.detect_language(AUDIO).language == "en"


def test_progress_tells_the_seconds_done(model: Model) -> None:
    events: list[ProgressEvent] = []
    model.transcribe(AUDIO, language="en", progress=events.append)
    done = [e.done for e in events if e.stage == "transcribe"]
    assert done == sorted(done)
    assert done[-1] == 65.0
    assert {e.total for e in events if e.stage == "transcribe"} == {65.0}


def test_a_known_text_is_aligned(model: Model) -> None:
    words = model.align(AUDIO[:32000], "Oh, my", language="en")
    assert [word.word for word in words] == [" Oh,", " my"]
    assert all(0 <= word.start <= word.end <= 2 for word in words)
    with pytest.raises(OptionError, match="text is None"):
        model.align(AUDIO, None)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"lasts 65.00 s; align takes at most 30 s"):
        model.align(AUDIO, "Oh, my", language="en")
    assert is_free(model)


def test_a_stream_tells_what_it_knows(model: Model) -> None:
    stream = model.stream(AUDIO, language="de")
    assert (stream.language, stream.duration) == (None, None)
    with pytest.raises(ValueError, match="nothing was decoded yet"):
        stream.transcript()
    with stream:
        first = next(stream)
        assert (stream.language, stream.duration) == ("de", 65.0)
        assert stream.transcript().segments[0] == first
    assert is_free(model)
    whole = model.stream(AUDIO, language="de")
    segments = tuple(whole)
    assert whole.transcript() == model.transcribe(AUDIO, language="de")
    assert whole.transcript().segments == segments


@pytest.mark.parametrize("batch_size", [1, 3])
def test_cancelling_from_another_thread(
    batch_size: int, model: Model, decoder: GatedDecoder
) -> None:
    decoder.gate.clear()
    cancel = threading.Event()
    given: dict[str, Any] = {"language": "en", "batch_size": batch_size}
    worker = Worker(lambda: model.transcribe(AUDIO, cancel=cancel, **given))
    assert decoder.waiting.wait(WAIT)
    cancel.set()
    decoder.gate.set()
    with pytest.raises(Cancelled) as caught:
        worker.finish()
    assert caught.value.transcript.duration == 65.0
    assert decoder.prompts == []  # the window was encoded, and nothing done with it
    assert is_free(model)


def test_what_was_done_is_kept_when_cancelled(model: Model) -> None:
    cancel = threading.Event()
    stream = model.stream(AUDIO, language="en", cancel=cancel)
    first = next(stream)
    cancel.set()
    with pytest.raises(Cancelled) as caught:
        list(stream)
    assert caught.value.transcript.segments[0] == first
    assert caught.value.transcript == stream.transcript()
    whole = model.transcribe(AUDIO, language="en")
    kept = caught.value.transcript.segments
    assert kept == whole.segments[: len(kept)]
    assert len(kept) < len(whole.segments)


def test_cancelling_before_anything_is_done(model: Model, decoder: GatedDecoder) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        model.transcribe(AUDIO, language="en", cancel=cancel)
    assert decoder.encoded == []


def test_a_file_in_a_batch_gives_its_speech(model: Model) -> None:
    transcript = model.transcribe(AUDIO, language="en", batch_size=2)
    assert transcript.coverage is not None
    assert transcript.coverage.detector == "silero-vad 6.2"
    assert all(segment.speech is not None for segment in transcript.segments)


def test_languages_that_may_be_found(model: Model) -> None:
    assert model.detect_language(AUDIO).language == "en"
    assert model.detect_language(AUDIO, languages=["German"]).language == "de"
    with pytest.raises(OptionError, match="'nl'; this model knows en, de, fr"):
        model.detect_language(AUDIO, languages=["nl"])


def test_audio_warnings_reach_the_transcript(model: Model) -> None:
    from mwc.runtime.audio import open_audio

    source = open_audio(AUDIO)
    blocks = source.blocks

    def damaged() -> Iterator[Any]:
        yield from blocks()
        source.warnings.append("it is damaged")

    source.blocks = damaged  # type: ignore[method-assign]
    transcript = model.transcribe(source, language="en", initial_prompt="a" * 300)
    assert transcript.warnings[0] == "it is damaged"
    assert transcript.warnings[1].startswith("initial_prompt is 301 tokens long")


def test_warnings_of_the_audio_stay_with_what_was_done_by_then(model: Model) -> None:
    from mwc.runtime.audio import open_audio

    source, stop = open_audio(AUDIO), threading.Event()
    blocks = source.blocks

    def damaged() -> Iterator[Any]:
        yield from blocks()
        source.warnings.append("it is damaged")

    source.blocks = damaged  # type: ignore[method-assign]
    stream = model.stream(source, language="en", cancel=stop)
    next(stream)
    stop.set()
    with pytest.raises(Cancelled) as caught:
        list(stream)
    assert caught.value.transcript is not None
    assert caught.value.transcript.warnings == ("it is damaged",)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_options_that_can_be_read_once_hold_for_all_files(model: Model, batch_size: int) -> None:
    once: Any = (second for second in (30.0, 60.0))
    found = list(
        model.transcribe_many(
            [AUDIO] * 3, clip_timestamps=once, batch_size=batch_size, language="en"
        )
    )
    starts = [[segment.start for segment in transcript.segments] for transcript in found]
    assert starts[0][0] == 30.0
    assert starts == [starts[0]] * 3


@pytest.mark.parametrize("audios", ["talk.mp3", b"RIFF", Path("talk.mp3"), io.BytesIO(), AUDIO, 7])
def test_one_file_is_no_list_of_files(model: Model, audios: Any) -> None:
    with pytest.raises(AudioError, match="give a list of them, also of one"):
        model.transcribe_many(audios)


def test_windows_of_a_call_that_was_cancelled_are_not_encoded(
    model: Model, decoder: GatedDecoder
) -> None:
    """Asked between the windows of a batch, each of which may take long."""
    stop = threading.Event()
    encode, encoded = GatedDecoder.encode, []

    def stopping(self: GatedDecoder, *arguments: Any) -> None:
        encode(self, *arguments)
        encoded.append(len(arguments[0]))
        stop.set()

    decoder.encoded_together = 2
    decoder.encode = stopping.__get__(decoder)  # type: ignore[method-assign]
    clips = ",".join(str(second) for second in range(0, 60, 5))
    with pytest.raises(Cancelled):
        model.transcribe(AUDIO, batch_size=6, clip_timestamps=clips, language="en", cancel=stop)
    assert encoded == [2]
