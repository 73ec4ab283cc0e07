"""The LM head and the choice of int8 models in one: against all logits and the numpy rules."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_graphs import SPEC, Kernels
from numpy_layers import normal

from mwc.compiler.quantize import pack_halves, pack_int8, quantize_with_rests, sieve_bounds
from mwc.runtime.decoder import ABSENT, Choice, Float32, Int32
from mwc.runtime.rules import choose, filter_logits, log_softmax, rule_state
from mwc.runtime.spec import WhisperSpec

Array = npt.NDArray[Any]

N, EOT, BEGIN, K = 5003, 4803, 4910, 64
SIEVED = EOT // 256 * 256
"""Logits from here on are never sieved."""


def spec_of(n_vocab: int, eot: int, timestamp_begin: int) -> WhisperSpec:
    """What of a model the rules look at."""
    model = replace(SPEC.model, n_vocab=n_vocab)
    return replace(
        SPEC, model=model, tokens=replace(SPEC.tokens, eot=eot, timestamp_begin=timestamp_begin)
    )


SMALL = spec_of(N, EOT, BEGIN)
ROUGHLY = 0.15
"""Log-probability that a sum over sieved logits of these models, of 64 terms, is off by at most."""


class Head:
    """A random LM head, its inputs for rows that are each near some token's weights."""

    def __init__(
        self,
        kernels: Kernels,
        rows: int,
        *,
        peak: float = 0.7,
        seed: int = 1,
        tails: bool = False,
        sparse: slice | None = None,
        mean: float = 0.0,
        rests: bool = True,
        spec: WhisperSpec = SMALL,
    ) -> None:
        rng = np.random.default_rng(seed)
        n = spec.model.n_vocab
        matrix = normal(n, K, seed=seed)
        if tails:
            matrix = rng.standard_t(3, (n, K)).astype(np.float32)
        if sparse:
            matrix[sparse] = normal(n, K, seed=seed + 4)[sparse] / 1000
            matrix[sparse, 0] = 60 * np.sign(mean)
        self.values, self.rests, self.scale = quantize_with_rests(matrix)
        self.kind = "int8" if rests else "bytes"
        near = rng.integers(0, min(SIEVED, spec.tokens.eot), rows)
        x = matrix[near] * peak + normal(rows, K, seed=seed + 1)
        self.x = (x - x.mean(-1, keepdims=True)).astype(np.float32)
        self.columns = np.exp(normal(K, seed=seed + 2) / 4)
        self.gamma, self.beta = 1 + normal(K, seed=seed + 3) / 8, np.full(K, mean, np.float32)
        self.suppress = np.zeros((2, n), np.float32)
        self.states = states([[7, 8, 9]] * rows, with_timestamps=False)
        self.temperatures = np.zeros(rows, np.float32)
        self.uniforms = rng.random(rows, dtype=np.float32)
        self._kernels, self._spec = kernels, spec

    @property
    def bounds(self) -> Float32:
        """What the sieve leaves out at most."""
        return sieve_bounds(self.values, self.rests if self.kind == "int8" else None)

    def _given(self, rows: slice) -> list[Array]:
        matrix = [pack_halves(self.values), self.scale, self.columns]
        rests = [pack_int8(self.rests)] if self.kind == "int8" else []
        return [self.x[rows], self.gamma, self.beta, *matrix, *rests]

    def logits(self) -> Float32:
        """All logits in full."""
        full = self._kernels.run(f"norm_logits.{self.kind}", *self._given(slice(None)))
        assert isinstance(full, np.ndarray)
        return full

    def choice(self, wanted: Any, k: int | None = None, rows: slice = slice(None)) -> Choice:
        """The choice in one with the LM head."""
        wanted = np.broadcast_to(np.array(wanted, np.int32), len(self.x))
        ranks = np.arange(max(wanted.max(), 1) if k is None else k)
        tokens = self._spec.tokens
        rules = [self.suppress, self.states[rows], self.temperatures[rows], self.uniforms[rows]]
        return Choice(
            *self._kernels.run(
                f"norm_choose.{self.kind}", *self._given(rows), self.bounds, wanted[rows], *rules,
                np.array([tokens.eot, tokens.timestamp_begin]), ranks,
            )
        )  # fmt: skip

    def expected(self, k: int) -> Choice:
        """What the rules make of all logits."""
        return choose(
            self.logits(), self.suppress, self.states, self._spec, temperatures=self.temperatures,
            uniforms=self.uniforms, n_candidates=k,
        )  # fmt: skip


