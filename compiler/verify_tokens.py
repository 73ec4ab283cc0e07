"""Greedy decoding by a compiled model, and what a reference thinks of each of its tokens.

The reference chooses with `runtime.rules`, the numpy form of the rules that the graphs apply.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mwc.compiler.parity import Bounds, Difference, StageError, compare
from mwc.runtime.decoder import (
    MOST_AHEAD,
    Decoder,
    Float32,
    Int32,
    PrefillResult,
    PrefillRow,
    StepBatch,
)
from mwc.runtime.errors import VerificationError
from mwc.runtime.rules import choose, rule_state, suppress_mask
from mwc.runtime.spec import WhisperSpec

MAX_MARGIN = 64.0
"""A token that would need more than this many logits to be chosen is taken to be forbidden."""

STEPS_TOLERANCE = 1e-4
"""How far a log-probability may be from that of a single step: a sum of many, rounded elsewhere."""


@dataclass(frozen=True)
class Decoding:
    """One greedy decoding by the session.

    Attributes:
        prompt: the tokens before the sampled ones.
        sampled: the sampled tokens, eot included.
        states: int32 [len(sampled), RULE_STATE_SIZE], the rules' state before each of them.
        logprobs: float32 [len(sampled)].
        first: what the prefill returned.
    """

    prompt: list[int]
    sampled: list[int]
    states: Int32
    logprobs: Float32
    first: PrefillResult


def verify_prompt(spec: WhisperSpec, with_timestamps: bool) -> list[int]:
    """Sot, English (or the first language) and transcribe where the model has them."""
    tokens = spec.tokens
    prompt = [tokens.sot]
    if tokens.languages:
        languages = dict(tokens.languages)
        prompt.append(languages.get("en", tokens.languages[0][1]))
    if tokens.transcribe is not None:
        prompt.append(tokens.transcribe)
    return prompt if with_timestamps else [*prompt, tokens.no_timestamps]


def decode(session: Decoder, spec: WhisperSpec, with_timestamps: bool) -> Decoding:
    """Decode window 0 greedily in row 0, to eot or half the text context as openai/whisper does.

    Token by token, and once more by as many as a call of `steps` gives.

    Raises:
        VerificationError: a token is not in the vocabulary, or the two ways differ.
    """
    prompt = verify_prompt(spec, with_timestamps)
    suppress = suppress_mask(spec, with_timestamps=with_timestamps)
    limit = spec.tokens.max_initial_timestamp_index if with_timestamps else None
    sampled: list[int] = []
    states = [rule_state(sampled, with_timestamps, spec.tokens, limit)]
    row = PrefillRow(tuple(prompt), row=0, window=0, sot_index=0, rule_state=states[0])
    first = session.prefill([row], suppress)
    sampled.append(_valid(int(first.tokens[0]), spec))
    logprobs = [float(first.logprobs[0])]
    while sampled[-1] != spec.tokens.eot and len(sampled) < spec.model.n_text_ctx // 2:
        states.append(rule_state(sampled, with_timestamps, spec.tokens, limit))
        choice = session.step(_batch_after(prompt, sampled, states[-1]), suppress)
        sampled.append(_valid(int(choice.tokens[0]), spec))
        logprobs.append(float(choice.logprobs[0]))
    decoding = Decoding(prompt, sampled, np.stack(states), np.array(logprobs, np.float32), first)
    session.prefill([row], suppress)
    _check_steps(session, decoding, suppress, spec)
    return decoding


def _batch_after(prompt: list[int], sampled: list[int], state: Int32) -> StepBatch:
    """The step that feeds the last sampled token, in row 0 and window 0."""
    slot = np.zeros(1, dtype=np.int32)
    return StepBatch(
        tokens=np.array(sampled[-1:], dtype=np.int32),
        rows=slot,
        positions=np.array([len(prompt) + len(sampled) - 1], dtype=np.int32),
        windows=slot,
        rule_states=state[None],
    )


def _check_steps(
    session: Decoder, decoding: Decoding, suppress: Float32, spec: WhisperSpec
) -> None:
    """Decode once more by `steps`, and raise VerificationError where it is not the same."""
    done, all_of_it = 1, len(decoding.sampled)
    last = spec.model.n_text_ctx - MOST_AHEAD - len(decoding.prompt) + 1
    while done < min(all_of_it, last):
        batch = _batch_after(decoding.prompt, decoding.sampled[:done], decoding.states[done])
        ahead = session.steps(batch, suppress)
        known = slice(done, min(done + ahead.length(0), all_of_it))
        count = known.stop - known.start
        tokens, logprobs = ahead.candidates[0, :count], ahead.candidate_logprobs[0, :count]
        same = np.allclose(
            logprobs, decoding.logprobs[known], rtol=0, atol=STEPS_TOLERANCE, equal_nan=True
        )
        if tokens.tolist() != decoding.sampled[known] or not same:
            raise VerificationError(
                f"The compiled model takes other steps together than one by one: after {done} "
                f"tokens {tokens.tolist()} and not {decoding.sampled[known]}."
            )
        done = known.stop


def _valid(token: int, spec: WhisperSpec) -> int:
    """Return a sampled token that is in the vocabulary."""
    if not 0 <= token < spec.model.n_vocab:
        raise VerificationError(
            f"The compiled model chose token {token}; ids run from 0 to {spec.model.n_vocab - 1}."
        )
    return token


def compare_tokens(
    decoding: Decoding,
    logits: Float32,
    spec: WhisperSpec,
    with_timestamps: bool,
    bounds: Bounds,
) -> tuple[list[Difference], tuple[StageError, StageError]]:
    """Choose from the reference's logits where the session chose; compare ids and probabilities.

    Args:
        decoding: the session's.
        logits: float32 [len(prompt) + len(sampled) - 1, n_vocab], the reference's.
        spec: the model.
        with_timestamps: whether the decoding was made with them.
        bounds: of the precision.

    Returns:
        The differing tokens; the errors of the log-probabilities of the equal ones, and of the
        no-speech and language probabilities.
    """
    suppress = suppress_mask(spec, with_timestamps=with_timestamps)
    at = logits[len(decoding.prompt) - 1 :]
    theirs = choose(at, suppress, decoding.states, spec)
    ours = np.array(decoding.sampled, dtype=np.int32)
    differences = []
    for position in np.flatnonzero(ours != theirs.tokens).tolist():
        state = decoding.states[position : position + 1]
        margin = _margin(at[position], int(ours[position]), suppress, state, spec)
        differences.append(
            Difference(
                with_timestamps=with_timestamps,
                position=position,
                ours=int(ours[position]),
                theirs=int(theirs.tokens[position]),
                margin=margin,
                ok=margin < bounds.margin,
            )
        )
    scale = float(np.abs(logits).max())
    equal = ours == theirs.tokens
    logprobs = compare(
        "logprobs", decoding.logprobs[equal], theirs.logprobs[equal], bounds.logits, scale
    )
    return differences, (logprobs, _probability_stage(decoding.first, logits[0], spec, bounds))


def _probability_stage(
    first: PrefillResult, sot_logits: Float32, spec: WhisperSpec, bounds: Bounds
) -> StageError:
    """Compare the no-speech and the language probabilities, which are read at sot."""
    languages = [token for _, token in spec.tokens.languages]
    no_speech = _softmax(sot_logits)[[spec.tokens.no_speech]]
    theirs = np.concatenate([no_speech, _softmax(sot_logits[languages])])
    ours = np.concatenate([first.no_speech_probs[:1], first.language_probs.reshape(-1)])
    scale = float(np.abs(sot_logits).max())
    return compare("probabilities", ours, theirs, bounds.logits, scale)


def _margin(
    logits: Float32, ours: int, suppress: Float32, state: Int32, spec: WhisperSpec
) -> float:
    """How far the reference's logits [n_vocab] are from choosing `ours`; infinite if forbidden.

    The least amount that, added to ours' logit, makes it the choice: the gap to the best token. If
    the choice is a timestamp and ours is text, or the other way round, that comes after the least
    amount that, added to every token of ours' kind, moves the choice to that kind: the gap in the
    rule that weighs all timestamps against the best text.
    """
    begin = spec.tokens.timestamp_begin
    kind = slice(begin, None) if ours >= begin else slice(0, begin)

    def choice(to_kind: float, to_ours: float) -> int:
        moved = logits.copy()
        moved[kind] += np.float32(to_kind)
        moved[ours] += np.float32(to_ours)
        return int(choose(moved[None], suppress, state, spec).tokens[0])

    between = _least(lambda amount: (choice(amount, 0.0) >= begin) == (ours >= begin))
    if math.isinf(between):
        return between
    return between + _least(lambda amount: choice(between, amount) == ours)


def _least(holds: Callable[[float], bool]) -> float:
    """Find the least amount from which on a condition holds; infinite if beyond MAX_MARGIN."""
    if holds(0.0):
        return 0.0
    if not holds(MAX_MARGIN):
        return math.inf
    low, high = 0.0, MAX_MARGIN
    for _ in range(24):  # to 4e-6, about a float32 logit's rounding
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _softmax(x: Float32) -> Float32:
    """Softmax of a vector in float64, as float32; empty for an empty one."""
    exp = np.exp(x.astype(np.float64) - x.max(initial=-np.inf))
    probabilities: Float32 = (exp / exp.sum()).astype(np.float32) if len(x) else x
    return probabilities
