"""How fast each entry point and each kernel is, as a share of what the machine can do.

    python benchmarks/kernel_times.py ARTIFACT…              # entry points of artifacts
    python benchmarks/kernel_times.py ARTIFACT… --alone      # and each kernel by itself

Every figure is the best of many runs: what the code can do, whatever else the machine is at; the
CPU time, of all threads, is what counts on a busy one. The encoder is held against the ceiling of
its arithmetic, a decoder's step against the bandwidth from memory of what it has to read: the
weights once, and each row's keys and values. What stays in cache can be faster than that.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ceiling import KINDS, Ceiling, best_seconds, measure_ceiling
from kernel_cases import cases_of

from mwc.runtime.artifact import open_artifact
from mwc.runtime.bench_cases import ROW_SLOTS, fill_slots, prefill_call, step_call
from mwc.runtime.decoder import PIECE_SAMPLES
from mwc.runtime.floor import encode_work
from mwc.runtime.session import Session
from mwc.runtime.slot_memory import cache_bytes
from mwc.runtime.threads import open_cpu
from mwc.runtime.weight_file import tensor_bytes

ROWS = (1, 2, 4, 8)
POSITION = 100
"""Where in its row a timed step stands."""
PROMPTS = (4, 100)
ENCODER_KIND = {"f32": "f32", "bf16": "f32", "f16": "f32", "int8": "int8"}
"""The arithmetic that bounds the encoder, by precision of the artifact."""


@dataclass(frozen=True)
class Line:
    """One timing: seconds, of the CPUs too, and the work as operations of a kind, or as bytes."""

    name: str
    seconds: float
    cpu_seconds: float
    operations: float = 0.0
    read: float = 0.0
    kind: str = "f32"


def entry_points(path: Path, precision: str, threads: int) -> list[Line]:
    """Time the entry points of one artifact."""
    artifact = open_artifact(path)
    session = Session(artifact, threads=threads, n_windows=max(ROWS), n_rows=ROW_SLOTS)
    model = session.spec.model
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((3, PIECE_SAMPLES), np.float32) / 10
    log_mel = session.log_mel(samples).reshape(1, -1, model.n_mels)
    top, frames = log_mel.max(keepdims=True).reshape(1), np.array([log_mel.shape[1]])
    fill_slots(session, max(ROWS), POSITION)
    slot = np.zeros(1, np.int32)
    lines = [
        Line("log_mel, 30 s", *best_seconds(lambda: session.log_mel(samples))),
        Line(
            "encode, 1 window",
            *best_seconds(lambda: session.encode(log_mel, top, frames, slot)),
            operations=encode_work(model, 0.0, 0.0).operations,
            kind=ENCODER_KIND[precision],
        ),
    ]
    lines += [
        Line(f"prefill, {n} tokens", *best_seconds(prefill_call(session, n), 50)) for n in PROMPTS
    ]
    weights, row = step_bytes(session)
    lines += [
        Line(
            f"step, {n} rows",
            *best_seconds(step_call(session, n, POSITION), 200),
            read=weights + n * row,
        )
        for n in ROWS
    ]
    return lines


def step_bytes(session: Session) -> tuple[float, float]:
    """Bytes that a step reads whatever its rows, and for each row.

    What is stored as halves is read by half, and no rests, but for what the sieve leaves
    (kernels/sieve.mojo).
    """
    graph = next(graph for graph in session.target.graphs if graph.name == "step")
    tensors = {tensor.name: tensor for tensor in session.stored.tensors}
    others = ("decoder.embed_positions.weight", "decoder.embed_tokens.rest")
    read = [tensors[name] for name in graph.weights if name not in others]
    weights = sum(tensor_bytes(t) / (2 if t.dtype == "uint8" else 1) for t in read)
    signatures = [signature for signature, _ in session.caller.graphs.values()]
    audio = cache_bytes(signatures, {"windows": 1, "row_slots": 0})
    text = cache_bytes(signatures, {"windows": 0, "row_slots": 1})
    return weights, audio + text * POSITION / session.spec.model.n_text_ctx


def kernels(path: Path) -> list[Line]:
    """Time every kernel alone at the sizes and in the precision of an artifact."""
    return [
        Line(case.name, *best_seconds(case.run, 100), case.operations, case.read, case.kind)
        for case in cases_of(path, (1, 8))
    ]


def show(title: str, lines: list[Line], ceiling: Ceiling) -> None:
    """Print one table."""
    print(f"\n{title}\n")
    print("| what | ms | CPU ms | rate | share of the ceiling |\n|---|---|---|---|---|")
    for line in lines:
        rate, share = "", ""
        if line.read:
            speed = line.read / line.seconds
            rate, share = f"{speed / 1e9:.1f} GB/s", f"{speed / ceiling.bandwidth:.0%} of memory"
        elif line.operations:
            speed = line.operations / line.seconds
            rate = f"{speed / 1e9:.0f} GFLOP/s"
            share = f"{speed / ceiling.flops[line.kind]:.0%} of {line.kind}"
        times = f"{line.seconds * 1e3:.3f} | {line.cpu_seconds * 1e3:.3f}"
        print(f"| {line.name} | {times} | {rate} | {share} |")


def main() -> None:
    """Time what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="each kernel by itself too: minutes")
    arguments = parser.parse_args()
    open_cpu(arguments.threads)
    tables = []
    for path in arguments.artifacts:
        precision = open_artifact(path).manifest.targets[0].precision
        title = f"{path.name}, {precision}, {arguments.threads} threads"
        tables.append((title, entry_points(path, precision, arguments.threads)))
        if arguments.alone:
            tables.append((f"{title}: kernels alone", kernels(path)))
    ceiling = measure_ceiling(arguments.threads, tuple(KINDS))
    speeds = ", ".join(f"{kind} {value / 1e9:.0f}" for kind, value in ceiling.flops.items())
    print(f"At most: {speeds} GFLOP/s; {ceiling.bandwidth / 1e9:.1f} GB/s from memory.")
    for title, lines in tables:
        show(title, lines, ceiling)


if __name__ == "__main__":
    main()
