"""Random situations for the sampling rules: options, a history, logits.

They are drawn piece by piece, so that a failing one shrinks to the few pieces that matter: `Case`
says in one line what it is about.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from mwc.runtime.decoder import Float32
from mwc.runtime.spec import TokenSpec

KINDS = ("zero", "flat", "normal", "sharp", "ties", "huge", "forbidden")
"""Kinds of logits: all 0; hardly different; as Whisper's; few likely; whole numbers; to 4e4; all
-inf but for the spikes."""

BALANCES = (None, 0.0, 1e-6, -1e-6, 1e-4, -1e-4, 0.01, -0.01, 1.0, -1.0)
"""Log-probability by which the allowed timestamps together are likelier than the best text."""


@dataclass(frozen=True)
class Case:
    """One row of one step.

    Attributes:
        model: name of a model; its vocabulary.
        with_timestamps: as the option.
        suppress_blank: as the option.
        suppress_tokens: as the option.
        max_initial_timestamp: as the option, seconds.
        n_previous: tokens of previous text in the prompt.
        n_prefix: tokens of the prefix.
        sampled: tokens sampled so far.
        kind: one of KINDS.
        seed: of the logits.
        shift: added to the timestamps' logits.
        spikes: (id, logit) set on top of them.
        balance: see BALANCES.
    """

    model: str
    with_timestamps: bool
    suppress_blank: bool
    suppress_tokens: tuple[int, ...]
    max_initial_timestamp: float | None
    n_previous: int
    n_prefix: int
    sampled: tuple[int, ...]
    kind: str
    seed: int
    shift: float
    spikes: tuple[tuple[int, float], ...]
    balance: float | None


def cases(tokens: dict[str, TokenSpec]) -> st.SearchStrategy[Case]:
    """Cases for models by name."""
    return st.one_of([_cases_of(name, tokens[name]) for name in sorted(tokens)])


def _cases_of(model: str, tokens: TokenSpec) -> st.SearchStrategy[Case]:
    begin, eot = tokens.timestamp_begin, tokens.eot
    text = st.integers(0, eot - 1)
    special = st.integers(eot + 1, begin - 1)
    time = st.one_of(
        st.integers(begin, begin + 3), st.integers(begin, begin + 1500), st.just(begin + 1500)
    )
    blank = st.sampled_from(tokens.begin_suppress_tokens)
    any_token = st.one_of(text, time, st.just(eot), special, blank)
    values = st.sampled_from([0.0, 5.0, 5.0, 20.0, -5.0, 4e4, float("-inf")])
    lists = [(-1,), (), (-1, 13), (eot,), (5, begin), (tokens.no_timestamps, 0), (begin + 1500,)]
    return st.builds(
        Case,
        model=st.just(model),
        with_timestamps=st.booleans() | st.just(True),
        suppress_blank=st.booleans(),
        suppress_tokens=st.sampled_from(lists) | st.lists(any_token, max_size=3).map(tuple),
        max_initial_timestamp=st.sampled_from([1.0, None, 0.0, 0.02, 30.0])
        | st.integers(0, 3000).map(lambda centiseconds: centiseconds / 100),
        n_previous=st.sampled_from([0, 0, 1, 223, 300]),
        n_prefix=st.integers(0, 3),
        sampled=st.lists(text | time | time | special, max_size=8).map(tuple) | st.just(()),
        kind=st.sampled_from(KINDS),
        seed=st.integers(0, 2**32 - 1),
        shift=st.sampled_from([0.0, -8.0, -4.0, 3.0, float("-inf")]),
        spikes=st.lists(st.tuples(any_token, values), max_size=4).map(tuple),
        balance=st.sampled_from(BALANCES),
    )


def make_logits(case: Case, n_vocab: int, tokens: TokenSpec) -> Float32:
    """The case's logits before balancing, float32 [n_vocab]."""
    generator = np.random.default_rng(case.seed)
    if case.kind == "zero":
        logits = np.zeros(n_vocab, np.float32)
    elif case.kind == "forbidden":
        logits = np.full(n_vocab, -np.inf, np.float32)
    else:
        logits = generator.standard_normal(n_vocab, np.float32)
        logits *= {"flat": 1e-3, "normal": 2.0, "sharp": 8.0, "ties": 2.0, "huge": 1e4}[case.kind]
        if case.kind == "ties":
            logits = np.round(logits)
    logits[tokens.timestamp_begin :] += np.float32(case.shift)
    for token, value in case.spikes:
        logits[token] = value
    return logits
