"""Many windows at once: the same text as alone, in order, with every rule; stopping on the way."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decoding import transcribe
from fake_decoder import (
    FakeDecoder,
    FakeFeatures,
    FakeWindow,
    Logits,
    fake_spec,
    noise,
    scripted,
)

from mwc.runtime.call import Call
from mwc.runtime.decoder import STEPS_AHEAD
from mwc.runtime.engine import Engine
from mwc.runtime.errors import Cancelled
from mwc.runtime.options import TranscribeOptions, make_options
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.speech import Speech
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcribe import Transcription
from mwc.runtime.transcript import Segment, Transcript
from mwc.runtime.windows import WindowLoop
from mwc.runtime.work import Decoded, Part

SPEC = fake_spec()
T = SPEC.tokens
B = T.timestamp_begin
SECONDS = 200


def talk(seconds: int = SECONDS) -> Speech:
    """Speech with a pause of half a second every seven."""
    probabilities = np.full(math.ceil(seconds * 31.25), 0.99, np.float32)
    for k in range(7, seconds, 7):
        probabilities[round(k * 31.25) : round((k + 0.5) * 31.25)] = 0.01
    return Speech("silero-vad 6.2", probabilities, seconds * 16000)


def run(
    tokenizer: Tokenizer, logits: Logits, speech: Speech | None = None, **given: Any
) -> tuple[Transcript, FakeDecoder]:
    decoder = FakeDecoder(SPEC, logits)
    features: Any = FakeFeatures(SECONDS * 100, SPEC.model.n_mels)
    options = make_options(**{"language": "en", **given})
    transcription = Transcription(
        Engine(decoder, tokenizer), features, options, speech=speech or talk()
    )
    for _ in transcription:
        pass
    return transcription.transcript(), decoder


GIVEN: list[dict[str, Any]] = [
    {},
    {"beam_size": 3, "best_of": 2},
    {"temperature": (0.0, 0.6, 1.0), "compression_ratio_threshold": 1.2, "best_of": 3},
    {"no_speech_threshold": 0.3, "logprob_threshold": -1.4, "initial_prompt": "Ada"},
    {"without_timestamps": True, "prefix": "So", "hotwords": "Bo"},
    {"word_timestamps": True, "vad_filter": True, "hallucination_silence_threshold": 1.0},
    {"language": None, "multilingual": True, "task": "translate"},
    {"clip_timestamps": "3,50,61.5,150", "condition_on_previous_text": False},
]


@pytest.mark.parametrize("given", GIVEN)
def test_a_window_gives_the_same_among_1_to_16_others(
    tokenizer: Tokenizer, given: dict[str, Any]
) -> None:
    # Two lanes are the fewest: one would not cut the file.
    expected, _ = run(tokenizer, noise(SPEC), batch_size=2, **given)
    assert len(expected.windows) > 5
    for batch_size in (3, 8, 16):
        found, decoder = run(tokenizer, noise(SPEC), batch_size=batch_size, **given)
        assert found == expected
        assert max(decoder.batch_sizes) >= 2  # they did run together


@pytest.mark.parametrize("given", GIVEN)
def test_a_window_gives_what_it_gives_alone(tokenizer: Tokenizer, given: dict[str, Any]) -> None:
    """Each window of the batch, as the only clip there is."""
    together, _ = run(tokenizer, noise(SPEC), batch_size=8, **given)
    parts = cut_of(tokenizer, given)
    alone = []
    for start, end in parts:
        clips = (start / 100, end / 100)
        options = {**given, "vad_filter": False, "clip_timestamps": clips, "batch_size": 8}
        found, decoder = run(tokenizer, noise(SPEC), **options)
        listened = "language" in given and given["language"] is None
        assert len(decoder.windows) <= 1 + listened  # it is decoded in one slot
        alone += found.segments
    said = [(s.start, s.end, s.text, s.words, s.tokens, s.avg_logprob) for s in alone if s.text]
    assert said == [
        (s.start, s.end, s.text, s.words, s.tokens, s.avg_logprob)
        for s in together.segments
        if s.text
    ]
    assert said


def cut_of(tokenizer: Tokenizer, given: dict[str, Any]) -> list[tuple[int, int]]:
    from mwc.runtime.clips import heard_parts, requested_clips

    options = make_options(**{"language": "en", **given, "batch_size": 8})
    clips = requested_clips(options, SPEC, SECONDS * 100, "a.wav")
    return [clip for part in heard_parts(clips, options, talk()) for clip in part]


def test_segments_are_in_order_and_numbered(tokenizer: Tokenizer) -> None:
    transcript, _ = run(tokenizer, noise(SPEC), batch_size=5)
    segments = transcript.segments
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert [s.seek for s in segments] == sorted(s.seek for s in segments)
    assert [w.start for w in transcript.windows] == sorted(w.start for w in transcript.windows)


def test_segments_come_before_all_windows_are_decoded(tokenizer: Tokenizer) -> None:
    decoder = FakeDecoder(SPEC, noise(SPEC))
    features: Any = FakeFeatures(SECONDS * 100, SPEC.model.n_mels)
    options = make_options(language="en", batch_size=2)
    transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=talk())
    next(transcription)
    n_windows = len(decoder.encoded)
    for _ in transcription:
        pass
    assert 2 <= n_windows < len(decoder.encoded)


def test_progress_goes_up_to_the_end(tokenizer: Tokenizer) -> None:
    decoder = FakeDecoder(SPEC, noise(SPEC))
    features: Any = FakeFeatures(SECONDS * 100, SPEC.model.n_mels)
    options = make_options(language="en", batch_size=4)
    events: list[ProgressEvent] = []
    transcription = Transcription(
        Engine(decoder, tokenizer), features, options, speech=talk(), progress=events.append
    )
    assert list(transcription)
    done = [event.done for event in events]
    assert done == sorted(done)
    assert done[-1] == events[0].total == SECONDS


def test_only_windows_that_need_it_are_decoded_again(tokenizer: Tokenizer) -> None:
    """The window at 0 repeats itself until it is sampled; its neighbours are decoded once."""
    good = scripted(SPEC, lambda window: b" Pack my box with five dozen jugs of liquid.")
    stuck = scripted(SPEC, lambda window: b" ha" * 60, certainty=5.0)

    def logits(window: FakeWindow, tokens: tuple[int, ...]) -> Any:
        return (stuck if window.start == 0 else good)(window, tokens)

    given = {"without_timestamps": True, "suppress_blank": False, "logprob_threshold": None}
    transcript, decoder = run(tokenizer, logits, batch_size=4, **given)
    first, *others = transcript.windows
    assert first.attempts[0].refused is not None
    assert len(first.attempts) > 1
    assert transcript.segments[0].n_attempts == len(first.attempts)
    assert all(len(window.attempts) == 1 for window in others)
    assert len({window.start for window in decoder.encoded}) == len(decoder.encoded)


def spoken_in(languages: Callable[[FakeWindow], tuple[str, float]]) -> Logits:
    """A window says the language it was decoded in; its own is as likely as given."""

    def logits(window: FakeWindow, tokens: tuple[int, ...]) -> Any:
        values = np.full(SPEC.model.n_vocab, -20.0, np.float32)
        codes = dict(T.languages)
        if tokens[-1] == T.sot:
            code, probability = languages(window)
            rest = (1 - probability) / (len(codes) - 1)
            for other, token in codes.items():
                values[token] = np.log(probability if other == code else rest)
            return values
        language = next(c for c, token in codes.items() if token in tokens)
        script = [B, *f" {language}".encode(), B + 1500, T.eot]
        n_sampled = len(tokens) - tokens.index(T.transcribe or 0) - 1
        values[script[n_sampled]] = 20.0
        return values

    return logits


LANGUAGES = {0: ("de", 0.9), 30: ("fr", 0.8), 60: ("en", 0.4), 90: ("en", 0.9)}


def language_of(window: FakeWindow) -> tuple[str, float]:
    return LANGUAGES[min(window.start // 3000 * 30, 90)]


@pytest.mark.parametrize(
    ("given", "languages"),
    [
        ({}, ["de", "de", "de", "de"]),
        ({"multilingual": True}, ["de", "fr", "en", "en"]),
        ({"multilingual": True, "language_detection_threshold": 0.5}, ["de", "fr", "fr", "en"]),
        ({"languages": ["en", "fr"]}, ["en", "en", "en", "en"]),
        ({"multilingual": True, "languages": ["de", "en"]}, ["de", "en", "en", "en"]),
    ],
)
def test_language_of_each_window(
    tokenizer: Tokenizer, given: dict[str, Any], languages: list[str]
) -> None:
    decoder = FakeDecoder(SPEC, spoken_in(language_of))
    features: Any = FakeFeatures(12000, SPEC.model.n_mels)
    transcript = transcribe(Engine(decoder, tokenizer), features, make_options(**given))
    assert [segment.language for segment in transcript.segments] == languages
    assert transcript.text == "".join(f" {language}" for language in languages)
    assert [window.language for window in transcript.windows] == languages
    if given.get("multilingual"):
        told = [LANGUAGES[s][1] for s in (0, 30, 60, 90)]
        found = [w.language_probability for w in transcript.windows]
        if "languages" not in given:
            assert found == pytest.approx(told, abs=1e-5)


def test_what_is_left_of_a_window_without_speech_is_not_decoded(tokenizer: Tokenizer) -> None:
    """The text of a window ends after 10 s; from then on nobody speaks."""
    speech = talk(20)
    speech.probabilities[round(10 * 31.25) :] = 0.01
    logits = scripted(SPEC, lambda window: [B, *b" Ten seconds are over.", B + 500, B + 500])
    decoder = FakeDecoder(SPEC, logits)
    features: Any = FakeFeatures(2000, SPEC.model.n_mels)
    options = make_options(language="en", batch_size=2, temperature=0.0)
    transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=speech)
    assert list(transcription)
    spoken, silent = transcription.transcript().windows
    assert (silent.start, silent.end) == (10.0, 20.0)
    assert silent.skipped == "less than 0.1 s of speech detected"
    assert silent.attempts == ()
    assert spoken.skipped is None
    assert [window.start for window in decoder.encoded] == [0]


def test_a_window_of_a_batch_without_detected_speech_is_decoded(tokenizer: Tokenizer) -> None:
    """A detector may miss what a model understands; what is silent its own rules tell."""
    speech = talk(80)
    speech.probabilities[:] = 0.01
    logits = scripted(SPEC, lambda window: [B, *b" A song.", B + 1400])
    decoder = FakeDecoder(SPEC, logits)
    features: Any = FakeFeatures(8000, SPEC.model.n_mels)
    for chained in (None, True):
        options = make_options(
            language="en", batch_size=2, temperature=0.0, condition_on_previous_text=chained
        )
        transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=speech)
        list(transcription)
        found = transcription.transcript()
        assert found.text.count(" A song.") == 3
        assert [window.skipped for window in found.windows if window.attempts] == [None] * 3


class Loud(FakeFeatures):
    """Frames of 0 throughout, but for the one that says where a window starts."""

    def window(self, seek: int, *, keep_from: int | None = None, into: Any = None) -> Any:
        frames = super().window(seek, keep_from=keep_from, into=into)
        frames[:, 1:] = 0.0
        return frames


class Listening(FakeDecoder):
    """Keeps the log-mel frames it is given."""

    def encode(self, log_mel: Any, log_mel_max: Any, n_frames: Any, windows: Any) -> None:
        super().encode(log_mel, log_mel_max, n_frames, windows)
        self.heard = getattr(self, "heard", [])
        self.heard += [(frames[:, 1], int(n)) for frames, n in zip(log_mel, n_frames, strict=True)]


@pytest.mark.parametrize(("batch_size", "ends_in_silence"), [(1, False), (2, True)])
def test_a_window_that_was_cut_ends_in_silence(
    tokenizer: Tokenizer, batch_size: int, ends_in_silence: bool
) -> None:
    decoder = Listening(SPEC, noise(SPEC))
    features: Any = Loud(2000, SPEC.model.n_mels)
    options = make_options(language="en", batch_size=batch_size, temperature=0.0)
    transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=talk(20))
    list(transcription)
    frames, n_frames = decoder.heard[0]
    assert n_frames == (3000 if ends_in_silence else 2000)
    assert (frames[:2000] == 0.0).all()
    assert (frames[2000:] == (-10.0 if ends_in_silence else 0.0)).all()


def said_of(window: FakeWindow, scripts: dict[int, list[int]]) -> list[int]:
    return scripts.get(window.start, [B, *b" The rest of what was said here.", B + 1400])


@pytest.mark.parametrize("vad_filter", [False, True])
def test_text_that_leaves_speech_out_is_decoded_from_a_shorter_window(
    tokenizer: Tokenizer, vad_filter: bool
) -> None:
    """The first window is given the times of 24 s of speech, and says one word."""
    scripts = {0: [B, *b" Well.", B + 1400]}
    decoder = FakeDecoder(SPEC, scripted(SPEC, lambda window: said_of(window, scripts)))
    features: Any = FakeFeatures(5000, SPEC.model.n_mels)
    given = {"batch_size": 2, "vad_filter": vad_filter, "temperature": 0.0}
    options = make_options(language="en", **given)
    transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=talk(50))
    list(transcription)
    first, second, *_ = transcription.transcript().windows
    # Cut in its middle third, in the silence at 14 s, and again in that at 7 s; then in speech.
    *refused, last = first.attempts
    heard = [
        float(re.findall(r"6 tokens of text for (.*) s of", a.refused or "")[0]) for a in refused
    ]
    assert heard[1:] == pytest.approx([13.5, 7.0], abs=0.2)
    assert heard[0] > 20
    assert last.refused is None
    assert first.end == pytest.approx(4.8, abs=0.1)
    assert second.start == first.end


def test_without_the_detector_text_may_be_sparse(tokenizer: Tokenizer) -> None:
    scripts = {0: [B, *b" Well.", B + 1400]}
    decoder = FakeDecoder(SPEC, scripted(SPEC, lambda window: said_of(window, scripts)))
    features: Any = FakeFeatures(2900, SPEC.model.n_mels)
    transcript = transcribe(Engine(decoder, tokenizer), features, make_options(language="en"))
    assert [len(window.attempts) for window in transcript.windows] == [1]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_window_with_detected_speech_is_not_silent(tokenizer: Tokenizer, batch_size: int) -> None:
    text = [B, *b" The rest of what was said here.", B + 1400]
    logits = scripted(SPEC, lambda window: text, no_speech_prob=0.9, certainty=8.0)
    features: Any = FakeFeatures(2900, SPEC.model.n_mels)
    given = {"batch_size": batch_size, "logprob_threshold": -0.01, "temperature": 0.0}
    decoder = FakeDecoder(SPEC, logits)
    options = make_options(language="en", coverage=True, **given)
    transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=talk(29))
    said = "".join(segment.text for segment in transcription)
    report = transcription.transcript().windows[0]
    if batch_size == 1:  # openai/whisper's rule alone
        assert said == ""
        assert report.skipped is not None
        assert report.skipped.startswith("no_speech_prob 0.90 is above 0.6 and avg_logprob")
    else:
        assert "The rest of what was said here." in said
        assert report.skipped is None


def test_a_window_is_not_left_before_speech_that_its_text_does_not_reach(
    tokenizer: Tokenizer,
) -> None:
    scripts = {0: [B, *b" Only this much was said at first.", B + 500]}
    decoder = FakeDecoder(SPEC, scripted(SPEC, lambda window: said_of(window, scripts)))
    features: Any = FakeFeatures(2900, SPEC.model.n_mels)
    options = make_options(language="en", batch_size=2)
    transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=talk(29))
    list(transcription)
    assert [window.start for window in transcription.transcript().windows] == [0.0, 10.0]


SAID = " Only this much was said at first, as if nothing else came after it."
SAID_THEN = " And this did."
FIRST = [B, *SAID.encode(), B + 500]
MORE = [*SAID_THEN.encode(), B + 1400]


def one_window(
    tokenizer: Tokenizer, script: list[int], more: list[int], **given: Any
) -> tuple[Transcript, FakeDecoder]:
    """29 s of speech, of which the script leaves some; `more` comes where it may not end there."""
    logits = scripted(SPEC, lambda window: said_of(window, {0: script}), certainty=9.0, more=more)
    decoder = FakeDecoder(SPEC, logits)
    features: Any = FakeFeatures(2900, SPEC.model.n_mels)
    options = make_options(language="en", **{"batch_size": 2, "temperature": 0.0, **given})
    speech = talk(29) if options.batch_size > 1 else None
    transcription = Transcription(Engine(decoder, tokenizer), features, options, speech=speech)
    list(transcription)
    return transcription.transcript(), decoder


@pytest.mark.parametrize("given", [{}, {"beam_size": 3}, {"temperature": 0.4, "best_of": 2}])
@pytest.mark.parametrize(
    ("script", "more"),
    [
        ([*FIRST, B + 500], MORE),  # the next sentence begins, and is left to the next window
        (FIRST, [B + 500, *MORE]),  # nothing else was said, supposedly
    ],
)
def test_text_that_ends_before_the_speech_is_gone_on_with(
    tokenizer: Tokenizer, script: list[int], more: list[int], given: dict[str, Any]
) -> None:
    found, decoder = one_window(tokenizer, script, more, **given)
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (0.0, 10.0, SAID),
        (10.0, 28.0, SAID_THEN),
    ]
    assert [window.start for window in decoder.encoded] == [0]
    begun = decoder.prompts[-1]
    assert begun == (*decoder.prompts[0], *script)
    (attempt,) = found.windows[0].attempts
    whole, _ = one_window(tokenizer, [*script, *more], [], **given)
    # The end that did not count is not in it.
    assert attempt.avg_logprob == pytest.approx(whole.segments[0].avg_logprob, abs=0.003)
    assert found.segments[0].tokens + found.segments[1].tokens == (*FIRST, B + 500, *MORE)


@pytest.mark.parametrize(
    ("more", "given"),
    [
        ([*b" no" * 40, B + 1400], {}),  # repetitive
        ([], {}),  # nothing else comes
        (MORE, {"sample_len": len(FIRST) + 1}),  # no room
        (MORE, {"batch_size": 1}),  # the window's end is no silence: openai/whisper's way
    ],
)
def test_where_going_on_brings_nothing_the_rest_is_heard_alone(
    tokenizer: Tokenizer, more: list[int], given: dict[str, Any]
) -> None:
    found, decoder = one_window(tokenizer, [*FIRST, B + 500], more, **given)
    assert [window.start for window in decoder.encoded] == [0, 1000]
    assert [window.start for window in found.windows][:2] == [0.0, 10.0]
    assert found.windows[0].end == 29.0
    (attempt,) = found.windows[0].attempts
    assert attempt.refused is None
    assert found.segments[0].text == SAID
    assert "rest of what" in found.segments[1].text


@pytest.mark.parametrize(("batch_size", "end"), [(1, 30.0), (2, 29.0)])
def test_segments_of_a_batch_end_with_their_window(
    tokenizer: Tokenizer, batch_size: int, end: float
) -> None:
    """The next window begins there; openai/whisper's timestamps may reach beyond."""
    found, _ = one_window(
        tokenizer, [*FIRST, B + 500, *MORE[:-1], B + 1500], [], batch_size=batch_size
    )
    assert [segment.end for segment in found.segments] == [10.0, end]


