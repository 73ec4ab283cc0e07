"""The speech detector before its LSTM, on CPUs: frames of samples in, the gates' inputs out.

Silero VAD (snakers4/silero-vad, v6.2, 16 kHz): a spectrum of four columns per frame, four
convolutions, and the LSTM's input matrix. Frames do not touch each other here, so a unit of work is
a block of frames whose intermediate values stay in cache. A convolution over columns that lie side
by side in memory is a matrix product whose rows overlap, so nothing is ever copied for one.

Weights come in panels of 32 output columns, [columns / 32, terms, 32] (vad_weights.py). A panel is
computed as two halves of 16.
"""

from std.math import sqrt
from std.memory import stack_allocation

from .linear import LINE, WIDTH
from .matmul import TILE
from .pointers import Values
from .spectrum import LANES, place_of, power_spectrum, powers_of

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
comptime TERMS = FFT // LANES
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
    """One panel's 32 columns of y[rows, …] = epilogue(x[rows, k] · panel[k, 32])."""
    comptime for part in range(HALF // WIDTH):
        var sums = Array[Vector, length=2 * rows](fill=Vector(0))
        for c in range(k):
            var w0 = panel.unsafe_load[width=WIDTH](c * PANEL + part * WIDTH)
            var w1 = panel.unsafe_load[width=WIDTH](c * PANEL + HALF + part * WIDTH)
            comptime for i in range(rows):
                var value = Vector(x[unsafe_offset=i * x_stride + c])
                sums[2 * i] = w0.fma(value, sums[2 * i])
                sums[2 * i + 1] = w1.fma(value, sums[2 * i + 1])
        comptime for i in range(rows):
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
    var k = last - first
    for p in range(panels):
        var panel = w.unsafe_offset((p * terms + first) * PANEL)
        var panel_bias = bias.unsafe_offset(p * PANEL)
        var goal = y.unsafe_offset(p * PANEL)
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
def store_magnitudes(
    y: Pointer[mut=True, Float32, _], frame: Pointer[Float32, _], t: Int, factors: Pointer[Float32, _]
):
    """y[129] = the magnitudes of the bins of a frame's column t.

    The last column's end is what a frame ends with, in reverse.
    """
    comptime LAST = SAMPLES - (COLUMNS - 1) * HOP
    var power = stack_allocation[powers_of(TERMS), Float32, alignment=LINE]()
    var start = frame.unsafe_offset(t * HOP)
    if t == COLUMNS - 1:
        var column = stack_allocation[FFT, Float32, alignment=LINE]()
        for n in range(0, LAST, WIDTH):
            column.unsafe_store(n, start.unsafe_load[width=WIDTH](n))
        for n in range(REFLECTED):
            column[unsafe_offset=LAST + n] = start[unsafe_offset=LAST - 2 - n]
        power_spectrum[TERMS](power, column, factors)
    else:
        power_spectrum[TERMS](power, start, factors)
    for at in range(0, powers_of(TERMS), LANES):
        power.unsafe_store(at, sqrt(power.unsafe_load[width=LANES](at)))
    comptime for bin in range(FFT // 2 + 1):
        comptime place = place_of(bin, TERMS)
        y[unsafe_offset=bin] = power[unsafe_offset=place]


@fieldwise_init
struct Layer(Copyable, Movable):
    """A convolution, or the LSTM's input: its panels and its bias."""

    var weight: Values
    var bias: Values


@fieldwise_init
struct Detector(Copyable, Movable):
    """What lies before the LSTM, in the order of its use; see vad_weights.py."""

    var factors: Values
    var conv1: Layer
    var conv2: Layer
    var conv3: Layer
    var conv4: Layer
    var gates: Layer


def find_gates(
    gates: Pointer[mut=True, Float32, _], samples: Pointer[Float32, _], m: Int, detector: Detector
):
    """gates[m, 512] of samples[m, 576]: everything the LSTM adds to its own state; m is up to FRAMES."""
    comptime LINES = COLUMNS * BINS
    comptime HIDDEN = COLUMNS * WIDE
    var line_list = List[Float32](length=FRAMES * LINES, fill=0)
    var first_list = List[Float32](unsafe_uninit_length=FRAMES * HIDDEN)
    var second_list = List[Float32](unsafe_uninit_length=FRAMES * 2 * NARROW)
    var third_list = List[Float32](unsafe_uninit_length=FRAMES * NARROW)
    var fourth_list = List[Float32](unsafe_uninit_length=FRAMES * WIDE)
    var lines = line_list.unsafe_ptr()
    var first = first_list.unsafe_ptr()
    var second = second_list.unsafe_ptr()
    var third = third_list.unsafe_ptr()
    var fourth = fourth_list.unsafe_ptr()
    for i in range(m):
        for t in range(COLUMNS):
            store_magnitudes(
                lines.unsafe_offset(i * LINES + t * BINS), samples.unsafe_offset(i * SAMPLES), t,
                detector.factors,
            )
    # Taps that would meet nothing but padding are left out: the first, at the first column, and
    # the last, at the last one.
    for t in range(COLUMNS):
        var tap = 1 if t == 0 else 0
        var taps = 2 if t == COLUMNS - 1 else 3
        multiply_panels[BIAS_RELU](
            first.unsafe_offset(t * WIDE), lines.unsafe_offset((t - 1 + tap) * BINS),
            detector.conv1.weight, detector.conv1.bias, HIDDEN, LINES, m, WIDE // PANEL, 3 * BINS,
            tap * BINS, taps * BINS,
        )
    for t in range(COLUMNS // 2):
        var tap = 1 if t == 0 else 0
        multiply_panels[BIAS_RELU](
            second.unsafe_offset(t * NARROW), first.unsafe_offset((2 * t - 1 + tap) * WIDE),
            detector.conv2.weight, detector.conv2.bias, 2 * NARROW, HIDDEN, m, NARROW // PANEL,
            3 * WIDE, tap * WIDE, 3 * WIDE,
        )
    multiply_panels[BIAS_RELU](
        third, second, detector.conv3.weight, detector.conv3.bias, NARROW, 2 * NARROW, m,
        NARROW // PANEL, 2 * NARROW, 0, 2 * NARROW,
    )
    multiply_panels[BIAS_RELU](
        fourth, third, detector.conv4.weight, detector.conv4.bias, WIDE, NARROW, m, WIDE // PANEL,
        NARROW, 0, NARROW,
    )
    multiply_panels[BIAS](
        gates, fourth, detector.gates.weight, detector.gates.bias, GATES, WIDE, m, GATES // PANEL,
        WIDE, 0, WIDE,
    )
    _ = line_list^
    _ = first_list^
    _ = second_list^
    _ = third_list^
    _ = fourth_list^
