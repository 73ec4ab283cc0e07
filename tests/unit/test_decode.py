"""Decoding rows: prompts, scores, limits, many rows at once, and openai/whisper's own loop."""

import math
import zlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from decoding import decode_window, decode_windows
from fake_decoder import FakeDecoder, FakeWindow, fake_spec, noise, scripted
from openai_whisper import patch_whisper

from mwc.runtime.decode import DecodingBatch, Task
from mwc.runtime.errors import OptionError
from mwc.runtime.options import TranscribeOptions, make_options
from mwc.runtime.prompt import Prompt, make_prompt
from mwc.runtime.sampling import sampling_for
from mwc.runtime.tokenizer import Tokenizer

SPEC = fake_spec()
T = SPEC.tokens
BEGIN = T.timestamp_begin
WITHOUT_TIMES: dict[str, Any] = {"without_timestamps": True}
PLAIN = make_options(**WITHOUT_TIMES)


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
    prompt = make_prompt(SPEC, tokenizer, make_options(prefix=" So ", **WITHOUT_TIMES), "en", [7])
    assert prompt.tokens == (
        T.sot_prev,
        7,
        *tokenizer.sot_sequence("en", "transcribe", False),
        *b" So",
    )
    assert prompt.sot_index == 2


def test_prefix_gives_way_to_sample_len_and_has_a_limit(tokenizer: Tokenizer) -> None:
    short = make_options(prefix="abcdef", sample_len=221, **WITHOUT_TIMES)
    assert make_prompt(SPEC, tokenizer, short, "en").tokens[-4:] == (T.no_timestamps, *b"def")
    longest = make_options(prefix="a" * 219, **WITHOUT_TIMES)
    assert len(make_prompt(SPEC, tokenizer, longest, "en", [7] * 300).tokens) == 448
    with pytest.raises(OptionError, match="prefix is 221 tokens long; the prompt has room for 220"):
        make_prompt(SPEC, tokenizer, make_options(prefix="a" * 220, **WITHOUT_TIMES), "en")


def test_result_of_a_window(tokenizer: Tokenizer) -> None:
    script = [BEGIN, *b" Hello hello", BEGIN + 60]
    logits = scripted(SPEC, lambda window: script, no_speech_prob=0.25, certainty=12.0)
    decoder = FakeDecoder(SPEC, logits)
    decoder.windows[1] = FakeWindow(0, 3000)
    options = TranscribeOptions()
    prompt = make_prompt(SPEC, tokenizer, options, "en", [7, 8])
    result = decode_window(decoder, tokenizer, Task(prompt, 1), sampling_for(SPEC, options))
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
        result = decode_window(decoder, tokenizer, Task(prompt, 0), sampling_for(SPEC, options))
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
    result = decode_window(decoder, tokenizer, Task(prompt, 0), sampling_for(SPEC, options))
    assert len(prompt.tokens) + len(result.tokens) == 449
    assert len(decoder.rows[0]) == 448


GIVEN: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, text only": {"without_timestamps": True},
    "samples": {"temperature": 0.7, "best_of": 3, "seed": 4},
    "beams": {"beam_size": 3},
    "beams, text only": {"beam_size": 2, "patience": 2.0, "without_timestamps": True},
}


def some_tasks(tokenizer: Tokenizer, options: TranscribeOptions) -> list[Task]:
    """Seven prompts of different lengths, over two windows."""
    prompts = [make_prompt(SPEC, tokenizer, options, "de", [7] * (5 * k)) for k in range(7)]
    return [Task(prompt, k % 2, (k,)) for k, prompt in enumerate(prompts)]


def two_windows(n_rows: int) -> FakeDecoder:
    decoder = FakeDecoder(SPEC, noise(SPEC), n_rows=n_rows)
    decoder.windows = {0: FakeWindow(0, 3000), 1: FakeWindow(500, 1234)}
    return decoder


@pytest.mark.parametrize("n_searches", [1, 2, 3, 8])
@pytest.mark.parametrize("name", GIVEN)
def test_windows_together_give_what_each_gives_alone(
    tokenizer: Tokenizer, n_searches: int, name: str
) -> None:
    options = make_options(**GIVEN[name])
    sampling = sampling_for(SPEC, options)
    width = sampling.strategy.width
    tasks = some_tasks(tokenizer, options)
    alone = [decode_window(two_windows(width), tokenizer, task, sampling) for task in tasks]
    # One slot more than needed: what is too little for a search is left free.
    shared = two_windows(n_searches * width + (width > 1))
    assert decode_windows(shared, tokenizer, tasks, sampling) == alone
    assert max(shared.batch_sizes) == width * min(n_searches, len(tasks))
    assert len({len(result.tokens) for result in alone}) > 3  # they end at different steps
    again = decode_windows(two_windows(n_searches * width), tokenizer, tasks[::-1], sampling)
    assert again == alone[::-1]


