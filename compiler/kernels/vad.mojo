"""The speech detector before its LSTM, fused: frames of samples in, the gates' inputs out.

Silero VAD (snakers4/silero-vad, v6.2, 16 kHz): a spectrum of four columns per frame, four
convolutions, and the LSTM's input matrix. Frames do not touch each other here, so a unit of work is
a block of frames whose intermediate values stay in cache. A convolution over columns that lie side
by side in memory is a matrix product whose rows overlap, so nothing is ever copied for one.

Weights come in panels of 32 output columns, [columns / 32, terms, 32] (vad_weights.py). A panel is
computed as two halves of 16: for the spectrum real and imaginary parts of the same 16 bins. Those
are even and odd about the middle of a column, whose window begins with a zero: sums and differences
of samples that stand opposite each other meet half of the terms.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import sqrt

from .linear import WIDTH
from .matmul import TILE
from .parallel import share
from .vad_gpu import speech_gates_gpu

comptime F32 = DType.float32
comptime Vector = SIMD[F32, WIDTH]
comptime PANEL = 32
"""Output columns of one panel."""
comptime HALF = 16
"""Columns of each half of a panel."""
comptime FRAMES = 4 * TILE
"""Frames of one unit of work."""

comptime HOP = 128
"""Samples between the columns of the spectrum."""
comptime FFT = 256
"""Samples in one column."""
comptime FOLDED = FFT // 2
"""Sums, and as many differences, of a column's samples."""
comptime COLUMNS = 4
"""Columns of the spectrum in one frame."""
comptime SAMPLES = 576
"""Samples of one frame: 64 of the one before, and 512 of its own."""
comptime REFLECTED = 64
"""Samples repeated in reverse after the end, for the last column."""
comptime BINS = 144
"""Bins of the spectrum: 129, and zeros."""
comptime WIDE = 128
"""Channels of the first and the last convolution."""
comptime NARROW = 64
"""Channels of the two between."""
comptime GATES = 512
"""Gates of the LSTM: 4 for each of 128 units."""

comptime BIAS = 0
comptime BIAS_RELU = 1
comptime MAGNITUDE = 2


