"""The LM head of int8 models through the sieve, against all of it: what may be chosen is exact."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_graphs import Kernels
from numpy_layers import normal

from mwc.compiler.quantize import pack_halves, quantize_int8, sieve_bounds
from mwc.runtime.decoder import RULE_STATE_SIZE
from mwc.runtime.rules import RuleState

Array = npt.NDArray[Any]

N, EOT, K = 5003, 4801, 64
N_SAMPLED = RuleState._fields.index("n_sampled")
SIEVED = EOT // 16 * 16
"""Logits from here on are never sieved."""


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
    ) -> None:
        rng = np.random.default_rng(seed)
        matrix = normal(N, K, seed=seed)
        if tails:
            matrix = rng.standard_t(3, (N, K)).astype(np.float32)
        if sparse:
            matrix[sparse] = normal(N, K, seed=seed + 4)[sparse] / 1000
            matrix[sparse, 0] = 60 * np.sign(mean)
        self.values, self.scale = quantize_int8(matrix)
        self.bounds = sieve_bounds(self.values)
        self.near = rng.integers(0, SIEVED, rows)
        x = matrix[self.near] * peak + normal(rows, K, seed=seed + 1)
        self.x = (x - x.mean(-1, keepdims=True)).astype(np.float32)
        self.columns = np.exp(normal(K, seed=seed + 2) / 4)
        self.gamma, self.beta = 1 + normal(K, seed=seed + 3) / 8, np.full(K, mean, np.float32)
        self.suppress = np.zeros((2, N), np.float32)
        self.states = np.zeros((rows, RULE_STATE_SIZE), np.int32)
        self.states[:, N_SAMPLED] = 3
        self._kernels = kernels

    def _given(self, rows: slice) -> list[Array]:
        matrix = pack_halves(self.values), self.scale
        return [self.x[rows], *matrix, self.columns, self.gamma, self.beta]

    def full(self) -> Array:
        """All logits in full."""
        return self._kernels.run("norm_logits.int8", *self._given(slice(None)))

    def likely(self, wanted: Any, rows: slice = slice(None)) -> Array:
        """Logits through the sieve."""
        return self._kernels.run(
            "likely_logits.int8", *self._given(rows), self.bounds, np.array(wanted, np.int32)[rows],
            self.suppress, self.states[rows], np.array([EOT]),
        )  # fmt: skip


@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize("wanted", [1, 2, 6, 40])
@pytest.mark.parametrize("peak", [0.0, 0.4, 2.0])
def test_the_best_logits_are_exact(kernels: Kernels, wanted: int, peak: float, tails: bool) -> None:
    head = Head(kernels, 7, peak=peak, tails=tails)
    full, likely = head.full(), head.likely([wanted] * 7)
    for row in range(7):
        best = np.argsort(-full[row, :SIEVED], kind="stable")[:wanted]
        assert np.array_equal(likely[row, best], full[row, best])
        assert np.array_equal(np.argsort(-likely[row, :SIEVED], kind="stable")[:wanted], best)
        assert np.array_equal(likely[row, SIEVED:], full[row, SIEVED:])


@pytest.mark.parametrize("mean", [2.0, -2.0])
def test_tokens_of_little_but_zeros_are_exact_too(kernels: Kernels, mean: float) -> None:
    """Their lower halves are all alike, so that what they leave out adds up instead of cancelling.

    As of a row with one value far above the others; here it is among the best.
    """
    head = Head(kernels, 8, peak=0.3, sparse=slice(100, 140), mean=mean)
    assert head.bounds[2] > 7
    full, likely = head.full(), head.likely([4] * 8)
    best = np.argsort(-full[:, :SIEVED], kind="stable", axis=-1)[:, :4]
    assert np.isin(best, range(100, 140)).mean() > 0.4
    rows = np.arange(8)[:, None]
    assert np.array_equal(likely[rows, best], full[rows, best])
    assert np.array_equal(np.argsort(-likely[:, :SIEVED], kind="stable", axis=-1)[:, :4], best)


def test_the_others_are_as_near_as_is_said(kernels: Kernels) -> None:
    head = Head(kernels, 16, peak=2.0)
    full, likely = head.full(), head.likely([1] * 16)
    normed = (head.x / np.sqrt((head.x**2).mean(-1, keepdims=True) + 1e-5)) * head.gamma
    deviation = np.sqrt(21.25) * np.linalg.norm(normed * head.columns, axis=-1)
    off = np.abs(likely - full) / (deviation[:, None] * head.scale)
    assert 0.5 < off[off > 0].std() < 1.1
    assert off.max() < 6


def test_a_likely_token_leaves_most_of_the_reading_out(kernels: Kernels) -> None:
    head = Head(kernels, 4, peak=3.0)
    full, likely = head.full(), head.likely([1] * 4)
    blocks = (likely == full)[:, :SIEVED].reshape(4, -1, 16).all(-1)
    assert (full.argmax(-1) == head.near).all()
    assert (likely.argmax(-1) == head.near).all()
    assert blocks.sum(-1).max() < 30  # of 300


def test_where_any_may_be_sampled_all_are_exact(kernels: Kernels) -> None:
    head = Head(kernels, 5)
    full = head.full()
    assert np.array_equal(head.likely([0] * 5), full)
    mixed = head.likely([1, 0, 1, 0, 3])
    assert np.array_equal(mixed[[1, 3]], full[[1, 3]])
    assert not np.array_equal(mixed[0], full[0])


@pytest.mark.parametrize("sampled", [0, 1])
def test_what_is_suppressed_is_not_among_the_best(kernels: Kernels, sampled: int) -> None:
    """Row 1 of the masks holds before the first sampled token, row 0 after it."""
    head = Head(kernels, 3, peak=3.0)
    full = head.full()
    best = np.argsort(-full[:, :SIEVED], axis=-1)
    head.suppress[1 if sampled == 0 else 0, best[:, :5]] = -np.inf
    head.states[:, N_SAMPLED] = sampled
    likely = head.likely([1] * 3)
    allowed = full + head.suppress[1 if sampled == 0 else 0]
    first = allowed[:, :SIEVED].argmax(-1)
    rows = np.arange(3)
    assert not np.isin(first, best[:, :5]).any()
    assert np.array_equal(likely[rows, first], full[rows, first])
    masked = likely + head.suppress[1 if sampled == 0 else 0]
    assert np.array_equal(masked[:, :SIEVED].argmax(-1), first)


def test_where_nothing_may_be_chosen_all_are_exact(kernels: Kernels) -> None:
    head = Head(kernels, 2)
    head.suppress[:, :SIEVED] = -np.inf
    assert np.array_equal(head.likely([1, 2]), head.full())


def test_a_row_never_depends_on_its_neighbours(kernels: Kernels) -> None:
    head = Head(kernels, 17)
    wanted = np.random.default_rng(8).integers(0, 7, 17)
    together = head.likely(wanted)
    for first, last in [(i, i + 1) for i in range(17)] + [(0, 4), (1, 6), (3, 12)]:
        rows = slice(first, last)
        assert np.array_equal(together[rows], head.likely(wanted, rows))


def test_zeros_have_zeros(kernels: Kernels) -> None:
    head = Head(kernels, 2)
    head.x[:] = 0
    assert not head.likely([1, 2]).any()
