"""What `bench.py` times: every entry point that transcribing needs, on made-up data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mwc.runtime.decoder import (
    DRAFTED_STEPS,
    PIECE_SAMPLES,
    STEPS_AHEAD,
    STEPS_UNTIL_END,
    VAD_CONTEXT,
    VAD_FRAME,
    VAD_STATE_SHAPE,
    Float32,
    PrefillRow,
    StepBatch,
)
from mwc.runtime.floor import (
    Work,
    decode_work,
    encode_work,
    int8_speedup,
    log_mel_work,
    speech_work,
)
from mwc.runtime.rules import rule_state, suppress_mask
from mwc.runtime.session import Session
from mwc.runtime.spec import ITEM_BYTES

PROMPT = 4
"""Tokens of a prompt: without text before them there are two to four."""

POSITION = 50
"""Where in its row a timed step stands: half of what a window usually has."""

VAD_FRAMES = 938
"""Frames of the speech detector in 30 s."""

TOKEN = 1000
"""What rows hold, over and over."""

ROWS = (1, 8)
"""Rows that a timed step has, each with a window of its own."""

ROW_SLOTS = max(ROWS) + 1
"""Those of steps, and one for prompts."""

LOG_MEL = "log-mel, 30 s"
VAD = "speech detection, 30 s"
ENCODE = "encode with cross-KV, 1 window"
PREFILL = f"prefill, {PROMPT} tokens"


@dataclass(frozen=True)
class Case:
    """An entry point to time.

    Attributes:
        name: for people.
        run: calls it.
        work: what it has to do at least; None where that is not worked out.
        speedup: of its arithmetic over float32's.
        tokens: that come out; of drafted ones, where all are right.
    """

    name: str
    run: Callable[[], object]
    work: Work | None
    speedup: float = 1.0
    tokens: int = 0


def step_name(rows: int) -> str:
    """What a step of some rows is called."""
    return f"step, {rows} row" if rows == 1 else f"step, {rows} rows"


def steps_name(rows: int, steps: str) -> str:
    """What the steps that greedy decoding takes in one call are called; `steps`: how many."""
    return f"{steps} at once, {rows} row" + ("" if rows == 1 else "s")


def drafted_name(rows: int) -> str:
    """The same for steps that are drafted."""
    return steps_name(rows, f"{DRAFTED_STEPS} drafted steps")


def cases_of(session: Session) -> Iterator[Case]:
    """Every entry point that transcribing needs, with its least work.

    Where weights are int8 the arithmetic is too, on a CPU; other precisions compute in float32. A
    step of such models reads the upper halves of the token embedding's bytes and few lower ones, a
    prompt all of it: two bytes for each weight.
    """
    model = session.spec.model
    stored = session.stored
    item = stored.item_bytes("decoder.layers")
    cache = ITEM_BYTES[session.target.kv_dtype]
    int8 = session.target.precision == "int8"
    speedup = int8_speedup() if int8 else 1.0
    embedding = stored.item_bytes("decoder.embed_tokens")
    head, whole_head = (embedding / 2, 2 * embedding) if int8 else (embedding, embedding)
    rng = np.random.default_rng(0)
    samples = _noise(rng, 3, PIECE_SAMPLES)
    yield Case(LOG_MEL, lambda: session.log_mel(samples), log_mel_work(model))
    frames = _noise(rng, VAD_FRAMES, VAD_CONTEXT + VAD_FRAME)
    sequence = np.zeros((1, *VAD_STATE_SHAPE), np.float32), np.array([VAD_FRAMES], np.int32)
    yield Case(VAD, lambda: session.vad(frames, *sequence), speech_work(VAD_FRAMES))
    yield Case(
        ENCODE,
        encode_call(session),
        encode_work(model, stored.item_bytes("encoder"), cache),
        speedup,
    )
    yield Case(
        PREFILL,
        prefill_call(session, PROMPT),
        decode_work(model, item, cache, rows=1, new=PROMPT, head_item=whole_head),
        speedup,
        tokens=1,
    )
    for rows in ROWS:
        work = decode_work(model, item, cache, rows=rows, new=1, past=POSITION, head_item=head)
        yield Case(step_name(rows), step_call(session, rows, POSITION), work, speedup, tokens=rows)
    n_steps = STEPS_UNTIL_END if int8 else STEPS_AHEAD
    for rows in ROWS:
        steps = steps_call(session, rows, POSITION)
        if session.drafts:
            yield Case(drafted_name(rows), steps, None, tokens=rows * DRAFTED_STEPS)
            continue
        works = [
            decode_work(model, item, cache, rows=rows, new=1, past=POSITION + i, head_item=head)
            for i in range(n_steps)
        ]
        name = steps_name(rows, f"{n_steps} steps")
        yield Case(name, steps, sum(works, Work(0, 0)), speedup, tokens=rows * n_steps)


def _noise(rng: np.random.Generator, *shape: int) -> Float32:
    """Made-up samples, quiet enough not to be clipped."""
    return (rng.standard_normal(shape, np.float32) / 10).astype(np.float32)


def _made_up_window(session: Session) -> tuple[Any, Any, Any]:
    """Noise as `encode` takes it: raw log-mel, its maximum, its frames."""
    rng = np.random.default_rng(1)
    samples = _noise(rng, 3, PIECE_SAMPLES)
    log_mel = session.log_mel(samples).reshape(1, -1, session.spec.model.n_mels)
    return log_mel, log_mel.max(keepdims=True).reshape(1), np.array([log_mel.shape[1]])


def fill_slots(session: Session, rows: int = max(ROWS), position: int = POSITION) -> None:
    """Have something in the slots of `rows` windows and rows, up to a position.

    It is one token over and over: the next one is the same again, as likely as words are in a
    sentence, which costs an int8 model less than if many were as likely.
    """
    window = _made_up_window(session)
    tokens = session.spec.tokens
    prompt = (tokens.sot, tokens.no_timestamps, *[TOKEN] * (position - 2))
    suppress = suppress_mask(session.spec, with_timestamps=False)
    for slot in range(rows):
        session.encode(*window, np.array([slot]))
        state = rule_state([], False, tokens, None)
        session.prefill([PrefillRow(prompt, slot, slot, sot_index=0, rule_state=state)], suppress)


def encode_call(session: Session) -> Callable[[], object]:
    """Encoding one window, until it is done: it gives nothing that a GPU would be waited for."""
    window, slot = _made_up_window(session), np.zeros(1, np.int32)

    def run() -> None:
        session.encode(*window, slot)
        session.caller.synchronize()

    return run


def prefill_call(session: Session, length: int) -> Callable[[], object]:
    """A prompt of `length` tokens, in the row slot behind those of steps."""
    tokens = session.spec.tokens
    state = rule_state([], True, tokens, tokens.max_initial_timestamp_index)
    prompt = (tokens.sot_prev, *range(1000, 998 + length), tokens.sot)
    row = PrefillRow(prompt, row=max(ROWS), window=0, sot_index=length - 1, rule_state=state)
    suppress = suppress_mask(session.spec)
    return lambda: session.prefill([row], suppress)


def step_call(session: Session, rows: int, position: int) -> Callable[[], object]:
    """A step of `rows` rows, each with a window of its own; see `fill_slots`."""
    batch, suppress = _step_batch(session, rows, position)
    return lambda: session.step(batch, suppress)


def steps_call(session: Session, rows: int, position: int) -> Callable[[], object]:
    """The steps of one call, from the same rows on."""
    batch, suppress = _step_batch(session, rows, position)
    return lambda: session.steps(batch, suppress)


def _step_batch(session: Session, rows: int, position: int) -> tuple[StepBatch, Float32]:
    """Without timestamps, after which there is less to choose from; and what is suppressed."""
    state = rule_state([TOKEN, TOKEN], False, session.spec.tokens, None)
    slots = np.arange(rows, dtype=np.int32)
    batch = StepBatch(
        tokens=np.full(rows, TOKEN, np.int32),
        rows=slots,
        positions=np.full(rows, position, np.int32),
        windows=slots,
        rule_states=np.repeat(state[None], rows, axis=0),
    )
    return batch, suppress_mask(session.spec, with_timestamps=False)
