"""What this machine can do at most: multiply-adds per second by kind, bytes read per second.

Measured by the operations in peak/, on the threads that MAX works with, at the time of asking: the
kernels are held against what the machine gives now, with whatever else it is doing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, KernelLibrary, Module, TensorType, ops

PEAK = Path(__file__).resolve().parent / "peak"
KINDS = {"f32": (0, 16), "bf16": (1, 32), "int8": (2, 64)}
"""Kind -> its number in peak/, and multiply-adds per instruction."""
CHAINS = 24
SIZES = {"cache": 8 << 20, "memory": 256 << 20}
"""What is read over and over to learn the bandwidth, in bytes."""


@dataclass(frozen=True)
class Ceiling:
    """The best of several tries each.

    Attributes:
        flops: by kind "f32", "bf16", "int8": operations per second, two per multiply-add.
        bandwidth: bytes per second read from 8 MiB ("cache") and from 256 MiB ("memory").
    """

    flops: dict[str, float]
    bandwidth: dict[str, float]


def best_seconds(run: Callable[[], object], tries: int = 20) -> float:
    """The shortest of several runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(tries):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def measure_ceiling(threads: int, kinds: tuple[str, ...]) -> Ceiling:
    """Measure on `threads` threads; `kinds` are those this CPU has instructions for."""
    graphs = _compile(threads, kinds)
    rounds = 400_000
    amount = Buffer.from_numpy(np.array([rounds], np.int32))
    flops = {}
    for kind in kinds:
        graph, operations = graphs[kind], 2 * KINDS[kind][1] * CHAINS * rounds * threads
        flops[kind] = operations / best_seconds(lambda graph=graph: graph.execute(amount), 5)
    bandwidth = {}
    read = graphs["reading"]
    for name, size in SIZES.items():
        data = Buffer.from_numpy(np.ones(size // 4, np.int32))
        bandwidth[name] = size / best_seconds(lambda data=data: read.execute(data))
    return Ceiling(flops, bandwidth)


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


if __name__ == "__main__":
    found = measure_ceiling(2, tuple(KINDS))
    for kind, value in found.flops.items():
        print(f"{kind}: {value / 1e9:.0f} GFLOP/s")
    for name, value in found.bandwidth.items():
        print(f"{name}: {value / 1e9:.1f} GB/s")