def test_a_batch_needs_the_speech(tokenizer: Tokenizer) -> None:
    decoder = FakeDecoder(SPEC, noise(SPEC))
    features: Any = FakeFeatures(300, SPEC.model.n_mels)
    with pytest.raises(ValueError, match="speech"):
        Transcription(Engine(decoder, tokenizer), features, make_options(batch_size=2))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_stopping_keeps_what_is_done(tokenizer: Tokenizer, batch_size: int) -> None:
    whole, decoder = run(tokenizer, noise(SPEC), batch_size=batch_size)
    n_calls = len(decoder.batch_sizes)
    for after in (0, n_calls // 3, n_calls // 2, n_calls - STEPS_AHEAD):
        decoder = FakeDecoder(SPEC, noise(SPEC))
        features: Any = FakeFeatures(SECONDS * 100, SPEC.model.n_mels)
        options = make_options(language="en", batch_size=batch_size)

        def stop(decoder: FakeDecoder = decoder, after: int = after) -> bool:
            return len(decoder.batch_sizes) >= after

        transcription = Transcription(
            Engine(decoder, tokenizer), features, options, speech=talk(), stop=stop
        )
        given: list[Segment] = []
        with pytest.raises(Cancelled) as caught:
            given.extend(transcription)
        assert after <= len(decoder.batch_sizes) < after + STEPS_AHEAD  # no further call
        kept = caught.value.transcript.segments
        assert kept[: len(given)] == tuple(given)
        known = [replace(segment, id=0) for segment in whole.segments]
        assert [s for s in known if replace(s, id=0) in [replace(k, id=0) for k in kept]] == [
            replace(segment, id=0) for segment in kept
        ]
    assert len(kept) > 0


def test_coverage_is_measured_where_speech_is_known(tokenizer: Tokenizer) -> None:
    logits = scripted(SPEC, lambda window: [B, *b" a", B + 500])
    found, _ = run(tokenizer, logits, coverage=True)
    assert found.coverage is not None
    assert found.coverage.detector == "silero-vad 6.2"
    assert found.coverage.uncovered_seconds > SECONDS / 2
    assert found.segments[0].speech == pytest.approx(0.96, abs=0.04)
    without, _ = run(tokenizer, logits, batch_size=2, coverage=False)
    assert without.coverage is None


def test_parts_of_several_files_share_the_lanes(tokenizer: Tokenizer) -> None:
    """The engine does not care whose windows it decodes."""
    options = TranscribeOptions(language="en")
    files: list[Any] = [FakeFeatures(n, SPEC.model.n_mels) for n in (7000, 300, 4000)]

    def parts() -> list[Part]:
        return [
            Part(f, WindowLoop(SPEC, tokenizer, options, [(0, f.n_frames)], f.n_frames), "en")
            for f in files
        ]

    def texts(n_lanes: int) -> tuple[dict[int, str], int]:
        """Of each file, by its length; and how many rows the largest step had."""
        decoder = FakeDecoder(SPEC, noise(SPEC))
        said = dict.fromkeys((f.n_frames for f in files), "")
        with Call(Engine(decoder, tokenizer), options, n_lanes=n_lanes) as call:
            for part in parts():
                call.add(part)
            while (done := call.take()) is not None:
                assert isinstance(done, Decoded)
                said[done.part.features.n_frames] += "".join(s.text for s in done.segments)
        return said, max(decoder.batch_sizes)

    alone, rows = texts(1)
    assert rows == 1
    for n_lanes in (2, 3):
        assert texts(n_lanes) == (alone, n_lanes)