def states(histories: list[list[int]], *, with_timestamps: bool) -> Int32:
    """Rule states of rows that sampled so far what is given."""
    return np.stack([rule_state(h, with_timestamps, SMALL.tokens, 50) for h in histories])


def check(ours: Choice, theirs: Choice) -> None:
    """The same candidates, as far apart as they are; their sum is roughly that of all."""
    assert np.array_equal(ours.candidates, theirs.candidates)
    there = theirs.candidate_logprobs > ABSENT / 2
    assert np.array_equal(ours.candidate_logprobs[~there], theirs.candidate_logprobs[~there])
    off = np.where(there, ours.candidate_logprobs - theirs.candidate_logprobs, 0)
    assert np.abs(off).max() < ROUGHLY
    assert np.abs(np.where(there, off - off[:, :1], 0)).max() < 1e-4


@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize("wanted", [1, 2, 6, 40])
@pytest.mark.parametrize("peak", [0.0, 0.4, 2.0])
def test_the_best_tokens_are_those_of_all_logits(
    kernels: Kernels, wanted: int, peak: float, tails: bool
) -> None:
    head = Head(kernels, 7, peak=peak, tails=tails)
    check(head.choice(wanted), head.expected(wanted))


@pytest.mark.parametrize("wanted", [1, 6])
def test_without_rests_they_are_those_of_the_bytes(kernels: Kernels, wanted: int) -> None:
    """As of the copies that tokens are drafted by."""
    head = Head(kernels, 7, rests=False)
    check(head.choice(wanted), head.expected(wanted))


def test_rests_tell_tokens_of_the_same_bytes_apart(kernels: Kernels) -> None:
    """Twins in other blocks, of which the bytes say nothing: rests of full size decide."""
    head = Head(kernels, 9, peak=3.0)
    rng = np.random.default_rng(7)
    head.values[2000:4000], head.scale[2000:4000] = head.values[:2000], head.scale[:2000]
    head.rests[:4000] = rng.choice(np.array([-127, 127], np.int8), (4000, K))
    ours, theirs = head.choice(6), head.expected(6)
    check(ours, theirs)
    head.kind = "bytes"
    of_bytes = head.expected(6)
    assert (of_bytes.candidates != theirs.candidates).any(axis=1).sum() >= 3


@pytest.mark.parametrize("mean", [2.0, -2.0])
def test_tokens_of_little_but_zeros_are_found_too(kernels: Kernels, mean: float) -> None:
    """Their lower halves are all alike, so that what they leave out adds up instead of cancelling.

    As of a row with one value far above the others; here it is among the best.
    """
    head = Head(kernels, 8, peak=0.3, sparse=slice(100, 140), mean=mean)
    assert head.bounds[2] > 7
    ours, theirs = head.choice(4), head.expected(4)
    assert np.isin(theirs.candidates, range(100, 140)).mean() > 0.4
    assert np.array_equal(ours.candidates, theirs.candidates)


def test_the_sum_over_unlikely_tokens_is_rough_and_no_more(kernels: Kernels) -> None:
    head = Head(kernels, 16, peak=1.0)
    off = head.choice(1).logprobs - head.expected(1).logprobs
    assert 1e-5 < np.sqrt((off**2).mean()) < 0.05


def test_where_any_may_be_sampled_all_are_in_full(kernels: Kernels) -> None:
    head = Head(kernels, 6, peak=0.4)
    head.temperatures[[1, 3, 4]] = 0.5, 1.0, 2.0
    wanted = np.where(head.temperatures > 0, 0, 2)
    ours, logprobs = head.choice(wanted), log_softmax(head.logits())
    for row in (1, 3, 4):
        token = ours.tokens[row]
        assert ours.logprobs[row] == pytest.approx(logprobs[row, token], abs=2e-5)
        assert ours.candidates[row, 1] == EOT
        assert ours.candidate_logprobs[row, 1] == np.float32(ABSENT)
        before, after = passed(head.logits()[row], float(head.temperatures[row]), int(token))
        assert before - 2e-5 <= head.uniforms[row] <= after + 2e-5
    greedy = [0, 2, 5]
    assert np.array_equal(ours.candidates[greedy], head.expected(2).candidates[greedy])


