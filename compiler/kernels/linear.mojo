"""Linear layers for few rows: y = epilogue(norm(x) · wᵀ), f32 sums over f32, bf16 or f16 weights.

Decoding multiplies one or a few rows by every weight, so reading the weights is the whole cost.
Each task takes a range of output columns and keeps a block of weight rows in cache for all rows
of x. The sum of one output runs over k in the same order whatever the number of rows: a row's
result never depends on its neighbours.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.math import exp, sqrt
from std.runtime import parallelism_level
from std.sys import CompilationTarget, size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

comptime F32 = DType.float32
comptime WIDTH = 16 if CompilationTarget.has_avx512f() else 8
"""Lanes of one vector register."""
comptime BLOCK = 8
"""Output columns computed together."""
comptime ROWS = 6 if CompilationTarget.has_avx512f() else 3
"""Rows of a tile: with half a block of columns its sums fit into the 32 or 16 registers."""
comptime MANY = 12
"""Rows from which on it pays to widen a block's weights once instead of for every tile."""
comptime AHEAD = 8192
"""How many bytes ahead weights are fetched into cache."""
comptime BUSY = 8
"""Rows whose arithmetic keeps a CPU from looking far ahead."""
comptime LINE = 64
"""Bytes of a line of the cache."""
comptime SERIAL_WORK = 1 << 18
"""Below this many multiply-adds, waking other threads (about 10 µs) costs more than it saves."""
comptime LAYER_NORM_EPSILON = 1e-5
"""torch.nn.LayerNorm's default, which Whisper uses throughout."""

comptime NONE = 0
comptime BIAS = 1
comptime BIAS_GELU = 2
comptime BIAS_RESIDUAL = 3


@always_inline
def larger[width: Int](a: SIMD[F32, width], b: SIMD[F32, width]) -> SIMD[F32, width]:
    """The larger of each two: one instruction of x86, where `max` takes two more for what is NaN."""
    return a.gt(b).select(a, b)


@always_inline
def smaller[width: Int](a: SIMD[F32, width], b: SIMD[F32, width]) -> SIMD[F32, width]:
    """The smaller of each two, in one instruction too."""
    return a.lt(b).select(a, b)


@fieldwise_init
struct Ratio[width: Int](Copyable, Movable):
    """What is above and below a fraction's line."""

    var above: SIMD[F32, Self.width]
    var below: SIMD[F32, Self.width]


@always_inline
def gelu[width: Int](x: SIMD[F32, width]) -> SIMD[F32, width]:
    """Exact GELU, as torch.nn.functional.gelu without approximation, to 1.7e-7 of 1 + |x|.

    torch's own is within 0.9e-7; the standard library's `erf` takes three times as long as this.
    """
    var ratio = gelu_ratio[width](x)
    return x * (ratio.above / ratio.below + 0.5)


@always_inline
def gelu_ratio[width: Int](x: SIMD[F32, width]) -> Ratio[width]:
    """Phi(x) - 0.5 as c * P(c²) / Q(c²), c being x held within ±5.515; beyond, Phi is 0 or 1 in float32.

    P / Q is fitted to (Phi(c) - 0.5) / c for the least largest error, 7e-9 before rounding.
    """
    var c = larger[width](smaller[width](x, 5.515433), -5.515433)
    var t = c * c
    var p = SIMD[F32, width](2.26537882e-08)
    p = p.fma(t, 6.35195693e-06).fma(t, 0.000169566978).fma(t, 0.00468165474)
    p = p.fma(t, 0.0339306444).fma(t, 0.398942232)
    var q = SIMD[F32, width](1.19470974e-06)
    q = q.fma(t, 7.3858173e-05).fma(t, 0.00188864733).fma(t, 0.0286895204)
    q = q.fma(t, 0.251717418).fma(t, 1.0)
    return Ratio[width](c * p, q)


@always_inline
def sigmoid[width: Int](x: SIMD[F32, width]) -> SIMD[F32, width]:
    """The logistic function, 1 / (1 + exp(-x)); where exp overflows, 0."""
    return 1.0 / (1.0 + exp(-x))


@always_inline
def tanh[width: Int](x: SIMD[F32, width]) -> SIMD[F32, width]:
    """Tanh, to an absolute error of about 1e-7."""
    return 2.0 * sigmoid(2.0 * x) - 1.0


