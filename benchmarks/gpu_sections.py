"""What `gpu.py` measures of a session: every function takes a `Run` and returns JSON values."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mwc.runtime import load
from mwc.runtime.artifact import open_artifact
from mwc.runtime.bench_cases import POSITION
from mwc.runtime.decoder import (
    DRAFTED_STEPS,
    PIECE_SAMPLES,
    STEPS_AHEAD,
    VAD_CONTEXT,
    VAD_FRAME,
    VAD_STATE_SHAPE,
)
from mwc.runtime.device_graph import DeviceGraph
from mwc.runtime.floor import Rates, Work, decode_work, encode_work, log_mel_work
from mwc.runtime.rules import rule_state, suppress_mask
from mwc.runtime.session import Session
from mwc.runtime.spec import ITEM_BYTES, SAMPLE_RATE

WARM_UP, LEAST_RUNS, SECONDS = 3, 6, 0.4
"""Runs that do not count; then as many as fit into so many seconds, at least so many."""

FRAMES_OF_A_WINDOW = -(-30 * SAMPLE_RATE // VAD_FRAME)
"""Of the speech detector."""

SEED = 20
"""Of the random data: never zeros, which GPUs are quicker with."""


@dataclass(frozen=True)
class Run:
    """What to measure.

    Attributes:
        artifacts: the models, compiled for the device.
        checkpoint: what the first was made from, or none.
        device: as for `load`.
        rows: batch sizes.
        audio: a clip of speech.
        clips: more clips, for what must not depend on company and for the soak.
        tokens: how many are decoded of a window of 30 s.
        rates: the device's arithmetic and bandwidth at most, for the floors; None for no floors.
        soak_seconds: how long the soak lasts.
    """

    artifacts: tuple[Path, ...]
    checkpoint: str | None
    device: str
    rows: tuple[int, ...]
    audio: Path
    clips: tuple[Path, ...]
    tokens: int
    rates: Rates | None
    soak_seconds: float


def probe(run: Run) -> dict[str, Any]:
    """The device and what it has; every artifact loads on it and says something."""
    found: dict[str, Any] = {}
    for path in run.artifacts:
        begin = time.perf_counter()
        model = load(path, device=run.device)
        loaded = time.perf_counter() - begin
        device = model.session.caller.device
        found[path.name] = {
            "target": model.target,
            "device": device.api if device.is_host else f"{device.api} {device.model_name}",
            "memory": {name: int(value) for name, value in device.stats.items()},
            "load seconds": round(loaded, 3),
            "text": model.transcribe(run.audio, temperature=0.0).text,
        }
        del model, device
        gc.collect()
    return found


def parity(run: Run) -> dict[str, Any]:
    """Every stage and the greedy tokens of the first artifact against its checkpoint."""
    from mwc.compiler import verify_artifact

    if run.checkpoint is None:
        return {"left out": "no checkpoint was given"}
    path = run.artifacts[0]
    report = verify_artifact(path, run.checkpoint)
    return {
        path.name: {
            "targets": report.targets,
            "reference": report.reference,
            "ok": report.ok,
            "tokens equal": f"{report.tokens_equal} of {report.tokens_compared}",
            "errors": {s.name: (s.max_abs, s.max_rel, s.bound) for s in report.stages},
        }
    }


def encoder(run: Run) -> dict[str, Any]:
    """What a window is heard with, and the encoder with cross-attention keys and values."""
    return _each(run, _encoder)


def _encoder(run: Run, name: str, session: Session) -> dict[str, Any]:
    model = session.spec.model
    item, cache = _item_bytes(session)
    found = {}
    for rows in run.rows:
        session.reserve(rows, rows)
        mel = _times(session, "log_mel", _mel_inputs(session, rows))
        work = _repeat(log_mel_work(model), rows)
        found[f"{name}, log-mel, {rows} windows"] = _told(run, mel, work, "executed ms")
        speech = _times(session, "vad", _vad_inputs(rows))
        found[f"{name}, speech, {rows} windows"] = _told(run, speech, None, "executed ms")
        encoded = _times(session, "encode", _encode_inputs(session, rows))
        one = encode_work(model, item, cache)
        more = encode_work(model, 0.0, cache)  # weights are read once for all windows
        work = one + _repeat(more, rows - 1)
        found[f"{name}, encode, {rows} windows"] = _told(run, encoded, work, "executed ms")
    return found


def step(run: Run) -> dict[str, Any]:
    """Greedy steps, several to a call, each row with a window of its own."""
    return _each(run, _step)


def _step(run: Run, name: str, session: Session) -> dict[str, Any]:
    item, cache = _item_bytes(session)
    ahead = DRAFTED_STEPS if session.drafts else STEPS_AHEAD
    found = {}
    for rows in run.rows:
        session.reserve(rows, rows)
        session.caller.run("encode", _encode_inputs(session, rows), fetch=())
        times = _times(session, "steps", _step_inputs(session, rows))
        works = [
            decode_work(session.spec.model, item, cache, rows=rows, new=1, past=POSITION + i)
            for i in range(ahead)
        ]
        # What drafting has to read at least is not worked out.
        told = _told(run, times, None if session.drafts else sum(works, Work(0, 0)))
        told["ms of one step"] = round(told["ms"] / ahead, 4)
        found[f"{name}, {ahead} steps, {rows} rows"] = told
    return found


def _each(run: Run, measured: Callable[[Run, str, Session], dict[str, Any]]) -> dict[str, Any]:
    """What is measured of each artifact's session, one after the other, nothing kept between."""
    found: dict[str, Any] = {}
    for path in run.artifacts:
        found |= measured(run, path.name, Session(open_artifact(path), device=run.device))
        gc.collect()
    return found


