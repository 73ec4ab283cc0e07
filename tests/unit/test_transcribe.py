"""The way through a file: cutting, seeking, prompts, silence, clips, and openai/whisper's own."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from decoding import transcribe
from fake_decoder import (
    FakeDecoder,
    FakeFeatures,
    FakeWindow,
    fake_spec,
    fake_tokenizer,
    noise,
    scripted,
)
from openai_whisper import OUR_FIELDS, FakeWhisper, patch_whisper

from mwc.runtime.decode import WindowResult
from mwc.runtime.engine import Engine
from mwc.runtime.errors import AudioError, OptionError
from mwc.runtime.options import make_options
from mwc.runtime.progress import ProgressEvent
from mwc.runtime.speech import Speech
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcribe import Transcription, detect_language
from mwc.runtime.transcript import Transcript
from mwc.runtime.window_cut import Piece, WindowCut, cut_window
from mwc.runtime.windows import WindowLoop

SPEC = fake_spec()
T = SPEC.tokens
B = T.timestamp_begin


def run(
    tokenizer: Tokenizer, scripts: dict[int, list[int]], n_frames: int, **options: Any
) -> tuple[Transcript, FakeDecoder]:
    """Transcribe a file whose window at frame s gives the tokens scripts[s]."""
    no_speech_prob = options.pop("no_speech_prob", 0.0)
    certainty = options.pop("certainty", 20.0)
    logits = scripted(
        SPEC,
        lambda window: scripts.get(window.start, []),
        no_speech_prob=no_speech_prob,
        certainty=certainty,
    )
    decoder = FakeDecoder(SPEC, logits)
    features: Any = FakeFeatures(n_frames, SPEC.model.n_mels)
    given = {"language": "en", "temperature": 0.0, **options}
    return transcribe(Engine(decoder, tokenizer), features, make_options(**given)), decoder


@pytest.mark.parametrize(
    ("tokens", "pieces", "advance", "ends_on_single"),
    [
        # Nothing, or text alone: one segment that lasts as long as the window.
        ([], [((), 0, None)], None, False),
        ([65, 66], [((65, 66), 0, None)], None, False),
        # No pair: up to the last timestamp, unless that is 0.
        ([B + 10, 65, B + 90], [((B + 10, 65, B + 90), 0, 90)], None, True),
        ([B + 10, 65], [((B + 10, 65), 0, 10)], None, False),
        ([B, 65], [((B, 65), 0, None)], None, False),
        # A pair: the rest is left to the next window.
        ([B, 65, B + 90, B + 90], [((B, 65, B + 90), 0, 90)], 90, False),
        ([B, 65, B + 90, B + 95, 66], [((B, 65, B + 90), 0, 90)], 90, False),
        # A pair and a single timestamp at the end: nothing is left.
        (
            [B + 1, 65, B + 90, B + 95, 66, B + 99],
            [((B + 1, 65, B + 90), 1, 90), ((B + 95, 66, B + 99), 95, 99)],
            None,
            True,
        ),
        # Two pairs.
        (
            [B, 65, B + 9, B + 9, 66, B + 20, B + 21, 67],
            [((B, 65, B + 9), 0, 9), ((B + 9, 66, B + 20), 9, 20)],
            20,
            False,
        ),
    ],
)
def test_cut_window(
    tokens: list[int],
    pieces: list[tuple[tuple[int, ...], int, int | None]],
    advance: int | None,
    ends_on_single: bool,
) -> None:
    expected = WindowCut(tuple(Piece(*p) for p in pieces), advance, ends_on_single)
    assert cut_window(tokens, B) == expected


@pytest.mark.parametrize(
    ("tokens", "pieces", "advance"),
    [
        # Text after the last pair lasts to the end of the window.
        ([B, 65, B + 90, B + 95, 66], [((B, 65, B + 90), 0, 90), ((B + 95, 66), 95, None)], None),
        # Nothing after it: the rest is left to the next window, as ever.
        ([B, 65, B + 90, B + 90], [((B, 65, B + 90), 0, 90)], 90),
        ([B + 10, 65, B + 90], [((B + 10, 65, B + 90), 0, 90)], None),
        ([B, 65], [((B, 65), 0, None)], None),
    ],
)
def test_a_window_that_ends_in_silence_keeps_its_tail(
    tokens: list[int], pieces: list[tuple[tuple[int, ...], int, int | None]], advance: int | None
) -> None:
    cut = cut_window(tokens, B, keeps_tail=True)
    assert cut.pieces == tuple(Piece(*p) for p in pieces)
    assert cut.advance == advance


def test_windows_follow_the_timestamps_with_the_text_before_as_prompt(
    tokenizer: Tokenizer,
) -> None:
    first = [B, *b" One.", B + 100, B + 100, *b" Two.", B + 200, B + 200]
    second = [B, *b" Three.", B + 50]
    transcript, decoder = run(tokenizer, {0: first, 400: second}, 3500)
    assert [(s.id, s.seek, s.start, s.end, s.text) for s in transcript.segments] == [
        (0, 0, 0.0, 2.0, " One."),
        (1, 0, 2.0, 4.0, " Two."),
        (2, 400, 4.0, 5.0, " Three."),
        (3, 3400, 34.0, 35.0, ""),
    ]
    assert transcript.text == " One. Two. Three."
    assert transcript.duration == 35.0
    assert (transcript.language, transcript.language_probability) == ("en", None)
    assert decoder.encoded == [FakeWindow(0, 3000), FakeWindow(400, 3000), FakeWindow(3400, 100)]
    sequence = tokenizer.sot_sequence("en", "transcribe", True)
    assert decoder.prompts[0] == sequence
    history = first[:-1]
    assert decoder.prompts[1] == (T.sot_prev, *history, *sequence)
    assert decoder.prompts[2] == (T.sot_prev, *history, *second, *sequence)


def test_without_conditioning_only_the_first_window_has_the_initial_prompt(
    tokenizer: Tokenizer,
) -> None:
    scripts = {0: [B, *b" One.", B + 100, B + 100]}
    transcript, decoder = run(
        tokenizer,
        scripts,
        2900,
        initial_prompt=" Zero. ",
        condition_on_previous_text=False,
    )
    sequence = tokenizer.sot_sequence("en", "transcribe", True)
    assert decoder.prompts == [(T.sot_prev, *b" Zero.", *sequence), sequence]
    assert transcript.text == " One."


def test_carried_initial_prompt_stands_before_every_window(tokenizer: Tokenizer) -> None:
    scripts = {0: [B, *b" One.", B + 100, B + 100]}
    _, decoder = run(tokenizer, scripts, 2900, initial_prompt="Zero.", carry_initial_prompt=True)
    sequence = tokenizer.sot_sequence("en", "transcribe", True)
    assert decoder.prompts[1] == (T.sot_prev, *b" Zero.", B, *b" One.", B + 100, *sequence)


def test_carried_initial_prompt_keeps_its_place_behind_hotwords(tokenizer: Tokenizer) -> None:
    """The history gives way to both: openai/whisper, which has no hotwords, says nothing of it."""
    text = b" One." * 30
    scripts = {0: [B, *text, B + 100, B + 100]}
    _, decoder = run(
        tokenizer, scripts, 2900, initial_prompt="Zero.", carry_initial_prompt=True,
        hotwords="Vega",
    )  # fmt: skip
    sequence = tokenizer.sot_sequence("en", "transcribe", True)
    start = (T.sot_prev, *b" Vega", *b" Zero.")
    assert decoder.prompts[1][: len(start)] == start
    assert len(decoder.prompts[1]) - len(sequence) <= SPEC.model.n_text_ctx // 2
    _, decoder = run(
        tokenizer, scripts, 2900, initial_prompt="Zero.",
        carry_initial_prompt=True, hotwords="a" * 220,
    )  # fmt: skip
    assert decoder.prompts[1][1 : -len(sequence)] == (*b" " + b"a" * 220, *b"o.")


def test_silent_windows_are_skipped_unless_the_text_is_sure(tokenizer: Tokenizer) -> None:
    scripts = {0: [B, *b" Hm.", B + 50]}
    doubtful = {"no_speech_prob": 0.9, "certainty": 8.0, "logprob_threshold": -0.1}
    silent, decoder = run(tokenizer, scripts, 4000, **doubtful)
    assert silent.segments == ()
    assert silent.text == ""
    assert [window.start for window in decoder.encoded] == [0, 3000]
    kept, _ = run(tokenizer, scripts, 3000, no_speech_threshold=None, **doubtful)
    assert kept.text == " Hm."
    sure, _ = run(tokenizer, scripts, 3000, no_speech_prob=0.9, certainty=20.0)
    assert sure.text == " Hm."
    alone, _ = run(
        tokenizer, scripts, 3000, no_speech_prob=0.9, certainty=20.0, logprob_threshold=None
    )
    assert alone.segments == ()


def test_clips_limit_what_is_heard(tokenizer: Tokenizer) -> None:
    scripts = {s: [B, *b" x", B + 50] for s in (100, 3100, 6000)}
    transcript, decoder = run(tokenizer, scripts, 6500, clip_timestamps="1,32,60")
    assert decoder.encoded == [FakeWindow(100, 3000), FakeWindow(3100, 100), FakeWindow(6000, 500)]
    assert [segment.start for segment in transcript.segments] == [1.0, 31.0, 60.0]


@pytest.mark.parametrize(("clips", "n_windows"), [("60,99", 1), ("", 3)])
def test_a_clip_that_ends_beyond_the_audio_is_cut_off_there(
    tokenizer: Tokenizer, clips: str, n_windows: int
) -> None:
    transcript, decoder = run(tokenizer, {}, 6500, clip_timestamps=clips)
    assert len(decoder.encoded) == n_windows
    note = (
        "clip_timestamps has a clip that ends at 99 s, but the audio ends after 65 s: "
        "it is heard to there"
    )
    assert transcript.warnings == ((note,) if clips else ())


@pytest.mark.parametrize("clips", ["70,80", "65", "1,2,90"])
def test_a_clip_that_starts_beyond_the_audio_is_refused(tokenizer: Tokenizer, clips: str) -> None:
    with pytest.raises(AudioError, match=r"starts at \d+ s, but <fake> ends after 65 s"):
        run(tokenizer, {}, 6500, clip_timestamps=clips)


def test_audio_shorter_than_a_frame_has_no_segments(tokenizer: Tokenizer) -> None:
    transcript, decoder = run(tokenizer, {}, 0)
    assert transcript == Transcript("", "en", 0.0, ())
    assert decoder.encoded == []


def test_a_window_that_would_repeat_is_left_behind(tokenizer: Tokenizer) -> None:
    # Only without the timestamp rules can two timestamps of 0 meet; openai/whisper never ends.
    transcript, _ = run(tokenizer, {0: [B, B, 65]}, 3000, without_timestamps=True)
    assert [segment.text for segment in transcript.segments] == [""]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_times_are_exact_after_hours(tokenizer: Tokenizer, batch_size: int) -> None:
    """Ten hours of windows that each end after 29.98 s, off by 20 ms from any round time."""
    decoder = FakeDecoder(SPEC, scripted(SPEC, lambda window: [B, 65, 66, B + 1499, B + 1499]))
    n_frames = 36000 * 100
    features: Any = FakeFeatures(n_frames, SPEC.model.n_mels)
    speech = Speech("silero-vad 6.2", np.full(36000 * 125 // 4, 0.99, np.float32), 36000 * 16000)
    clips = (0.0, 60.0, 35900.0, 36000.0)
    options = make_options(
        language="en", batch_size=batch_size, clip_timestamps=clips, without_timestamps=False
    )
    given = {"speech": speech if batch_size > 1 else None}
    found = list(Transcription(Engine(decoder, tokenizer), features, options, **given))
    for segment in found:
        assert segment.start * 100 == pytest.approx(round(segment.start * 100), abs=1e-6)
        assert segment.start == pytest.approx(segment.seek / 100, abs=1e-9)
    late = [segment for segment in found if segment.start > 30000]
    assert late[0].start == 35900.0
    if batch_size == 1:
        assert [s.start for s in late] == pytest.approx([35900 + 29.98 * k for k in range(4)])


def test_segments_without_timestamps_are_whole_windows(tokenizer: Tokenizer) -> None:
    scripts = {0: list(b"One."), 3000: list(b"Two.")}
    transcript, decoder = run(tokenizer, scripts, 4000, without_timestamps=True)
    assert [(s.start, s.end, s.text) for s in transcript.segments] == [
        (0.0, 30.0, "One."),
        (30.0, 40.0, "Two."),
    ]
    assert all(prompt[-1] == T.no_timestamps for prompt in decoder.prompts)


def language_logits(window: FakeWindow, tokens: tuple[int, ...]) -> Any:
    values = np.zeros(SPEC.model.n_vocab, dtype=np.float32)
    if window == FakeWindow(0, 3000):  # short audio counts as followed by silence
        values[dict(T.languages)["fr"]] = 3.0
    values[T.eot] = 9.0
    return values


def test_language_is_detected_from_the_first_30_s(tokenizer: Tokenizer) -> None:
    decoder = FakeDecoder(SPEC, language_logits)
    features: Any = FakeFeatures(500, SPEC.model.n_mels)
    detected = detect_language(Engine(decoder, tokenizer), features, make_options())
    expected = np.exp(3) / (np.exp(3) + 2)
    assert detected.language == "fr"
    assert detected.probability == pytest.approx(expected, abs=1e-6)
    assert set(detected.probabilities) == {"en", "de", "fr"}
    assert sum(detected.probabilities.values()) == pytest.approx(1, abs=1e-6)
    transcript = transcribe(Engine(decoder, tokenizer), features, make_options())
    assert transcript.language == "fr"
    assert transcript.language_probability == pytest.approx(expected, abs=1e-6)
    assert dict(T.languages)["fr"] in decoder.prompts[-1]


def test_a_full_first_window_is_encoded_once(tokenizer: Tokenizer) -> None:
    decoder = FakeDecoder(SPEC, language_logits)
    features: Any = FakeFeatures(3000, SPEC.model.n_mels)
    transcribe(Engine(decoder, tokenizer), features, make_options())
    assert decoder.encoded == [FakeWindow(0, 3000)]


def test_english_only_models_need_no_detection(tmp_path: Any) -> None:
    spec = fake_spec(languages=())
    tokenizer = fake_tokenizer(tmp_path, spec)
    script = [spec.tokens.timestamp_begin, *b" Hi"]
    decoder = FakeDecoder(spec, scripted(spec, lambda window: script))
    features: Any = FakeFeatures(300, spec.model.n_mels)
    transcript = transcribe(Engine(decoder, tokenizer), features, make_options())
    assert (transcript.language, transcript.language_probability) == ("en", None)
    assert transcript.text == " Hi"
    assert decoder.prompts == [(spec.tokens.sot,)]
    with pytest.raises(OptionError, match="cannot detect a language"):
        detect_language(Engine(decoder, tokenizer), features, make_options())


@pytest.mark.parametrize(
    "options",
    [
        {"language": "xx"},
        {"prefix": "a" * 230, "without_timestamps": True},
        {"initial_prompt": "<|endoftext|>"},
        {"suppress_tokens": "99999"},
    ],
)
def test_unsuitable_options_are_refused_before_any_window(
    tokenizer: Tokenizer, options: dict[str, Any]
) -> None:
    decoder = FakeDecoder(SPEC, noise(SPEC))
    features: Any = FakeFeatures(300, SPEC.model.n_mels)
    given = {"language": "en", **options}
    with pytest.raises(OptionError):
        Transcription(Engine(decoder, tokenizer), features, make_options(**given))
    assert decoder.encoded == []


def test_segments_come_as_windows_are_decoded_and_progress_is_told(tokenizer: Tokenizer) -> None:
    scripts = {0: [B, *b" One.", B + 100, B + 100], 200: [B, *b" Two."]}
    decoder = FakeDecoder(SPEC, scripted(SPEC, lambda window: scripts[window.start]))
    features: Any = FakeFeatures(3100, SPEC.model.n_mels)
    events: list[ProgressEvent] = []
    options = make_options(language="en")
    segments = Transcription(Engine(decoder, tokenizer), features, options, progress=events.append)
    assert decoder.encoded == []
    assert next(segments).text == " One."
    assert len(decoder.encoded) == 1
    assert [segment.text for segment in segments] == [" Two."]
    assert events == [
        ProgressEvent("transcribe", 2.0, 31.0, "seconds"),
        ProgressEvent("transcribe", 31.0, 31.0, "seconds"),
    ]


@pytest.mark.parametrize(("conditioned", "knows"), [(None, True), (True, True), (False, False)])
def test_the_rest_of_a_batchs_window_knows_the_text_before_it(
    tokenizer: Tokenizer, conditioned: bool | None, knows: bool
) -> None:
    """It is a part of its own, and begins with no text; what its text leaves is asked for next."""
    options = make_options(batch_size=2, condition_on_previous_text=conditioned)
    speech = Speech("fake", np.ones(782, np.float32), 25 * 16000)
    loop = WindowLoop(SPEC, tokenizer, options, [(0, 2500)], 2500, speech)
    window = loop.next_window()
    assert window is not None
    assert (window.seek, window.previous) == (0, ())
    tokens = (B, *b" One.", B + 500, B + 510)  # text up to 10 s
    loop.accept(WindowResult(tokens, "One.", -0.1, 0.0, 1.0, 0.0, -0.1))
    rest = loop.next_window()
    assert rest is not None
    assert (rest.seek, rest.n_frames) == (1000, 1500)
    assert rest.previous == ((B, *b" One.", B + 500) if knows else ())


def test_a_result_needs_a_window(tokenizer: Tokenizer) -> None:
    loop = WindowLoop(SPEC, tokenizer, make_options(), [(0, 100)], 100)
    with pytest.raises(RuntimeError, match="next_window"):
        loop.accept(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_frames", [1, 1234, 3001, 15000])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"language": "de", "task": "translate"},
        {"condition_on_previous_text": False, "initial_prompt": "Names: Ada, Bo."},
        {"initial_prompt": "Names: Ada, Bo.", "carry_initial_prompt": True},
        {"initial_prompt": "word " * 60, "carry_initial_prompt": True},
        {"initial_prompt": "a" * 222, "carry_initial_prompt": True},
        {"clip_timestamps": "1,4.5,10,35,50"},
        {"no_speech_threshold": None},
        {"logprob_threshold": None, "no_speech_threshold": 0.3},
        {"logprob_threshold": -1.7},
        {"without_timestamps": True, "prefix": "So", "sample_len": 200},
        {"suppress_tokens": "65", "suppress_blank": False, "max_initial_timestamp": 0.5},
    ],
)
def test_same_as_openai_whispers_transcribe(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    seed: int,
    n_frames: int,
) -> None:
    module = pytest.importorskip("whisper.transcribe")
    if "clip_timestamps" in given:
        n_frames += 5000  # openai/whisper never ends where a clip ends beyond the audio
    given = {"temperature": 0.0, **given}
    sampler = patch_whisper(monkeypatch, SPEC, tokenizer)
    model = FakeWhisper(SPEC, noise(SPEC, seed), sampler)
    samples = np.zeros(n_frames * 160, dtype=np.float32)
    theirs = module.transcribe(model, samples, fp16=False, **given)

    decoder = FakeDecoder(SPEC, noise(SPEC, seed))
    features: Any = FakeFeatures(n_frames, SPEC.model.n_mels)
    ours = transcribe(Engine(decoder, tokenizer), features, make_options(**given))
    assert_same(ours, theirs)
    assert decoder.encoded[-len(model.decoded) :] == model.decoded


def assert_same(ours: Transcript, theirs: dict[str, Any]) -> None:
    """Ours is openai/whisper's, but for rounding in the scores."""
    our_segments = ours.to_dict()["segments"]
    assert ours.text == theirs["text"]
    assert ours.language == theirs["language"]
    assert len(our_segments) == len(theirs["segments"])
    for our, their in zip(our_segments, theirs["segments"], strict=True):
        their.pop("words", None)
        assert list(our)[: len(their)] == list(their)
        for name in OUR_FIELDS:
            our.pop(name)
        for name in ("avg_logprob", "no_speech_prob"):
            assert our.pop(name) == pytest.approx(their.pop(name), abs=1e-5)
        assert our == their


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"beam_size": 3, "best_of": 2},
        {"beam_size": 2, "patience": 2.0, "logprob_threshold": -1.4},
        {"temperature": (0.0, 0.6, 1.0), "compression_ratio_threshold": 1.2},
        {"temperature": (0.4, 0.8), "best_of": 3, "length_penalty": 0.5},
        {"logprob_threshold": None, "compression_ratio_threshold": 1.1},
        {"compression_ratio_threshold": None, "logprob_threshold": -1.5},
        {"no_speech_threshold": None, "without_timestamps": True},
    ],
)
def test_same_as_openai_whispers_fallback(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], seed: int
) -> None:
    module = pytest.importorskip("whisper.transcribe")
    sampler = patch_whisper(monkeypatch, SPEC, tokenizer)
    model = FakeWhisper(SPEC, noise(SPEC, seed), sampler, seed)
    theirs = module.transcribe(model, np.zeros(9000 * 160, np.float32), fp16=False, **given)

    decoder = FakeDecoder(SPEC, noise(SPEC, seed))
    features: Any = FakeFeatures(9000, SPEC.model.n_mels)
    ours = transcribe(Engine(decoder, tokenizer), features, make_options(**given, seed=seed))
    assert_same(ours, theirs)
    # openai/whisper decodes a window once for each temperature it tries.
    tried = [window for window, _ in groupby(model.decoded)]
    assert decoder.encoded[-len(tried) :] == tried
    assert len(tried) < len(model.decoded)
