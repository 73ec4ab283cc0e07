"""The sampling rules: hand-written cases, invariants, and openai/whisper's own filters."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_decoder import fake_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from mwc.runtime.decoder import ABSENT, RULE_STATE_SIZE, Float32
from mwc.runtime.errors import OptionError
from mwc.runtime.rules import (
    choose,
    filter_logits,
    log_softmax,
    parse_suppress_tokens,
    rule_state,
    suppress_mask,
    suppressed_ids,
)

SPEC = fake_spec()
TOKENS = SPEC.tokens
BEGIN = TOKENS.timestamp_begin
V = SPEC.model.n_vocab
OPEN_MASK = np.zeros((2, V), dtype=np.float32)


def allowed(sampled: list[int], logits: Float32 | None = None, limit: int | None = 50) -> set[int]:
    """The ids that are left after the timestamp rules, from even logits if none are given."""
    if logits is None:  # text a little likelier, so that the sum over timestamps decides nothing
        logits = np.zeros((1, V), dtype=np.float32)
        logits[:, :BEGIN] = 10.0
    states = rule_state(sampled, True, TOKENS, limit)[None]
    return set(np.flatnonzero(np.isfinite(filter_logits(logits, OPEN_MASK, states, SPEC)[0])))


def ids(start: int, stop: int) -> set[int]:
    return set(range(start, stop))


def test_rule_state_columns() -> None:
    assert rule_state([], True, TOKENS, 50).tolist() == [-1, -1, -1, 0, 1, 50]
    assert rule_state([5], False, TOKENS, None).tolist() == [5, -1, -1, 1, 0, -1]
    sampled = [BEGIN + 2, 7, BEGIN + 9, 8, 6]
    state = rule_state(sampled, True, TOKENS, 50)
    assert state.tolist() == [6, 8, BEGIN + 9, 5, 1, 50]
    assert state.dtype == np.int32
    assert state.shape == (RULE_STATE_SIZE,)


def test_first_token_is_an_early_timestamp() -> None:
    assert allowed([]) == ids(BEGIN, BEGIN + 51)
    assert allowed([], limit=0) == {BEGIN}
    assert allowed([], limit=None) == ids(BEGIN, V)


def test_text_follows_the_first_timestamp() -> None:
    assert allowed([BEGIN + 3]) == ids(0, BEGIN)


def test_a_segment_is_never_empty_and_time_never_runs_back() -> None:
    assert allowed([BEGIN + 3, 65]) == ids(0, BEGIN) | ids(BEGIN + 4, V)


def test_after_a_closing_timestamp_the_next_may_repeat_it_or_the_text_ends() -> None:
    assert allowed([BEGIN + 3, 65, BEGIN + 9]) == ids(TOKENS.eot, BEGIN) | ids(BEGIN + 9, V)


def test_after_a_pair_of_timestamps_comes_text() -> None:
    assert allowed([BEGIN + 3, 65, BEGIN + 9, BEGIN + 9]) == ids(0, BEGIN)


def test_the_last_timestamp_counts_however_long_ago() -> None:
    assert allowed([BEGIN + 3, 65, BEGIN + 9, BEGIN + 9, 65, 66]) == ids(0, BEGIN) | ids(
        BEGIN + 10, V
    )


def test_nothing_after_the_last_timestamp_of_a_window() -> None:
    assert allowed([BEGIN + 3, 65, BEGIN + 1500, BEGIN + 1500, 65]) == ids(0, BEGIN)


def test_timestamps_win_by_their_sum() -> None:
    logits = np.full((1, V), -50.0, dtype=np.float32)
    logits[0, 65] = 1.0
    logits[0, BEGIN + 10 : BEGIN + 20] = 0.0  # log(10) = 2.3 together
    assert allowed([BEGIN, 66], logits) == ids(BEGIN + 1, V)
    logits[0, 65] = 2.5
    assert 65 in allowed([BEGIN, 66], logits)


def test_timestamps_that_a_rule_forbids_do_not_count_in_the_sum() -> None:
    logits = np.full((1, V), -50.0, dtype=np.float32)
    logits[0, 65] = 1.0
    logits[0, BEGIN + 10 : BEGIN + 20] = 0.0
    assert 65 in allowed([BEGIN + 30, 66], logits)


def test_without_timestamps_only_the_mask_applies() -> None:
    states = np.stack([rule_state([], False, TOKENS, 50), rule_state([65], False, TOKENS, 50)])
    filtered = filter_logits(
        np.zeros((2, V), dtype=np.float32),
        suppress_mask(SPEC, "-1", True, with_timestamps=False),
        states,
        SPEC,
    )
    masked = [set(np.flatnonzero(np.isneginf(row))) for row in filtered]
    assert masked[1] == set(TOKENS.suppress_tokens)
    assert masked[0] == set(TOKENS.suppress_tokens) | {ord(" "), TOKENS.eot}


def test_choice_is_the_best_token_lowest_id_first_with_its_log_probability() -> None:
    logits = np.zeros((1, V), dtype=np.float32)
    logits[0, [70, 90]] = 5.0
    logits[0, 35] = 9.0  # "#", suppressed
    logits.setflags(write=False)
    states = rule_state([65], False, TOKENS, None)[None]
    mask = suppress_mask(SPEC, with_timestamps=False)
    choice = choose(logits, mask, states, SPEC)
    assert choice.tokens.tolist() == [70]
    assert choice.tokens.dtype == np.int32
    others = V - len(TOKENS.suppress_tokens) - 2
    expected = 5 - np.log(2 * np.exp(5) + others)
    assert choice.logprobs[0] == pytest.approx(expected, abs=1e-5)


def test_candidates_are_the_likeliest_in_order() -> None:
    logits = np.zeros((1, V), dtype=np.float32)
    logits[0, [900, 5, 70, 60]] = 3.0, 2.0, 3.0, 9.0
    mask = np.full((2, V), -np.inf, dtype=np.float32)
    mask[0, [900, 5, 70]] = 0.0
    state = rule_state([1], False, TOKENS, None)[None]
    choice = choose(logits, mask, state, SPEC, n_candidates=5)
    assert choice.candidates.tolist() == [[70, 900, 5, TOKENS.eot, TOKENS.eot]]
    total = np.log(2 * np.exp(3) + np.exp(2))
    expected = [3 - total, 3 - total, 2 - total, ABSENT, ABSENT]
    assert choice.candidate_logprobs[0].tolist() == pytest.approx(expected)
    assert (choice.tokens.tolist(), choice.candidates.dtype) == ([70], np.int32)


@pytest.mark.parametrize(
    ("temperature", "uniform", "token"),
    [
        # Probabilities at temperature 1: 0.125, 0.5, 0.375; at 0.5 their squares.
        *[(1.0, 0.0, 3), (1.0, 0.124, 3), (1.0, 0.126, 8), (1.0, 0.624, 8), (1.0, 0.626, 40)],
        *[(0.5, 0.038, 3), (0.5, 0.039, 8), (0.5, 0.653, 8), (0.5, 0.654, 40), (1.0, 0.9999, 40)],
        *[(0.0, 0.0, 8), (0.0, 0.99, 8)],
    ],
)
def test_a_sample_is_where_the_running_probability_passes(
    temperature: float, uniform: float, token: int
) -> None:
    logits = np.full((1, V), -np.inf, dtype=np.float32)
    logits[0, [3, 8, 40]] = np.log([0.125, 0.5, 0.375])
    state = rule_state([1], False, TOKENS, None)[None]
    given = {"temperatures": np.float32([temperature]), "uniforms": np.float32([uniform])}
    choice = choose(logits, OPEN_MASK, state, SPEC, **given)
    assert choice.tokens.tolist() == [token]
    assert choice.logprobs[0] == pytest.approx(logits[0, token])  # at temperature 1


def test_suppressed_ids() -> None:
    special = {t for t in TOKENS.suppress_tokens if t > TOKENS.eot}
    assert set(suppressed_ids("-1", TOKENS)) == set(TOKENS.suppress_tokens)
    assert set(suppressed_ids("-1,7", TOKENS)) == {*TOKENS.suppress_tokens, 7}
    assert set(suppressed_ids([7, 9], TOKENS)) == {7, 9, *special}
    assert suppressed_ids("", TOKENS) == suppressed_ids([], TOKENS) == ()
    assert suppressed_ids(None, TOKENS) == ()


def test_mask_rows() -> None:
    mask = suppress_mask(SPEC)
    assert mask.dtype == np.float32
    assert set(np.flatnonzero(mask[0])) == {*TOKENS.suppress_tokens, TOKENS.no_timestamps}
    assert set(np.flatnonzero(mask[1])) == {*np.flatnonzero(mask[0]), ord(" "), TOKENS.eot}
    np.testing.assert_array_equal(suppress_mask(SPEC, suppress_blank=False)[1], mask[0])


@pytest.mark.parametrize("value", ["a", "1,,2", "1.5", "-5", [None], [1.7], [-2], -1])
def test_suppress_tokens_that_are_no_ids_are_refused(value: object) -> None:
    with pytest.raises(OptionError, match="separated by commas"):
        parse_suppress_tokens(value)  # type: ignore[arg-type]


def test_an_id_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(OptionError, match=f"from 0 to {V - 1}"):
        suppress_mask(SPEC, [V])


def test_mismatched_rows_are_a_bug() -> None:
    with pytest.raises(ValueError, match="2 rows"):
        filter_logits(np.zeros((2, V), np.float32), OPEN_MASK, np.zeros((1, 6), np.int32), SPEC)


seeds = st.integers(0, 2**32 - 1)


def random_logits(seed: int, rows: int = 1) -> Float32:
    """Logits in which text, timestamps and eot all have a chance."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, V)).astype(np.float32)
    logits[:, BEGIN:] += rng.normal(-2, 4, (rows, 1)).astype(np.float32)
    logits[:, TOKENS.eot] += rng.normal(0, 4)
    return logits


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 40))
def test_a_greedy_sequence_keeps_every_rule(seed: int, length: int) -> None:
    mask = suppress_mask(SPEC)
    sampled: list[int] = []
    for step in range(length):
        state = rule_state(sampled, True, TOKENS, 50)[None]
        logits = random_logits(seed + step)
        logits[:, TOKENS.eot + 1 : BEGIN] = -50  # no rule forbids a language token, text does
        choice = choose(logits, mask, state, SPEC)
        assert np.isfinite(choice.logprobs[0])
        if choice.tokens[0] == TOKENS.eot:
            break
        sampled.append(int(choice.tokens[0]))
    assert not set(sampled) & {*TOKENS.suppress_tokens, TOKENS.no_timestamps}
    times = [t for t in sampled if t >= BEGIN]
    assert times == sorted(times)
    assert BEGIN <= sampled[0] <= BEGIN + 50
    closing = times[1::2]
    assert all(a < b for a, b in zip(times[::2], closing, strict=False))


