"""The entry points together: prompts and steps, rows and windows, padding, alignment, refusals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import steps_one_by_one
from numpy_decoder import NumpyDecoder
from tiny_model import speech_like

from mwc.runtime import graph_caller, host_memory
from mwc.runtime.artifact import map_weights, open_artifact
from mwc.runtime.decoder import (
    DRAFTED_STEPS,
    MOST_AHEAD,
    PIECE_SAMPLES,
    Float32,
    PrefillRow,
    StepBatch,
)
from mwc.runtime.device_graph import DeviceGraph
from mwc.runtime.errors import DeviceError, MemoryShortage, OptionError
from mwc.runtime.rules import choose, log_softmax, rule_state, suppress_mask
from mwc.runtime.session import Session
from mwc.runtime.slot_memory import cache_bytes
from mwc.runtime.step_calls import StepCalls

LIMIT = 50


@dataclass
class Window:
    """What `encode` and `trace` take of one window."""

    log_mel: Float32
    log_mel_max: Float32
    n_frames: Any


@pytest.fixture(scope="module")
def session(random_artifact: Path) -> Session:
    return Session(open_artifact(random_artifact), n_rows=4, n_windows=2)


def window_of(session: Session, seed: int, n_frames: int = 700) -> Window:
    """Raw log-mel of a made-up sound, float32 [1, 3000, n_mels]."""
    sound = np.pad(speech_like(11.0, seed), (0, PIECE_SAMPLES))[:PIECE_SAMPLES]
    pieces = session.log_mel(np.stack([sound, 0.3 * sound[::-1], 0.1 * sound]))
    log_mel = pieces.reshape(1, 3000, -1)
    return Window(log_mel, log_mel.max(keepdims=True).reshape(1), np.array([n_frames]))


def encode(session: Session, window: Window, slot: int) -> None:
    session.encode(window.log_mel, window.log_mel_max, window.n_frames, np.array([slot]))


@pytest.fixture(scope="module", autouse=True)
def _windows(session: Session) -> None:
    encode(session, window_of(session, 0), 0)
    encode(session, window_of(session, 1, 3000), 1)


@dataclass
class Row:
    """A row being decoded greedily: where it lies, and what it has given so far."""

    session: Session
    prompt: list[int]
    slot: int
    window: int
    with_timestamps: bool

    def __post_init__(self) -> None:
        self.sampled: list[int] = []
        self.logprobs: list[float] = []

    @property
    def state(self) -> Any:
        return rule_state(self.sampled, self.with_timestamps, self.session.spec.tokens, LIMIT)

    @property
    def position(self) -> int:
        return len(self.prompt) + len(self.sampled) - 1

    def take(self, token: Any, logprob: Any) -> None:
        self.sampled.append(int(token))
        self.logprobs.append(float(logprob))


def mask(session: Session) -> Float32:
    return suppress_mask(session.spec)


def prefill(rows: Sequence[Row]) -> Any:
    session = rows[0].session
    given = [PrefillRow(tuple(r.prompt), r.slot, r.window, 0, r.state) for r in rows]
    result = session.prefill(given, mask(session))
    for row, token, logprob in zip(rows, result.tokens, result.logprobs, strict=True):
        row.take(token, logprob)
    return result


def batch_of(rows: Sequence[Row]) -> StepBatch:
    return StepBatch(
        tokens=np.array([row.sampled[-1] for row in rows], np.int32),
        rows=np.array([row.slot for row in rows], np.int32),
        positions=np.array([row.position for row in rows], np.int32),
        windows=np.array([row.window for row in rows], np.int32),
        rule_states=np.stack([row.state for row in rows]),
    )


def step(rows: Sequence[Row]) -> None:
    session = rows[0].session
    choice = session.step(batch_of(rows), mask(session))
    for row, token, logprob in zip(rows, choice.tokens, choice.logprobs, strict=True):
        row.take(token, logprob)


def prompts(session: Session) -> list[list[int]]:
    """Prompts of several lengths; the last one with previous text before sot."""
    tokens = session.spec.tokens
    sequence = [tokens.sot, tokens.languages[0][1], tokens.transcribe]
    text = np.random.default_rng(5).integers(0, tokens.eot, 40).tolist()
    return [sequence, [*sequence, *text[:1]], [*sequence, *text[:15]], [*sequence, *text]]


def alone(
    session: Session, prompt: list[int], window: int, n: int, slot: int = 0, timed: bool = True
) -> Row:
    """A row decoded by itself: n tokens."""
    row = Row(session, prompt, slot, window, timed)
    prefill([row])
    for _ in range(n - 1):
        step([row])
    return row


def test_new_caches_keep_what_the_first_prompt_writes(
    session: Session, random_artifact: Path
) -> None:
    """Caches are made at first use: their zeros must be there before a graph writes to them."""
    prompt = prompts(session)[0]
    sampled = alone(session, prompt, 0, 6).sampled
    for _ in range(12):
        fresh = Session(open_artifact(random_artifact), n_rows=4, n_windows=2)
        encode(fresh, window_of(session, 0), 0)
        assert alone(fresh, prompt, 0, 6).sampled == sampled


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("which", range(4))
def test_prefill_and_steps_choose_what_forced_logits_say(
    session: Session, which: int, timed: bool
) -> None:
    prompt = prompts(session)[which]
    row = alone(session, prompt, 1, 40, slot=2, timed=timed)
    logits = session.logits(prompt + row.sampled[:-1], window=1, row=3)[len(prompt) - 1 :]
    assert len(set(row.sampled)) > 5
    sampled: list[int] = []
    for logit, token, logprob in zip(logits, row.sampled, row.logprobs, strict=True):
        state = rule_state(sampled, timed, session.spec.tokens, LIMIT)
        choice = choose(logit[None], mask(session), state[None], session.spec)
        assert choice.tokens[0] == token
        assert choice.logprobs[0] == pytest.approx(logprob, abs=1e-4)
        sampled.append(token)


@pytest.mark.parametrize("timed", [True, False])
def test_several_steps_are_those_of_single_ones(session: Session, timed: bool) -> None:
    """Rows at different positions; their caches go on alike."""
    ahead, single = (
        [Row(session, prompt, i, i % 2, timed) for i, prompt in enumerate(prompts(session))]
        for _ in range(2)
    )
    prefill(ahead)
    lengths = set()
    for _ in range(12):
        chosen = session.steps(batch_of(ahead), mask(session))
        assert chosen.candidates.shape == (len(ahead), DRAFTED_STEPS)
        assert chosen.lengths is not None
        lengths |= set(chosen.lengths.tolist())
        for i, row in enumerate(ahead):
            for j in range(chosen.lengths[i]):
                row.take(chosen.candidates[i, j], chosen.candidate_logprobs[i, j])
    assert min(lengths) >= 1
    assert len(lengths) > 1  # some of what was drafted was right, some was not
    prefill(single)
    for _ in range(max(len(row.sampled) for row in ahead) - 1):
        step(single)
    for ours, theirs in zip(ahead, single, strict=True):
        n = len(ours.sampled)
        assert ours.sampled == theirs.sampled[:n]
        assert ours.logprobs == theirs.logprobs[:n]


def test_steps_ahead_are_those_of_the_oracle(session: Session) -> None:
    """Again and again: memory reused too soon would show now and then only."""
    rows = [Row(session, prompt, i, 1, True) for i, prompt in enumerate(prompts(session))]
    prefill(rows)
    theirs = steps_one_by_one(session, batch_of(rows), mask(session))
    first = session.steps(batch_of(rows), mask(session))
    for _ in range(20):
        ours = session.steps(batch_of(rows), mask(session))
        assert ours.lengths is not None
        assert np.array_equal(ours.lengths, first.lengths)
        for i, length in enumerate(np.minimum(ours.lengths, theirs.candidates.shape[1])):
            right = (i, slice(0, length))
            assert np.array_equal(ours.candidates[right], theirs.candidates[right])
            assert np.array_equal(ours.candidate_logprobs[right], theirs.candidate_logprobs[right])


@pytest.mark.parametrize("raised", [-0.001, 0.003])
def test_a_draft_that_ends_before_the_model_does_is_only_wrong(
    session: Session, monkeypatch: pytest.MonkeyPatch, raised: float
) -> None:
    """The end is made about as probable as what the model says, so that rounding decides."""
    eot = session.spec.tokens.eot
    fed: list[Any] = []
    run = StepCalls.run

    def kept(*given: Any) -> Any:
        outputs = run(*given)
        fed.append(outputs.get("fed"))
        return outputs

    monkeypatch.setattr(StepCalls, "run", kept)
    too_soon = together = 0
    for i, first in enumerate(np.random.default_rng(7).integers(0, eot, 30)):
        row = Row(session, prompts(session)[i % 4], 0, i % 2, False)
        prefill([row])
        row.sampled = [int(first)]
        batch, masks = batch_of([row]), mask(session)
        said = steps_one_by_one(session, batch, masks).candidates[0]
        forced = [*row.prompt, *row.sampled, *said[:-1].tolist()]
        logits = session.logits(forced, row.window, row=1)[len(row.prompt) :] + masks[0]
        masks[:, eot] += (logits.max(axis=1) - logits[:, eot]).min() + np.float32(raised)
        theirs = steps_one_by_one(session, batch, masks)
        ours = session.steps(batch, masks)
        assert ours.lengths is not None
        n = int(ours.lengths[0])
        right = slice(0, min(n, theirs.candidates.shape[1]))
        assert np.array_equal(ours.candidates[0, right], theirs.candidates[0, right])
        logprobs = theirs.candidate_logprobs[0, right]
        assert np.array_equal(ours.candidate_logprobs[0, right], logprobs)
        drafted = fed[-1][0]
        ends = np.flatnonzero(drafted == eot)
        if len(ends):
            assert (drafted[ends[0] :] == eot).all()
            ended = ours.candidates[0, n - 1] == eot
            together += int(ended)
            too_soon += int(not ended)
            if not ended and n < theirs.candidates.shape[1]:
                row.sampled += ours.candidates[0, :n].tolist()
                after = session.steps(batch_of([row]), masks)
                assert after.candidates[0, 0] == theirs.candidates[0, n]
                assert after.candidate_logprobs[0, 0] == theirs.candidate_logprobs[0, n]
    assert (together if raised > 0 else too_soon) > 3, (too_soon, together)


def test_steps_do_not_go_beyond_the_context(session: Session) -> None:
    row = Row(session, [session.spec.tokens.sot] * 440, 0, 0, False)
    prefill([row])
    batch = batch_of([row])
    last = session.spec.model.n_text_ctx - MOST_AHEAD
    session.steps(replace(batch, positions=np.array([last], np.int32)), mask(session))
    with pytest.raises(IndexError, match="position"):
        session.steps(replace(batch, positions=np.array([last + 1], np.int32)), mask(session))


def test_prefill_reads_probabilities_at_sot(session: Session) -> None:
    tokens = session.spec.tokens
    text = [tokens.sot_prev, 5, 6, 7]
    prompt = [*text, tokens.sot, tokens.languages[3][1], tokens.transcribe]
    state = rule_state([], True, tokens, LIMIT)
    row = PrefillRow(tuple(prompt), 1, 0, len(text), state)
    result = session.prefill([row], mask(session))
    at_sot = session.logits(prompt, window=0)[len(text)]
    probabilities = np.exp(log_softmax(at_sot))
    assert result.no_speech_probs[0] == pytest.approx(probabilities[tokens.no_speech], rel=1e-3)
    languages = np.exp(log_softmax(at_sot[[token for _, token in tokens.languages]]))
    np.testing.assert_allclose(result.language_probs[0], languages, rtol=1e-3, atol=1e-6)


def test_a_row_is_the_same_in_any_slot(session: Session) -> None:
    rows = [alone(session, prompts(session)[2], 1, 12, slot=slot) for slot in range(4)]
    for row in rows[1:]:
        assert row.sampled == rows[0].sampled
        assert row.logprobs == rows[0].logprobs


def test_rows_at_staggered_positions_do_not_influence_each_other(session: Session) -> None:
    """Four rows of both windows: two start together, the others later, one while others step."""
    slots = (3, 0, 2, 1)
    windows = (1, 0, 0, 1)
    rows = [
        Row(session, prompt, slot, window, with_timestamps=window == 0)
        for prompt, slot, window in zip(prompts(session), slots, windows, strict=True)
    ]
    prefill(rows[:2])
    for _ in range(5):
        step(rows[:2])
    prefill([rows[3]])
    for _ in range(3):
        step([rows[3], rows[1], rows[0]])
    prefill([rows[2]])
    for _ in range(9):
        step(rows)
    for row in rows:
        n = len(row.sampled)
        expected = alone(session, row.prompt, row.window, n, row.slot, row.with_timestamps)
        assert row.sampled == expected.sampled
        assert row.logprobs == expected.logprobs


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


@pytest.mark.parametrize(("length", "n_shared"), [(1, 0), (12, 0), (30, 0), (30, 3), (30, 17)])
@pytest.mark.parametrize("on_host", [True, False])
def test_a_copied_row_goes_on_as_its_source_does(
    session: Session,
    length: int,
    n_shared: int,
    on_host: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Into two slots that held other rows; the source goes on as if nothing had been copied.

    With `n_shared` one of the others begins with as many of the source's tokens, which stay.
    """
    if not on_host:
        monkeypatch.setattr(session.caller, "host_caches", lambda name: {})
    prompt = prompts(session)[2]
    expected = alone(session, prompt, 1, length + 6)
    for slot in (0, 3):
        alone(session, prompts(session)[3], 0, 8, slot=slot)
    start = 0
    if n_shared:
        other = alone(session, prompt, 1, n_shared, slot=3)
        start = other.position
        other.sampled[-1] = 7
        step([other])
    source = alone(session, prompt, 1, length, slot=2)
    session.copy_rows(ints(2, 2), ints(3, 0), ints(start, 0), ints(*[source.position] * 2))
    rows = [source, *(Row(session, prompt, slot, 1, True) for slot in (3, 0))]
    for row in rows[1:]:
        row.sampled, row.logprobs = source.sampled[:], source.logprobs[:]
    step(rows[1:])
    for _ in range(5):
        step(rows)
    step([source])
    for row in rows:
        assert row.sampled == expected.sampled
        assert row.logprobs == expected.logprobs