def passed(row: Float32, temperature: float, token: int) -> tuple[float, float]:
    """The running probability before and after a token."""
    weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    running = np.cumsum(weights) / weights.sum()
    return float(running[token] - weights[token] / weights.sum()), float(running[token])


def test_a_row_that_is_sampled_is_in_full_whatever_it_wants(kernels: Kernels) -> None:
    head = Head(kernels, 4, peak=0.4)
    head.temperatures[:] = 0.7
    asked, not_asked = head.choice(3), head.choice(0, 3)
    assert np.array_equal(asked.candidates, not_asked.candidates)
    assert np.array_equal(asked.candidate_logprobs, not_asked.candidate_logprobs)


def test_samples_are_as_frequent_as_they_are_likely(kernels: Kernels) -> None:
    """Of four tokens: two of one block, one of another, and one that is never sieved."""
    head = Head(kernels, 1, peak=0.0)
    allowed = [3, 9, 3300, EOT + 1]
    head.suppress[:] = -np.inf
    head.suppress[:, allowed] = 0
    rows = 400
    head.x, head.states = np.repeat(head.x, rows, 0), np.repeat(head.states, rows, 0)
    head.temperatures = np.full(rows, 2.0, np.float32)
    head.uniforms = ((np.arange(rows) + 0.5) / rows).astype(np.float32)
    weights = np.exp(head.logits()[0, allowed].astype(np.float64) / 2)
    drawn = head.choice(0).tokens
    counts = [int((drawn == token).sum()) for token in allowed]
    assert counts == pytest.approx(rows * weights / weights.sum(), abs=1)


@pytest.mark.parametrize("sampled", [[], [5]])
def test_what_is_suppressed_is_not_chosen(kernels: Kernels, sampled: list[int]) -> None:
    """Row 1 of the masks holds before the first sampled token, row 0 after it."""
    head = Head(kernels, 3, peak=3.0)
    best = np.argsort(-head.logits()[:, :SIEVED], axis=-1)
    head.suppress[0 if sampled else 1, best[:, :5]] = -np.inf
    head.states = states([sampled] * 3, with_timestamps=False)
    ours = head.choice(2)
    assert not np.isin(ours.candidates, best[:, :5]).any()
    check(ours, head.expected(2))


@pytest.mark.parametrize("n", [181, 300, 513])
def test_vocabularies_of_few_blocks(kernels: Kernels, n: int) -> None:
    """With less than 16 blocks of text nothing is sieved; the last block need not be whole."""
    head = Head(kernels, 5, spec=spec_of(n, n - 31, n - 20))
    check(head.choice(3), head.expected(3))
    head.temperatures[:] = 1.0
    head.uniforms[:] = 0.5
    ours = head.choice(0)
    running = np.cumsum(np.exp(log_softmax(head.logits()).astype(np.float64)), axis=-1)
    assert np.array_equal(ours.tokens, (running < 0.5).sum(-1))


def test_where_no_text_may_be_chosen_the_rest_is_in_full(kernels: Kernels) -> None:
    head = Head(kernels, 2)
    head.suppress[:, :SIEVED] = -np.inf
    np.testing.assert_allclose(
        head.choice(2).candidate_logprobs, head.expected(2).candidate_logprobs, atol=2e-5
    )
    check(head.choice(2), head.expected(2))


def test_where_nothing_may_be_chosen_there_is_eot(kernels: Kernels) -> None:
    head = Head(kernels, 3)
    head.temperatures[1] = 1.0
    head.suppress[:] = -np.inf
    ours = head.choice([2, 0, 1])
    assert (ours.candidates == EOT).all()
    assert (ours.candidate_logprobs == np.float32(ABSENT)).all()


@pytest.mark.parametrize("wanted", [1, 3, 6])
def test_candidates_that_are_not_there(kernels: Kernels, wanted: int) -> None:
    head = Head(kernels, 4)
    head.suppress[:] = -np.inf
    head.suppress[:, [17, 4000, 9]] = 0
    check(head.choice(wanted), head.expected(wanted))


