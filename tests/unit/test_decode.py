"""Decoding rows: prompts, scores, limits, many rows at once, and openai/whisper's own loop."""

import math
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from fake_decoder import FakeDecoder, FakeWindow, fake_spec, fake_tokenizer, noise, scripted
from openai_whisper import patch_whisper

from mwc.runtime.decode import (
    Prompt,
    decode_rows,
    decode_window,
    decode_windows,
    make_prompt,
    sampling_for,
)
from mwc.runtime.errors import OptionError
from mwc.runtime.options import TranscribeOptions, make_options
from mwc.runtime.tokenizer import Tokenizer

SPEC = fake_spec()
T = SPEC.tokens
BEGIN = T.timestamp_begin
PLAIN = make_options(without_timestamps=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return fake_tokenizer(tmp_path_factory.mktemp("tokenizer"), SPEC)


def test_prompt_of_the_first_window(tokenizer: Tokenizer) -> None:
    prompt = make_prompt(SPEC, tokenizer, make_options(task="translate"), "fr")
    assert prompt == Prompt((T.sot, dict(T.languages)["fr"], T.translate or -1), 0)


def test_prompt_keeps_the_last_223_tokens_of_the_text_before(tokenizer: Tokenizer) -> None:
    prompt = make_prompt(SPEC, tokenizer, PLAIN, "en", list(range(250)))
    assert prompt.tokens[0] == T.sot_prev
    assert prompt.tokens[1:224] == tuple(range(27, 250))
    assert prompt.tokens[224:] == tokenizer.sot_sequence("en", "transcribe", False)
    assert prompt.sot_index == 224


def test_prefix_stands_after_the_sot_sequence(tokenizer: Tokenizer) -> None:
    prompt = make_prompt(SPEC, tokenizer, make_options(prefix=" So "), "en", [7])
    assert prompt.tokens == (
        T.sot_prev,
        7,
        *tokenizer.sot_sequence("en", "transcribe", True),
        *b" So",
    )
    assert prompt.sot_index == 2


def test_prefix_gives_way_to_sample_len_and_has_a_limit(tokenizer: Tokenizer) -> None:
    short = make_options(prefix="abcdef", sample_len=221)
    assert make_prompt(SPEC, tokenizer, short, "en").tokens[-4:] == (T.transcribe, *b"def")
    longest = make_options(prefix="a" * 220)
    assert len(make_prompt(SPEC, tokenizer, longest, "en", [7] * 300).tokens) == 448
    with pytest.raises(OptionError, match="prefix is 222 tokens long; the prompt has room for 221"):
        make_prompt(SPEC, tokenizer, make_options(prefix="a" * 221), "en")


def test_result_of_a_window(tokenizer: Tokenizer) -> None:
    script = [BEGIN, *b" Hello hello", BEGIN + 60]
    logits = scripted(SPEC, lambda window: script, no_speech_prob=0.25, certainty=12.0)
    decoder = FakeDecoder(SPEC, logits)
    decoder.windows[1] = FakeWindow(0, 3000)
    options = TranscribeOptions()
    prompt = make_prompt(SPEC, tokenizer, options, "en", [7, 8])
    result = decode_window(decoder, tokenizer, prompt, 1, sampling_for(SPEC, options))
    assert list(result.tokens) == script
    assert result.text == "Hello hello"
    assert result.no_speech_prob == pytest.approx(0.25, abs=1e-5)
    assert result.compression_ratio == 11 / len(zlib.compress(b"Hello hello"))
    assert result.temperature == 0.0
    assert -0.1 < result.avg_logprob < 0
    assert decoder.rows[0][len(prompt.tokens) :] == script  # eot is never fed


def test_average_counts_eot_but_not_what_length_cut_off(tokenizer: Tokenizer) -> None:
    for sample_len, n_sampled, n_tokens in [(224, 3, 2), (2, 2, 2), (1, 1, 1)]:
        options = make_options(without_timestamps=True, sample_len=sample_len, suppress_tokens="")
        decoder = FakeDecoder(SPEC, scripted(SPEC, lambda window: list(b"ab"), certainty=5.0))
        decoder.windows[0] = FakeWindow(0, 3000)
        prompt = make_prompt(SPEC, tokenizer, options, "en")
        result = decode_window(decoder, tokenizer, prompt, 0, sampling_for(SPEC, options))
        n_vocab = SPEC.model.n_vocab
        first, other = (5 - math.log(math.exp(5) + n_vocab - 1 - out) for out in (2, 0))
        assert len(result.tokens) == n_tokens
        expected = (first + (n_sampled - 1) * other) / (n_tokens + 1)
        assert result.avg_logprob == pytest.approx(expected, abs=1e-5)


def test_a_full_context_ends_a_row_one_token_beyond_it(tokenizer: Tokenizer) -> None:
    options = make_options(without_timestamps=True, sample_len=448)
    decoder = FakeDecoder(SPEC, scripted(SPEC, lambda window: b"ab" * 500))
    decoder.windows[0] = FakeWindow(0, 3000)
    prompt = make_prompt(SPEC, tokenizer, options, "en", [7] * 223)
    result = decode_window(decoder, tokenizer, prompt, 0, sampling_for(SPEC, options))
    assert len(prompt.tokens) + len(result.tokens) == 449
    assert len(decoder.rows[0]) == 448


@pytest.mark.parametrize("n_rows", [1, 2, 3, 8])
@pytest.mark.parametrize("options", [TranscribeOptions(), PLAIN])
def test_rows_together_give_what_each_gives_alone(
    tokenizer: Tokenizer, n_rows: int, options: TranscribeOptions
) -> None:
    sampling = sampling_for(SPEC, options)
    jobs = [(make_prompt(SPEC, tokenizer, options, "de", [7] * (5 * k)), k % 2) for k in range(7)]

    def decoder() -> FakeDecoder:
        fake = FakeDecoder(SPEC, noise(SPEC), n_rows=n_rows)
        fake.windows = {0: FakeWindow(0, 3000), 1: FakeWindow(500, 1234)}
        return fake

    alone = [decode_rows(decoder(), [job], sampling)[0] for job in jobs]
    shared = decoder()
    assert decode_rows(shared, jobs, sampling) == alone
    assert max(shared.batch_sizes) == min(n_rows, len(jobs))
    assert len({len(row.tokens) for row in alone}) > 3  # rows that end at different steps
    results = decode_windows(decoder(), tokenizer, jobs, sampling)
    assert [result.tokens for result in results] == [row.tokens for row in alone]


def test_no_rows_give_nothing(tokenizer: Tokenizer) -> None:
    assert decode_rows(FakeDecoder(SPEC, noise(SPEC)), [], sampling_for(SPEC, PLAIN)) == []


def test_max_initial_timestamp() -> None:
    assert sampling_for(SPEC, TranscribeOptions()).max_initial_timestamp_index == 50
    half = make_options(max_initial_timestamp=0.5)
    assert sampling_for(SPEC, half).max_initial_timestamp_index == 25
    for value in (None, 0.0):  # openai/whisper: no limit either way
        options = make_options(max_initial_timestamp=value)
        assert sampling_for(SPEC, options).max_initial_timestamp_index is None


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"without_timestamps": True},
        {"suppress_tokens": "", "suppress_blank": False, "max_initial_timestamp": None},
        {"prefix": "So, what", "sample_len": 220, "suppress_tokens": "65,66"},
        {"task": "translate", "sample_len": 9},
    ],
)
def test_same_as_openai_whispers_decoding_task(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    start: int,
) -> None:
    decoding = pytest.importorskip("whisper.decoding")
    import torch

    window = FakeWindow(start, 3000)
    previous = list(b" before") * (start % 3) * 20
    options = make_options(**given)
    theirs_options = decoding.DecodingOptions(
        **given, language="de", fp16=False, prompt=previous or None
    )
    patch_whisper(monkeypatch, SPEC, tokenizer)
    model = SimpleNamespace(
        is_multilingual=True,
        num_languages=3,
        dims=SimpleNamespace(n_text_ctx=448, n_audio_ctx=1500, n_audio_state=64),
        window=window,
        logits=noise(SPEC),
    )
    theirs = decoding.decode(model, torch.zeros(1500, 64), theirs_options)

    decoder = FakeDecoder(SPEC, noise(SPEC))
    decoder.windows[0] = window
    prompt = make_prompt(SPEC, tokenizer, options, "de", previous)
    ours = decode_window(decoder, tokenizer, prompt, 0, sampling_for(SPEC, options))
    assert list(ours.tokens) == theirs.tokens
    assert ours.text == theirs.text
    assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-5)
    assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=1e-6)
    assert ours.compression_ratio == theirs.compression_ratio
    assert ours.temperature == theirs.temperature