def test_candidates_and_samples_are_those_of_the_rules(session: Session) -> None:
    prompt = tuple(prompts(session)[1])
    row = alone(session, list(prompt), 0, 3)
    logits = session.logits([*prompt, *row.sampled], window=0, row=3)
    first, fed = len(prompt) - 1, len(prompt) + 2
    start = rule_state([], True, session.spec.tokens, LIMIT)
    for temperature, uniform, k in [(0.0, 0.0, 6), (0.8, 0.3, 1), (1.0, 0.9, 2)]:
        given = {
            "temperatures": np.array([temperature], np.float32),
            "uniforms": np.array([uniform], np.float32),
        }
        prefilled = PrefillRow(prompt, 1, 0, 0, start, temperature, uniform)
        batch = StepBatch(
            ints(row.sampled[-1]), ints(0), ints(fed), ints(0), row.state[None], **given
        )
        for ours, at, state in [
            (session.prefill([prefilled], mask(session), k).choice, first, start),
            (session.step(batch, mask(session), k), fed, row.state),
        ]:
            theirs = choose(
                logits[at : at + 1], mask(session), state[None], session.spec,
                n_candidates=k, **given,
            )  # fmt: skip
            assert ours.candidates.tolist() == theirs.candidates.tolist()
            np.testing.assert_allclose(
                ours.candidate_logprobs, theirs.candidate_logprobs, atol=1e-4
            )