def _item_bytes(session: Session) -> tuple[float, float]:
    """Bytes of a weight, and of a key or value."""
    return session.stored.item_bytes("decoder.layers"), ITEM_BYTES[session.target.kv_dtype]


def _repeat(work: Work, times: int) -> Work:
    return Work(work.operations * times, work.bytes * times)


def _mel_inputs(session: Session, windows: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    samples = rng.normal(0, 0.1, (3 * windows, PIECE_SAMPLES)).astype(np.float32)
    return {"samples": samples}


def _vad_inputs(windows: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    shape = (windows * FRAMES_OF_A_WINDOW, VAD_CONTEXT + VAD_FRAME)
    return {
        "samples": rng.normal(0, 0.1, shape).astype(np.float32),
        "state": np.zeros((windows, *VAD_STATE_SHAPE), np.float32),
        "counts": np.full(windows, FRAMES_OF_A_WINDOW, np.int32),
    }


def _encode_inputs(session: Session, windows: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    shape = (windows, 2 * session.spec.model.n_audio_ctx, session.spec.model.n_mels)
    return {
        "log_mel": rng.uniform(-6, 2, shape).astype(np.float32),
        "log_mel_max": np.full(windows, 2, np.float32),
        "n_frames": np.full(windows, shape[1], np.int32),
        "windows": np.arange(windows, dtype=np.int32),
    }


def _step_inputs(session: Session, rows: int) -> dict[str, Any]:
    tokens = session.spec.tokens
    state = rule_state([tokens.timestamp_begin, 1000], True, tokens, None)
    slots = np.arange(rows, dtype=np.int32)
    return {
        "tokens": np.full(rows, 1000, np.int32),
        "rows": slots,
        "positions": np.full(rows, POSITION, np.int32),
        "windows": slots,
        "suppress": suppress_mask(session.spec),
        "rule_states": np.repeat(state[None], rows, axis=0),
        "temperatures": np.zeros(rows, np.float32),
        "uniforms": np.zeros(rows, np.float32),
        "wanted": np.ones(rows, np.int32),
    }


def _times(session: Session, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a call whose inputs are on the device: executed, and on a GPU replayed."""
    caller = session.caller
    signature, graph = caller.graphs[name]
    buffers = {spec.name: caller.upload(spec, inputs[spec.name]) for spec in signature.inputs
               if not spec.mutable}  # fmt: skip
    arguments = caller.arguments(signature, buffers)

    def execute() -> None:
        graph.execute(*arguments)
        caller.synchronize()

    found: dict[str, Any] = {"executed ms": _milliseconds(execute)}
    if session.target.device != "cpu":
        kept = DeviceGraph(graph, 1 << 20, arguments)

        def replay() -> None:
            kept.run()
            caller.synchronize()

        found["replayed ms"] = _milliseconds(replay)
        if kept.refusal:
            del found["replayed ms"]
            found["refusal"] = kept.refusal
        kept.release()
    return found


def _told(run: Run, times: dict[str, Any], work: Work | None, counts: str = "ms") -> dict[str, Any]:
    """The time that counts, beside the least that the device's rates allow.

    That is the shorter one, as of steps, which transcribing replays where that is shorter; or the
    one whose name is given, as it executes everything else.
    """
    best = min(value for name, value in times.items() if name.endswith(counts))
    told = {"ms": best, **times}
    if run.rates is not None and work is not None:
        floor = 1e3 * run.rates.seconds(work)
        told |= {"floor ms": round(floor, 4), "ratio": round(best / floor, 2)}
    return told


def _milliseconds(call: Callable[[], object]) -> float:
    for _ in range(WARM_UP):
        call()
    seconds: Sequence[float] = []
    until = time.perf_counter() + SECONDS
    while len(seconds) < LEAST_RUNS or time.perf_counter() < until:
        seconds = [*seconds, timed(call)]
    return round(1e3 * median(seconds), 4)


def timed(call: Callable[[], object], finish: Callable[[], object] = lambda: None) -> float:
    begin = time.perf_counter()
    call()
    finish()
    return time.perf_counter() - begin
