"""Words on the way through a file: times, seeking, dropped text, known texts; and openai's own."""

from dataclasses import dataclass, field
from pathlib import Path
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
    fake_tokenizer,
    noise,
    scripted,
)
from openai_whisper import OUR_FIELDS, FakeWhisper, patch_whisper

from mwc.runtime.decoder import Float32
from mwc.runtime.engine import Engine
from mwc.runtime.errors import AudioError, OptionError
from mwc.runtime.options import make_options
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.transcribe import align
from mwc.runtime.transcript import Transcript, Word
from mwc.runtime.windows import WindowLoop

SPEC = fake_spec()
T = SPEC.tokens
B = T.timestamp_begin


@dataclass
class PlacedDecoder(FakeDecoder):
    """Attends to each text token where `places` says, in encoder positions, per window.

    `sureness` is that of the words, from 0 to 1.
    """

    places: dict[int, list[int]] = field(default_factory=dict)
    sureness: float = 1.0

    def align(self, tokens: Any, window: int, row: int = 0) -> tuple[Float32, Float32]:
        super().align(tokens, window, row)
        logits = np.zeros((len(tokens), SPEC.model.n_vocab), np.float32)
        logits[np.arange(len(tokens) - 1), tokens[1:]] = 20 * self.sureness
        n_before = len(tokens) - len(self.places[self.windows[window].start]) - 1
        places = self.places[self.windows[window].start]
        places = [places[0]] * n_before + places + [places[-1]]
        scores = np.stack([-np.abs(np.arange(1500) - place) / 3 for place in places])
        return np.stack([scores, scores]).astype(np.float32), logits


def run(
    tokenizer: Tokenizer,
    scripts: dict[int, list[int]],
    places: dict[int, list[int]],
    n_frames: int,
    **options: Any,
) -> tuple[Transcript, PlacedDecoder]:
    """Transcribe a file whose window at frame s gives the tokens scripts[s], said at places[s]."""
    sureness = options.pop("sureness", 1.0)
    logits = scripted(SPEC, lambda w: scripts.get(w.start, []))
    decoder = PlacedDecoder(SPEC, logits, places=places, sureness=sureness)
    features: Any = FakeFeatures(n_frames, SPEC.model.n_mels)
    given = {"language": "en", "temperature": 0.0, "word_timestamps": True, **options}
    return transcribe(Engine(decoder, tokenizer), features, make_options(**given)), decoder


def words(transcript: Transcript) -> list[str]:
    return [word.word for segment in transcript.segments for word in segment.words or ()]


def test_words_take_their_times_from_the_attention(tokenizer: Tokenizer) -> None:
    # Each token is said 0.4 s after the one before; the model's own times are less exact.
    script = [B, *b" a b", B + 60]
    transcript, decoder = run(tokenizer, {0: script}, {0: [10, 30, 50, 70, 90]}, 1000)
    (segment,) = transcript.segments
    assert segment.text == " a b"
    a, b = segment.words or ()
    assert (a.word, b.word) == (" a", " b")
    assert a.start == 0.0
    assert a.end == b.start == pytest.approx(0.8, abs=0.1)
    assert b.end == pytest.approx(1.6, abs=0.1)
    assert (segment.start, segment.end) == (a.start, b.end)
    assert 0.9 < a.probability <= 1.0
    assert decoder.aligned == [
        (*tokenizer.sot_sequence("en", "transcribe", False), *b" a b", T.eot)
    ]


def test_no_words_are_looked_for_unless_asked(tokenizer: Tokenizer) -> None:
    script = [B, *b" a b", B + 60]
    transcript, decoder = run(tokenizer, {0: script}, {}, 1000, word_timestamps=False)
    assert transcript.segments[0].words is None
    assert decoder.aligned == []


def test_the_next_window_starts_where_the_last_word_ends(tokenizer: Tokenizer) -> None:
    # The timestamps would lead to 10 s, the words end at about 3 s.
    first = [B, *b" a", B + 500, B + 500]
    places = {0: [100, 150, 200]}
    transcript, decoder = run(tokenizer, {0: first}, places, 3000)
    end = transcript.segments[0].words[-1].end  # type: ignore[index]
    assert 2.0 < end < 4.0
    assert [window.start for window in decoder.encoded[:2]] == [0, round(end * 100)]