@always_inline
def multiply_panel[rows: Int, epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    panel: Pointer[Float32, _],
    bias: Pointer[Float32, _],
    y_stride: Int,
    x_stride: Int,
    k: Int,
):
    """One panel's columns of y[rows, …] = epilogue(x[rows, k] · panel[k, 32]).

    MAGNITUDE makes 16 columns, the root of the halves' squares: of x[rows, k] for the first half,
    and of the k values behind them for the second. The others make 32.
    """
    comptime for part in range(HALF // WIDTH):
        var sums = Array[Vector, length=2 * rows](fill=Vector(0))
        for c in range(k):
            var w0 = panel.unsafe_load[width=WIDTH](c * PANEL + part * WIDTH)
            var w1 = panel.unsafe_load[width=WIDTH](c * PANEL + HALF + part * WIDTH)
            comptime for i in range(rows):
                var first = Vector(x[unsafe_offset=i * x_stride + c])
                var second = first
                comptime if epilogue == MAGNITUDE:
                    second = Vector(x[unsafe_offset=i * x_stride + k + c])
                sums[2 * i] = w0.fma(first, sums[2 * i])
                sums[2 * i + 1] = w1.fma(second, sums[2 * i + 1])
        comptime for i in range(rows):
            comptime if epilogue == MAGNITUDE:
                var power = sums[2 * i] * sums[2 * i] + sums[2 * i + 1] * sums[2 * i + 1]
                y.unsafe_store(i * y_stride + part * WIDTH, sqrt(power))
            else:
                comptime for half in range(2):
                    var at = half * HALF + part * WIDTH
                    var sum = sums[2 * i + half] + bias.unsafe_load[width=WIDTH](at)
                    comptime if epilogue == BIAS_RELU:
                        sum = max(sum, Vector(0))
                    y.unsafe_store(i * y_stride + at, sum)


@no_inline
def multiply_panels[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    w: Pointer[Float32, _],
    bias: Pointer[Float32, _],
    y_stride: Int,
    x_stride: Int,
    m: Int,
    panels: Int,
    terms: Int,
    first: Int,
    last: Int,
):
    """y[m, …] = epilogue(x[m, k] · w[panels, terms, 32]) over the terms of [first, last), k of them.

    Rows of x, which begin with the first of these, and of y are their strides apart.
    """
    comptime columns = HALF if epilogue == MAGNITUDE else PANEL
    var k = last - first
    for p in range(panels):
        var panel = w.unsafe_offset((p * terms + first) * PANEL)
        var panel_bias = bias if epilogue == MAGNITUDE else bias.unsafe_offset(p * PANEL)
        var goal = y.unsafe_offset(p * columns)
        var i = 0
        while i + TILE <= m:
            multiply_panel[TILE, epilogue](
                goal.unsafe_offset(i * y_stride), x.unsafe_offset(i * x_stride), panel,
                panel_bias, y_stride, x_stride, k,
            )
            i += TILE
        while i < m:
            multiply_panel[1, epilogue](
                goal.unsafe_offset(i * y_stride), x.unsafe_offset(i * x_stride), panel,
                panel_bias, y_stride, x_stride, k,
            )
            i += 1


@always_inline
def fold_column(
    y: Pointer[mut=True, Float32, _], frames: Pointer[Float32, _], t: Int, m: Int
):
    """y[m, 256] = of column t of each frame the sums x[n] + x[256 - n], n = 1 … 128, then the differences.

    The middle is its own opposite, and counts once. The last column's end is what a frame ends
    with, in reverse.
    """
    comptime LAST = SAMPLES - (COLUMNS - 1) * HOP
    var last_column = Array[Float32, length=FFT](uninitialized=True)
    var column = last_column.unsafe_ptr()
    for i in range(m):
        var x = frames.unsafe_offset(i * SAMPLES + t * HOP)
        var folded = y.unsafe_offset(i * FFT)
        if t == COLUMNS - 1:
            for n in range(0, LAST, WIDTH):
                column.unsafe_store(n, x.unsafe_load[width=WIDTH](n))
            for n in range(REFLECTED):
                column[unsafe_offset=LAST + n] = x[unsafe_offset=LAST - 2 - n]
        var source = column if t == COLUMNS - 1 else x
        for n in range(1, FOLDED + 1, WIDTH):
            var here = source.unsafe_load[width=WIDTH](n)
            var opposite = source.unsafe_load[width=WIDTH](FFT - n - WIDTH + 1).reversed()
            folded.unsafe_store(n - 1, here + opposite)
            folded.unsafe_store(FOLDED + n - 1, here - opposite)
        folded[unsafe_offset=FOLDED - 1] = source[unsafe_offset=FOLDED]
    _ = last_column^


@extensibility.register("mwc_speech_gates")
struct SpeechGates:
    """gates[frames, 512] of samples[frames, 576]: everything the LSTM adds to its own state.

    The other inputs are the weights and biases in the order they are used; see vad_weights.py.
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
        comptime if target == "gpu":
            speech_gates_gpu(
                gates, samples, spectrum, conv1, bias1, conv2, bias2, conv3, bias3, conv4, bias4,
                lstm, lstm_bias, ctx,
            )
            return
        var frames = samples.dim_size(0)
        var gate_ptr = gates.unsafe_ptr()
        var sample_ptr = samples.unsafe_ptr()
        var spectrum_ptr = spectrum.unsafe_ptr()
        var w1 = conv1.unsafe_ptr()
        var b1 = bias1.unsafe_ptr()
        var w2 = conv2.unsafe_ptr()
        var b2 = bias2.unsafe_ptr()
        var w3 = conv3.unsafe_ptr()
        var b3 = bias3.unsafe_ptr()
        var w4 = conv4.unsafe_ptr()
        var b4 = bias4.unsafe_ptr()
        var w5 = lstm.unsafe_ptr()
        var b5 = lstm_bias.unsafe_ptr()

        def block(item: Int) {var frames, var gate_ptr, var sample_ptr, var spectrum_ptr, var w1, var b1, var w2, var b2, var w3, var b3, var w4, var b4, var w5, var b5}:
            comptime LINES = COLUMNS * BINS
            comptime HIDDEN = COLUMNS * WIDE
            var m = min(FRAMES, frames - item * FRAMES)
            var x = sample_ptr.unsafe_offset(item * FRAMES * SAMPLES)
            var fold_list = List[Float32](length=FRAMES * FFT, fill=0)
            var line_list = List[Float32](length=FRAMES * LINES, fill=0)
            var first_list = List[Float32](length=FRAMES * HIDDEN, fill=0)
            var second_list = List[Float32](length=FRAMES * 2 * NARROW, fill=0)
            var third_list = List[Float32](length=FRAMES * NARROW, fill=0)
            var fourth_list = List[Float32](length=FRAMES * WIDE, fill=0)
            var folds = fold_list.unsafe_ptr()
            var lines = line_list.unsafe_ptr()
            var first = first_list.unsafe_ptr()
            var second = second_list.unsafe_ptr()
            var third = third_list.unsafe_ptr()
            var fourth = fourth_list.unsafe_ptr()
            for t in range(COLUMNS):
                fold_column(folds, x, t, m)
                multiply_panels[MAGNITUDE](
                    lines.unsafe_offset(t * BINS), folds, spectrum_ptr, b1, LINES, FFT, m,
                    BINS // HALF, FFT, 1, 1 + FOLDED,
                )
            # Taps that would meet nothing but padding are left out: the first, at the first column,
            # and the last, at the last one.
            for t in range(COLUMNS):
                var tap = 1 if t == 0 else 0
                var taps = 2 if t == COLUMNS - 1 else 3
                multiply_panels[BIAS_RELU](
                    first.unsafe_offset(t * WIDE), lines.unsafe_offset((t - 1 + tap) * BINS), w1,
                    b1, HIDDEN, LINES, m, WIDE // PANEL, 3 * BINS, tap * BINS, taps * BINS,
                )
            for t in range(COLUMNS // 2):
                var tap = 1 if t == 0 else 0
                multiply_panels[BIAS_RELU](
                    second.unsafe_offset(t * NARROW), first.unsafe_offset((2 * t - 1 + tap) * WIDE),
                    w2, b2, 2 * NARROW, HIDDEN, m, NARROW // PANEL, 3 * WIDE, tap * WIDE, 3 * WIDE,
                )
            multiply_panels[BIAS_RELU](
                third, second, w3, b3, NARROW, 2 * NARROW, m, NARROW // PANEL, 2 * NARROW, 0,
                2 * NARROW,
            )
            multiply_panels[BIAS_RELU](
                fourth, third, w4, b4, WIDE, NARROW, m, WIDE // PANEL, NARROW, 0, NARROW
            )
            multiply_panels[BIAS](
                gate_ptr.unsafe_offset(item * FRAMES * GATES), fourth, w5, b5, GATES, WIDE, m,
                GATES // PANEL, WIDE, 0, WIDE,
            )
            _ = fold_list^
            _ = line_list^
            _ = first_list^
            _ = second_list^
            _ = third_list^
            _ = fourth_list^

        share(block, (frames + FRAMES - 1) // FRAMES)
