"""Linear layers on GPUs: y = epilogue(x · wᵀ), f32 sums over f32, bf16 or f16, for any shape.

A warp computes one output, or two, of a group of rows; its lanes take turns along k, and the
weights are read once for the group. The sum of one output runs over k in the same order whatever
the number of rows: a row's result never depends on its neighbours. The kernel knows no sizes when
it is compiled, so a few of it serve every layer of every model.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import WARP_SIZE, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import warp
from std.sys import size_of

from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, NONE, gelu

comptime F32 = DType.float32
comptime THREADS = 128
comptime WARPS = THREADS // WARP_SIZE
"""Warps of a block, each with outputs of its own."""
comptime ROWS = 64
"""Rows of a block, in groups."""


def product_kernel[
    WT: DType, ACT: DType, OUT: DType, BT: DType, RT: DType,
    epilogue: Int, width: Int, rows: Int, columns: Int,
](
    y: Pointer[Scalar[OUT], MutAnyOrigin],
    x: Pointer[Scalar[ACT], ImmutAnyOrigin],
    w: Pointer[Scalar[WT], ImmutAnyOrigin],
    bias: Pointer[Scalar[BT], ImmutAnyOrigin],
    residual: Pointer[Scalar[RT], ImmutAnyOrigin],
    m: Int32,
    n: Int32,
    k: Int32,
):
    """Each warp: `columns` outputs of ROWS rows, `rows` of them at a time.

    `width` divides k, and n is at least `columns`. `bias` [n] and `residual` [m, n] are read only
    where the epilogue names them.
    """
    var outputs = Int(n)
    var terms = Int(k)
    var lane = Int(thread_idx.x) % WARP_SIZE
    var first = (Int(block_idx.x) * WARPS + Int(thread_idx.x) // WARP_SIZE) * columns
    if first >= outputs:
        return
    # The last outputs are moved back to end at n; those they share are computed twice.
    var j = min(first, outputs - columns)
    var begin = Int(block_idx.y) * ROWS
    var end = min(begin + ROWS, Int(m))
    for i in range(begin, end, rows):
        var sums = Array[Float32, length=rows * columns](fill=0)
        for c in range(lane * width, terms, WARP_SIZE * width):
            var ws = Array[SIMD[F32, width], length=columns](fill=SIMD[F32, width](0))
            comptime for b in range(columns):
                comptime w_bytes = width * size_of[Scalar[WT]]()
                ws[b] = w.unsafe_load[width=width, alignment=w_bytes](
                    (j + b) * terms + c
                ).cast[F32]()
            comptime for a in range(rows):
                # A group that is not full repeats its last row.
                var row = min(i + a, end - 1)
                comptime x_bytes = width * size_of[Scalar[ACT]]()
                var xs = x.unsafe_load[width=width, alignment=x_bytes](
                    row * terms + c
                ).cast[F32]()
                comptime for b in range(columns):
                    comptime for e in range(width):
                        sums[a * columns + b] = ws[b][e].fma(xs[e], sums[a * columns + b])
        comptime for a in range(rows):
            comptime for b in range(columns):
                var sum = warp.sum(sums[a * columns + b])
                if lane == 0 and i + a < end:
                    var at = (i + a) * outputs + j + b
                    comptime if epilogue != NONE:
                        sum += bias[unsafe_offset=j + b].cast[F32]()
                    comptime if epilogue == BIAS_GELU:
                        sum = gelu[1](sum)
                    comptime if epilogue == BIAS_RESIDUAL:
                        sum += residual[unsafe_offset=at].cast[F32]()
                    y[unsafe_offset=at] = sum.cast[OUT]()


def product_gpu[
    WT: DType, ACT: DType, OUT: DType, BT: DType, RT: DType, //, epilogue: Int, width: Int
](
    y: Pointer[Scalar[OUT], MutAnyOrigin],
    x: Pointer[Scalar[ACT], ImmutAnyOrigin],
    w: Pointer[Scalar[WT], ImmutAnyOrigin],
    bias: Pointer[Scalar[BT], ImmutAnyOrigin],
    residual: Pointer[Scalar[RT], ImmutAnyOrigin],
    m: Int,
    n: Int,
    k: Int,
    ctx: DeviceContext,
) raises:
    """Launch y[m, n] = epilogue(x[m, k] · w[n, k]ᵀ), in groups of 1, 4 or 8 rows."""

    @parameter
    def launch[rows: Int, columns: Int]() raises:
        comptime kernel = product_kernel[
            WT, ACT, OUT, BT, RT, epilogue, width, rows, columns
        ]
        var blocks = (n + WARPS * columns - 1) // (WARPS * columns)
        ctx.enqueue_function[kernel](
            y, x, w, bias, residual, Int32(m), Int32(n), Int32(k),
            grid_dim=(blocks, (m + ROWS - 1) // ROWS), block_dim=THREADS,
        )

    if m == 1:
        launch[1, 1]()
    elif m <= 4:
        launch[4, 1]()
    else:
        launch[8, 2]()


@extensibility.register("mwc_gpu_product")
struct GPUProduct:
    """y[m, n] = x[m, k] · w[n, k]ᵀ; `width` neighbours along k are read together and divide k."""

    @staticmethod
    def execute[target: StaticString, OUT: DType, ACT: DType, WT: DType, width: Int](
        y: OutputTensor[dtype=OUT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        product_gpu[NONE, width](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(), w.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )


@extensibility.register("mwc_gpu_linear")
struct GPULinear:
    """y[m, n] = act(x[m, k] · w[n, k]ᵀ + bias[n]); act is GELU where `activation` is 1."""

    @staticmethod
    def execute[
        target: StaticString, ACT: DType, WT: DType, activation: Int, width: Int
    ](
        y: OutputTensor[dtype=ACT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        product_gpu[epilogue, width](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )


@extensibility.register("mwc_gpu_linear_residual")
struct GPULinearResidual:
    """y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n] + residual[m, n]."""

    @staticmethod
    def execute[target: StaticString, ACT: DType, WT: DType, width: Int](
        y: OutputTensor[dtype=ACT, rank=2, ...],
        x: InputTensor[dtype=ACT, rank=2, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=ACT, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        product_gpu[BIAS_RESIDUAL, width](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1), ctx,
        )
