"""The rules on what may be sampled next, written plainly in numpy.

The compiled graphs apply the same rules on the device; this module is what they are tested
against, what fakes and references choose with, and where the graphs' inputs are made:
`suppress_mask` (once per transcription) and `rule_state` (per row and step).

Algorithm: openai/whisper `whisper/decoding.py`, `SuppressBlank`, `SuppressTokens`,
`ApplyTimestampRules`, `GreedyDecoder.update` and `DecodingTask._get_suppress_tokens`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import index
from typing import NamedTuple

import numpy as np

from mwc.runtime.decoder import (
    ABSENT,
    RULE_STATE_SIZE,
    Choice,
    Float32,
    Int32,
    StepBatch,
)
from mwc.runtime.errors import OptionError
from mwc.runtime.spec import TokenSpec, WhisperSpec

NONE = -1
"""What a rule state holds where there is nothing: no such token, or no limit."""


class RuleState(NamedTuple):
    """The columns of a rule state, in order; NONE where there is no such thing.

    Attributes:
        last: the token sampled last.
        penultimate: the one before it.
        last_timestamp: the timestamp token sampled last, however long ago.
        n_sampled: how many tokens have been sampled; the prompt and the prefix do not count.
        with_timestamps: 1 where the timestamp rules apply, else 0.
        max_initial_timestamp_index: highest first timestamp, in 20 ms steps.
    """

    last: int
    penultimate: int
    last_timestamp: int
    n_sampled: int
    with_timestamps: int
    max_initial_timestamp_index: int


def rule_state(
    sampled: Sequence[int],
    with_timestamps: bool,
    tokens: TokenSpec,
    max_initial_timestamp_index: int | None,
) -> Int32:
    """Sum up what the rules need to know of a row.

    Args:
        sampled: the tokens sampled so far, without prompt and prefix.
        with_timestamps: whether the timestamp rules apply.
        tokens: the model's special tokens.
        max_initial_timestamp_index: highest first timestamp in 20 ms steps, None for no limit.

    Returns:
        int32 [RULE_STATE_SIZE], the columns of `RuleState`.
    """
    columns = rule_columns(sampled, with_timestamps, tokens, max_initial_timestamp_index)
    return np.array(columns, dtype=np.int32)


def rule_columns(
    sampled: Sequence[int],
    with_timestamps: bool,
    tokens: TokenSpec,
    max_initial_timestamp_index: int | None,
) -> RuleState:
    """As `rule_state`, as numbers."""
    last_timestamp = next((t for t in reversed(sampled) if t >= tokens.timestamp_begin), NONE)
    limit = NONE if max_initial_timestamp_index is None else max_initial_timestamp_index
    return RuleState(
        last=sampled[-1] if sampled else NONE,
        penultimate=sampled[-2] if len(sampled) > 1 else NONE,
        last_timestamp=last_timestamp,
        n_sampled=len(sampled),
        with_timestamps=int(with_timestamps),
        max_initial_timestamp_index=limit,
    )


def feed(batch: StepBatch, tokens: Int32, timestamp_begin: int) -> StepBatch:
    """Return the batch of the step after `tokens`, int32 [rows], were chosen for its rows."""
    last, _, last_timestamp, n_sampled, *rest = batch.rule_states.T
    is_timestamp = tokens >= timestamp_begin
    last_timestamp = np.where(is_timestamp, tokens, last_timestamp)
    states = np.stack([tokens, last, last_timestamp, n_sampled + 1, *rest], axis=1)
    return replace(
        batch,
        tokens=tokens,
        positions=batch.positions + np.int32(1),
        rule_states=states.astype(np.int32),
    )


def parse_suppress_tokens(value: str | Iterable[int] | None) -> tuple[int, ...]:
    """Read the option `suppress_tokens`: ids, or a comma-separated list of them; -1 is a set.

    Raises:
        OptionError: something in it is not an id.
    """
    if value is None or value == "":
        return ()
    try:
        items = value.split(",") if isinstance(value, str) else map(index, value)
        ids = tuple(int(item) for item in items)
        if min(ids, default=0) < -1:
            raise ValueError
    except (TypeError, ValueError):
        raise OptionError(
            f"suppress_tokens is {value!r}; it takes token ids separated by commas, "
            'where -1 stands for the model\'s own list, for example "-1" or "-1,13".'
        ) from None
    return ids


def suppressed_ids(
    suppress_tokens: str | Iterable[int] | None, tokens: TokenSpec
) -> tuple[int, ...]:
    """Return the ids that are never sampled, sorted.

    As in openai/whisper, -1 stands for the model's own list, any list also holds the tokens that
    only the prompt may contain, and an empty list or None suppresses nothing at all.
    """
    given = parse_suppress_tokens(suppress_tokens)
    if not given:
        return ()
    own = tokens.suppress_tokens if -1 in given else ()
    prompt_only = [tokens.sot, tokens.sot_prev, tokens.no_speech, tokens.transcribe]
    prompt_only += [tokens.translate, *(t for t in tokens.suppress_tokens if t > tokens.eot)]
    ids = {*own, *(t for t in given if t >= 0), *(t for t in prompt_only if t is not None)}
    return tuple(sorted(ids))


def suppress_mask(
    spec: WhisperSpec,
    suppress_tokens: str | Iterable[int] | None = "-1",
    suppress_blank: bool = True,
    with_timestamps: bool = True,
) -> Float32:
    """Make the mask that is added to the logits before anything else.

    Args:
        spec: the model.
        suppress_tokens: as the option; see `suppressed_ids`.
        suppress_blank: keep blank and eot from being sampled first.
        with_timestamps: keep `<|notimestamps|>` from being sampled, as the timestamp rules do.

    Returns:
        float32 [2, n_vocab] of 0 and -inf: row 1 for the first sampled token, row 0 for all
        others (row 1 holds everything that row 0 does).

    Raises:
        OptionError: an id is not in the vocabulary.
    """
    ids = list(suppressed_ids(suppress_tokens, spec.tokens))
    beyond = [i for i in ids if i >= spec.model.n_vocab]
    if beyond:
        raise OptionError(
            f"suppress_tokens holds {beyond[0]}; "
            f"this model's token ids run from 0 to {spec.model.n_vocab - 1}."
        )
    mask = np.zeros((2, spec.model.n_vocab), dtype=np.float32)
    mask[:, ids] = -np.inf
    if with_timestamps:
        mask[:, spec.tokens.no_timestamps] = -np.inf
    if suppress_blank:
        mask[1, list(spec.tokens.begin_suppress_tokens)] = -np.inf
    return mask


def choose(
    logits: Float32,
    suppress: Float32,
    rule_states: Int32,
    spec: WhisperSpec,
    *,
    temperatures: Float32 | None = None,
    uniforms: Float32 | None = None,
    n_candidates: int = 1,
) -> Choice:
    """Filter each row's logits and take the likeliest tokens, or a sample.

    Args:
        logits: float32 [rows, n_vocab], left as they are.
        suppress: float32 [2, n_vocab], from `suppress_mask`.
        rule_states: int32 [rows, RULE_STATE_SIZE], from `rule_state`.
        spec: the model.
        temperatures: float32 [rows]; a row above 0 is sampled from softmax(logits / temperature);
            None: all 0.
        uniforms: float32 [rows] in [0, 1): a sample is the id at which the running probability,
            in order of ids, passes it.
        n_candidates: how many of the likeliest to return, ties going to the lowest id; a sampled
            row has one.

    Returns:
        Per row the candidates and their log-probabilities, at temperature 1, among the tokens
        that were left.
    """
    filtered = filter_logits(logits, suppress, rule_states, spec)
    logprobs = log_softmax(filtered)
    shape = (len(logits), n_candidates)
    tokens = np.full(shape, spec.tokens.eot, dtype=np.int32)
    chosen = np.full(shape, ABSENT, dtype=np.float32)
    for k, row in enumerate(filtered):
        temperature = 0.0 if temperatures is None else float(temperatures[k])
        if not np.isfinite(row).any():
            continue
        if temperature > 0:
            uniform = 0.0 if uniforms is None else float(uniforms[k])
            best = np.array([_sample(row, temperature, uniform)])
        else:
            best = np.argsort(-row, kind="stable")[:n_candidates]
            best = best[np.isfinite(row[best])]
        tokens[k, : len(best)] = best
        chosen[k, : len(best)] = logprobs[k, best]
    return Choice(tokens, chosen)


def _sample(row: Float32, temperature: float, uniform: float) -> int:
    """The id of one filtered row, float32 [n_vocab], at which the running probability passes."""
    running = np.cumsum(np.exp((row.astype(np.float64) - row.max()) / temperature))
    last = int(np.flatnonzero(np.isfinite(row))[-1])
    return min(int(np.searchsorted(running, uniform * running[-1], side="right")), last)


def filter_logits(
    logits: Float32, suppress: Float32, rule_states: Int32, spec: WhisperSpec
) -> Float32:
    """Return a copy of the logits, float32 [rows, n_vocab], with -inf where a rule forbids.

    Raises:
        ValueError: there are not as many rows of `rule_states`.
    """
    if rule_states.shape != (len(logits), RULE_STATE_SIZE):
        raise ValueError(f"rule_states is {rule_states.shape} for {len(logits)} rows of logits")
    filtered = np.empty(logits.shape, dtype=np.float32)
    for k, columns in enumerate(rule_states.tolist()):
        state = RuleState(*columns)
        filtered[k] = logits[k] + suppress[1 if state.n_sampled == 0 else 0]
        if state.with_timestamps:
            _apply_timestamp_rules(filtered[k], state, spec.tokens)
    return filtered


def log_softmax(logits: Float32) -> Float32:
    """Log-softmax over the last axis, in float32; -inf stays -inf."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float32)
    result: Float32 = shifted - np.log(total)
    return result