@always_inline
def layer_norm_rows(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    m: Int,
    k: Int,
):
    """Normalise each of the m rows of x[m, k] into y[m, k]; two passes for the variance."""
    for i in range(m):
        var row = x.unsafe_offset(i * k)
        var sums = SIMD[F32, WIDTH](0)
        for j in range(0, k, WIDTH):
            sums += row.unsafe_load[width=WIDTH](j)
        var mean = sums.reduce_add() / Float32(k)
        var squares = SIMD[F32, WIDTH](0)
        for j in range(0, k, WIDTH):
            var d = row.unsafe_load[width=WIDTH](j) - mean
            squares = d.fma(d, squares)
        var scale = 1.0 / sqrt(squares.reduce_add() / Float32(k) + LAYER_NORM_EPSILON)
        for j in range(0, k, WIDTH):
            var d = (row.unsafe_load[width=WIDTH](j) - mean) * scale
            y.unsafe_store(
                i * k + j,
                d.fma(gamma.unsafe_load[width=WIDTH](j), beta.unsafe_load[width=WIDTH](j)),
            )


@always_inline
def fetch_ahead[T: DType](w: Pointer[Scalar[T], _], ahead: Int = AHEAD):
    """Ask for the cache line `ahead` bytes behind w, which need not be there.

    What CPUs fetch by themselves when reads are sequential is not enough (LM head of tiny.en in
    float16, one row, 2 Zen 3 CPUs: 15 GB/s without, 25 with; in int8, each CPU: 17 and 25).
    """
    prefetch[PrefetchOptions().for_read().high_locality().to_data_cache()](
        w.bitcast[UInt8]().unsafe_offset(ahead)
    )