def test_copies_that_cannot_be_made_are_refused(session: Session) -> None:
    for source, target in ((4, 0), (-1, 0), (0, 4), (0, -1)):
        with pytest.raises(IndexError, match="row"):
            session.copy_rows(ints(source), ints(target), ints(0), ints(5))
    for position in (-1, 449):
        with pytest.raises(IndexError, match="end"):
            session.copy_rows(ints(0), ints(1), ints(0), ints(position))
        with pytest.raises(IndexError, match="start"):
            session.copy_rows(ints(0), ints(1), ints(position), ints(5))
    with pytest.raises(ValueError, match="distinct"):
        session.copy_rows(ints(0, 1), ints(2, 2), ints(0, 0), ints(5, 5))
    for sources, targets in (((0,), (0,)), ((0, 1), (1, 2))):
        starts, ends = (ints(*[position] * len(sources)) for position in (0, 5))
        with pytest.raises(ValueError, match="cannot be copied onto"):
            session.copy_rows(ints(*sources), ints(*targets), starts, ends)
    with pytest.raises(ValueError, match="targets has shape"):
        session.copy_rows(ints(0), ints(1, 2), ints(0), ints(5))


def test_many_prompts_run_in_groups(random_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(open_artifact(random_artifact), n_windows=2, n_rows=4)
    encode(session, window_of(session, 0), 0)
    encode(session, window_of(session, 1), 1)
    given = [
        PrefillRow(
            tuple(prompt), slot, slot % 2, 0, Row(session, prompt, slot, slot % 2, True).state
        )
        for slot, prompt in enumerate(prompts(session))
    ]
    at_once = session.prefill(given, mask(session), 2)
    calls: list[int] = []
    run = session.caller.run

    def counted(name: str, inputs: dict[str, Any], **options: Any) -> Any:
        calls.append(len(inputs["tokens"]))
        return run(name, inputs, **options)

    monkeypatch.setattr(session.caller, "run", counted)
    monkeypatch.setattr("mwc.runtime.session.PROMPT_TOKENS", 20)
    in_groups = session.prefill(given, mask(session), 2)
    assert calls == [7, 18, 43]  # of 3, 4, 18 and 43 tokens
    assert np.array_equal(in_groups.choice.candidates, at_once.choice.candidates)
    for attribute in ("no_speech_probs", "language_probs"):
        assert np.array_equal(getattr(in_groups, attribute), getattr(at_once, attribute))
    assert np.array_equal(in_groups.choice.candidate_logprobs, at_once.choice.candidate_logprobs)
    with pytest.raises(ValueError, match="distinct"):
        session.prefill([given[0], given[0]], mask(session))


def test_more_slots_can_be_had(random_artifact: Path, session: Session) -> None:
    small = Session(open_artifact(random_artifact))
    encode(small, window_of(small, 0), 0)
    expected = alone(session, prompts(session)[1], 0, 8)
    small.reserve(n_windows=1, n_rows=3)
    assert (small.n_windows, small.n_rows) == (1, 3)
    row = alone(small, prompts(small)[1], 0, 8, slot=2)  # the window is still there
    assert row.sampled == expected.sampled
    small.reserve(n_windows=1, n_rows=2)  # there are as many already: nothing is lost
    assert small.n_rows == 3
    step([row])
    assert row.sampled == alone(session, prompts(session)[1], 0, 9).sampled
    small.reserve(n_windows=2, n_rows=1)
    assert (small.n_windows, small.n_rows) == (2, 3)
    encode(small, window_of(small, 0), 1)
    assert alone(small, prompts(small)[1], 1, 8, slot=1).sampled == expected.sampled


def test_steps_from_copies_of_their_inputs(
    random_artifact: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does, but for the capture: a CPU has no device graphs."""
    monkeypatch.setattr(DeviceGraph, "run", DeviceGraph._execute)
    prompt = prompts(session)[1]
    encode(session, window_of(session, 0), 0)
    expected = alone(session, prompt, 0, 8).sampled
    copying = Session(open_artifact(random_artifact), n_rows=2)
    copying._steps = StepCalls(copying.caller, replays=True)
    encode(copying, window_of(copying, 0), 0)
    for _ in range(2):  # with masks of their own: they are copied into the buffer that is known
        assert alone(copying, prompt, 0, 8).sampled == expected
    (kept,) = copying.device_graphs.values()
    copying.reserve(n_windows=2, n_rows=3)
    encode(copying, window_of(copying, 0), 1)
    assert alone(copying, prompt, 1, 8, slot=2).sampled == expected
    (moved,) = copying.device_graphs.values()
    assert moved is not kept  # the caches are others


def test_memory_that_caches_hold(random_artifact: Path) -> None:
    """Those that have been made, and no more: what is not there yet has to fit."""
    caller = Session(open_artifact(random_artifact), n_windows=2, n_rows=3).caller
    assert caller.held_bytes() == 0
    specs = [spec for signature, _ in caller.graphs.values() for spec in signature.inputs]
    of_windows = next(spec for spec in specs if spec.mutable and "windows" in spec.shape)
    of_rows = next(spec for spec in specs if spec.mutable and "row_slots" in spec.shape)
    n_bytes = caller.cache(of_windows).to_numpy().nbytes
    assert caller.held_bytes() == n_bytes
    caller.cache(of_rows)
    assert caller.held_bytes() > n_bytes
    caller.resize({"windows": 2, "row_slots": 30})
    signatures = [signature for signature, _ in caller.graphs.values()]
    assert caller.held_bytes() == cache_bytes(signatures, caller.sizes)


def test_device_graphs_are_let_go(random_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those used longest ago when there are too many, all of them before their caches go."""
    released: list[DeviceGraph] = []
    monkeypatch.setattr(DeviceGraph, "run", DeviceGraph._execute)
    monkeypatch.setattr(DeviceGraph, "release", lambda graph: released.append(graph))
    monkeypatch.setattr("mwc.runtime.step_calls.ROWS_KEPT", 3)
    copying = Session(open_artifact(random_artifact), n_rows=3)
    copying._steps = StepCalls(copying.caller, replays=True)
    encode(copying, window_of(copying, 0), 0)
    rows = [Row(copying, prompts(copying)[1], slot, 0, True) for slot in range(3)]
    prefill(rows)
    for n in (1, 2, 1):
        step(rows[:n])
    assert [key[1] for key in copying.device_graphs] == [2, 1]
    one, two = copying.device_graphs.values()
    step(rows)
    assert released == [one, two]
    assert [key[1] for key in copying.device_graphs] == [3]
    copying.reserve(n_windows=1, n_rows=3)  # there are as many
    assert copying.device_graphs
    (three,) = copying.device_graphs.values()
    copying.reserve(n_windows=1, n_rows=4)
    assert released == [one, two, three]
    assert not copying.device_graphs


def test_slots_that_do_not_fit_are_refused(
    random_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Session(open_artifact(random_artifact))
    encode(small, window_of(small, 0), 0)
    expected = alone(small, prompts(small)[1], 0, 8).sampled
    monkeypatch.setattr(graph_caller, "free_memory", lambda: 100 << 20)
    with pytest.raises(MemoryShortage, match=r"100 windows and 1600 rows .* need .* 0\.1 GiB is"):
        small.reserve(n_windows=100, n_rows=1600)
    with pytest.raises(MemoryShortage, match=r"100 windows and 1600 rows .* need .* 0\.1 GiB is"):
        small.check_memory(n_windows=100, n_rows=1600)
    small.check_memory(n_windows=2, n_rows=2)
    small.check_memory(n_windows=1, n_rows=1)
    assert (small.n_windows, small.n_rows) == (1, 1)
    assert alone(small, prompts(small)[1], 0, 8).sampled == expected  # all is as it was
    small.reserve(n_windows=2, n_rows=2)
    assert small.n_rows == 2


def test_memory_that_was_counted_on_and_is_not_given(
    random_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(open_artifact(random_artifact))
    encode(session, window_of(session, 0), 0)
    expected = alone(session, prompts(session)[1], 0, 8).sampled
    zeros, most = host_memory.zeros, 4 * session.caller.held_bytes()

    def given(n_bytes: int) -> Any:
        if n_bytes > most:
            raise MemoryShortage("The system does not give so much")
        return zeros(n_bytes)

    monkeypatch.setattr(host_memory, "zeros", given)
    for n_windows, n_rows in [(100, 1), (1, 1600), (100, 1600)]:
        with pytest.raises(MemoryShortage, match="does not give"):
            session.reserve(n_windows, n_rows)
        assert (session.n_windows, session.n_rows) == (1, 1)
        session.reserve(n_windows=1, n_rows=1)
        encode(session, window_of(session, 0), 0)  # less does
        assert alone(session, prompts(session)[1], 0, 8).sampled == expected
    session.reserve(n_windows=2, n_rows=2)
    encode(session, window_of(session, 0), 1)
    assert alone(session, prompts(session)[1], 1, 8).sampled == expected


def test_a_model_is_refused_where_no_window_fits(
    random_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_caller, "free_memory", lambda: 1 << 10)
    with pytest.raises(MemoryShortage, match=r"1 window and 1 row at once need .* not even one"):
        Session(open_artifact(random_artifact))


class Lost:
    """A result that a GPU did not get to."""

    def to_numpy(self) -> None:
        raise RuntimeError("the bus is off\nmore of it")


@pytest.mark.parametrize("late", [False, True], ids=["when called", "when fetched"])
def test_a_device_that_fails(
    random_artifact: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    small = Session(open_artifact(random_artifact))
    encode(small, window_of(small, 0), 0)
    row = alone(small, prompts(small)[1], 0, 2)

    runs: dict[str, Callable[[], object]] = {
        "log_mel": lambda: window_of(small, 0),
        "step": lambda: step([row]),
    }
    for name, run in runs.items():
        results = [Lost() for _ in small.caller.graphs[name][0].outputs]

        def fail(execute: object, arguments: object, results: list[Lost] = results) -> list[Lost]:
            if not late:
                results[0].to_numpy()
            return results

        with monkeypatch.context() as patch:
            patch.setattr(graph_caller.scheduling, "call", fail)
            with pytest.raises(DeviceError, match=f"failed in {name}: the bus is off; load the"):
                run()


def test_prompts_together_are_as_prompts_alone(session: Session) -> None:
    together = [Row(session, p, slot, slot % 2, True) for slot, p in enumerate(prompts(session))]
    result = prefill(together)
    for i, row in enumerate(together):
        single = Row(session, row.prompt, row.slot, row.window, True)
        expected = prefill([single])
        assert result.tokens[i] == expected.tokens[0]
        assert result.logprobs[i] == expected.logprobs[0]
        assert result.no_speech_probs[i] == expected.no_speech_probs[0]
        assert np.array_equal(result.language_probs[i], expected.language_probs[0])


def test_windows_encoded_together_are_as_windows_alone(session: Session) -> None:
    first, second = window_of(session, 0), window_of(session, 1, 3000)
    expected = [session.cross_kv(0), session.cross_kv(1)]
    for slot in range(2):
        window_of(session, slot, 6000)  # what is in the slots now is not what is expected there
    session.encode(
        np.concatenate([second.log_mel, first.log_mel]),
        np.concatenate([second.log_mel_max, first.log_mel_max]),
        np.concatenate([second.n_frames, first.n_frames]),
        np.array([1, 0]),
    )
    for slot in range(2):
        for (keys, values), (k, v) in zip(expected[slot], session.cross_kv(slot), strict=True):
            assert np.array_equal(keys, k)
            assert np.array_equal(values, v)


def test_encoding_one_window_leaves_the_other(session: Session) -> None:
    before = session.cross_kv(1)
    encode(session, window_of(session, 7), 0)
    for (keys, values), (k, v) in zip(before, session.cross_kv(1), strict=True):
        assert np.array_equal(keys, k)
        assert np.array_equal(values, v)
    encode(session, window_of(session, 0), 0)


def test_cross_keys_and_values_are_the_encoders_output_projected(session: Session) -> None:
    window = window_of(session, 0)
    encoder = session.trace(window.log_mel, window.log_mel_max, window.n_frames)["encoder"][0]
    weights = map_weights(session._artifact, "f32")
    for layer, (keys, values) in enumerate(session.cross_kv(0)):
        name = f"decoder.layers.{layer}.encoder_attn.kv"
        kv = encoder.astype(np.float64) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        k, v = (part.reshape(1500, -1, 64).swapaxes(0, 1) for part in np.split(kv, 2, axis=-1))
        np.testing.assert_allclose(keys, k, atol=1e-4)
        np.testing.assert_allclose(values, v, atol=1e-4)


@pytest.mark.parametrize("n_frames", [0, 1, 700, 2999, 3000])
def test_frames_past_the_audio_are_zero_whatever_they_hold(session: Session, n_frames: int) -> None:
    window = window_of(session, 0, n_frames)
    trace = session.trace(window.log_mel, window.log_mel_max, window.n_frames)
    scaled = (np.maximum(window.log_mel, window.log_mel_max - 8) + 4) / 4
    np.testing.assert_allclose(trace["log_mel"][0, :n_frames], scaled[0, :n_frames], atol=1e-6)
    assert not trace["log_mel"][0, n_frames:].any()

    spoilt = window.log_mel.copy()
    spoilt[:, n_frames:] = np.nan
    again = session.trace(spoilt, window.log_mel_max, window.n_frames)
    assert np.array_equal(again["encoder"], trace["encoder"])


def test_the_maximum_of_the_whole_file_sets_the_floor(session: Session) -> None:
    window = window_of(session, 0)
    louder = window.log_mel_max + 3
    trace = session.trace(window.log_mel, louder, window.n_frames)
    scaled = (np.maximum(window.log_mel, louder - 8) + 4) / 4
    np.testing.assert_allclose(trace["log_mel"][0, :700], scaled[0, :700], atol=1e-6)


def test_align_and_logits_are_those_of_numpy(session: Session) -> None:
    tokens = prompts(session)[3]
    scores, logits = session.align(tokens, window=1, row=2)
    decoder = NumpyDecoder(session._artifact, session.cross_kv(1))
    expected_scores, expected_logits = decoder.run(tokens)
    heads = session.spec.tokens.alignment_heads
    assert scores.shape == (len(heads), len(tokens), 1500)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4 * np.abs(scores).max())
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4 * np.abs(logits).max())
    assert np.array_equal(logits, session.logits(tokens, window=1))


def test_a_full_context_runs_and_one_more_does_not(session: Session) -> None:
    tokens = np.random.default_rng(0).integers(0, session.spec.tokens.eot, 448).tolist()
    assert np.isfinite(session.logits(tokens, window=0)).all()
    with pytest.raises(ValueError, match="449 tokens"):
        session.logits([*tokens, 1], window=0)
    with pytest.raises(ValueError, match="0 tokens"):
        session.logits([], window=0)


def test_slots_outside_the_caches_are_refused(session: Session) -> None:
    row = alone(session, prompts(session)[0], 0, 2)
    state = row.state[None]

    def step_at(slot: int, position: int, window: int, token: int = 5) -> None:
        given = (np.array([value], np.int32) for value in (token, slot, position, window))
        session.step(StepBatch(*given, state), mask(session))

    for bad in ((4, 5, 0), (-1, 5, 0), (0, 448, 0), (0, -1, 0), (0, 5, 2), (0, 5, -1)):
        with pytest.raises(IndexError, match="is outside the"):
            step_at(*bad)
    for token in (-1, session.spec.model.n_vocab):
        with pytest.raises(IndexError, match="token"):
            step_at(0, 5, 0, token)
    for slot, window in ((4, 0), (-1, 0), (0, 2), (0, -1)):
        with pytest.raises(IndexError, match="is outside the"):
            session.logits([1, 2], window=window, row=slot)
    for bad_slot in (2, -1):
        with pytest.raises(IndexError, match="window"):
            encode(session, window_of(session, 0), bad_slot)


def test_rows_of_one_call_lie_in_distinct_slots(session: Session) -> None:
    rows = [Row(session, prompts(session)[0], 1, 0, True) for _ in range(2)]
    with pytest.raises(ValueError, match="distinct"):
        prefill(rows)
    for row in rows:
        row.sampled = [1]
    with pytest.raises(ValueError, match="distinct"):
        step(rows)


def test_sot_is_in_the_prompt(session: Session) -> None:
    row = Row(session, prompts(session)[0], 1, 0, True)
    for index in (-1, 3):
        with pytest.raises(IndexError, match="sot_index"):
            session.prefill([PrefillRow(tuple(row.prompt), 1, 0, index, row.state)], mask(session))


def test_arrays_of_another_shape_are_refused(session: Session) -> None:
    window = window_of(session, 0)
    with pytest.raises(ValueError, match="log_mel"):
        encode(session, Window(window.log_mel[:, :2999], window.log_mel_max, window.n_frames), 0)
    with pytest.raises(ValueError, match="log_mel"):
        encode(session, Window(window.log_mel[0], window.log_mel_max, window.n_frames), 0)
    with pytest.raises(ValueError, match="windows has shape"):
        session.encode(window.log_mel, window.log_mel_max, window.n_frames, np.array([0, 1]))
    with pytest.raises(ValueError, match="samples"):
        session.log_mel(np.zeros((1, 160000), np.float32))


@pytest.mark.parametrize("sizes", [{"n_rows": 0}, {"n_windows": 0}, {"n_windows": -1}])
def test_there_is_at_least_one_slot(random_artifact: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        Session(open_artifact(random_artifact), **sizes)