def _apply_timestamp_rules(row: Float32, state: RuleState, tokens: TokenSpec) -> None:
    """Apply openai/whisper's `ApplyTimestampRules` to one row, float32 [n_vocab], in place."""
    begin = tokens.timestamp_begin
    last_is_timestamp = state.n_sampled >= 1 and state.last >= begin
    penultimate_is_timestamp = state.n_sampled < 2 or state.penultimate >= begin

    # Timestamps come in pairs, except directly before eot.
    if last_is_timestamp:
        if penultimate_is_timestamp:
            row[begin:] = -np.inf
        else:
            row[: tokens.eot] = -np.inf

    # They never decrease, and a segment is never empty: only the start of the next segment may
    # repeat the end of the last one.
    if state.last_timestamp != NONE:
        starts_segment = last_is_timestamp and not penultimate_is_timestamp
        row[begin : state.last_timestamp + (0 if starts_segment else 1)] = -np.inf

    # The first token is a timestamp, and an early one.
    if state.n_sampled == 0:
        row[:begin] = -np.inf
        if state.max_initial_timestamp_index != NONE:
            row[begin + state.max_initial_timestamp_index + 1 :] = -np.inf

    # Where timestamps together are likelier than any one other token, one of them is next.
    logprobs = log_softmax(row)
    if _logsumexp(logprobs[begin:]) > logprobs[:begin].max():
        row[:begin] = -np.inf


def _logsumexp(values: Float32) -> float:
    """Log of the sum of exponentials, in float32; -inf where every value is."""
    top = values.max()
    if np.isneginf(top):
        return float("-inf")
    return float(top + np.log(np.exp(values - top).sum(dtype=np.float32)))