@settings(max_examples=60, deadline=None)
@given(seeds, st.lists(st.integers(0, V - 1), max_size=6))
def test_rows_do_not_depend_on_their_neighbours(seed: int, sampled: list[int]) -> None:
    logits = random_logits(seed, rows=3)
    states = np.stack(
        [
            rule_state([], True, TOKENS, 50),
            rule_state(sampled, True, TOKENS, 50),
            rule_state(sampled, False, TOKENS, None),
        ]
    )
    mask = suppress_mask(SPEC)
    together = choose(logits, mask, states, SPEC)
    for k in range(3):
        alone = choose(logits[k : k + 1], mask, states[k : k + 1], SPEC)
        assert alone.tokens[0] == together.tokens[k]
        assert alone.logprobs[0] == together.logprobs[k]


@st.composite
def sampled_tokens(draw: st.DrawFn) -> list[int]:
    """Sequences of text, timestamps and specials, lawful or not."""
    text = st.integers(0, TOKENS.eot - 1)
    time = st.integers(BEGIN, V - 1) | st.integers(BEGIN, BEGIN + 3)
    return draw(st.lists(text | time | st.integers(TOKENS.eot + 1, BEGIN - 1), max_size=8))


@settings(max_examples=300, deadline=None)
@given(seeds, sampled_tokens(), st.sampled_from([None, 1, 50, 1500]), st.booleans(), st.booleans())
def test_same_as_openai_whispers_filters(
    seed: int, sampled: list[int], limit: int | None, blank: bool, timestamps: bool
) -> None:
    decoding = pytest.importorskip("whisper.decoding")
    import torch

    tokenizer = SimpleNamespace(
        eot=TOKENS.eot,
        no_timestamps=TOKENS.no_timestamps,
        timestamp_begin=BEGIN,
        encode=lambda text: list(text.encode()),
    )
    prompt = [TOKENS.sot, TOKENS.languages[0][1], TOKENS.transcribe]
    filters = [decoding.SuppressBlank(tokenizer, len(prompt))] if blank else []
    filters.append(decoding.SuppressTokens(suppressed_ids("-1", TOKENS)))
    if timestamps:
        filters.append(decoding.ApplyTimestampRules(tokenizer, len(prompt), limit))
    logits = random_logits(seed)
    theirs = torch.from_numpy(logits.copy())
    for logit_filter in filters:
        logit_filter.apply(theirs, torch.tensor([prompt + sampled]))

    mask = suppress_mask(SPEC, "-1", blank, timestamps)
    states = rule_state(sampled, timestamps, TOKENS, limit)[None]
    ours = filter_logits(logits, mask, states, SPEC)
    np.testing.assert_array_equal(ours, theirs.numpy())
    if np.isfinite(ours).any():
        choice = choose(logits, mask, states, SPEC)
        expected = torch.log_softmax(theirs, dim=-1)[0]
        assert choice.tokens[0] == int(theirs.argmax())
        assert choice.logprobs[0] == pytest.approx(float(expected[choice.tokens[0]]), abs=1e-5)


def test_log_softmax_keeps_what_is_forbidden_forbidden() -> None:
    row = np.array([0.0, -np.inf, 0.0], dtype=np.float32)
    np.testing.assert_allclose(log_softmax(row), [-np.log(2), -np.inf, -np.log(2)], rtol=1e-6)