def test_samples_depend_on_the_seed_and_the_stream_alone(tokenizer: Tokenizer) -> None:
    def decode(seed: int, stream: int, temperature: float = 1.0) -> tuple[int, ...]:
        best_of = {} if temperature == 0 else {"best_of": 2}
        options = make_options(temperature=temperature, **best_of)
        prompt = make_prompt(SPEC, tokenizer, options, "de")
        task = Task(prompt, 0, (stream,))
        sampling = sampling_for(SPEC, options)
        sampling = replace(sampling, strategy=replace(sampling.strategy, seed=seed))
        return decode_window(two_windows(2), tokenizer, task, sampling).tokens

    assert decode(0, 0) == decode(0, 0)
    assert len({decode(seed, 0) for seed in range(4)}) == 4
    assert len({decode(0, stream) for stream in range(4)}) == 4
    assert decode(0, 0, temperature=0.9) != decode(0, 0)
    assert len({decode(seed, 0, temperature=0.0) for seed in range(4)}) == 1


def test_beams_copy_rows_within_their_own_slots(tokenizer: Tokenizer) -> None:
    """`FakeDecoder.copy_rows` fails on a source that is also a target, or of another length."""
    options = make_options(beam_size=3)
    decoder = two_windows(9)
    decode_windows(decoder, tokenizer, some_tasks(tokenizer, options), sampling_for(SPEC, options))
    assert len(decoder.copies) > 50
    assert {source for source, _ in decoder.copies} == set(range(9))
    assert all(source // 3 == target // 3 for source, target in decoder.copies)


def test_what_a_row_needs_exactly_does_not_depend_on_its_company(tokenizer: Tokenizer) -> None:
    decoder = two_windows(6)
    batch, slots = DecodingBatch(decoder), iter(range(6))
    kinds = (
        ({"temperature": 0.0}, 1),
        ({"temperature": 0.0, "beam_size": 3}, 3),
        ({"temperature": 0.4, "best_of": 2}, 2),
    )
    for options, width in kinds:
        sampling = sampling_for(SPEC, make_options(sample_len=3, **options))
        task = Task(make_prompt(SPEC, tokenizer, make_options(), "de"), 0)
        batch.start(task, sampling, [next(slots) for _ in range(width)])
    while batch.is_busy:
        batch.advance()
    assert [1, 4, 4, 4, 0, 0] in decoder.wanted
    assert all(sorted(set(wanted)) <= [0, 1, 4] for wanted in decoder.wanted)


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract")
@pytest.mark.parametrize("given", [{}, {"temperature": 0.5}, {"beam_size": 3}])
def test_where_every_token_is_forbidden_there_is_no_text(
    tokenizer: Tokenizer, given: dict[str, Any]
) -> None:
    options = make_options(**given, suppress_tokens=range(SPEC.model.n_vocab))
    (task, *_) = some_tasks(tokenizer, options)
    result = decode_window(two_windows(3), tokenizer, task, sampling_for(SPEC, options))
    assert result.tokens == ()
    assert result.text == ""


def test_max_initial_timestamp() -> None:
    assert sampling_for(SPEC, TranscribeOptions()).max_initial_timestamp_index == 50
    half = make_options(max_initial_timestamp=0.5)
    assert sampling_for(SPEC, half).max_initial_timestamp_index == 25
    # 0.47 / 0.02 is 23.499999999999996 and 1.09 / 0.02 is 54.5; times 50 they are 23.5 and a hair
    # above 54.5.
    for value, steps in ((0.47, 23), (1.09, 54)):
        options = make_options(max_initial_timestamp=value)
        assert sampling_for(SPEC, options).max_initial_timestamp_index == steps
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
        {"prefix": "So, what", "sample_len": 220, "suppress_tokens": "65,66", **WITHOUT_TIMES},
        {"task": "translate", "sample_len": 9},
        {"beam_size": 5},
        {"beam_size": 2, "patience": 0.4},
        {"beam_size": 3, "patience": 2.0, "length_penalty": 0.6, "without_timestamps": True},
        {"beam_size": 4, "length_penalty": 0.0, "prefix": "So", **WITHOUT_TIMES},
        {"beam_size": 4, "patience": 3.0, "sample_len": 9},
        {"temperature": 0.3},
        {"temperature": 1.0, "best_of": 5, "seed": 3},
        {"temperature": 0.6, "best_of": 2, "length_penalty": 1.0, "without_timestamps": True},
        {"temperature": 0.8, "best_of": 3, "sample_len": 7},
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
    options = make_options(**{"temperature": 0.0, **given})
    seed = given.get("seed", 0)
    theirs_options = decoding.DecodingOptions(
        **{name: value for name, value in given.items() if name != "seed"},
        language="de",
        fp16=False,
        prompt=previous or None,
    )
    sampler = patch_whisper(monkeypatch, SPEC, tokenizer)
    sampler.start(seed, start, options.temperature[0])
    model = SimpleNamespace(
        is_multilingual=True,
        num_languages=3,
        dims=SimpleNamespace(n_text_ctx=448, n_audio_ctx=1500, n_audio_state=64),
        window=window,
        logits=noise(SPEC),
    )
    theirs = decoding.decode(model, torch.zeros(1500, 64), theirs_options)

    sampling = sampling_for(SPEC, options)
    decoder = FakeDecoder(SPEC, noise(SPEC), n_rows=sampling.strategy.width)
    decoder.windows[0] = window
    prompt = make_prompt(SPEC, tokenizer, options, "de", previous)
    ours = decode_window(decoder, tokenizer, Task(prompt, 0, (start,)), sampling)
    assert list(ours.tokens) == theirs.tokens
    assert ours.text == theirs.text
    assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-5)
    assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=1e-6)
    assert ours.compression_ratio == theirs.compression_ratio
    assert ours.temperature == theirs.temperature
