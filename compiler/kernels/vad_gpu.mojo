"""The speech detector before its LSTM on GPUs: one block per frame; see vad.mojo for what."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from std.math import sqrt
from std.memory import stack_allocation
from std.utils.index import IndexList

from .vad import (
    BINS,
    COLUMNS,
    FFT,
    GATES,
    HALF,
    HOP,
    NARROW,
    PANEL,
    REFLECTED,
    SAMPLES,
    WIDE,
)

comptime F32 = DType.float32
comptime THREADS = 256
"""Of a block: with one for each gate they would want more registers than there are."""


@always_inline
def dot(
    x: Pointer[Float32, _, address_space=AddressSpace.SHARED],
    first: Int,
    w: InputTensor[dtype=F32, rank=3, ...],
    column: Int,
    k: Int,
) -> Float32:
    """The sum of x[first + c] times term c of one column of w[columns / 32, k, 32]."""
    var sum = Float32(0)
    for c in range(k):
        var term = w.load[1](IndexList[3](column // PANEL, c, column % PANEL))
        sum += x[unsafe_offset=first + c] * Float32(term)
    return sum


@always_inline
def relu_dot(
    x: Pointer[Float32, _, address_space=AddressSpace.SHARED],
    first: Int,
    w: InputTensor[dtype=F32, rank=3, ...],
    bias: InputTensor[dtype=F32, rank=1, ...],
    column: Int,
    k: Int,
) -> Float32:
    """One column of a convolution: max(dot + bias, 0)."""
    var shift = Float32(bias.load[1](IndexList[1](column)))
    return max(dot(x, first, w, column, k) + shift, Float32(0))


@extensibility.register("mwc_gpu_speech_gates")
struct GPUSpeechGates:
    """gates[frames, 512] of samples[frames, 576]: everything the LSTM adds to its own state.

    The other inputs are the weights and biases in the order they are used; see vad_weights.py. One
    block per frame.
    """

    @staticmethod
    def execute[target: StaticString](
        gates: OutputTensor[dtype=F32, rank=2, ...],
        samples: InputTensor[dtype=F32, rank=2, ...],
        spectrum: InputTensor[dtype=F32, rank=3, ...],
        conv1: InputTensor[dtype=F32, rank=3, ...],
        bias1: InputTensor[dtype=F32, rank=1, ...],
        conv2: InputTensor[dtype=F32, rank=3, ...],
        bias2: InputTensor[dtype=F32, rank=1, ...],
        conv3: InputTensor[dtype=F32, rank=3, ...],
        bias3: InputTensor[dtype=F32, rank=1, ...],
        conv4: InputTensor[dtype=F32, rank=3, ...],
        bias4: InputTensor[dtype=F32, rank=1, ...],
        lstm: InputTensor[dtype=F32, rank=3, ...],
        lstm_bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        @parameter
        def frame():
            var f = Int(block_idx.x)
            var tid = Int(thread_idx.x)
            comptime SHARED = AddressSpace.SHARED
            comptime LINES = (COLUMNS + 2) * BINS
            var x = stack_allocation[SAMPLES + REFLECTED, Float32, address_space=SHARED]()
            # The padding of the convolutions, as in vad.mojo: columns of zeros.
            var lines = stack_allocation[LINES, Float32, address_space=SHARED]()
            var first = stack_allocation[(COLUMNS + 1) * WIDE, Float32, address_space=SHARED]()
            var second = stack_allocation[2 * NARROW, Float32, address_space=SHARED]()
            var third = stack_allocation[NARROW, Float32, address_space=SHARED]()
            var fourth = stack_allocation[WIDE, Float32, address_space=SHARED]()
            for i in range(tid, SAMPLES + REFLECTED, THREADS):
                var place = i if i < SAMPLES else 2 * (SAMPLES - 1) - i
                x[unsafe_offset=i] = Float32(samples.load[1](IndexList[2](f, place)))
            for i in range(tid, LINES, THREADS):
                lines[unsafe_offset=i] = 0
            if tid < WIDE:
                first[unsafe_offset=tid] = 0
            barrier()
            for i in range(tid, COLUMNS * BINS, THREADS):
                var at = i // BINS * HOP
                var column = i % BINS // HALF * PANEL + i % BINS % HALF
                var real = dot(x, at, spectrum, column, FFT)
                var imaginary = dot(x, at, spectrum, column + HALF, FFT)
                lines[unsafe_offset=BINS + i] = sqrt(real * real + imaginary * imaginary)
            barrier()
            for i in range(tid, COLUMNS * WIDE, THREADS):
                first[unsafe_offset=WIDE + i] = relu_dot(
                    lines, i // WIDE * BINS, conv1, bias1, i % WIDE, 3 * BINS
                )
            barrier()
            if tid < 2 * NARROW:
                second[unsafe_offset=tid] = relu_dot(
                    first, tid // NARROW * 2 * WIDE, conv2, bias2, tid % NARROW, 3 * WIDE
                )
            barrier()
            if tid < NARROW:
                third[unsafe_offset=tid] = relu_dot(second, 0, conv3, bias3, tid, 2 * NARROW)
            barrier()
            if tid < WIDE:
                fourth[unsafe_offset=tid] = relu_dot(third, 0, conv4, bias4, tid, NARROW)
            barrier()
            for gate in range(tid, GATES, THREADS):
                var shift = Float32(lstm_bias.load[1](IndexList[1](gate)))
                gates.store[1](IndexList[2](f, gate), dot(fourth, 0, lstm, gate, WIDE) + shift)

        ctx.enqueue_function[frame](grid_dim=samples.dim_size(0), block_dim=THREADS)
