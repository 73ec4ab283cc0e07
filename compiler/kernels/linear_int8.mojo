"""Linear layers for few rows over int8 weights: y = epilogue(norm(x) · wᵀ), 16-bit activations.

The decoder's products in int8 artifacts; quantized.mojo has the layout and the arithmetic. Each
task takes a range of blocks of columns and multiplies all rows with a block while it is in cache.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.memory import bitcast
from std.runtime import parallelism_level

from .linear import (
    BIAS,
    BIAS_GELU,
    BIAS_RESIDUAL,
    gelu,
    layer_norm_rows,
)
from .quantized import COLUMNS, F32, GROUP_TERMS, TERMS, Register
from .rounding import quantize_words
from .word_sums import sum_groups

comptime SERIAL_WORK_INT8 = 1 << 20
"""As linear.SERIAL_WORK: a quarter of the bytes, four times the multiply-adds."""
comptime TILES = (8, 4, 2, 1)
"""Rows multiplied together, the most that there is room for first: 12 fill the registers."""


@always_inline
def load_part(x: Pointer[Float32, _], count: Int) -> SIMD[F32, COLUMNS]:
    """Load COLUMNS values, or the first `count` where there are fewer; the others are 0."""
    if count >= COLUMNS:
        return x.unsafe_load[width=COLUMNS](0)
    var values = SIMD[F32, COLUMNS](0)
    for i in range(count):
        values[i] = x[unsafe_offset=i]
    return values


@always_inline
def store_part(y: Pointer[mut=True, Float32, _], values: SIMD[F32, COLUMNS], count: Int):
    """Store COLUMNS values, or the first `count` where there are fewer."""
    if count >= COLUMNS:
        y.unsafe_store(0, values)
    else:
        for i in range(count):
            y[unsafe_offset=i] = values[i]


@always_inline
def gelu_within_bytes(x: SIMD[F32, COLUMNS]) -> SIMD[F32, COLUMNS]:
    """GELU to 1.8e-4, a fortieth of what the rounding of 8-bit activations costs next (root mean squares).

    x * (0.5 ± Q(|x|)) with x's sign, |x| held below TOP; Q is fitted to Phi - 0.5 for the least largest
    error of the product, and is 0.5 at TOP. Signs and the limit are whole-number instructions, as the
    units that multiply floats are those that multiply bytes.
    """
    comptime U32 = DType.uint32
    comptime TOP = SIMD[F32, COLUMNS](3.95)
    var bits = bitcast[U32, COLUMNS](x)
    var sign = bits & 0x80000000
    var a = bitcast[F32, COLUMNS](min(bits ^ sign, bitcast[U32, COLUMNS](TOP)))
    var q = a.fma(SIMD[F32, COLUMNS](0.00066311774), -0.010186388)
    q = q.fma(a, 0.058921002).fma(a, -0.14339003).fma(a, 0.047201015)
    q = q.fma(a, 0.38818812).fma(a, 4.8321643e-05)
    return x * (0.5 + bitcast[F32, COLUMNS](bitcast[U32, COLUMNS](q) ^ sign))


@always_inline
def finish[epilogue: Int, *, within_bytes: Bool = False](
    y: Pointer[mut=True, Float32, _],
    sums: Register,
    scale: Register,
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    count: Int,
):
    """Scale the sums of `count` columns of one row, apply the epilogue and store them.

    The multiply-add is spelled out: left to the compiler, it could differ between tiles.
    `within_bytes`: whether the result is rounded to 8 bits next, and GELU need not be exact.
    """
    var result = sums.fma(scale, load_part(bias, count))
    comptime if epilogue == BIAS_GELU:
        comptime if within_bytes:
            result = gelu_within_bytes(result)
        else:
            result = gelu[COLUMNS](result)
    comptime if epilogue == BIAS_RESIDUAL:
        result += load_part(residual, count)
    store_part(y, result, count)


@fieldwise_init
struct Tile(Copyable, Movable):
    """Rows that are multiplied together, from `start` on."""

    var start: Int
    var rows: Int


@always_inline
def tile_of(i: Int, m: Int) -> Tile:
    """The tile that row i of m is in: as many of TILES' first as there is room for, then smaller."""
    var start = 0
    comptime for kind in range(len(TILES)):
        comptime rows = TILES[kind]
        var end = start + (m - start) // rows * rows
        if i < end:
            return Tile(i - (i - start) % rows, rows)
        start = end
    return Tile(i, 1)


@always_inline
def quantize_rows(
    words: Pointer[mut=True, Int16, _],
    units: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    first: Int,
    last: Int,
    m: Int,
    k: Int,
    terms: Int,
):
    """Round rows [first, last) of x[m, k] to 16 bits, tile by tile as `multiply_blocks` has them.

    Their products are summed over `terms` terms at most.
    """
    for i in range(first, last):
        var tile = tile_of(i, m)
        units[unsafe_offset=i] = quantize_words(
            words.unsafe_offset(tile.start * k + (i - tile.start) * TERMS),
            x.unsafe_offset(i * k), k, tile.rows, terms,
        )


