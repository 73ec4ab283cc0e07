"""How fast each entry point and each kernel is, as a share of what the machine can do.

    python benchmarks/kernels.py ARTIFACT…              # entry points of artifacts
    python benchmarks/kernels.py ARTIFACT… --threads 1

Every figure is the best of many runs: what the code can do, whatever else the machine is at. An
encoder is held against the ceiling of its arithmetic, a decoder's step against the bandwidth from
memory of what it has to read: the weights once, and each row's keys and values.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ceiling import KINDS, Ceiling, best_seconds, measure_ceiling

from mwc.runtime.artifact import open_artifact
from mwc.runtime.decoder import PIECE_SAMPLES, PrefillRow, StepBatch
from mwc.runtime.rules import rule_state, suppress_mask
from mwc.runtime.session import Session
from mwc.runtime.spec import ModelSpec
from mwc.runtime.weight_file import numpy_dtype, tensor_bytes

ROWS = (1, 2, 4, 8)
POSITION = 100
"""Where in its row a timed step stands."""
PROMPTS = (4, 100)
ENCODER_KIND = {"f32": "f32", "bf16": "f32", "f16": "f32", "int8": "int8"}
"""The arithmetic that bounds the encoder, by precision of the artifact."""


@dataclass(frozen=True)
class Line:
    """One timing: seconds, and the work done in them as operations or bytes."""

    name: str
    seconds: float
    operations: float = 0.0
    read: float = 0.0


def encoder_operations(model: ModelSpec) -> float:
    """Operations of encoding a window: convolutions, layers, the decoder's keys and values."""
    t, d = model.n_audio_ctx, model.n_audio_state
    conv = 2 * t * 3 * model.n_mels * d + t * 3 * d * d
    layer = t * (4 * d * d + 2 * d * model.n_audio_mlp) + 2 * t * t * d
    cross = 2 * t * d * model.n_text_state
    return 2.0 * (conv + model.n_audio_layer * layer + model.n_text_layer * cross)


def entry_points(path: Path, threads: int) -> list[Line]:
    """Time the entry points of one artifact."""
    session = Session(open_artifact(path), threads=threads, n_windows=max(ROWS), n_rows=max(ROWS))
    model = session.spec.model
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((3, PIECE_SAMPLES), np.float32) / 10
    log_mel = session.log_mel(samples).reshape(1, -1, model.n_mels)
    top, frames = log_mel.max(keepdims=True).reshape(1), np.array([log_mel.shape[1]])
    for window in range(max(ROWS)):
        session.encode(log_mel, top, frames, np.array([window]))
    slot = np.zeros(1, np.int32)
    lines = [
        Line("log_mel, 30 s", best_seconds(lambda: session.log_mel(samples))),
        Line(
            "encode, 1 window",
            best_seconds(lambda: session.encode(log_mel, top, frames, slot)),
            operations=encoder_operations(model),
        ),
    ]
    lines += [Line(f"prefill, {n} tokens", best_seconds(prefill(session, n), 50)) for n in PROMPTS]
    weights, row = step_bytes(session)
    lines += [
        Line(f"step, {n} rows", best_seconds(step(session, n), 200), read=weights + n * row)
        for n in ROWS
    ]
    return lines


def prefill(session: Session, length: int) -> Callable[[], object]:
    """A prompt of one row."""
    tokens = session.spec.tokens
    state = rule_state([], True, tokens, tokens.max_initial_timestamp_index)
    prompt = (tokens.sot_prev, *range(1000, 998 + length), tokens.sot)
    row = PrefillRow(prompt, row=0, window=0, sot_index=length - 1, rule_state=state)
    suppress = suppress_mask(session.spec)
    return lambda: session.prefill([row], suppress)


def step(session: Session, rows: int) -> Callable[[], object]:
    """A step of `rows` rows, each with a window of its own."""
    tokens = session.spec.tokens
    state = rule_state([tokens.timestamp_begin, 1000], True, tokens, None)
    slots = np.arange(rows, dtype=np.int32)
    batch = StepBatch(
        tokens=np.full(rows, 1000, np.int32),
        rows=slots,
        positions=np.full(rows, POSITION, np.int32),
        windows=slots,
        rule_states=np.repeat(state[None], rows, axis=0),
    )
    suppress = suppress_mask(session.spec)
    return lambda: session.step(batch, suppress)


def step_bytes(session: Session) -> tuple[float, float]:
    """Bytes that a step reads whatever its rows, and for each row."""
    graph = next(graph for graph in session.target.graphs if graph.name == "step")
    tensors = {t.name: t for w in session._artifact.manifest.weights for t in w.tensors}
    weights = sum(tensor_bytes(tensors[name]) for name in graph.weights if "positions" not in name)
    model = session.spec.model
    item = numpy_dtype(session.target.kv_dtype).itemsize
    per_position = 2 * model.n_text_layer * model.n_text_state * item
    return weights, per_position * (model.n_audio_ctx + POSITION)


def show(title: str, lines: list[Line], ceiling: Ceiling, kind: str) -> None:
    """Print one table."""
    print(f"\n{title}\n")
    print("| what | ms | rate | share of the ceiling |\n|---|---|---|---|")
    for line in lines:
        rate = share = ""
        if line.operations:
            speed = line.operations / line.seconds
            rate, share = (
                f"{speed / 1e9:.0f} GFLOP/s",
                f"{speed / ceiling.flops[kind]:.0%} of {kind}",
            )
        if line.read:
            speed = line.read / line.seconds
            bandwidth = ceiling.bandwidth["memory"]
            rate, share = f"{speed / 1e9:.1f} GB/s", f"{speed / bandwidth:.0%} of memory"
        print(f"| {line.name} | {line.seconds * 1e3:.3f} | {rate} | {share} |")


def main() -> None:
    """Time what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifacts", nargs="*", type=Path, metavar="ARTIFACT")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tables = [(path, entry_points(path, arguments.threads)) for path in arguments.artifacts]
    ceiling = measure_ceiling(arguments.threads, tuple(KINDS))
    print("ceiling: " + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in ceiling.flops.items()))
    print("reading: " + ", ".join(f"{k} {v / 1e9:.1f} GB/s" for k, v in ceiling.bandwidth.items()))
    for path, lines in tables:
        precision = open_artifact(path).manifest.targets[0].precision
        show(f"{path.name} ({precision})", lines, ceiling, ENCODER_KIND[precision])


if __name__ == "__main__":
    main()
