"""Two steps of the int8 encoder that keep what lies between in cache: convolution, feed-forward."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level

from .convolution import TAPS, repeat_last, rows_to_compute
from .linear import BIAS_GELU, BIAS_RESIDUAL, layer_norm_rows
from .matmul_int8 import GROUP, RUN, ByteRows, Columns, matrix_of, multiply_rows
from .parallel import take_turn, turn_counters
from .quantized import F32


@always_inline
def convolve_int8(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    columns: Columns,
    bias: Pointer[mut=False, Float32, _],
    m: Int,
    n: Int,
    frames: Int,
    d: Int,
    stride: Int,
) raises:
    """The first m rows y[m, n] of one window x[frames, d], as for mwc_conv_int8."""
    var k = TAPS * d
    var items = (m + RUN - 1) // RUN
    var tasks = min(parallelism_level(), items)
    var counter_list = turn_counters(items, tasks)
    var counters = counter_list.unsafe_ptr()

    def run(t: Int) {var m, var n, var k, var items, var tasks, var counters, var frames, var d, var stride, var y, var x, var columns, var bias}:
        var quantized = ByteRows(GROUP, k)
        var edge = List[Float32](length=k, fill=0)
        var turn = take_turn(counters, items, tasks, t, GROUP // RUN)
        while turn[0] < turn[1]:
            var first = turn[0] * RUN
            var rows = min(turn[1] * RUN, m) - first
            for i in range(rows):
                var frame = (first + i) * stride - 1
                if frame >= 0 and frame + TAPS <= frames:
                    quantized.rows.put(i, x.unsafe_offset(frame * d))
                    continue
                for tap in range(TAPS):
                    var inside = 0 <= frame + tap < frames
                    for c in range(d):
                        edge[tap * d + c] = (
                            x[unsafe_offset=(frame + tap) * d + c] if inside else Float32(0)
                        )
                quantized.rows.put(i, edge.unsafe_ptr())
            multiply_rows[BIAS_GELU](
                y.unsafe_offset(first * n), quantized.rows, columns, bias, bias, rows, n
            )
            turn = take_turn(counters, items, tasks, t, GROUP // RUN)
        _ = edge^
        _ = quantized^

    sync_parallelize(run, tasks)
    _ = counter_list^


@extensibility.register("mwc_conv_int8")
struct ConvInt8:
    """As mwc_convolution, with w int8 [n / 16, 3 * d / 4, 16, 4] and its scales.

    These are as in quantized.mojo, terms tap by tap.
    """

    @staticmethod
    def execute[target: StaticString, stride: Int](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=DType.int8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        n_frames: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var frames = x.dim_size(1)
        var d = x.dim_size(2)
        var length = y.dim_size(1)
        var n = y.dim_size(2)
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            n, TAPS * d,
        )
        for window in range(x.dim_size(0)):
            var held = n_frames.unsafe_ptr()[unsafe_offset=window]
            var rows = rows_to_compute(held, length, stride)
            var own = y.unsafe_ptr().unsafe_offset(window * length * n)
            convolve_int8(
                own, x.unsafe_ptr().unsafe_offset(window * frames * d), matrix.columns,
                bias.unsafe_ptr(), rows, n, frames, d, stride,
            )
            repeat_last(own, rows, length, n)
        _ = matrix^


@extensibility.register("mwc_feed_forward_int8")
struct FeedForwardInt8:
    """y[b, t, d] = x + GELU(layer_norm(x) · w1ᵀ + bias1) · w2ᵀ + bias2.

    w1 int8 [h / 16, d / 4, 16, 4] and w2 int8 [d / 16, h / 4, 16, 4] with their scales f32 [h] and
    [d], as in quantized.mojo. The hidden values of a group of rows never leave the cache.
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w1: InputTensor[dtype=DType.int8, rank=4, ...],
        scale1: InputTensor[dtype=F32, rank=1, ...],
        group_scale1: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias1: InputTensor[dtype=F32, rank=1, ...],
        w2: InputTensor[dtype=DType.int8, rank=4, ...],
        scale2: InputTensor[dtype=F32, rank=1, ...],
        group_scale2: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias2: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var d = x.dim_size(2)
        var h = scale1.dim_size(0)
        var y_ptr = y.unsafe_ptr()
        var x_ptr = x.unsafe_ptr()
        var gamma_ptr = gamma.unsafe_ptr()
        var beta_ptr = beta.unsafe_ptr()
        var bias1_ptr = bias1.unsafe_ptr()
        var bias2_ptr = bias2.unsafe_ptr()
        var first_matrix = matrix_of(
            w1.unsafe_ptr(), scale1.unsafe_ptr(), group_scale1.unsafe_ptr(),
            group_scale1.dim_size(1), h, d,
        )
        var second_matrix = matrix_of(
            w2.unsafe_ptr(), scale2.unsafe_ptr(), group_scale2.unsafe_ptr(),
            group_scale2.dim_size(1), d, h,
        )
        var first_columns = first_matrix.columns
        var second_columns = second_matrix.columns

        var m = x.dim_size(0) * x.dim_size(1)
        var items = (m + RUN - 1) // RUN
        var tasks = min(parallelism_level(), items)
        var counter_list = turn_counters(items, tasks)
        var counters = counter_list.unsafe_ptr()

        def run(t: Int) {var m, var items, var tasks, var counters, var d, var h, var y_ptr, var x_ptr, var gamma_ptr, var beta_ptr, var first_columns, var bias1_ptr, var second_columns, var bias2_ptr}:
            var narrow = ByteRows(GROUP, d)
            var wide = ByteRows(GROUP, h)
            var normed_list = List[Float32](length=d, fill=0)
            var hidden_list = List[Float32](length=GROUP * h, fill=0)
            var normed = normed_list.unsafe_ptr()
            var hidden = hidden_list.unsafe_ptr()
            var turn = take_turn(counters, items, tasks, t, GROUP // RUN)
            while turn[0] < turn[1]:
                var first = turn[0] * RUN
                var rows = min(turn[1] * RUN, m) - first
                var source = x_ptr.unsafe_offset(first * d)
                for i in range(rows):
                    layer_norm_rows(normed, source.unsafe_offset(i * d), gamma_ptr, beta_ptr, 1, d)
                    narrow.rows.put(i, normed)
                multiply_rows[BIAS_GELU](
                    hidden, narrow.rows, first_columns, bias1_ptr, source, rows, h
                )
                for i in range(rows):
                    wide.rows.put(i, hidden.unsafe_offset(i * h))
                multiply_rows[BIAS_RESIDUAL](
                    y_ptr.unsafe_offset(first * d), wide.rows, second_columns, bias2_ptr, source,
                    rows, d,
                )
                turn = take_turn(counters, items, tasks, t, GROUP // RUN)
            _ = normed_list^
            _ = hidden_list^
            _ = narrow^
            _ = wide^

        sync_parallelize(run, tasks)
        _ = counter_list^
        _ = first_matrix^
        _ = second_matrix^
