"""Greedy decoding of 30 s windows: prompts in, tokens and their scores out.

Written over any number of rows at once. Rows share the decoder's slots, start as slots fall free
and finish independently; what a row gives does not depend on its neighbours.

Algorithm: openai/whisper `whisper/decoding.py`, `DecodingTask` with `GreedyDecoder` at temperature
0, one window's rows apart.
"""

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mwc.runtime.decoder import Decoder, Float32, PrefillResult, PrefillRow, StepBatch
from mwc.runtime.errors import OptionError
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.rules import rule_state, suppress_mask
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How the rows of a call sample.

    Attributes:
        suppress: float32 [2, n_vocab], from `rules.suppress_mask`.
        with_timestamps: whether the timestamp rules apply.
        max_initial_timestamp_index: highest first timestamp in 20 ms steps; None for no limit.
        sample_len: most tokens a row samples, eot included.
    """

    suppress: Float32
    with_timestamps: bool
    max_initial_timestamp_index: int | None
    sample_len: int


@dataclass(frozen=True)
class Prompt:
    """What a row starts from: all tokens before the first sampled one, and where sot stands."""

    tokens: tuple[int, ...]
    sot_index: int


@dataclass(frozen=True)
class SampledRow:
    """What one row gave.

    Attributes:
        tokens: the sampled tokens before eot.
        sum_logprob: sum of the log-probabilities of all sampled tokens, eot included.
        no_speech_prob: probability of `<|nospeech|>` at sot.
    """

    tokens: tuple[int, ...]
    sum_logprob: float
    no_speech_prob: float


@dataclass(frozen=True)
class WindowResult:
    """The transcript of one window (openai/whisper `DecodingResult`).

    Attributes:
        tokens: the sampled tokens before eot, timestamps included.
        text: their text, stripped.
        avg_logprob: sum of log-probabilities over the number of tokens plus one for eot.
        no_speech_prob: probability of `<|nospeech|>` at sot, before any filter.
        compression_ratio: bytes of `text` over its zlib-compressed bytes.
        temperature: 0.0.
    """

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


def sampling_for(spec: WhisperSpec, options: TranscribeOptions) -> Sampling:
    """Turn options into what every row of a transcription samples by.

    Raises:
        OptionError: `suppress_tokens` holds an id that is not in the vocabulary.
    """
    with_timestamps = not options.without_timestamps
    limit = None
    if options.max_initial_timestamp:
        limit = round(options.max_initial_timestamp * spec.audio.tokens_per_second)
    return Sampling(
        suppress=suppress_mask(
            spec, options.suppress_tokens, options.suppress_blank, with_timestamps
        ),
        with_timestamps=with_timestamps,
        max_initial_timestamp_index=limit,
        sample_len=options.sample_len or spec.model.n_text_ctx // 2,
    )


def make_prompt(
    spec: WhisperSpec,
    tokenizer: Tokenizer,
    options: TranscribeOptions,
    language: str,
    previous: Sequence[int] = (),
) -> Prompt:
    """Put a window's prompt together: previous text, sot sequence, prefix.

    Args:
        spec: the model.
        tokenizer: its tokenizer.
        options: task, timestamps, prefix and sample_len count.
        language: a code of the model's languages; without meaning for an English-only model.
        previous: tokens of the text before the window; the last n_text_ctx / 2 - 1 are used.

    Raises:
        OptionError: the prefix is too long, or holds a special token.
    """
    half = spec.model.n_text_ctx // 2
    sequence = tokenizer.sot_sequence(language, options.task, not options.without_timestamps)
    prefix: list[int] = []
    if options.prefix:
        prefix = tokenizer.encode(" " + options.prefix.strip())
        # As in openai/whisper: a prefix gives way to a sample_len below half the context.
        room = half - (options.sample_len or half)
        prefix = prefix[-room:] if room > 0 else prefix
        if len(prefix) > half - len(sequence):
            raise OptionError(
                f"prefix is {len(prefix)} tokens long; the prompt has room for "
                f"{half - len(sequence)}, shorten it."
            )
    before = [spec.tokens.sot_prev, *previous[-(half - 1) :]] if previous else []
    return Prompt(tokens=(*before, *sequence, *prefix), sot_index=len(before))


def compression_ratio(text: str) -> float:
    """Bytes of the text over its zlib-compressed bytes (openai/whisper `utils.py`)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def decode_window(
    decoder: Decoder, tokenizer: Tokenizer, prompt: Prompt, window: int, sampling: Sampling
) -> WindowResult:
    """Decode one encoded window; `decode_windows` for one."""
    return decode_windows(decoder, tokenizer, [(prompt, window)], sampling)[0]