def test_without_timestamps_the_next_window_follows_this_one(tokenizer: Tokenizer) -> None:
    """Its text is all of it; what comes after the last word is not decoded again by itself."""
    transcript, decoder = run(
        tokenizer,
        {0: [*b" a"], 3000: [*b" b"]},
        {0: [100, 150], 3000: [10, 20]},
        4000,
        without_timestamps=True,
    )
    assert transcript.segments[0].words[-1].end < 4.0  # type: ignore[index]
    assert [window.start for window in decoder.encoded] == [0, 3000]


def test_a_single_timestamp_at_the_end_still_ends_the_window(tokenizer: Tokenizer) -> None:
    first = [B, *b" a", B + 100, B + 100, *b" b", B + 500]
    places = {0: [100, 150, 200, 220, 220]}
    _, decoder = run(tokenizer, {0: first}, places, 4000)
    assert [window.start for window in decoder.encoded] == [0, 3000]


def test_a_segment_whose_words_take_no_time_is_cleared(tokenizer: Tokenizer) -> None:
    transcript, _ = run(tokenizer, {0: [B, *b" a", B + 50]}, {0: [0, 0]}, 1)
    (segment,) = transcript.segments
    assert (segment.text, segment.tokens, segment.words) == ("", (), ())


def test_improbable_words_amid_silence_are_dropped(tokenizer: Tokenizer) -> None:
    script = [B, *b" a", B + 100, B + 100, *b" b", B + 500]
    places = {0: [50, 100, 900, 950, 950]}
    sure, _ = run(tokenizer, {0: script}, places, 3000, hallucination_silence_threshold=2.0)
    assert words(sure) == [" a", " b"]
    given = {"sureness": 0.15, "no_speech_threshold": None}
    kept, _ = run(tokenizer, {0: script}, places, 3000, **given)
    assert words(kept) == [" a", " b"]
    dropped, decoder = run(
        tokenizer, {0: script}, places, 3000, hallucination_silence_threshold=2.0, **given
    )
    assert words(dropped) == []
    assert len(decoder.encoded) > 1  # what was dropped is listened to again


def test_an_alignment_is_needed_where_words_are_wanted(tokenizer: Tokenizer) -> None:
    loop = WindowLoop(SPEC, tokenizer, make_options(word_timestamps=True), [(0, 100)], 100)
    loop.next_window()
    result: Any = replace_result([B, 65, B + 20])
    with pytest.raises(RuntimeError, match="align"):
        loop.accept(result)


def replace_result(tokens: list[int]) -> Any:
    from mwc.runtime.decode import WindowResult

    return WindowResult(tuple(tokens), "A", -0.1, 0.0, 1.0, 0.0, -0.1)


def align_text(
    tokenizer: Tokenizer, text: str, n_frames: int = 1000, **options: Any
) -> tuple[tuple[Word, ...], PlacedDecoder]:
    decoder = PlacedDecoder(SPEC, noise(SPEC))
    decoder.places[0] = list(range(40, 40 + 20 * len(text.encode()) + 20, 20))
    features: Any = FakeFeatures(n_frames, SPEC.model.n_mels)
    given = make_options(word_timestamps=True, **options)
    return align(Engine(decoder, tokenizer), features, text, given), decoder


def test_a_known_text_is_aligned(tokenizer: Tokenizer) -> None:
    found, decoder = align_text(tokenizer, "Oh, my", language="de")
    assert [word.word for word in found] == [" Oh,", " my"]
    assert 0 <= found[0].start < found[0].end <= found[1].start < found[1].end <= 10.0
    prompt = (*tokenizer.sot_sequence("de", "transcribe", False), *b" Oh, my", T.eot)
    assert decoder.aligned == [prompt]
    assert decoder.encoded == [FakeWindow(0, 1000)]


def test_line_breaks_count_as_spaces(tokenizer: Tokenizer) -> None:
    _, decoder = align_text(tokenizer, "Oh my  ", language="en")
    _, broken = align_text(tokenizer, "Oh\n\tmy", language="en")
    assert broken.aligned == decoder.aligned


def test_a_text_without_spaces_gets_none(tmp_path: Path) -> None:
    spec = fake_spec(("en", "ja"))
    tokenizer = fake_tokenizer(tmp_path, spec)
    decoder = FakeDecoder(spec, noise(spec))
    features: Any = FakeFeatures(1000, spec.model.n_mels)
    options = make_options(language="ja", word_timestamps=True)
    found = align(Engine(decoder, tokenizer), features, "東京。", options)
    assert [word.word for word in found] == ["東", "京。"]


def test_an_empty_text_has_no_words(tokenizer: Tokenizer) -> None:
    assert align_text(tokenizer, " \n", language="en")[0] == ()


