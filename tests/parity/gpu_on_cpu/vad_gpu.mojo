"""A stand-in on a CPU for vad_gpu.mojo: the same sums, in plain loops."""

import extensibility
from extensibility import InputTensor, OutputTensor
from std.math import sqrt

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


def dot(x: List[Float32], first: Int, w: Pointer[Float32, _], column: Int, k: Int) -> Float32:
    """The sum of x[first + c] times term c of one column of w[columns / 32, k, 32]."""
    var sum = Float32(0)
    for c in range(k):
        sum += x[first + c] * w[unsafe_offset=(column // PANEL * k + c) * PANEL + column % PANEL]
    return sum


def convolve(
    mut y: List[Float32],
    to: Int,
    x: List[Float32],
    first: Int,
    w: Pointer[Float32, _],
    bias: Pointer[Float32, _],
    columns: Int,
    k: Int,
):
    """y[to + column] = max(dot + bias, 0) for all columns."""
    for column in range(columns):
        var sum = dot(x, first, w, column, k) + bias[unsafe_offset=column]
        y[to + column] = max(sum, Float32(0))


@extensibility.register("mwc_gpu_speech_gates")
struct GPUSpeechGates:
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
    ) raises:
        var x = List[Float32](length=SAMPLES + REFLECTED, fill=0)
        # The padding of the convolutions: columns of zeros.
        var lines = List[Float32](length=(COLUMNS + 2) * BINS, fill=0)
        var first = List[Float32](length=(COLUMNS + 1) * WIDE, fill=0)
        var second = List[Float32](length=2 * NARROW, fill=0)
        var third = List[Float32](length=NARROW, fill=0)
        var fourth = List[Float32](length=WIDE, fill=0)
        for f in range(samples.dim_size(0)):
            for i in range(SAMPLES + REFLECTED):
                var place = i if i < SAMPLES else 2 * (SAMPLES - 1) - i
                x[i] = samples.unsafe_ptr()[unsafe_offset=f * SAMPLES + place]
            for t in range(COLUMNS):
                for bin in range(BINS):
                    var column = bin // HALF * PANEL + bin % HALF
                    var real = dot(x, t * HOP, spectrum.unsafe_ptr(), column, FFT)
                    var imaginary = dot(x, t * HOP, spectrum.unsafe_ptr(), column + HALF, FFT)
                    lines[(t + 1) * BINS + bin] = sqrt(real * real + imaginary * imaginary)
            for t in range(COLUMNS):
                convolve(
                    first, (t + 1) * WIDE, lines, t * BINS, conv1.unsafe_ptr(), bias1.unsafe_ptr(),
                    WIDE, 3 * BINS,
                )
            for t in range(2):
                convolve(
                    second, t * NARROW, first, t * 2 * WIDE, conv2.unsafe_ptr(), bias2.unsafe_ptr(),
                    NARROW, 3 * WIDE,
                )
            convolve(third, 0, second, 0, conv3.unsafe_ptr(), bias3.unsafe_ptr(), NARROW, 2 * NARROW)
            convolve(fourth, 0, third, 0, conv4.unsafe_ptr(), bias4.unsafe_ptr(), WIDE, NARROW)
            for gate in range(GATES):
                var sum = dot(fourth, 0, lstm.unsafe_ptr(), gate, WIDE)
                gates.unsafe_ptr()[unsafe_offset=f * GATES + gate] = (
                    sum + lstm_bias.unsafe_ptr()[unsafe_offset=gate]
                )
