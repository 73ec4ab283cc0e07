"""The encoder's convolutions on CPUs: three neighbouring frames times a matrix, with GELU.

The frames past the audio are all alike, and so is what comes of them: it is computed once.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .linear import BIAS_GELU, WIDTH
from .matmul import multiply
from .parallel import share
from .pointers import untracked_mut

comptime F32 = DType.float32
comptime I32 = DType.int32
comptime TAPS = 3
"""Neighbouring frames that a convolution looks at: one before, one after."""
comptime REACH = 1
"""Frames past the audio that may differ from those after them: the first convolution leaves one."""
comptime FRAMES = 50
"""Frames that a thread copies at a time."""


@always_inline
def rows_to_compute(n_frames: Int32, length: Int, stride: Int) -> Int:
    """How many of a window's `length` rows there are until all others are as the last of these is.

    `n_frames`: frames of the audio. Row i looks at frames from i * stride - 1 on.
    """
    var first_alike = (max(0, Int(n_frames)) + REACH + stride) // stride
    return min(length, first_alike + 1)


@always_inline
def copy_row(y: Pointer[mut=True, Float32, _], x: Pointer[Float32, _], count: Int):
    """Copy x[count] to y."""
    var vectors = count // WIDTH * WIDTH
    for c in range(0, vectors, WIDTH):
        y.unsafe_store(c, x.unsafe_load[width=WIDTH](c))
    for c in range(vectors, count):
        y[unsafe_offset=c] = x[unsafe_offset=c]


def repeat_last(y: Pointer[mut=True, Float32, _], rows: Int, length: Int, n: Int) raises:
    """Copy the last of `rows` of y[length, n] to all rows after it."""
    var runs = (length - rows + FRAMES - 1) // FRAMES
    var last_row = untracked_mut(y.unsafe_offset((rows - 1) * n))

    def some_rows(item: Int) {var y, var last_row, var rows, var length, var n}:
        var first = rows + item * FRAMES
        for i in range(first, min(length, first + FRAMES)):
            copy_row(y.unsafe_offset(i * n), last_row, n)

    share(some_rows, runs)


def pad_frames(
    padded: Pointer[mut=True, Float32, _], x: Pointer[Float32, _], count: Int, frames: Int, d: Int
) raises:
    """Set padded[count, d] to a frame of zeros and the first of x[frames, d]; zeros behind them."""

    def some_frames(item: Int) {var padded, var x, var count, var frames, var d}:
        var first = item * FRAMES
        for i in range(first, min(count, first + FRAMES)):
            var to = padded.unsafe_offset(i * d)
            if 1 <= i <= frames:
                copy_row(to, x.unsafe_offset((i - 1) * d), d)
                continue
            for c in range(d):
                to[unsafe_offset=c] = 0

    share(some_frames, (count + FRAMES - 1) // FRAMES)


@extensibility.register("mwc_convolution")
struct Convolution:
    """y[b, t, n] = GELU(frames x[b, t * stride + (-1, 0, 1), d] side by side · wᵀ + bias[n]).

    Frames before the first and after the last are zeros; w is [n, 3 * d], x has t * stride frames.
    n_frames int32 [b]: those of the audio. From one frame further on, all of a window's are alike;
    they are zeros where the stride is 1.
    """

    @staticmethod
    def execute[target: StaticString, WT: DType, stride: Int](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        n_frames: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var frames = x.dim_size(1)
        var d = x.dim_size(2)
        var length = y.dim_size(1)
        var n = y.dim_size(2)
        for window in range(x.dim_size(0)):
            var held = n_frames.unsafe_ptr()[unsafe_offset=window]
            var rows = rows_to_compute(held, length, stride)
            var count = (rows - 1) * stride + TAPS
            var padded_list = List[Float32](unsafe_uninit_length=count * d)
            var padded = padded_list.unsafe_ptr()
            var source = x.unsafe_ptr().unsafe_offset(window * frames * d)
            pad_frames(padded, source, count, frames, d)
            var own = y.unsafe_ptr().unsafe_offset(window * length * n)
            multiply[WT, BIAS_GELU](
                own, padded, w.unsafe_ptr(), bias.unsafe_ptr(), bias.unsafe_ptr(), rows, n,
                TAPS * d, stride * d,
            )
            repeat_last(own, rows, length, n)
            _ = padded_list^