def test_the_language_of_a_text_is_detected(tokenizer: Tokenizer) -> None:
    _, decoder = align_text(tokenizer, "Oh my")
    assert decoder.encoded[0] == FakeWindow(0, 3000)
    assert decoder.encoded[-1] == FakeWindow(0, 1000)
    assert decoder.aligned[0][1] in dict(T.languages).values()


@pytest.mark.parametrize(
    ("n_frames", "text", "options", "error", "message"),
    [
        (3001, "Oh", {}, AudioError, "lasts 30.01 s; align takes at most 30 s at once"),
        (1, "Oh", {}, AudioError, "lasts 0.010 s; align takes at least 0.02 s"),
        (1000, "a " * 300, {}, OptionError, "has 600 tokens; the model can align at most 443"),
        (1000, "Oh<|endoftext|>", {}, OptionError, "special token"),
        (1000, "Oh", {"language": "nl"}, OptionError, "this model knows en, de, fr"),
    ],
)
def test_what_cannot_be_aligned_is_said(
    tokenizer: Tokenizer,
    n_frames: int,
    text: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        align_text(tokenizer, text, n_frames, **{"language": "en", **options})


def chatter(seed: int, sureness: float) -> Logits:
    """Noise over letters, spaces and marks, some of it sure: so that there are words."""
    base = noise(SPEC, seed)
    said = np.full(T.eot, -12.0, np.float32)
    said[list(b"abcdefgh")] = 0.0
    said[list(b".,!?-'\"(")] = -1.0
    said[ord(" ")] = 2.0

    def logits(window: FakeWindow, tokens: tuple[int, ...]) -> Float32:
        values = base(window, tokens)
        values[: T.eot] += said
        if (len(tokens) + window.start) % 10 < 10 * sureness:
            values[int(np.argmax(values[: T.eot]))] += 6.0
        return values

    return logits


@pytest.mark.parametrize("n_frames", [3007, 9000])
@pytest.mark.parametrize(("seed", "sureness"), [(0, 0.0), (1, 0.5), (2, 0.8), (3, 1.0)])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"hallucination_silence_threshold": 2.0},
        {"hallucination_silence_threshold": 0.2, "condition_on_previous_text": False},
        {"hallucination_silence_threshold": 8.0, "initial_prompt": "Names: Ada, Bo."},
        {"language": "de", "task": "translate", "prepend_punctuations": "("},
        {"clip_timestamps": "1,4.5,10,35,50", "append_punctuations": ".,"},
    ],
)
def test_same_as_openai_whispers_transcribe(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    seed: int,
    sureness: float,
    n_frames: int,
) -> None:
    module = pytest.importorskip("whisper.transcribe")
    if "clip_timestamps" in given:
        n_frames += 5000  # openai/whisper never ends where a clip ends beyond the audio
    given = {"temperature": 0.0, "no_speech_threshold": None, "word_timestamps": True, **given}
    patch_whisper(monkeypatch, SPEC, tokenizer)
    model = FakeWhisper(SPEC, chatter(seed, sureness))
    samples = np.zeros(n_frames * 160, dtype=np.float32)
    theirs = module.transcribe(model, samples, fp16=False, **given)

    decoder = FakeDecoder(SPEC, chatter(seed, sureness))
    features: Any = FakeFeatures(n_frames, SPEC.model.n_mels)
    ours = transcribe(Engine(decoder, tokenizer), features, make_options(**given)).to_dict()
    assert ours["text"] == theirs["text"]
    decoded = decoder.encoded[-len(model.decoded) :]
    assert decoded == model.decoded
    frames = {window.start: window.n_frames for window in decoded}
    assert len(ours["segments"]) == len(theirs["segments"])
    for our, their in zip(ours["segments"], theirs["segments"], strict=True):
        for name in ("avg_logprob", "no_speech_prob"):
            assert our.pop(name) == pytest.approx(their.pop(name), abs=1e-5)
        for word in their["words"]:  # ours are cut to their segment
            word["start"] = max(word["start"], their["start"])
            word["end"] = min(word["end"], their["end"])
        for our_word, their_word in zip(our["words"], their["words"], strict=True):
            probability = pytest.approx(their_word.pop("probability"), abs=1e-6)
            assert our_word.pop("probability") == probability
        if frames[our["seek"]] < 4:  # in a window of one position theirs lie before it
            assert (our.pop("start"), our.pop("end")) == pytest.approx(
                (their.pop("start"), their.pop("end")), abs=0.021
            )
        for name in OUR_FIELDS:
            our.pop(name)
        assert our == their