def decode_windows(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[Prompt, int]],
    sampling: Sampling,
) -> list[WindowResult]:
    """Decode encoded windows together, given as (prompt, window slot); results in their order."""
    results = []
    for row in decode_rows(decoder, prompts, sampling):
        text = tokenizer.decode(row.tokens).strip()
        results.append(
            WindowResult(
                tokens=row.tokens,
                text=text,
                avg_logprob=row.sum_logprob / (len(row.tokens) + 1),
                no_speech_prob=row.no_speech_prob,
                compression_ratio=compression_ratio(text),
                temperature=0.0,
            )
        )
    return results


@dataclass
class _Row:
    """A row while it is being sampled; `slot` is taken from prefill until it finishes."""

    prompt: Prompt
    window: int
    slot: int = -1
    sampled: list[int] = field(default_factory=list)
    sum_logprob: float = 0.0
    no_speech_prob: float = float("nan")
    finished: bool = False


def decode_rows(
    decoder: Decoder, prompts: Sequence[tuple[Prompt, int]], sampling: Sampling
) -> list[SampledRow]:
    """Sample rows greedily until each has given eot, sample_len tokens or filled its context.

    Args:
        decoder: the model; its window slots are encoded already, its row slots are all free.
        prompts: (prompt, window slot) per row; there may be more of them than row slots.
        sampling: how to sample.

    Returns:
        What each row gave, in the order of `prompts`.
    """
    rows = [_Row(prompt, window) for prompt, window in prompts]
    waiting = deque(rows)
    free = list(range(decoder.n_rows))
    active: list[_Row] = []
    while waiting or active:
        started = [waiting.popleft() for _ in range(min(len(waiting), len(free)))]
        for row in started:
            row.slot = free.pop(0)
        if started:
            _prefill(decoder, started, sampling)
        going_on = [row for row in active if not row.finished]
        if going_on:
            _step(decoder, going_on, sampling)
        active = [*going_on, *started]
        free += [row.slot for row in active if row.finished]
        active = [row for row in active if not row.finished]
    return [SampledRow(tuple(row.sampled), row.sum_logprob, row.no_speech_prob) for row in rows]


def _prefill(decoder: Decoder, rows: Sequence[_Row], sampling: Sampling) -> None:
    """Run the prompts of new rows and take their first tokens."""
    state = rule_state(
        (), sampling.with_timestamps, decoder.spec.tokens, sampling.max_initial_timestamp_index
    )
    result: PrefillResult = decoder.prefill(
        [
            PrefillRow(row.prompt.tokens, row.slot, row.window, row.prompt.sot_index, state)
            for row in rows
        ],
        sampling.suppress,
    )
    for k, row in enumerate(rows):
        row.no_speech_prob = float(result.no_speech_probs[k])
        _take(row, int(result.tokens[k]), float(result.logprobs[k]), decoder.spec, sampling)


def _step(decoder: Decoder, rows: Sequence[_Row], sampling: Sampling) -> None:
    """Feed each row its last token and take the next."""
    tokens = decoder.spec.tokens
    limit = sampling.max_initial_timestamp_index
    batch = StepBatch(
        tokens=np.array([row.sampled[-1] for row in rows], dtype=np.int32),
        rows=np.array([row.slot for row in rows], dtype=np.int32),
        positions=np.array(
            [len(row.prompt.tokens) + len(row.sampled) - 1 for row in rows], dtype=np.int32
        ),
        windows=np.array([row.window for row in rows], dtype=np.int32),
        rule_states=np.stack(
            [rule_state(row.sampled, sampling.with_timestamps, tokens, limit) for row in rows]
        ),
    )
    choice = decoder.step(batch, sampling.suppress)
    for k, row in enumerate(rows):
        _take(row, int(choice.tokens[k]), float(choice.logprobs[k]), decoder.spec, sampling)


def _take(row: _Row, token: int, logprob: float, spec: WhisperSpec, sampling: Sampling) -> None:
    """Add a sampled token to a row, or finish it.

    The last token may be sampled with the context full: it is never fed back.
    """
    row.sum_logprob += logprob
    if token == spec.tokens.eot:
        row.finished = True
        return
    row.sampled.append(token)
    is_full = len(row.prompt.tokens) + len(row.sampled) > spec.model.n_text_ctx
    row.finished = is_full or len(row.sampled) >= sampling.sample_len
