"""Linear layers for many rows: y = epilogue(x · wᵀ), f32 sums over f32, bf16 or f16 weights.

The encoder's matrix products. The unit of work is a panel of output columns times a block of rows;
a thread packs the panel's weights once, transposed and widened to f32, for all its row blocks.
Sums run over K_BLOCK terms at a time and are then added up: shorter chains round less, which
matters in the last encoder layers, where single values are several hundred times the others.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level
from std.sys import CompilationTarget

from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, NONE, WIDTH, gelu
from .parallel import take_turn, turn_counters

comptime F32 = DType.float32
comptime PANEL = 2 * WIDTH
"""Output columns of one panel: two vector registers."""
comptime TILE = 8 if CompilationTarget.has_avx512f() else 6
"""Rows computed together; with two accumulators each they fill half of the registers."""
comptime MOST_ROWS = 32 * TILE
"""Rows of one unit of work at most."""
comptime K_BLOCK = 256
"""Terms of one chain of additions."""


@always_inline
def pack_panel[WT: DType](
    panel: Pointer[mut=True, Float32, _],
    w: Pointer[Scalar[WT], _],
    first: Int,
    n: Int,
    k: Int,
):
    """panel[k, PANEL] = rows [first, first + PANEL) of w[n, k], transposed; zeros past n."""
    for j in range(PANEL):
        if first + j >= n:
            for c in range(k):
                panel[unsafe_offset=c * PANEL + j] = 0
    var columns = min(PANEL, n - first)
    var whole = k - k % WIDTH
    for c in range(0, whole, WIDTH):
        for j in range(columns):
            var values = w.unsafe_load[width=WIDTH]((first + j) * k + c).cast[F32]()
            comptime for i in range(WIDTH):
                panel[unsafe_offset=(c + i) * PANEL + j] = values[i]
    for c in range(whole, k):
        for j in range(columns):
            panel[unsafe_offset=c * PANEL + j] = w[unsafe_offset=(first + j) * k + c].cast[F32]()


@always_inline
def store_columns(
    y: Pointer[mut=True, Float32, _], value: SIMD[F32, WIDTH], columns: Int
):
    """Store the first `columns` lanes, all of them where there are so many."""
    if columns >= WIDTH:
        y.unsafe_store(0, value)
    else:
        for lane in range(columns):
            y[unsafe_offset=lane] = value[lane]


@always_inline
def load_columns(y: Pointer[Float32, _], columns: Int) -> SIMD[F32, WIDTH]:
    """Load the first `columns` lanes; the others are 0."""
    if columns >= WIDTH:
        return y.unsafe_load[width=WIDTH](0)
    var value = SIMD[F32, WIDTH](0)
    for lane in range(columns):
        value[lane] = y[unsafe_offset=lane]
    return value


@always_inline
def multiply_tile[rows: Int, epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    panel: Pointer[Float32, _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    columns: Int,
    n: Int,
    k: Int,
    apart: Int,
):
    """y[rows, columns] = epilogue(x[rows, k] · panel[k, PANEL]); y and residual have row length n.

    Rows of x begin `apart` values apart.
    """
    for start in range(0, k, K_BLOCK):
        var end = min(start + K_BLOCK, k)
        var sums = Array[SIMD[F32, WIDTH], length=2 * rows](fill=SIMD[F32, WIDTH](0))
        for c in range(start, end):
            var w0 = panel.unsafe_load[width=WIDTH](c * PANEL)
            var w1 = panel.unsafe_load[width=WIDTH](c * PANEL + WIDTH)
            comptime for i in range(rows):
                var xv = SIMD[F32, WIDTH](x[unsafe_offset=i * apart + c])
                sums[2 * i] = w0.fma(xv, sums[2 * i])
                sums[2 * i + 1] = w1.fma(xv, sums[2 * i + 1])
        comptime for i in range(rows):
            comptime for half in range(2):
                var left = columns - half * WIDTH
                if left > 0:
                    var at = i * n + half * WIDTH
                    var sum = sums[2 * i + half]
                    if start > 0:
                        sum += load_columns(y.unsafe_offset(at), left)
                    if end == k:
                        comptime if epilogue != NONE:
                            sum += load_columns(bias.unsafe_offset(half * WIDTH), left)
                        comptime if epilogue == BIAS_GELU:
                            sum = gelu(sum)
                        comptime if epilogue == BIAS_RESIDUAL:
                            sum += load_columns(residual.unsafe_offset(at), left)
                    store_columns(y.unsafe_offset(at), sum, left)


@always_inline
def multiply[WT: DType, epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    w: Pointer[Scalar[WT], _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    m: Int,
    n: Int,
    k: Int,
    apart: Int,
) raises:
    """Compute y[m, n] = epilogue(x[m, k] · w[n, k]ᵀ).

    `bias` [n] and `residual` [m, n] are read only where the epilogue names them. Rows of x begin
    `apart` values apart: k, or fewer where each begins within the one before it.
    """
    var panels = (n + PANEL - 1) // PANEL
    var row_blocks = (m + MOST_ROWS - 1) // MOST_ROWS
    var row_tiles = (m + row_blocks * TILE - 1) // (row_blocks * TILE)
    var block_rows = row_tiles * TILE
    var items = panels * row_blocks
    var tasks = min(parallelism_level(), items)
    var counter_list = turn_counters(items, tasks)
    var counters = counter_list.unsafe_ptr()

    def task(t: Int) {var counters, var m, var n, var k, var apart, var row_blocks, var block_rows, var items, var tasks, var y, var x, var w, var bias, var residual}:
        var packed = List[Float32](length=k * PANEL, fill=0)
        var panel_ptr = packed.unsafe_ptr()
        var ready = -1
        var turn = take_turn(counters, items, tasks, t)
        while turn[0] < turn[1]:
            var item = turn[0]
            var panel = item // row_blocks
            var first = panel * PANEL
            if panel != ready:
                pack_panel[WT](panel_ptr, w, first, n, k)
                ready = panel
            var columns = min(PANEL, n - first)
            var i = (item % row_blocks) * block_rows
            var last = min(i + block_rows, m)
            while i + TILE <= last:
                multiply_tile[TILE, epilogue](
                    y.unsafe_offset(i * n + first), x.unsafe_offset(i * apart), panel_ptr,
                    bias.unsafe_offset(first), residual.unsafe_offset(i * n + first),
                    columns, n, k, apart,
                )
                i += TILE
            while i < last:
                multiply_tile[1, epilogue](
                    y.unsafe_offset(i * n + first), x.unsafe_offset(i * apart), panel_ptr,
                    bias.unsafe_offset(first), residual.unsafe_offset(i * n + first),
                    columns, n, k, apart,
                )
                i += 1
            turn = take_turn(counters, items, tasks, t)
        _ = packed^

    sync_parallelize(task, tasks)
    _ = counter_list^


@extensibility.register("mwc_matmul")
struct Matmul:
    """y[b, t, n] = x[b, t, k] · w[n, k]ᵀ."""

    @staticmethod
    def execute[target: StaticString, WT: DType](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        multiply[WT, NONE](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), x.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0) * x.dim_size(1), y.dim_size(2), x.dim_size(2), x.dim_size(2),
        )


@extensibility.register("mwc_matmul_bias")
struct MatmulBias:
    """y[b, t, n] = act(x[b, t, k] · w[n, k]ᵀ + bias[n]); act is GELU where `activation` is 1."""

    @staticmethod
    def execute[target: StaticString, WT: DType, activation: Int](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        multiply[WT, epilogue](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(), x.unsafe_ptr(),
            x.dim_size(0) * x.dim_size(1), y.dim_size(2), x.dim_size(2), x.dim_size(2),
        )


@extensibility.register("mwc_matmul_residual")
struct MatmulResidual:
    """y[b, t, n] = residual[b, t, n] + x[b, t, k] · w[n, k]ᵀ + bias[n]."""

    @staticmethod
    def execute[target: StaticString, WT: DType](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=F32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        multiply[WT, BIAS_RESIDUAL](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(),
            x.dim_size(0) * x.dim_size(1), y.dim_size(2), x.dim_size(2), x.dim_size(2),
        )
