"""What this machine can do at most: multiply-adds per second by kind, bytes read per second.

Measured by the operations in peak/, on the threads that MAX works with, at the time of asking: the
kernels are held against what the machine gives now, with whatever else it is doing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, KernelLibrary, Module, TensorType, ops

from mwc.runtime.platform import cpu_features

PEAK = Path(__file__).resolve().parent / "peak"
FEATURES = cpu_features()
LANES, CHAINS = (16, 24) if "avx512f" in FEATURES else (8, 10)
"""Of a register; sums in flight: as in peak/."""
KINDS = {
    "f32": (0, LANES),
    "int8": (1, (4 if "avx512_vnni" in FEATURES else 8) * LANES),
}
"""Kind -> its number in peak/, and multiply-adds per sum and round."""
READ_BYTES = 256 << 20
"""What is read over and over to learn the bandwidth: more than any cache."""


@dataclass(frozen=True)
class Ceiling:
    """The best of several tries each.

    Attributes:
        flops: by kind "f32", "int8": operations per second, two per multiply-add.
        bandwidth: bytes per second read from memory.
    """

    flops: dict[str, float]
    bandwidth: float


def best_seconds(run: Callable[[], object], tries: int = 20) -> tuple[float, float]:
    """The shortest of several runs after one that does not count, and the least CPU time of one."""
    run()
    seconds, cpu_seconds = [], []
    for _ in range(tries):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
    return min(seconds), min(cpu_seconds)


def measure_ceiling(threads: int, kinds: tuple[str, ...]) -> Ceiling:
    """Measure on `threads` threads; `kinds` are those this CPU has instructions for."""
    graphs = _compile(threads, kinds)
    rounds = 1_000_000  # milliseconds, beside which starting the threads does not count
    amount = Buffer.from_numpy(np.array([rounds], np.int32))
    flops = {}
    for kind in kinds:
        run = partial(graphs[kind].execute, amount)
        flops[kind] = 2 * KINDS[kind][1] * CHAINS * rounds * threads / best_seconds(run)[0]
    data = Buffer.from_numpy(np.ones(READ_BYTES // 4, np.int32))
    return Ceiling(flops, READ_BYTES / best_seconds(partial(graphs["reading"].execute, data))[0])


def _compile(threads: int, kinds: tuple[str, ...]) -> dict:
    module, library, cpu = Module(), KernelLibrary(), DeviceRef.CPU()
    before = set(library.library_paths())
    library.load_paths([PEAK])
    (kernels,) = set(library.library_paths()) - before
    i32 = DType.int32
    for name in (*kinds, "reading"):
        size = 1 if name in kinds else "n"
        types = [TensorType(i32, [size], cpu)]
        with Graph(name, input_types=types, kernel_library=library, module=module) as graph:
            if name in kinds:
                op, dtype, parameters = "peak_arithmetic", DType.float32, {"kind": KINDS[name][0]}
            else:
                op, dtype, parameters = "peak_reading", i32, {}
            output = TensorType(dtype, [threads], cpu)
            graph.output(ops.custom(op, cpu, [graph.inputs[0]], [output], parameters=parameters)[0])
    session = InferenceSession(devices=[CPU()])
    compiled = session.compile(module, custom_extensions=[kernels])
    return session.init_all(compiled, weights_registry={})
