"""The graphs' choice of the next token against the numpy rules, over every kind of state."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_graphs import SPEC, Kernels

from mwc.runtime.decoder import ABSENT, Choice, Float32, Int32
from mwc.runtime.rules import choose, filter_logits, log_softmax, rule_state, suppress_mask

TOKENS = SPEC.tokens
BEGIN, EOT, V = TOKENS.timestamp_begin, TOKENS.eot, SPEC.model.n_vocab
OPEN_MASK = np.zeros((2, V), np.float32)


def kernel_choice(
    kernels: Kernels,
    logits: Float32,
    mask: Float32,
    states: Int32,
    temperatures: Float32 | None = None,
    uniforms: Float32 | None = None,
    k: int = 1,
) -> Choice:
    zeros = np.zeros(len(logits), np.float32)
    temperatures = zeros if temperatures is None else temperatures
    uniforms = zeros if uniforms is None else uniforms
    ranks = np.arange(k, dtype=np.int32)
    return Choice(*kernels.run("choose", logits, mask, states, temperatures, uniforms, ranks))


def state(sampled: list[int], with_timestamps: bool = True, limit: int | None = 50) -> Int32:
    return rule_state(sampled, with_timestamps, TOKENS, limit)


def random_history(generator: np.random.Generator) -> list[int]:
    """0 to 6 sampled tokens, timestamps in ascending order among them."""
    n = int(generator.integers(0, 7))
    is_time = generator.random(n) < 0.5
    times = iter(np.sort(generator.integers(0, 1501, n)).tolist())
    texts = generator.integers(0, EOT, n).tolist()
    return [
        BEGIN + next(times) if timed else text
        for timed, text in zip(is_time, texts, strict=True)
    ]  # fmt: skip


def random_rows(
    generator: np.random.Generator, with_timestamps: bool, kind: str
) -> tuple[Float32, Float32, Int32]:
    """Logits, mask and rule states of 1 to 9 rows."""
    rows = int(generator.integers(1, 10))
    logits = generator.standard_normal((rows, V)).astype(np.float32)
    logits *= {"normal": 6.0, "flat": 0.01, "coarse": 2.0}[kind]
    logits[:, BEGIN:] += generator.choice([-8.0, 0.0, 3.0], (rows, 1))
    if kind == "coarse":
        logits = np.round(logits)  # many ties
    mask = suppress_mask(SPEC, with_timestamps=with_timestamps)
    states = np.stack(
        [
            state(random_history(generator), with_timestamps, generator.choice([None, 0, 50, 1500]))
            for _ in range(rows)
        ]
    )
    return logits, mask, states


over_rows = given(
    st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["normal", "flat", "coarse"])
)
some_examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@some_examples
@over_rows
def test_the_kernel_follows_the_rules(
    kernels: Kernels, seed: int, with_timestamps: bool, kind: str
) -> None:
    logits, mask, states = random_rows(np.random.default_rng(seed), with_timestamps, kind)
    ours = kernel_choice(kernels, logits, mask, states)
    theirs = choose(logits, mask, states, SPEC)
    filtered = filter_logits(logits, mask, states, SPEC)
    for row in range(len(logits)):
        if ours.tokens[row] != theirs.tokens[row]:
            assert is_near_the_rule(logits[row], mask, states[row])
        else:
            assert ours.logprobs[row] == pytest.approx(theirs.logprobs[row], abs=2e-5)
            assert np.isfinite(filtered[row, ours.tokens[row]])


@some_examples
@over_rows
def test_the_likeliest_come_first(
    kernels: Kernels, seed: int, with_timestamps: bool, kind: str
) -> None:
    generator = np.random.default_rng(seed)
    logits, mask, states = random_rows(generator, with_timestamps, kind)
    k = int(generator.integers(1, 18))
    ours = kernel_choice(kernels, logits, mask, states, k=k)
    theirs = choose(logits, mask, states, SPEC, n_candidates=k)
    assert ours.candidates.shape == ours.candidate_logprobs.shape == (len(logits), k)
    for row in range(len(logits)):
        if not np.array_equal(ours.candidates[row], theirs.candidates[row]):
            assert is_near_the_rule(logits[row], mask, states[row])
        else:
            np.testing.assert_allclose(
                ours.candidate_logprobs[row], theirs.candidate_logprobs[row], atol=2e-5
            )


TOLERANCE = 2e-5
"""Probability: where a sample may be a neighbour of what float64 sums say."""


@some_examples
@over_rows
def test_samples_are_where_the_running_probability_passes(
    kernels: Kernels, seed: int, with_timestamps: bool, kind: str
) -> None:
    """Rows at temperature 0 among them, which stay greedy."""
    generator = np.random.default_rng(seed)
    logits, mask, states = random_rows(generator, with_timestamps, kind)
    rows = len(logits)
    temperatures = generator.choice([0.0, 0.1, 0.2, 0.6, 1.0, 2.0], rows).astype(np.float32)
    uniforms = generator.random(rows, dtype=np.float32)
    k = int(generator.integers(1, 4))
    ours = kernel_choice(kernels, logits, mask, states, temperatures, uniforms, k)
    theirs = choose(
        logits, mask, states, SPEC, temperatures=temperatures, uniforms=uniforms, n_candidates=k
    )
    filtered = filter_logits(logits, mask, states, SPEC)
    logprobs = log_softmax(filtered)
    for row in range(rows):
        token = int(ours.tokens[row])
        if token != theirs.tokens[row] and is_near_the_rule(logits[row], mask, states[row]):
            continue
        assert np.isfinite(filtered[row, token])
        assert ours.logprobs[row] == pytest.approx(logprobs[row, token], abs=2e-5)
        if temperatures[row] == 0:
            assert np.array_equal(ours.candidates[row], theirs.candidates[row])
            continue
        assert (ours.candidates[row, 1:] == EOT).all()
        assert (ours.candidate_logprobs[row, 1:] == np.float32(ABSENT)).all()
        if token != theirs.tokens[row]:
            before, after = interval(filtered[row], float(temperatures[row]), token)
            assert before - TOLERANCE <= uniforms[row] <= after + TOLERANCE


def interval(filtered: Float32, temperature: float, token: int) -> tuple[float, float]:
    """The running probability before and after a token."""
    weights = np.exp((filtered.astype(np.float64) - filtered.max()) / temperature)
    running = np.cumsum(weights) / weights.sum()
    return float(running[token] - weights[token] / weights.sum()), float(running[token])


def test_samples_are_as_frequent_as_they_are_likely(kernels: Kernels) -> None:
    logits = np.full(V, -np.inf, np.float32)
    logits[[3, 700, EOT, BEGIN + 9]] = np.log([0.1, 0.2, 0.3, 0.4])
    n = 1000
    uniforms = ((np.arange(n) + 0.5) / n).astype(np.float32)
    states = np.repeat(state([5], with_timestamps=False)[None], n, axis=0)
    drawn = {}
    for temperature in (1.0, 0.5):
        temperatures = np.full(n, temperature, np.float32)
        rows = np.repeat(logits[None], n, axis=0)
        choice = kernel_choice(kernels, rows, OPEN_MASK, states, temperatures, uniforms)
        ids, counts = np.unique(choice.tokens, return_counts=True)
        drawn[temperature] = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        np.testing.assert_allclose(choice.logprobs, logits[choice.tokens], atol=1e-5)
    order = sorted((3, 700, EOT, BEGIN + 9))
    assert drawn[1.0] == pytest.approx(
        dict(zip(order, expected(logits, order, 1), strict=True)), abs=1
    )
    assert drawn[0.5] == pytest.approx(
        dict(zip(order, expected(logits, order, 2), strict=True)), abs=1
    )


def expected(logits: Float32, ids: list[int], power: int) -> list[float]:
    """Of 1000 samples, how many each id should have."""
    weights = np.exp(logits[ids].astype(np.float64)) ** power
    return (1000 * weights / weights.sum()).tolist()


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_a_sample_at_either_end_is_allowed(kernels: Kernels, uniform: float) -> None:
    generator = np.random.default_rng(1)
    for seed in range(20):
        logits, mask, states = random_rows(np.random.default_rng(seed), True, "normal")
        n = len(logits)
        temperatures = generator.choice([0.05, 0.5, 2.0], n).astype(np.float32)
        uniforms = np.full(n, uniform, np.float32)
        tokens = kernel_choice(kernels, logits, mask, states, temperatures, uniforms).tokens
        filtered = filter_logits(logits, mask, states, SPEC)
        for row in range(n):
            if not is_near_the_rule(logits[row], mask, states[row]):
                assert np.isfinite(filtered[row, tokens[row]])


@pytest.mark.parametrize("k", [1, 2, 6])
def test_candidates_that_are_not_there(kernels: Kernels, k: int) -> None:
    mask = np.full((2, V), -np.inf, np.float32)
    mask[:, [9, 4]] = 0
    logits = np.zeros(V, np.float32)
    choice = kernel_choice(kernels, logits[None], mask, state([5], False)[None], k=k)
    assert choice.candidates[0].tolist() == [4, 9, EOT, EOT, EOT, EOT][:k]
    half = float(-np.log(2))
    logprobs = [half, half, *[ABSENT] * 4][:k]
    assert choice.candidate_logprobs[0].tolist() == pytest.approx(logprobs)


def is_near_the_rule(logits: Float32, mask: Float32, row: Int32) -> bool:
    """Whether the sum of the timestamps is within rounding of the best text: either may win."""
    moved = [logits + np.where(np.arange(V) >= BEGIN, d, 0.0) for d in (-1e-5, 1e-5)]
    tokens = choose(np.float32(moved), mask, np.stack([row, row]), SPEC).tokens
    return bool((tokens[0] < BEGIN) != (tokens[1] < BEGIN))


def one(
    kernels: Kernels, logits: Float32, row: Int32, mask: Float32 = OPEN_MASK
) -> tuple[int, float]:
    choice = kernel_choice(kernels, logits[None], mask, row[None])
    return int(choice.tokens[0]), float(choice.logprobs[0])


@pytest.mark.parametrize("ids", [(3, 900), (0, V - 1), (15, 16), (EOT, BEGIN), (1, 2, 40)])
def test_ties_go_to_the_lowest_id(kernels: Kernels, ids: tuple[int, ...]) -> None:
    logits = np.zeros(V, np.float32)
    logits[list(ids)] = 10.0
    token, logprob = one(kernels, logits, state([5], with_timestamps=False))
    assert token == ids[0]
    others = (V - len(ids)) * np.exp(-10.0)
    assert logprob == pytest.approx(-np.log(len(ids) + others), abs=1e-5)


def test_timestamps_win_together(kernels: Kernels) -> None:
    logits = np.full(V, -20.0, np.float32)
    logits[7] = 2.0
    logits[BEGIN + 100 : BEGIN + 120] = 0.0  # e² is about 7.4, so 20 of them outweigh it
    sampled = [BEGIN + 1, 9, 8]
    assert one(kernels, logits, state(sampled)) == (BEGIN + 100, pytest.approx(-np.log(20)))
    assert one(kernels, logits, state(sampled, with_timestamps=False))[0] == 7
    logits[BEGIN + 107 : BEGIN + 120] = -20.0  # 7 of them do not
    assert one(kernels, logits, state(sampled))[0] == 7


def test_the_first_token_has_a_mask_of_its_own(kernels: Kernels) -> None:
    logits = np.zeros(V, np.float32)
    logits[[30, 31]] = 5.0, 4.0
    mask = OPEN_MASK.copy()
    mask[1, 30] = -np.inf
    assert one(kernels, logits, state([], with_timestamps=False), mask)[0] == 31
    assert one(kernels, logits, state([1], with_timestamps=False), mask)[0] == 30


@pytest.mark.parametrize("with_timestamps", [True, False])
@pytest.mark.parametrize("sampled", [[], [4], [BEGIN], [BEGIN, 4, BEGIN + 1500]])
def test_everything_suppressed_ends_the_transcript(
    kernels: Kernels, sampled: list[int], with_timestamps: bool
) -> None:
    mask = np.full((2, V), -np.inf, np.float32)
    row = state(sampled, with_timestamps)
    assert one(kernels, np.zeros(V, np.float32), row, mask)[0] == EOT
    logits, half = np.zeros((1, V), np.float32), np.full(1, 0.5, np.float32)
    candidates = kernel_choice(kernels, logits, mask, row[None], k=3)
    sample = kernel_choice(kernels, logits, mask, row[None], half, half)
    for choice in (candidates, sample):
        assert (choice.candidates == EOT).all()
        assert (choice.candidate_logprobs == np.float32(ABSENT)).all()


@pytest.mark.parametrize("where", [0, 7, EOT, BEGIN + 3, V - 1])
def test_not_a_number_does_not_hang(kernels: Kernels, where: int) -> None:
    logits = np.zeros(V, np.float32)
    logits[where] = np.nan
    for sampled in ([], [4], [BEGIN, 4]):
        for with_timestamps in (True, False):
            assert 0 <= one(kernels, logits, state(sampled, with_timestamps))[0] < V
        samples = kernel_choice(
            kernels, logits[None], OPEN_MASK, state(sampled)[None],
            np.ones(1, np.float32), np.full(1, 0.7, np.float32), 3,
        )  # fmt: skip
        assert ((samples.candidates >= 0) & (samples.candidates < V)).all()
        best = kernel_choice(kernels, logits[None], OPEN_MASK, state(sampled)[None], k=5)
        assert ((best.candidates >= 0) & (best.candidates < V)).all()
    logits[:] = np.nan
    assert 0 <= one(kernels, logits, state([4], with_timestamps=False))[0] < V


def test_rows_do_not_influence_each_other(kernels: Kernels) -> None:
    generator = np.random.default_rng(3)
    logits = (4 * generator.standard_normal((9, V))).astype(np.float32)
    states = np.stack([state(random_history(generator)) for _ in range(9)])
    mask = suppress_mask(SPEC)
    temperatures = np.array([0, 1, 0.5] * 3, np.float32)
    uniforms = generator.random(9, dtype=np.float32)
    inputs = (logits, states, temperatures, uniforms)

    def run(rows: slice) -> Choice:
        row_logits, *rest = (values[rows] for values in inputs)
        return kernel_choice(kernels, row_logits, mask, *rest, k=4)

    together = run(slice(9))
    for i in range(9):
        alone = run(slice(i, i + 1))
        assert np.array_equal(alone.candidates[0], together.candidates[i])
        assert np.array_equal(alone.candidate_logprobs[0], together.candidate_logprobs[i])
