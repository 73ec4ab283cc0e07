"""The graphs' choice of the next token against the numpy rules, over every kind of state."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_graphs import SPEC, Kernels

from mwc.runtime.decoder import Choice, Float32, Int32
from mwc.runtime.rules import choose, filter_logits, rule_state, suppress_mask

TOKENS = SPEC.tokens
BEGIN, EOT, V = TOKENS.timestamp_begin, TOKENS.eot, SPEC.model.n_vocab
OPEN_MASK = np.zeros((2, V), np.float32)


def kernel_choice(kernels: Kernels, logits: Float32, mask: Float32, states: Int32) -> Choice:
    return Choice(*kernels.run("choose", logits, mask, states))


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["normal", "flat", "coarse"]))
def test_the_kernel_follows_the_rules(
    kernels: Kernels, seed: int, with_timestamps: bool, kind: str
) -> None:
    generator = np.random.default_rng(seed)
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
    ours = kernel_choice(kernels, logits, mask, states)
    theirs = choose(logits, mask, states, SPEC)
    filtered = filter_logits(logits, mask, states, SPEC)
    for row in range(rows):
        if ours.tokens[row] != theirs.tokens[row]:
            assert is_near_the_rule(logits[row], mask, states[row])
        else:
            assert ours.logprobs[row] == pytest.approx(theirs.logprobs[row], abs=2e-5)
            assert np.isfinite(filtered[row, ours.tokens[row]])


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


@pytest.mark.parametrize("where", [0, 7, EOT, BEGIN + 3, V - 1])
def test_not_a_number_does_not_hang(kernels: Kernels, where: int) -> None:
    logits = np.zeros(V, np.float32)
    logits[where] = np.nan
    for sampled in ([], [4], [BEGIN, 4]):
        for with_timestamps in (True, False):
            assert 0 <= one(kernels, logits, state(sampled, with_timestamps))[0] < V
    logits[:] = np.nan
    assert 0 <= one(kernels, logits, state([4], with_timestamps=False))[0] < V


def test_rows_do_not_influence_each_other(kernels: Kernels) -> None:
    generator = np.random.default_rng(3)
    logits = (4 * generator.standard_normal((9, V))).astype(np.float32)
    states = np.stack([state(random_history(generator)) for _ in range(9)])
    mask = suppress_mask(SPEC)
    together = kernel_choice(kernels, logits, mask, states)
    for i in range(9):
        alone = kernel_choice(kernels, logits[i : i + 1], mask, states[i : i + 1])
        assert alone.tokens[0] == together.tokens[i]
        assert alone.logprobs[0] == together.logprobs[i]
