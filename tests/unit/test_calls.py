"""Calls of one engine that come, go on, end, fail and are given up at any time, from any thread.

Each gets what it gets by itself; none is lost, and none waits for ever.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from fake_decoder import FakeDecoder, FakeFeatures, scripted
from recordings import SPEC, hear, recording, said

from mwc.runtime.completed import in_order
from mwc.runtime.decoder import Choice, Float32, PrefillResult, PrefillRow, StepBatch
from mwc.runtime.engine import MOST_LANES, Engine
from mwc.runtime.errors import (
    AudioError,
    BusyError,
    Cancelled,
    DeviceError,
    MemoryShortage,
    MwcError,
)
from mwc.runtime.many import transcribe_together
from mwc.runtime.options import make_options
from mwc.runtime.progress import silent
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcribe import Transcription, align, detect_language
from mwc.runtime.transcript import Segment

N_RECORDINGS = 40

KINDS: list[dict[str, Any]] = [
    {"language": "en"},
    {"language": None, "suppress_tokens": (65,)},
    {"language": "de", "beam_size": 3},
    {"language": None, "multilingual": True, "batch_size": 3},
    {"language": "en", "batch_size": 4, "temperature": (0.0, 0.6), "logprob_threshold": 0.0},
]


class Device(FakeDecoder):
    """Has room for so many windows and rows only; counts windows per call, and fails when told."""

    def __init__(self, most_windows: int = 1 << 30, most_rows: int = 1 << 30) -> None:
        super().__init__(SPEC, scripted(SPEC, said), n_windows=1, n_rows=1)
        self.most = most_windows, most_rows
        self.most_together = 0
        self.fails: BaseException | None = None
        self.on_encode: Callable[[], None] = lambda: None

    def reserve(self, n_windows: int, n_rows: int) -> None:
        if n_windows > self.most[0] or n_rows > self.most[1]:
            self.windows.clear()  # as where memory was counted on and then not given
            self.rows.clear()
            raise MemoryShortage(f"{n_windows} windows and {n_rows} rows do not fit")
        super().reserve(n_windows, n_rows)

    def encode(self, *arguments: Any) -> None:
        self.on_encode()
        super().encode(*arguments)

    def _meet(self, windows: Sequence[int]) -> None:
        self.most_together = max(self.most_together, len(set(windows)))
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error

    def prefill(self, rows: Sequence[PrefillRow], *rest: Any) -> PrefillResult:
        self._meet([row.window for row in rows])
        return super().prefill(rows, *rest)

    def step(self, batch: StepBatch, suppress: Float32, n_candidates: int = 1) -> Choice:
        self._meet(batch.windows.tolist())
        return super().step(batch, suppress, n_candidates)


def is_idle(engine: Engine) -> bool:
    """Whether no call wants anything of it."""
    return not engine._requests and not engine._under_way


def file_of(engine: Engine, key: int, kind: int, stop: Any = lambda: False) -> Iterator[Any]:
    """The segments of one recording."""
    heard = hear(key)
    options = make_options(**KINDS[kind])
    yield from Transcription(engine, heard.features, options, speech=heard.speech, stop=stop)


def files_of(engine: Engine, key: int, kind: int, stop: Any = lambda: False) -> Iterator[Any]:
    """The texts of three recordings, or their errors."""
    audios: Any = [key, (key + 1) % N_RECORDINGS, (key + 7) % N_RECORDINGS]
    options = make_options(**{"batch_size": 2, **KINDS[kind]})
    completed = transcribe_together(engine, options, audios, hear, silent, stop)
    for found in in_order(completed):
        yield str(found) if isinstance(found, AudioError) else found.segments


def outcome(found: Iterator[Any]) -> tuple[list[Any], str | None]:
    """All that a call gives, and the error that ends it."""
    given = []
    try:
        for each in found:
            given.append(each)
    except AudioError as error:
        return given, str(error)
    return given, None


@pytest.fixture(scope="module")
def alone(tokenizer: Tokenizer) -> Callable[..., tuple[list[Any], str | None]]:
    """What a call gives by itself."""
    kept: dict[Any, tuple[list[Any], str | None]] = {}

    def of(make: Any, key: int, kind: int) -> tuple[list[Any], str | None]:
        if (make, key, kind) not in kept:
            kept[make, key, kind] = outcome(make(Engine(Device(), tokenizer), key, kind))
        return kept[make, key, kind]

    return of


def choose(rng: np.random.Generator) -> tuple[Any, int, int]:
    make = file_of if rng.random() < 0.7 else files_of
    return make, int(rng.integers(N_RECORDINGS)), int(rng.integers(len(KINDS)))


class Begun:
    """A call under way: what it is of, what it has given, and how it ended."""

    def __init__(self, engine: Engine, what: tuple[Any, int, int]) -> None:
        make, key, kind = what
        self.what = what
        self.cancel = threading.Event()
        self.coming = make(engine, key, kind, self.cancel.is_set)
        self.given: list[Any] = []
        self.error: str | None = None

    def go_on(self, chance: float) -> str | None:
        """Take the next thing, or give it up, or tell it to stop; how it ended, if it did."""
        if chance > 0.99:
            self.coming.close()
            return "closed"
        if chance < 0.03:
            self.cancel.set()
        try:
            self.given.append(next(self.coming))
        except StopIteration:
            return "done"
        except AudioError as error:
            self.error = str(error)
            return "failed"
        except Cancelled:
            return "cancelled"
        return None


@pytest.mark.parametrize("most_lanes", [1, 4, MOST_LANES])
def test_calls_of_one_thread_that_come_and_go_at_random(
    tokenizer: Tokenizer, alone: Any, most_lanes: int
) -> None:
    rng = np.random.default_rng(most_lanes)
    device = Device()
    engine = Engine(device, tokenizer, most_lanes=most_lanes)
    open_calls: list[Begun] = []
    ends = {"done": 0, "failed": 0, "cancelled": 0, "closed": 0}
    n_calls = 150
    while sum(ends.values()) < n_calls:
        if sum(ends.values()) + len(open_calls) < n_calls and len(open_calls) < 6:
            open_calls.append(Begun(engine, choose(rng)))
        call = open_calls[int(rng.integers(len(open_calls)))]
        end = call.go_on(rng.random())
        if end is None:
            continue
        ends[end] += 1
        open_calls.remove(call)
        expected, error = alone(*call.what)
        assert call.given == expected[: len(call.given)]
        if end in ("done", "failed"):
            assert (call.given, call.error) == (expected, error)
        else:
            assert end == "closed" or call.cancel.is_set()
    assert all(ends.values()), ends
    assert is_idle(engine)
    # A call's own batch may be larger than what calls get together.
    assert 4 <= device.most_together <= max(most_lanes, 4)


def test_calls_of_many_threads(tokenizer: Tokenizer, alone: Any) -> None:
    device = Device()
    engine = Engine(device, tokenizer)
    wrong: list[Any] = []
    n_done = 0

    def work(seed: int) -> None:
        nonlocal n_done
        rng = np.random.default_rng(seed)
        for _ in range(25):
            make, key, kind = choose(rng)
            if outcome(make(engine, key, kind)) != alone(make, key, kind):
                wrong.append((make, key, kind))
            n_done += 1

    for seed in range(8):  # what is expected is known before, so that threads share the engine only
        rng = np.random.default_rng(seed)
        for _ in range(25):
            alone(*choose(rng))
    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert n_done == 8 * 25
    assert not wrong
    assert device.most_together > 4
    assert is_idle(engine)


def key_of(n_frames: int) -> int:
    """A recording of that length that can be read to its end."""
    return next(
        key
        for key in range(1000)
        if (found := recording(key)) and found.n_frames == n_frames and found.fails_from > n_frames
    )


LONG, SHORT = key_of(8000), key_of(40)


def test_a_short_file_does_not_wait_for_the_end_of_a_long_one(tokenizer: Tokenizer) -> None:
    """Lanes are lent from window to window: with one lane two files take turns."""
    device = Device()
    engine = Engine(device, tokenizer, most_lanes=1)
    long = file_of(engine, LONG, 0)
    next(long)
    before = len(device.encoded)
    assert list(file_of(engine, SHORT, 0))
    assert len(device.encoded) - before <= 2
    assert device.most_together == 1


def test_an_open_stream_holds_nobody_up_and_is_worked_for(tokenizer: Tokenizer) -> None:
    engine = Engine(Device(), tokenizer)
    stream = file_of(engine, LONG, 0)
    first = next(stream)
    other = list(file_of(engine, LONG, 0))
    assert [first, *stream] == other
    assert is_idle(engine)


def test_a_call_that_is_dropped_leaves_nothing_behind(tokenizer: Tokenizer) -> None:
    device = Device()
    engine = Engine(device, tokenizer)
    stream = file_of(engine, LONG, 0)
    next(stream)
    assert not is_idle(engine)
    del stream
    assert is_idle(engine)
    never_begun = Transcription(engine, hear(LONG).features, make_options(language="en"))
    assert is_idle(engine)
    assert never_begun.language == "en"
    device.batch_sizes.clear()
    list(file_of(engine, SHORT, 0))
    assert set(device.batch_sizes) == {1}


def test_a_window_that_was_listened_to_is_not_encoded_again(tokenizer: Tokenizer) -> None:
    device = Device()
    with_language = list(file_of(Engine(device, tokenizer), LONG, 1))
    assert with_language
    starts = [window.start for window in device.encoded]
    assert len(starts) == len(set(starts))


def test_a_language_is_told_and_a_text_aligned_while_others_decode(tokenizer: Tokenizer) -> None:
    engine = Engine(Device(), tokenizer, most_lanes=1)
    expected = list(file_of(Engine(Device(), tokenizer), LONG, 0))
    stream = file_of(engine, LONG, 0)
    given = [next(stream)]
    features = hear(SHORT).features
    found = detect_language(engine, features, make_options())
    words = align(engine, features, "a b", make_options(language="en", word_timestamps=True))
    assert found.language in dict(SPEC.tokens.languages)
    assert [word.word for word in words] == [" a", " b"]
    assert [*given, *stream] == expected


def test_lanes_that_do_not_fit_are_done_without(tokenizer: Tokenizer, alone: Any) -> None:
    device = Device(most_windows=2, most_rows=6)
    engine = Engine(device, tokenizer)
    streams = [file_of(engine, LONG, kind) for kind in (0, 1, 2, 0)]
    found: list[list[Segment]] = [[next(stream)] for stream in streams]
    for given, stream in zip(found, streams, strict=True):
        given += stream
    assert [(given, None) for given in found] == [
        alone(file_of, LONG, kind) for kind in (0, 1, 2, 0)
    ]
    assert device.most_together == 2


@pytest.mark.parametrize("most_rows", [3, 5, 6, 9])
def test_wider_lanes_that_do_not_fit_are_fewer(
    tokenizer: Tokenizer, alone: Any, most_rows: int
) -> None:
    """Three calls are under way when one with beams of three comes."""
    device = Device(most_rows=most_rows)
    engine = Engine(device, tokenizer)
    kinds = (0, 0, 0, 2)
    streams = [file_of(engine, LONG, kind) for kind in kinds]
    found: list[list[Segment]] = [[next(stream)] for stream in streams]
    for given, stream in zip(found, streams, strict=True):
        given += stream
    assert [(given, None) for given in found] == [alone(file_of, LONG, kind) for kind in kinds]
    # With the wide ones gone, as many narrow lanes as before.
    device.most_together = 0
    again = [file_of(engine, LONG, 0) for _ in range(3)]
    for stream in again:
        next(stream)
    for stream in again:
        list(stream)
    assert device.most_together >= 2


def test_a_call_that_needs_more_than_there_is_fails_alone(tokenizer: Tokenizer, alone: Any) -> None:
    engine = Engine(Device(most_windows=2), tokenizer)
    stream = file_of(engine, LONG, 0)
    given = [next(stream)]
    with pytest.raises(MemoryShortage):
        next(file_of(engine, LONG, 4))
    assert ([*given, *stream], None) == alone(file_of, LONG, 0)
    with pytest.raises(MemoryShortage):
        next(file_of(engine, LONG, 4))


def test_a_window_that_was_lost_with_its_slot_is_encoded_again(tokenizer: Tokenizer) -> None:
    """What was heard for the language stays in its slot, unless there is no memory for more."""
    features: Any = FakeFeatures(9_000, SPEC.model.n_mels)
    options = make_options(language=None)
    expected = list(Transcription(Engine(Device(), tokenizer), features, options))
    engine = Engine(Device(most_windows=1), tokenizer)
    detected = Transcription(engine, features, options)
    with pytest.raises(MemoryShortage):
        next(file_of(engine, LONG, 4))
    assert list(detected) == expected


@pytest.mark.parametrize(
    ("error", "others"), [(DeviceError("gone"), DeviceError), (KeyboardInterrupt(), Cancelled)]
)
def test_what_ends_the_work_ends_it_for_all(
    tokenizer: Tokenizer, alone: Any, error: BaseException, others: type[MwcError]
) -> None:
    device = Device()
    engine = Engine(device, tokenizer)
    features: Any = FakeFeatures(40_000, SPEC.model.n_mels)
    options = make_options(language="en")
    streams = [Transcription(engine, features, options) for _ in range(3)]
    for stream in streams:
        next(stream)
    device.fails = error
    with pytest.raises(type(error)):
        list(streams[1])
    for stream in (streams[0], streams[2]):
        with pytest.raises(others):
            list(stream)
    assert is_idle(engine)
    assert outcome(file_of(engine, LONG, 0)) == alone(file_of, LONG, 0)


class Broken(FakeFeatures):
    """A file whose reader has a fault of its own."""

    def window(
        self, seek: int, *, keep_from: int | None = None, into: Float32 | None = None
    ) -> Float32:
        raise ZeroDivisionError("mine")


def broken_stop() -> bool:
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize("where", ["stop", "window"])
def test_an_error_of_the_callers_own_ends_its_call_alone(
    tokenizer: Tokenizer, alone: Any, where: str
) -> None:
    engine = Engine(Device(), tokenizer)
    stream = file_of(engine, LONG, 0)
    given = [next(stream)]
    kind = Broken if where == "window" else FakeFeatures
    features: Any = kind(300, SPEC.model.n_mels)
    stop = broken_stop if where == "stop" else lambda: False
    theirs = Transcription(engine, features, make_options(language="en"), stop=stop)
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(theirs)
    assert ([*given, *stream], None) == alone(file_of, LONG, 0)


def test_a_file_or_an_event_cannot_call_the_model_that_waits_for_it(tokenizer: Tokenizer) -> None:
    device = Device()
    engine = Engine(device, tokenizer)
    caught: list[BusyError] = []

    def call_again() -> None:
        try:
            list(file_of(engine, SHORT, 0))
        except BusyError as error:
            caught.append(error)

    device.on_encode = call_again
    assert list(file_of(engine, SHORT, 0))
    assert "load the model twice" in str(caught[0])


def test_a_call_waits_for_its_turn_among_threads(tokenizer: Tokenizer) -> None:
    """A thread that decodes does not keep out one that wants to begin."""
    device = Device()
    engine = Engine(device, tokenizer)
    stream = file_of(engine, LONG, 0)
    next(stream)
    busy, done = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        assert done.wait(20)

    device.on_encode = hold
    worker = threading.Thread(target=partial(list, stream), daemon=True)
    worker.start()
    assert busy.wait(20)
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.extend(file_of(engine, SHORT, 0)), daemon=True)
    other.start()
    until = time.monotonic() + 20
    while not engine._turns._waiting:  # the model is in a call
        assert time.monotonic() < until
        time.sleep(0.001)
    device.on_encode = lambda: None
    done.set()
    worker.join(20)
    other.join(20)
    assert found
    assert is_idle(engine)
    assert device.most_together == 2  # its window was taken with the long file's next one
