"""Linear layers for many rows over int8 weights: y = epilogue(norm(x) · wᵀ), 8-bit activations.

The encoder's products in int8 artifacts; quantized.mojo has the layout and the arithmetic. Each
task takes a range of rows: it normalises and quantizes a group of them, then multiplies these with
all of the weights, some blocks of columns at a time. The weights fit (quantized.mojo).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level

from .byte_sums import no_work, sum_byte_groups
from .linear import BIAS, BIAS_GELU, BIAS_RESIDUAL, fetch_ahead, layer_norm_rows
from .linear_int8 import finish, load_part
from .parallel import take_turn, turn_counters
from .pointers import Numbers, Values, untracked, untracked_mut
from .quantized import AVX512_WORDS, BESIDE, COLUMNS, F32, LONG_GROUP, Register
from .rounding import quantize_bytes

comptime TILE = 6 if AVX512_WORDS else 3
"""Rows multiplied together: with BLOCKS of columns they fill three quarters of the registers."""
comptime BLOCKS = 4 if AVX512_WORDS else 1
"""Blocks of columns multiplied together. Twelve rows and two blocks are as many sums, but more loads:
that loop by itself takes a fifth longer on Zen 4, where six by four multiply in every cycle."""
comptime GROUP = 48
"""Rows quantized together: their bytes stay in cache."""
comptime RUN = GROUP // 4
"""Rows of an item of work, whole tiles; a thread takes four at a time but for its last ones."""


@fieldwise_init
struct Columns(Copyable, ImplicitlyCopyable, Movable):
    """Columns of k terms: w and its scales as in quantized.mojo, and each one's sum (`sum_columns`)."""

    var w: Pointer[Int8, ImmUntrackedOrigin]
    var scale: Values
    var group_scale: Pointer[UInt8, ImmUntrackedOrigin]
    var sums: Values
    var k: Int
    var group_terms: Int

    @always_inline
    def groups(self) -> Int:
        """Groups of a column's terms."""
        return (self.k + self.group_terms - 1) // self.group_terms

    @always_inline
    def from_column(self, j: Int) -> Self:
        """Those from a block's first column on."""
        return Self(
            self.w.unsafe_offset(j * self.k), self.scale.unsafe_offset(j),
            self.group_scale.unsafe_offset(j * self.groups()), self.sums.unsafe_offset(j), self.k,
            self.group_terms,
        )


@fieldwise_init
struct Matrix(Movable):
    """A matrix as the products take it, and what its columns add up to."""

    var columns: Columns
    var sums: List[Float32]


