"""The floor under an entry point's time: its least arithmetic and memory traffic on this machine.

Counted are matrix products and convolutions, two operations for a multiply-add; every weight read
once in a call, every attention cache entry written once and read once in a step. Other activations
are taken to stay in cache, weights and caches not to: a model that fits into the cache can be
faster. A call cannot take less than the longer of its operations at the machine's arithmetic rate
and its bytes at its bandwidth (the roofline model: Williams, Waterman and Patterson, 2009).
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle

import numpy as np
import numpy.typing as npt

from mwc.runtime.child import child_command
from mwc.runtime.decoder import VAD_FRAME
from mwc.runtime.platform import cpu_features
from mwc.runtime.spec import HOP_LENGTH, N_FFT, ModelSpec

MEL_NONZEROS = {80: 391, 128: 394}
"""Entries of openai/whisper's mel filters that are not zero, by `n_mels`."""

SAMPLE_BYTES = 2
"""Of a sample as it comes from a file."""

INT8_STEPS = (("avx512_vnni", 4), ("avx512bw", 8 / 3), ("avx2", 8 / 3))
"""Multiply-adds of int8 over those of float32 in as many instructions, by the CPU's flags.

Without VNNI, three of them (vpmaddubsw twice, vpmaddwd) do eight times as many as one in float32.
"""

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What the libraries behind numpy's products read."""

MEASURED_SECONDS = 0.5
"""For how long each rate is tried."""

PRODUCT_SIZES = (384, 768, 1024, 2048)
"""Square matrices whose products are tried."""

READ_ROWS, READ_COLUMNS, READ_COPIES = 4096, 2048, 4
"""float32 matrices read in turn by each thread: 128 MiB, more than it has cache."""


@dataclass(frozen=True)
class Work:
    """Floating-point or whole-number operations, and bytes to and from memory."""

    operations: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(self.operations + other.operations, self.bytes + other.bytes)


@dataclass(frozen=True)
class Rates:
    """What the machine can do at most.

    Attributes:
        operations: per second in float32.
        bandwidth: bytes per second read from memory.
    """

    operations: float
    bandwidth: float

    def seconds(self, work: Work, speedup: float = 1.0) -> float:
        """The least time for some work, whose arithmetic is `speedup` times float32's."""
        return max(work.operations / (self.operations * speedup), work.bytes / self.bandwidth)


def log_mel_work(model: ModelSpec, item: float = 4) -> Work:
    """Log-mel frames of 30 s: a real FFT, its power, the mel filters, the logarithm."""
    frames = 2 * model.n_audio_ctx
    filters = 2 * MEL_NONZEROS.get(model.n_mels, N_FFT)
    operations = _power_operations(N_FFT) + filters + model.n_mels
    return Work(frames * operations, frames * (SAMPLE_BYTES * HOP_LENGTH + item * model.n_mels))


def speech_work(frames: int) -> Work:
    """Speech detection in so many frames of 32 ms, 512 samples after the 64 before them.

    Silero VAD 6.2 at 16 kHz (snakers4/silero-vad, `src/silero_vad/data/silero_vad.onnx`): four
    columns of a real FFT of 256 samples, their magnitudes; four convolutions; an LSTM of 128
    units. Taps that meet nothing but padding do not count.
    """
    bins, n_fft, units = 129, 256, 128
    spectrum = 4 * (_power_operations(n_fft) + bins)
    taps = ((10, bins, 128), (5, 128, 64), (2, 64, 64), (1, 64, 128))
    convolutions = sum(n * n_in * n_out for n, n_in, n_out in taps)
    recurrent = 2 * 4 * units * units + units
    weights = n_fft + 3 * sum(n_in * n_out for _, n_in, n_out in taps) + recurrent
    samples = frames * VAD_FRAME * SAMPLE_BYTES
    operations = spectrum + 2 * (convolutions + recurrent)
    return Work(frames * operations, 4 * weights + samples)