@always_inline
def fetch_in_order[T: DType, //, rows: Int](w: Pointer[Scalar[T], _]):
    """Ask for what lies ahead of weights that are read from end to end for so many rows.

    CPUs with AVX-512 find it sooner by themselves, as long as they look far enough ahead: with
    eight rows their arithmetic is in the way (int8 products of base on 2 Zen 4 CPUs, one row 35 to
    47 GB/s left alone and 27 to 36 when asked; eight rows 71 µs a layer's fc1 and 59 when asked).
    """
    comptime if not CompilationTarget.has_avx512f() or rows >= BUSY:
        fetch_ahead(w)


@always_inline
def multiply_rows[WT: DType, rows: Int, columns: Int, fetch: Bool](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    w: Pointer[Scalar[WT], _],
    k: Int,
):
    """y[rows, columns] = x[rows, k] · w[columns, k]ᵀ; y has row length BLOCK.

    `fetch`: whether to fetch weights ahead, as many as are read here.
    """
    var sums = Array[SIMD[F32, WIDTH], length=rows * columns](fill=SIMD[F32, WIDTH](0))
    for c in range(0, k, WIDTH):
        comptime if fetch:
            comptime for ahead in range(0, columns * WIDTH, LINE // size_of[Scalar[WT]]()):
                fetch_ahead(w.unsafe_offset(c * columns + ahead))
        comptime for b in range(columns):
            var wv = w.unsafe_load[width=WIDTH](b * k + c).cast[F32]()
            comptime for a in range(rows):
                var xv = x.unsafe_load[width=WIDTH](a * k + c)
                sums[a * columns + b] = wv.fma(xv, sums[a * columns + b])
    comptime for a in range(rows):
        var sum = SIMD[F32, columns](0)
        comptime for b in range(columns):
            sum[b] = sums[a * columns + b].reduce_add()
        y.unsafe_store(a * BLOCK, sum)


@always_inline
def multiply_block[WT: DType, epilogue: Int, fetch: Bool](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    w: Pointer[Scalar[WT], _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    m: Int,
    n: Int,
    k: Int,
):
    """y[m, BLOCK] = epilogue(x[m, k] · w[BLOCK, k]ᵀ); y and residual have row length n."""
    var sum_array = Array[Float32, length=ROWS * BLOCK](uninitialized=True)
    var sums = sum_array.unsafe_ptr()

    @always_inline
    def rows_at[rows: Int, columns: Int](i: Int) {var sums, var y, var x, var w, var bias, var residual, var n, var k}:
        comptime for j in range(0, BLOCK, columns):
            multiply_rows[WT, rows, columns, fetch](
                sums.unsafe_offset(j), x.unsafe_offset(i * k), w.unsafe_offset(j * k), k
            )
        comptime for a in range(rows):
            var sum = sums.unsafe_load[width=BLOCK](a * BLOCK)
            comptime if epilogue != NONE:
                sum += bias.unsafe_load[width=BLOCK](0)
            comptime if epilogue == BIAS_GELU:
                sum = gelu[BLOCK](sum)
            comptime if epilogue == BIAS_RESIDUAL:
                sum += residual.unsafe_load[width=BLOCK]((i + a) * n)
            y.unsafe_store((i + a) * n, sum)

    var i = 0
    while i + ROWS <= m:
        rows_at[ROWS, BLOCK // 2](i)
        i += ROWS
    comptime if ROWS > 4:
        if i + 4 <= m:
            rows_at[4, BLOCK // 2](i)
            i += 4
    if i + 2 <= m:
        rows_at[2, BLOCK // 2](i)
        i += 2
    if i < m:
        rows_at[1, BLOCK](i)
    _ = sum_array^


@always_inline
def product[WT: DType, epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    w: Pointer[Scalar[WT], _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    m: Int,
    n: Int,
    k: Int,
) raises:
    """Compute y[m, n] = epilogue(x[m, k] · w[n, k]ᵀ); k is a multiple of 16 and n at least 8.

    `bias` [n] and `residual` [m, n] are read only where the epilogue names them.
    """

    @always_inline
    def columns_of(first: Int, last: Int) {var m, var n, var k, var y, var x, var w, var bias, var residual}:
        var wide_list = List[Float32]()
        comptime if WT != F32:
            wide_list = List[Float32](length=BLOCK * k if m >= MANY else 0, fill=0)
        var wide = wide_list.unsafe_ptr()
        for block in range(first, last):
            # The last block is moved back to end at n; the columns it shares are computed twice.
            var j = min(block * BLOCK, n - BLOCK)
            var own = w.unsafe_offset(j * k)
            var y_own, r_own = y.unsafe_offset(j), residual.unsafe_offset(j)
            comptime if WT != F32:
                if m >= MANY:
                    for c in range(0, BLOCK * k, WIDTH):
                        wide.unsafe_store(c, own.unsafe_load[width=WIDTH](c).cast[F32]())
                    multiply_block[F32, epilogue, False](
                        y_own, x, wide, bias.unsafe_offset(j), r_own, m, n, k
                    )
                    continue
            multiply_block[WT, epilogue, True](
                y_own, x, own, bias.unsafe_offset(j), r_own, m, n, k
            )
        _ = wide_list^

    var blocks = (n + BLOCK - 1) // BLOCK
    if m * n * k < SERIAL_WORK:
        columns_of(0, blocks)
        return
    var tasks = min(parallelism_level(), blocks)

    def task(t: Int) {var blocks, var tasks, var columns_of}:
        columns_of(blocks * t // tasks, blocks * (t + 1) // tasks)

    sync_parallelize(task, tasks)


@extensibility.register("mwc_norm_linear")
struct NormLinear:
    """y[m, n] = act(layer_norm(x[m, k]) · w[n, k]ᵀ + bias[n]); act is GELU where `activation` is 1."""

    @staticmethod
    def execute[target: StaticString, WT: DType, activation: Int](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0)
        var k = x.dim_size(1)
        var normed = List[Float32](length=m * k, fill=0)
        var normed_ptr = normed.unsafe_ptr()
        layer_norm_rows(normed_ptr, x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), m, k)
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        product[WT, epilogue](
            y.unsafe_ptr(), normed_ptr, w.unsafe_ptr(), bias.unsafe_ptr(), bias.unsafe_ptr(),
            m, y.dim_size(1), k,
        )
        _ = normed^


@extensibility.register("mwc_linear_residual")
struct LinearResidual:
    """y[m, n] = x[m, k] · w[n, k]ᵀ + bias[n] + residual[m, n]."""

    @staticmethod
    def execute[target: StaticString, WT: DType](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        product[WT, BIAS_RESIDUAL](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), bias.unsafe_ptr(),
            residual.unsafe_ptr(), x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )


@extensibility.register("mwc_norm_logits")
struct NormLogits:
    """y[m, n] = layer_norm(x[m, k]) · w[n, k]ᵀ: the LM head, whose w is the token embedding."""

    @staticmethod
    def execute[target: StaticString, WT: DType](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0)
        var k = x.dim_size(1)
        var normed = List[Float32](length=m * k, fill=0)
        var normed_ptr = normed.unsafe_ptr()
        layer_norm_rows(normed_ptr, x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), m, k)
        product[WT, NONE](
            y.unsafe_ptr(), normed_ptr, w.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(),
            m, y.dim_size(1), k,
        )
        _ = normed^
