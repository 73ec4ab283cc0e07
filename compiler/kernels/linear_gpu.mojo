"""Linear layers on GPUs: y = epilogue(x · wᵀ), f32 sums over f32, bf16 or f16, for any shape.

A warp computes one output, or a few, of a group of rows; its lanes take turns along k, and the
weights are read once for the group. The sum of one output runs over k in the same order whatever
the number of rows: a row's result never depends on its neighbours. No size is known when this is
compiled, so a few pieces of code serve every layer.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import WARP_SIZE, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import warp
from std.sys import size_of

from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, NONE, gelu

comptime F32 = DType.float32
comptime THREADS = 256
comptime WARPS = THREADS // WARP_SIZE
"""Warps of a block, each with outputs of its own."""
comptime ROWS = 64
"""Rows of a block."""
comptime FEW = 8
"""Up to so many rows, a warp computes one output only: more warps read weights at once."""
comptime COLUMNS = 4
"""Outputs of a warp beyond that."""


@always_inline
def tile[
    WT: DType, ACT: DType, OUT: DType, BT: DType, RT: DType, //,
    epilogue: Int, width: Int, rows: Int, columns: Int,
](
    y: Pointer[mut=True, Scalar[OUT], _],
    x: Pointer[Scalar[ACT], _],
    w: Pointer[Scalar[WT], _],
    bias: Pointer[Scalar[BT], _],
    residual: Pointer[Scalar[RT], _],
    i: Int,
    j: Int,
    n: Int,
    k: Int,
):
    """One warp: outputs j to j + columns of rows i to i + rows."""
    var lane = Int(thread_idx.x) % WARP_SIZE
    var sums = Array[Float32, length=rows * columns](fill=0)
    for c in range(lane * width, k, WARP_SIZE * width):
        var xs = Array[SIMD[F32, width], length=rows](fill=SIMD[F32, width](0))
        comptime for a in range(rows):
            comptime x_bytes = width * size_of[Scalar[ACT]]()
            xs[a] = x.unsafe_load[width=width, alignment=x_bytes]((i + a) * k + c).cast[F32]()
        comptime for b in range(columns):
            comptime w_bytes = width * size_of[Scalar[WT]]()
            var ws = w.unsafe_load[width=width, alignment=w_bytes]((j + b) * k + c).cast[F32]()
            comptime for a in range(rows):
                comptime for e in range(width):
                    sums[a * columns + b] = ws[e].fma(xs[a][e], sums[a * columns + b])
    comptime for a in range(rows):
        comptime for b in range(columns):
            var sum = warp.sum(sums[a * columns + b])
            if lane == 0:
                comptime if epilogue != NONE:
                    sum += bias[unsafe_offset=j + b].cast[F32]()
                comptime if epilogue == BIAS_GELU:
                    sum = gelu[1](sum)
                comptime if epilogue == BIAS_RESIDUAL:
                    sum += residual[unsafe_offset=(i + a) * n + j + b].cast[F32]()
                y[unsafe_offset=(i + a) * n + j + b] = sum.cast[OUT]()


@always_inline
def product_block[
    WT: DType, ACT: DType, OUT: DType, BT: DType, RT: DType, //,
    epilogue: Int, width: Int, columns: Int,
](
    y: Pointer[mut=True, Scalar[OUT], _],
    x: Pointer[Scalar[ACT], _],
    w: Pointer[Scalar[WT], _],
    bias: Pointer[Scalar[BT], _],
    residual: Pointer[Scalar[RT], _],
    m: Int,
    n: Int,
    k: Int,
):
    """One block: y[m, n] = epilogue(x[m, k] · w[n, k]ᵀ) for its outputs and its ROWS rows.

    `width` divides k, and n is at least `columns`. `bias` [n] and `residual` [m, n] are read only
    where the epilogue names them.
    """
    var first = (Int(block_idx.x) * WARPS + Int(thread_idx.x) // WARP_SIZE) * columns
    if first >= n:
        return
    # The last outputs are moved back to end at n; those they share are computed twice.
    var j = min(first, n - columns)
    var i = Int(block_idx.y) * ROWS
    var last = min(i + ROWS, m)
    while i + 8 <= last:
        tile[epilogue, width, 8, columns](y, x, w, bias, residual, i, j, n, k)
        i += 8
    if i + 4 <= last:
        tile[epilogue, width, 4, columns](y, x, w, bias, residual, i, j, n, k)
        i += 4
    if i + 2 <= last:
        tile[epilogue, width, 2, columns](y, x, w, bias, residual, i, j, n, k)
        i += 2
    if i < last:
        tile[epilogue, width, 1, columns](y, x, w, bias, residual, i, j, n, k)


@always_inline
def ceildiv(a: Int, b: Int) -> Int:
    """a / b, rounded up."""
    return (a + b - 1) // b


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
        var m = x.dim_size(0)
        var n = y.dim_size(1)

        @parameter
        def block[columns: Int](rows: Int32, outputs: Int32, terms: Int32):
            var wp = w.unsafe_ptr()
            product_block[NONE, width, columns](
                y.unsafe_ptr(), x.unsafe_ptr(), wp, wp, wp, Int(rows), Int(outputs), Int(terms)
            )

        var sizes = (Int32(m), Int32(n), Int32(x.dim_size(1)))
        if m <= FEW:
            ctx.enqueue_function[block[1]](
                sizes[0], sizes[1], sizes[2], grid_dim=(ceildiv(n, WARPS), 1), block_dim=THREADS
            )
        else:
            ctx.enqueue_function[block[COLUMNS]](
                sizes[0], sizes[1], sizes[2],
                grid_dim=(ceildiv(n, WARPS * COLUMNS), ceildiv(m, ROWS)), block_dim=THREADS,
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
        var m = x.dim_size(0)
        var n = y.dim_size(1)

        @parameter
        def block[columns: Int](rows: Int32, outputs: Int32, terms: Int32):
            var bp = bias.unsafe_ptr()
            product_block[epilogue, width, columns](
                y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bp, bp,
                Int(rows), Int(outputs), Int(terms),
            )

        var sizes = (Int32(m), Int32(n), Int32(x.dim_size(1)))
        if m <= FEW:
            ctx.enqueue_function[block[1]](
                sizes[0], sizes[1], sizes[2], grid_dim=(ceildiv(n, WARPS), 1), block_dim=THREADS
            )
        else:
            ctx.enqueue_function[block[COLUMNS]](
                sizes[0], sizes[1], sizes[2],
                grid_dim=(ceildiv(n, WARPS * COLUMNS), ceildiv(m, ROWS)), block_dim=THREADS,
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
        var m = x.dim_size(0)
        var n = y.dim_size(1)

        @parameter
        def block[columns: Int](rows: Int32, outputs: Int32, terms: Int32):
            product_block[BIAS_RESIDUAL, width, columns](
                y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
                residual.unsafe_ptr(), Int(rows), Int(outputs), Int(terms),
            )

        var sizes = (Int32(m), Int32(n), Int32(x.dim_size(1)))
        if m <= FEW:
            ctx.enqueue_function[block[1]](
                sizes[0], sizes[1], sizes[2], grid_dim=(ceildiv(n, WARPS), 1), block_dim=THREADS
            )
        else:
            ctx.enqueue_function[block[COLUMNS]](
                sizes[0], sizes[1], sizes[2],
                grid_dim=(ceildiv(n, WARPS * COLUMNS), ceildiv(m, ROWS)), block_dim=THREADS,
            )