@always_inline
def multiply_block[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    words: Pointer[Int16, _],
    units: Pointer[Float32, _],
    w: Pointer[Int8, _],
    scale: Pointer[Float32, _],
    group_scale: Pointer[UInt8, _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    block: Int,
    m: Int,
    n: Int,
    k: Int,
):
    """Compute a block of columns of y[m, n] = epilogue(x[m, k] · wᵀ), w and group_scale being the block's.

    x is given as `quantize_rows` made it. `bias` [n] and `residual` [m, n] are read only where the
    epilogue names them.
    """
    var j = block * COLUMNS

    @always_inline
    def tile[rows: Int](i: Int) {var k, var n, var j, var y, var w, var scale, var group_scale, var bias, var residual, var words, var units}:
        var sums = sum_groups[rows](words.unsafe_offset(i * k), w, group_scale, k)
        var scales = load_part(scale.unsafe_offset(j), n - j)
        comptime for a in range(rows):
            var at = (i + a) * n + j
            finish[epilogue](
                y.unsafe_offset(at), sums[a], scales * units[unsafe_offset=i + a],
                bias.unsafe_offset(j), residual.unsafe_offset(at), n - j,
            )

    var i = 0
    comptime for kind in range(len(TILES)):
        comptime rows = TILES[kind]
        while i + rows <= m:
            tile[rows](i)
            i += rows


@always_inline
def multiply_blocks[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    words: Pointer[Int16, _],
    units: Pointer[Float32, _],
    w: Pointer[Int8, _],
    scale: Pointer[Float32, _],
    group_scale: Pointer[UInt8, _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    first: Int,
    last: Int,
    m: Int,
    n: Int,
    k: Int,
):
    """Compute the blocks of columns [first, last), w and group_scale being those of all."""
    var groups = term_groups(k)
    for block in range(first, last):
        multiply_block[epilogue](
            y, words, units, w.unsafe_offset(block * COLUMNS * k), scale,
            group_scale.unsafe_offset(block * COLUMNS * groups), bias, residual, block, m, n, k,
        )


@always_inline
def term_groups(k: Int) -> Int:
    """Groups of k terms that have a scale."""
    return (k + GROUP_TERMS - 1) // GROUP_TERMS


@always_inline
def blocks_of(n: Int) -> Int:
    """Blocks of n columns."""
    return (n + COLUMNS - 1) // COLUMNS


@always_inline
def product_int8[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    w: Pointer[Int8, _],
    scale: Pointer[Float32, _],
    group_scale: Pointer[UInt8, _],
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    m: Int,
    n: Int,
    k: Int,
) raises:
    """Compute y[m, n] = epilogue(x[m, k] · wᵀ) for packed w; k is a multiple of 16.

    `bias` [n] and `residual` [m, n] are read only where the epilogue names them.
    """
    var word_list = List[Int16](length=m * k, fill=0)
    var unit_list = List[Float32](length=m, fill=0)
    var words = word_list.unsafe_ptr()
    var units = unit_list.unsafe_ptr()
    quantize_rows(words, units, x, 0, m, m, k, GROUP_TERMS)
    var blocks = blocks_of(n)
    var tasks = 1 if m * n * k < SERIAL_WORK_INT8 else min(parallelism_level(), blocks)

    def task(t: Int) {var y, var words, var units, var w, var scale, var group_scale, var bias, var residual, var blocks, var tasks, var m, var n, var k}:
        multiply_blocks[epilogue](
            y, words, units, w, scale, group_scale, bias, residual,
            blocks * t // tasks, blocks * (t + 1) // tasks, m, n, k,
        )

    if tasks == 1:
        task(0)
    else:
        sync_parallelize(task, tasks)
    _ = word_list^
    _ = unit_list^


@always_inline
def norm_product_int8[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    w: Pointer[Int8, _],
    scale: Pointer[Float32, _],
    group_scale: Pointer[UInt8, _],
    bias: Pointer[Float32, _],
    m: Int,
    n: Int,
    k: Int,
) raises:
    """Compute y[m, n] = epilogue(layer_norm(x[m, k]) · wᵀ)."""
    var normed = List[Float32](length=m * k, fill=0)
    var normed_ptr = normed.unsafe_ptr()
    layer_norm_rows(normed_ptr, x, gamma, beta, m, k)
    product_int8[epilogue](y, normed_ptr, w, scale, group_scale, bias, x, m, n, k)
    _ = normed^


@extensibility.register("mwc_norm_linear_int8")
struct NormLinearInt8:
    """y[m, n] = act(layer_norm(x[m, k]) · wᵀ + bias[n]); act is GELU where `activation` is 1.

    w int8 [n / 16, k / 4, 16, 4], scale f32 [n], group_scale uint8 [n / 16, k / 64, 16]; see
    quantized.mojo.
    """

    @staticmethod
    def execute[target: StaticString, activation: Int](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=DType.int8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        norm_product_int8[epilogue](
            y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(),
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), bias.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )


@extensibility.register("mwc_linear_residual_int8")
struct LinearResidualInt8:
    """y[m, n] = x[m, k] · wᵀ + bias[n] + residual[m, n]; w and its scales as in quantized.mojo."""

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        w: InputTensor[dtype=DType.int8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        product_int8[BIAS_RESIDUAL](
            y.unsafe_ptr(), x.unsafe_ptr(), w.unsafe_ptr(), scale.unsafe_ptr(),
            group_scale.unsafe_ptr(), bias.unsafe_ptr(), residual.unsafe_ptr(),
            x.dim_size(0), y.dim_size(1), x.dim_size(1),
        )