def _power_operations(n_fft: int) -> float:
    """The window of one frame, its real FFT, and the squared magnitudes of its bins."""
    return n_fft + 2.5 * n_fft * math.log2(n_fft) + 3 * (n_fft // 2 + 1)


def encode_work(model: ModelSpec, item: float, cache_item: float) -> Work:
    """Encoding one window, and the decoder's keys and values of it.

    Args:
        model: its dimensions.
        item: bytes of a weight.
        cache_item: bytes of a key or value.
    """
    t, d, mlp = model.n_audio_ctx, model.n_audio_state, model.n_audio_mlp
    activation = max(2.0, item)
    convolutions = Work(
        6 * d * t * (2 * model.n_mels + d),
        item * (3 * d * (model.n_mels + d) + 2 * d + t * d) + 2 * t * model.n_mels * activation,
    )
    attention = Work(
        model.n_audio_layer * (8 * t * d * d + 4 * t * t * d),
        item * model.n_audio_layer * (_attention_weights(d) + 2 * d),
    )
    feed_forward = Work(
        model.n_audio_layer * 4 * t * d * mlp,
        item * (model.n_audio_layer * (2 * d * mlp + mlp + d + 2 * d) + 2 * d),
    )
    layers = model.n_text_layer
    cross = Work(
        layers * 4 * t * d * d,
        item * layers * _cross_weights(d) + cache_item * layers * 2 * t * d,
    )
    return convolutions + attention + feed_forward + cross


def decode_work(
    model: ModelSpec,
    item: float,
    cache_item: float,
    *,
    rows: int,
    new: int,
    past: int = 0,
    head_item: float | None = None,
) -> Work:
    """One pass of the decoder: `rows` rows of `new` tokens each, after `past` of the same row.

    One new token is a step, several are a prompt, of which only the last has logits.

    Args:
        model: its dimensions.
        item: bytes of a weight.
        cache_item: bytes of a key or value.
        rows: rows of the pass.
        new: tokens of each.
        past: tokens of each before these.
        head_item: bytes of a weight that the LM head has to read, if not all.
    """
    head_bytes = item if head_item is None else head_item
    d, mlp, layers = model.n_text_state, model.n_text_mlp, model.n_text_layer
    layer = 2 * _attention_weights(d) - _cross_weights(d) + 2 * d * mlp + mlp + d + 6 * d
    keys = new * past + new * (new + 1) // 2
    position = cache_item * rows * layers * 2 * d
    weights = Work(
        rows * layers * 2 * new * (6 * d * d + 2 * d * mlp),
        item * (layers * layer + 2 * d + (rows + 1) * new * d),
    )
    head = Work(rows * 2 * d * model.n_vocab, head_bytes * model.n_vocab * d)
    own = Work(rows * layers * 4 * d * keys, position * (past + new))
    cross = Work(rows * layers * 4 * d * model.n_audio_ctx * new, position * model.n_audio_ctx)
    return weights + head + own + cross


def _attention_weights(d: int) -> int:
    """Parameters of one attention block; its key projection has no bias."""
    return 4 * d * d + 3 * d


def _cross_weights(d: int) -> int:
    """Of these, the ones that make keys and values."""
    return 2 * d * d + d


def int8_speedup() -> float:
    """How many multiply-adds of int8 this CPU does in the time of one of float32."""
    present = cpu_features()
    return next((float(times) for flag, times in INT8_STEPS if flag in present), 1.0)


def measure_rates(threads: int) -> Rates:
    """Measure through numpy, on as many threads; wants an otherwise idle machine.

    In a process of its own, as numpy's library settles on its threads and on the CPU's instructions
    when it is loaded: on one thread, of which there are as many as asked for here, so that none
    waits for another; and on AVX-512 where the CPU has it, which an OpenBLAS that is older than the
    CPU passes over.
    """
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    if "avx512f" in cpu_features():
        environment.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    line = [*child_command("mwc.runtime.floor"), str(threads)]
    told = subprocess.run(line, env=environment, stdout=subprocess.PIPE, check=True).stdout
    return Rates(**json.loads(told))


def _measure_here(threads: int) -> Rates:
    """As `measure_rates`, where numpy's library is as it says."""
    with ThreadPoolExecutor(threads) as pool:
        products = [_product_rate(pool, threads, n) for n in PRODUCT_SIZES]
        return Rates(max(products), _read_rate(pool, threads))


def _product_rate(pool: ThreadPoolExecutor, threads: int, n: int) -> float:
    """Operations per second of products of square matrices, one on each thread."""
    matrices = np.ones((threads, 3, n, n), np.float32)

    def multiply(own: npt.NDArray[np.float32]) -> None:
        np.matmul(own[0], own[1], out=own[2])

    return 2.0 * threads * n**3 / _least_seconds(lambda: list(pool.map(multiply, matrices)))


def _read_rate(pool: ThreadPoolExecutor, threads: int) -> float:
    """Bytes per second that all threads together read, each its own."""
    data = np.ones((threads, READ_COPIES, READ_ROWS, READ_COLUMNS), np.float32)
    turns = [cycle(copies) for copies in data]
    vector = np.ones(READ_COLUMNS, np.float32)
    reads: Iterable[Callable[[npt.NDArray[np.float32]], object]] = (
        np.max,
        lambda part: part @ vector,
    )

    def all_threads(read: Callable[[npt.NDArray[np.float32]], object]) -> float:
        return _least_seconds(lambda: list(pool.map(lambda turn: read(next(turn)), turns)))

    return float(data[:, 0].nbytes / min(map(all_threads, reads)))


def _least_seconds(run: Callable[[], object]) -> float:
    """The shortest of the runs that fit into the time for measuring; at least three."""
    best, until, runs = math.inf, time.perf_counter() + MEASURED_SECONDS, 0
    while runs < 3 or time.perf_counter() < until:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
        runs += 1
    return best


if __name__ == "__main__":
    print(json.dumps(asdict(_measure_here(int(sys.argv[1])))))