@always_inline
def matrix_of(
    w: Pointer[Int8, _], scale: Pointer[Float32, _], group_scale: Pointer[UInt8, _], groups: Int,
    n: Int, k: Int,
) -> Matrix:
    """The matrix of n columns of k terms, which are in so many groups."""
    var terms = LONG_GROUP if groups > 1 else k
    var sums = List[Float32](length=(n + COLUMNS - 1) // COLUMNS * COLUMNS, fill=0)
    var columns = Columns(
        untracked(w), untracked(scale), untracked(group_scale),
        untracked(sums.unsafe_ptr()), k, terms,
    )
    sum_columns(sums.unsafe_ptr(), columns, n)
    return Matrix(columns, sums^)


@fieldwise_init
struct Rows(Copyable, ImplicitlyCopyable, Movable):
    """Rows of k activations as bytes: what a unit of each row is worth, and the byte of its 0."""

    var bytes: Pointer[UInt8, MutUntrackedOrigin]
    var units: Numbers
    var zeros: Pointer[Int32, MutUntrackedOrigin]
    var k: Int

    @always_inline
    def from_row(self, i: Int) -> Self:
        """Those from a row on."""
        return Self(
            self.bytes.unsafe_offset(i * self.k), self.units.unsafe_offset(i),
            self.zeros.unsafe_offset(i), self.k,
        )

    @always_inline
    def put(self, i: Int, x: Pointer[Float32, _]):
        """Quantize x[k] as row i."""
        var affine = quantize_bytes(self.bytes.unsafe_offset(i * self.k), x, self.k)
        self.units[unsafe_offset=i] = affine.unit
        self.zeros[unsafe_offset=i] = affine.zero


struct ByteRows(Movable):
    """Room for m rows of k activations as bytes; it has to outlive its `rows`."""

    var rows: Rows
    var bytes: List[UInt8]
    var units: List[Float32]
    var zeros: List[Int32]

    def __init__(out self, m: Int, k: Int):
        self.bytes = List[UInt8](length=m * k, fill=0)
        self.units = List[Float32](length=m, fill=0)
        self.zeros = List[Int32](length=m, fill=0)
        self.rows = Rows(
            untracked_mut(self.bytes.unsafe_ptr()), untracked_mut(self.units.unsafe_ptr()),
            untracked_mut(self.zeros.unsafe_ptr()), k,
        )


@always_inline
def multiply_rows[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: Rows,
    columns: Columns,
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    rows: Int,
    n: Int,
):
    """y[rows, n] = epilogue(x[rows, k] · wᵀ); residual has y's shape and may be y."""
    var k = columns.k

    @always_inline
    def finish_row(i: Int, j: Int, totals: Register, count: Int) {var n, var y, var columns, var bias, var residual, var x}:
        var at = i * n + j
        var zero = Register(-Float32(x.zeros[unsafe_offset=i]))
        finish[epilogue, within_bytes=True](
            y.unsafe_offset(at),
            columns.sums.unsafe_load[width=COLUMNS](j).fma(zero, totals),
            load_part(columns.scale.unsafe_offset(j), count) * x.units[unsafe_offset=i],
            bias.unsafe_offset(j),
            residual.unsafe_offset(at),
            count,
        )

    @always_inline
    def tile[height: Int, width: Int](row: Int, block: Int) {var n, var k, var columns, var x, imm finish_row}:
        var own = columns.from_column(block * COLUMNS)
        var totals = sum_byte_groups[height, width](
            x.bytes.unsafe_offset(row * k), k, own.w, COLUMNS * k, own.group_scale,
            columns.group_terms, k, 0, no_work,
        )
        comptime for b in range(width):
            var j = (block + b) * COLUMNS
            comptime for i in range(height):
                finish_row(row + i, j, totals[i * width + b], n - j)

    @always_inline
    def stretch[width: Int](start: Int, block: Int) {var rows, imm tile}:
        var i = start
        while i + TILE <= rows:
            tile[TILE, width](i, block)
            i += TILE
        while i < rows:
            comptime for b in range(width):
                tile[1, 1](i, block + b)
            i += 1

    var blocks = (n + COLUMNS - 1) // COLUMNS
    var block = 0
    comptime if BESIDE:
        # The sums of a tile are finished while the next one's are made.
        var waiting_list = Array[Float32, length=TILE * BLOCKS * COLUMNS](fill=0)
        var waiting = waiting_list.unsafe_ptr()
        var count = 0
        var last_row = 0
        var last_block = 0

        @always_inline
        def finish_waiting(item: Int) {var waiting, imm last_row, imm last_block, imm finish_row}:
            finish_row(
                last_row + item % TILE,
                (last_block + item // TILE) * COLUMNS,
                waiting.unsafe_load[width=COLUMNS](item * COLUMNS),
                COLUMNS,
            )

        var whole_rows = rows // TILE * TILE
        while block + BLOCKS <= n // COLUMNS:
            for row in range(0, whole_rows, TILE):
                comptime if epilogue == BIAS_RESIDUAL:
                    # What is added when these sums are finished lies a row apart.
                    comptime for i in range(TILE):
                        comptime for b in range(BLOCKS):
                            var at = (row + i) * n + (block + b) * COLUMNS
                            fetch_ahead(residual.unsafe_offset(at), 0)
                var own = columns.from_column(block * COLUMNS)
                var totals = sum_byte_groups[TILE, BLOCKS](
                    x.bytes.unsafe_offset(row * k), k, own.w, COLUMNS * k, own.group_scale,
                    columns.group_terms, k, count, finish_waiting,
                )
                comptime for b in range(BLOCKS):
                    comptime for i in range(TILE):
                        waiting.unsafe_store((b * TILE + i) * COLUMNS, totals[i * BLOCKS + b])
                count = TILE * BLOCKS
                last_row = row
                last_block = block
            stretch[BLOCKS](whole_rows, block)
            block += BLOCKS
        for item in range(count):
            finish_waiting(item)
    else:
        while block + BLOCKS <= blocks:
            stretch[BLOCKS](0, block)
            block += BLOCKS
    while block < blocks:
        stretch[1](0, block)
        block += 1


@always_inline
def sum_columns(totals: Pointer[mut=True, Float32, _], columns: Columns, n: Int):
    """Put the sum of each of n columns' terms, in units of its scale, whole blocks of columns."""
    var blocks = (n + COLUMNS - 1) // COLUMNS
    var k = columns.k
    var one = List[UInt8](length=k, fill=1)
    var ones = one.unsafe_ptr()

    @always_inline
    def add[count: Int](block: Int) {var totals, var ones, var columns, var k}:
        var own = columns.from_column(block * COLUMNS)
        var sums = sum_byte_groups[1, count](
            ones, k, own.w, COLUMNS * k, own.group_scale, columns.group_terms, k, 0, no_work
        )
        comptime for b in range(count):
            totals.unsafe_store((block + b) * COLUMNS, sums[b])

    var block = 0
    while block + BLOCKS <= blocks:
        add[BLOCKS](block)
        block += BLOCKS
    while block < blocks:
        add[1](block)
        block += 1
    _ = one^


@always_inline
def multiply_int8[epilogue: Int, norm: Bool](
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    columns: Columns,
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    m: Int,
    n: Int,
) raises:
    """Compute y[m, n] = epilogue(x[m, k] · wᵀ) for w of n columns, x normalised first where `norm`.

    k is a multiple of 16. What `norm` and the epilogue do not name is not read.
    """
    var k = columns.k

    var items = (m + RUN - 1) // RUN
    var tasks = min(parallelism_level(), items)
    var counter_list = turn_counters(items, tasks)
    var counters = counter_list.unsafe_ptr()

    def run(t: Int) {var m, var n, var k, var items, var tasks, var counters, var y, var x, var gamma, var beta, var columns, var bias, var residual}:
        var quantized = ByteRows(GROUP, k)
        var normed_list = List[Float32](length=k if norm else 1, fill=0)
        var normed = normed_list.unsafe_ptr()
        var turn = take_turn(counters, items, tasks, t, GROUP // RUN)
        while turn[0] < turn[1]:
            var first = turn[0] * RUN
            var rows = min(turn[1] * RUN, m) - first
            for i in range(rows):
                var source = x.unsafe_offset((first + i) * k)
                comptime if norm:
                    layer_norm_rows(normed, source, gamma, beta, 1, k)
                    quantized.rows.put(i, normed)
                else:
                    quantized.rows.put(i, source)
            multiply_rows[epilogue](
                y.unsafe_offset(first * n), quantized.rows, columns, bias,
                residual.unsafe_offset(first * n), rows, n,
            )
            turn = take_turn(counters, items, tasks, t, GROUP // RUN)
        _ = normed_list^
        _ = quantized^

    sync_parallelize(run, tasks)
    _ = counter_list^


@extensibility.register("mwc_matmul_bias_int8")
struct MatmulBiasInt8:
    """y[b, t, n] = act(x[b, t, k] · wᵀ + bias[n]); act is GELU where `activation` is 1.

    w int8 [n / 16, k / 4, 16, 4], scale f32 [n], group_scale uint8 [n / 16, groups, 16]; see
    quantized.mojo.
    """

    @staticmethod
    def execute[target: StaticString, activation: Int](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=DType.int8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            y.dim_size(2), x.dim_size(2),
        )
        multiply_int8[epilogue, False](
            y.unsafe_ptr(), x.unsafe_ptr(), bias.unsafe_ptr(), bias.unsafe_ptr(), matrix.columns,
            bias.unsafe_ptr(), x.unsafe_ptr(), x.dim_size(0) * x.dim_size(1), y.dim_size(2),
        )
        _ = matrix^


@extensibility.register("mwc_norm_matmul_bias_int8")
struct NormMatmulBiasInt8:
    """y[b, t, n] = act(layer_norm(x[b, t, k]) · wᵀ + bias[n]); GELU where `activation` is 1."""

    @staticmethod
    def execute[target: StaticString, activation: Int](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=DType.int8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime epilogue = BIAS_GELU if activation == 1 else BIAS
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            y.dim_size(2), x.dim_size(2),
        )
        multiply_int8[epilogue, True](
            y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), matrix.columns,
            bias.unsafe_ptr(), x.unsafe_ptr(), x.dim_size(0) * x.dim_size(1), y.dim_size(2),
        )
        _ = matrix^


@extensibility.register("mwc_matmul_residual_int8")
struct MatmulResidualInt8:
    """y[b, t, n] = residual[b, t, n] + x[b, t, k] · wᵀ + bias[n]."""

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=DType.int8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=F32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            y.dim_size(2), x.dim_size(2),
        )
        multiply_int8[BIAS_RESIDUAL, False](
            y.unsafe_ptr(), x.unsafe_ptr(), bias.unsafe_ptr(), bias.unsafe_ptr(), matrix.columns,
            bias.unsafe_ptr(), residual.unsafe_ptr(), x.dim_size(0) * x.dim_size(1), y.dim_size(2),
        )
        _ = matrix^