def test_more_candidates_than_a_row_wants(kernels: Kernels) -> None:
    """Those that it wants are the best; the others are tokens with their probabilities."""
    head = Head(kernels, 5)
    ours, theirs = head.choice([1, 4, 2, 4, 3]), head.expected(4)
    assert np.array_equal(ours.candidates[[1, 3]], theirs.candidates[[1, 3]])
    for row, wanted in ((0, 1), (2, 2), (4, 3)):
        assert np.array_equal(ours.candidates[row, :wanted], theirs.candidates[row, :wanted])
    logits = np.take_along_axis(head.logits(), ours.candidates, -1)
    apart = np.diff(ours.candidate_logprobs, axis=-1)
    np.testing.assert_allclose(apart, np.diff(logits, axis=-1), atol=1e-4)


def test_equal_logits_are_chosen_in_the_order_of_ids(kernels: Kernels) -> None:
    """All of them 0, and the same tokens again in other blocks."""
    head = Head(kernels, 2)
    head.x[:] = 0
    ours = head.choice(6)
    assert ours.candidates.tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    np.testing.assert_allclose(ours.candidate_logprobs, -np.log(N), atol=1e-4)
    again = Head(kernels, 4, peak=3.0)
    again.values[2000:4000] = again.values[:2000]
    again.rests[2000:4000] = again.rests[:2000]
    again.scale[2000:4000] = again.scale[:2000]
    check(again.choice(6), again.expected(6))


def test_a_row_never_depends_on_its_neighbours(kernels: Kernels) -> None:
    head = Head(kernels, 17)
    rng = np.random.default_rng(8)
    wanted = rng.integers(0, 7, 17)
    head.temperatures = np.where(wanted == 0, 0.8, 0).astype(np.float32)
    head.states = states([[7], [], [BEGIN + 9], [7, BEGIN + 9]] * 4 + [[]], with_timestamps=True)
    together = head.choice(wanted, 7)
    for first, last in [(i, i + 1) for i in range(17)] + [(0, 4), (1, 6), (3, 12)]:
        rows = slice(first, last)
        alone = head.choice(wanted, 7, rows)
        assert np.array_equal(together.candidates[rows], alone.candidates)
        assert np.array_equal(together.candidate_logprobs[rows], alone.candidate_logprobs)


HISTORIES: tuple[list[int], ...] = (
    [],
    [5],
    [BEGIN],
    [BEGIN + 20],
    [BEGIN, 5, 6],
    [BEGIN, 5, BEGIN + 30],
    [BEGIN, 5, BEGIN + 30, BEGIN + 30],
    [BEGIN, 5, BEGIN + 30, BEGIN + 30, 6],
)
"""Before the first timestamp, inside a segment, after its end, after the next one's begin."""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(HISTORIES), min_size=1, max_size=9),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 6]),
    st.sampled_from([-20.0, -2.0, 0.0, 3.0]),
    st.booleans(),
)
def test_rows_follow_the_rules(
    kernels: Kernels,
    histories: list[list[int]],
    seed: int,
    wanted: int,
    shift: float,
    with_timestamps: bool,
) -> None:
    head = Head(kernels, len(histories), seed=seed % 1000, peak=0.5)
    head.states = states(histories, with_timestamps=with_timestamps)
    head.suppress[:, BEGIN:] = shift
    rng = np.random.default_rng(seed)
    head.suppress[:, rng.integers(0, EOT, 50)] = -np.inf
    ours, theirs = head.choice(wanted), head.expected(wanted)
    for row, state in enumerate(head.states):
        if np.array_equal(ours.candidates[row], theirs.candidates[row]):
            continue
        assert is_near_the_rule(head.logits()[row], head.suppress, state)
        allowed = filter_logits(head.logits(), head.suppress, head.states, SMALL)[row]
        assert np.isfinite(allowed[ours.tokens[row]]) or ours.tokens[row] < BEGIN


def is_near_the_rule(logits: Float32, mask: Float32, state: Int32) -> bool:
    """Whether the sum of the timestamps is within rounding of the best text: either may win."""
    bare = logits.copy()
    bare[:BEGIN] = -1e9
    times = filter_logits(bare[None], mask, state[None], SMALL)[0]
    bare = logits.copy()
    bare[BEGIN:] = -1e9
    texts = filter_logits(bare[None], mask, state[None], SMALL)[0]
    total = np.logaddexp.reduce(times[BEGIN:].astype(np.float64))
    return bool(abs(total - texts[:BEGIN].max()) < 1e-4)
