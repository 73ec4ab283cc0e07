"""Products of many rows with 16 bits for activations and weights, from products of bytes.

What rounding a row of activations to bytes leaves is rounded to bytes in its turn, in a unit of its
own. What it left of the weights is stored, in 1 / REST_STEPS of their units. So there are three
products instead of one: bytes by bytes, rests of activations by bytes, bytes by rests of weights;
rests by rests would add less than either's rounding.

The encoder's first layer attends with values made like this. What rounding adds there is a large
part of the error of what is encoded, as the layers behind it make it more: benchmarks/cpu-floor.md.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level

from .linear import BIAS_GELU, BIAS_RESIDUAL, WIDTH
from .matmul_int8 import (
    GROUP,
    RUN,
    ByteRows,
    Columns,
    Rows,
    matrix_of,
    multiply_rows,
    sum_columns,
)
from .parallel import take_turn, turn_counters
from .pointers import Values, untracked, untracked_mut
from .quantized import COLUMNS, F32

comptime REST_STEPS = 64
"""Steps of a weight's rest between two of its bytes: few enough that rests fit (quantized.mojo)."""


@fieldwise_init
struct WideRows(Copyable, ImplicitlyCopyable, Movable):
    """Rows of activations as bytes, and what rounding to these left."""

    var bytes: Rows
    var rests: Rows
    var small: Rows
    """The bytes once more, whose units are those of a rest of weights."""

    @always_inline
    def from_row(self, i: Int) -> Self:
        """Those from a row on."""
        return Self(self.bytes.from_row(i), self.rests.from_row(i), self.small.from_row(i))

    @always_inline
    def put(self, i: Int, x: Pointer[Float32, _], left: Pointer[mut=True, Float32, _]):
        """Quantize x[k] as row i; left[k] is room for what this leaves."""
        self.bytes.put(i, x)
        var k = self.bytes.k
        var unit = self.bytes.units[unsafe_offset=i]
        var zero = Float32(self.bytes.zeros[unsafe_offset=i])
        var bytes = self.bytes.bytes.unsafe_offset(i * k)
        for c in range(0, k, WIDTH):
            var units = zero - bytes.unsafe_load[width=WIDTH](c).cast[F32]()
            left.unsafe_store(c, units.fma(SIMD[F32, WIDTH](unit), x.unsafe_load[width=WIDTH](c)))
        self.rests.put(i, left)
        self.small.units[unsafe_offset=i] = unit / REST_STEPS


struct WideByteRows(Movable):
    """Room for m rows of k activations; it has to outlive its `rows`. Unless `wide`, for bytes only."""

    var rows: WideRows
    var bytes: ByteRows
    var rests: ByteRows
    var units: List[Float32]

    def __init__(out self, m: Int, k: Int, wide: Bool):
        self.bytes = ByteRows(m, k)
        self.rests = ByteRows(m if wide else 0, k)
        self.units = List[Float32](length=m if wide else 0, fill=0)
        var bytes = self.bytes.rows
        var small = Rows(bytes.bytes, untracked_mut(self.units.unsafe_ptr()), bytes.zeros, k)
        self.rows = WideRows(bytes, self.rests.rows, small)


@fieldwise_init
struct WideColumns(Copyable, ImplicitlyCopyable, Movable):
    """Columns of weights, what rounding left of them, and as many zeros."""

    var bytes: Columns
    var rests: Columns
    var zeros: Values

    @always_inline
    def from_column(self, j: Int) -> Self:
        """Those from a block's first column on."""
        return Self(
            self.bytes.from_column(j), self.rests.from_column(j), self.zeros.unsafe_offset(j)
        )


@fieldwise_init
struct WideMatrix(Movable):
    """A matrix as `multiply_wide` takes it."""

    var columns: WideColumns
    var sums: List[Float32]
    var zeros: List[Float32]


@always_inline
def wide_matrix(bytes: Columns, rests: Pointer[Int8, _], n: Int) -> WideMatrix:
    """The matrix of n columns whose rests are these."""
    var padded = (n + COLUMNS - 1) // COLUMNS * COLUMNS
    var sums = List[Float32](length=padded, fill=0)
    var zeros = List[Float32](length=padded, fill=0)
    var columns = Columns(
        untracked(rests), bytes.scale, bytes.group_scale, untracked(sums.unsafe_ptr()), bytes.k,
        bytes.group_terms,
    )
    sum_columns(sums.unsafe_ptr(), columns, n)
    return WideMatrix(WideColumns(bytes, columns, untracked(zeros.unsafe_ptr())), sums^, zeros^)


@always_inline
def multiply_wide[epilogue: Int](
    y: Pointer[mut=True, Float32, _],
    x: WideRows,
    columns: WideColumns,
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    rows: Int,
    n: Int,
):
    """y[rows, n] = epilogue(x[rows, k] · wᵀ), which is not GELU; residual has y's shape."""
    comptime assert epilogue != BIAS_GELU
    multiply_rows[epilogue](y, x.bytes, columns.bytes, bias, residual, rows, n)
    var so_far = untracked(y)
    multiply_rows[BIAS_RESIDUAL](y, x.rests, columns.bytes, columns.zeros, so_far, rows, n)
    multiply_rows[BIAS_RESIDUAL](y, x.small, columns.rests, columns.zeros, so_far, rows, n)


@always_inline
def multiply_residual_wide(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    columns: WideColumns,
    bias: Pointer[Float32, _],
    residual: Pointer[Float32, _],
    m: Int,
    n: Int,
) raises:
    """Compute y[m, n] = residual[m, n] + x[m, k] · wᵀ + bias[n]; k is a multiple of 16."""
    var k = columns.bytes.k
    var items = (m + RUN - 1) // RUN
    var tasks = min(parallelism_level(), items)
    var counter_list = turn_counters(items, tasks)
    var counters = counter_list.unsafe_ptr()

    def run(t: Int) {var m, var n, var k, var items, var tasks, var counters, var y, var x, var columns, var bias, var residual}:
        var room = WideByteRows(GROUP, k, True)
        var left_list = List[Float32](length=k, fill=0)
        var left = left_list.unsafe_ptr()
        var turn = take_turn(counters, items, tasks, t, GROUP // RUN)
        while turn[0] < turn[1]:
            var first = turn[0] * RUN
            var rows = min(turn[1] * RUN, m) - first
            for i in range(rows):
                room.rows.put(i, x.unsafe_offset((first + i) * k), left)
            multiply_wide[BIAS_RESIDUAL](
                y.unsafe_offset(first * n), room.rows, columns, bias,
                residual.unsafe_offset(first * n), rows, n,
            )
            turn = take_turn(counters, items, tasks, t, GROUP // RUN)
        _ = left_list^
        _ = room^

    sync_parallelize(run, tasks)
    _ = counter_list^


@extensibility.register("mwc_matmul_residual_wide_int8")
struct MatmulResidualWideInt8:
    """As mwc_matmul_residual_int8, of 16 bits: rests int8 [n / 16, k / 4, 16, 4] are what w left."""

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=DType.int8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=DType.uint8, rank=3, ...],
        rests: InputTensor[dtype=DType.int8, rank=4, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        residual: InputTensor[dtype=F32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        var n = y.dim_size(2)
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            n, x.dim_size(2),
        )
        var wide = wide_matrix(matrix.columns, rests.unsafe_ptr(), n)
        multiply_residual_wide(
            y.unsafe_ptr(), x.unsafe_ptr(), wide.columns, bias.unsafe_ptr(), residual.unsafe_ptr(),
            x.dim_size(0) * x.dim_size(1), n,
        )
        _ = matrix^
        _ = wide^
