"""Queries, keys and values of many positions, made head by head and stored as bytes.

The encoder attends to bytes, and so does the decoder to an encoded window. A head's values are made
for PART positions at a time and become bytes while they are in cache: in memory they would take four
times as much, and attention, which reads one head after the other, would wait for them.

What attention in the encoder needs of a head stands together: queries [padded, 64], their units f32
and offsets int32 [padded], then keys and values as in attention_int8.mojo; `padded` is the number of
positions rounded up to a multiple of PADDING.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level

from .attention import HEAD, LANES
from .attention_int8 import (
    BYTE_TOP,
    KEY_BLOCK_BYTES,
    PARTS_OF_HEAD,
    fitting_unit,
    pack_key,
    pack_values,
    signed_units,
)
from .cross_attention_int8 import ByteCacheShape, byte_shape_of
from .linear import BIAS, layer_norm_rows
from .matmul_int8 import GROUP, Columns, Rows, matrix_of, multiply_rows
from .parallel import phase_counters, work_through
from .pointers import untracked
from .quantized import F32, I8, I32, U8, VNNI
from .softmax_bytes import WEIGHT_TOP
from .wide_int8 import WideByteRows, WideColumns, WideRows, multiply_wide, wide_matrix

comptime PART = 240
"""Positions of a head that are made together: whole tiles, whose values take 60 KB."""
comptime PADDING = 64
"""Positions that are attended to at once on any CPU divide it."""
comptime KEY_TOP = BYTE_TOP if VNNI else 95
"""The largest magnitude of a key's axis. Where queries have to fit, more would make these coarser."""
comptime KEY_ZERO = KEY_TOP + 1
"""The byte that stands for 0 in a key."""


@always_inline
def padded_length(length: Int) -> Int:
    """How many positions there is room for."""
    return (length + PADDING - 1) // PADDING * PADDING


@always_inline
def query_units(head: Pointer[UInt8, _], padded: Int) -> Pointer[Float32, head.origin]:
    """What one unit of each query is worth."""
    return head.unsafe_offset(padded * HEAD).bitcast[Float32]()


@always_inline
def query_offsets(head: Pointer[UInt8, _], padded: Int) -> Pointer[Int32, head.origin]:
    """What each query's products with keys are too large by, as a key's bytes are: to be added."""
    return head.unsafe_offset(padded * (HEAD + 4)).bitcast[Int32]()


@always_inline
def keys_of(head: Pointer[UInt8, _], padded: Int) -> Pointer[UInt8, head.origin]:
    """The head's keys."""
    return head.unsafe_offset(padded * (HEAD + 8))


@always_inline
def values_of(head: Pointer[UInt8, _], padded: Int) -> Pointer[UInt8, head.origin]:
    """The head's values."""
    return head.unsafe_offset(padded * (HEAD + 8) + padded // LANES * KEY_BLOCK_BYTES)


@always_inline
def pack_query(head: Pointer[mut=True, UInt8, _], q: Pointer[Float32, _], t: Int, padded: Int):
    """Put q[64] at position t of a head's queries."""
    # Not 0, with which scores that are passed over would be as good as others.
    var unit = max(fitting_unit(q, KEY_ZERO + KEY_TOP), Float32(1e-11))
    var total = SIMD[I32, LANES](0)
    var bytes = head.unsafe_offset(t * HEAD).bitcast[Int8]()
    comptime for part in range(PARTS_OF_HEAD):
        var whole = signed_units(q.unsafe_load[width=LANES](part * LANES), 1 / unit)
        total += whole
        bytes.unsafe_store(part * LANES, whole.cast[I8]())
    query_units(head, padded)[unsafe_offset=t] = unit
    query_offsets(head, padded)[unsafe_offset=t] = Int32(-KEY_ZERO) * total.reduce_add()


@always_inline
def byte_phase[norm: Bool, wide: Bool](
    rows: WideRows,
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    m: Int,
    counters: Pointer[mut=True, Int64, _],
    phase: Int,
):
    """Round x[m, k] to `rows`, normalised first where `norm`, together with other threads.

    Where not `wide`, to their bytes only.
    """
    var k = rows.bytes.k

    def some_rows(item: Int) {imm}:
        var normed_list = List[Float32](length=k if norm else 1, fill=0)
        var normed = normed_list.unsafe_ptr()
        var left_list = List[Float32](length=k if wide else 1, fill=0)
        var left = left_list.unsafe_ptr()
        for i in range(item * GROUP, min((item + 1) * GROUP, m)):
            var source = x.unsafe_offset(i * k)
            comptime if norm:
                layer_norm_rows(normed, source, gamma, beta, 1, k)
                comptime if wide:
                    rows.put(i, normed, left)
                else:
                    rows.bytes.put(i, normed)
            else:
                comptime assert not wide
                rows.bytes.put(i, source)
        _ = normed_list^
        _ = left_list^

    work_through(some_rows, (m + GROUP - 1) // GROUP, counters, phase)


@always_inline
def multiply_head(
    y: Pointer[mut=True, Float32, _],
    x: Rows,
    columns: Columns,
    bias: Pointer[mut=False, Float32, _],
    count: Int,
    column: Int,
):
    """Set y[count, HEAD] to the columns from `column` on of x · wᵀ + bias."""
    multiply_rows[BIAS](
        y, x, columns.from_column(column), bias.unsafe_offset(column), bias, count, HEAD
    )


@always_inline
def norm_heads_int8[wide: Bool](
    y: Pointer[mut=True, UInt8, _],
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    columns: Columns,
    value_columns: WideColumns,
    bias: Pointer[mut=False, Float32, _],
    windows: Int,
    length: Int,
    heads: Int,
    size: Int,
) raises:
    """Make the bytes y[windows, heads, size] of layer_norm(x[windows, length, k]) · wᵀ + bias.

    Values, whose units depend on all positions, are made first, as they take longest; where `wide`
    of 16 bits with `value_columns`, which are not looked at otherwise.
    """
    var m = windows * length
    var state = heads * HEAD
    var padded = padded_length(length)
    var room = WideByteRows(m, columns.k, wide)
    var rows = room.rows
    var counter_list = phase_counters(2)
    var counters = counter_list.unsafe_ptr()
    var pairs = windows * heads
    var parts = (length + PART - 1) // PART

    def task(t: Int) {imm}:
        var made_list = List[Float32](length=length * HEAD, fill=0)
        var made = made_list.unsafe_ptr()

        def some_of_head(item: Int) {imm}:
            if item < pairs:
                var own = rows.from_row(item // heads * length)
                var head = item % heads * HEAD
                var column = 2 * state + head
                comptime if wide:
                    multiply_wide[BIAS](
                        made, own, value_columns.from_column(head), bias.unsafe_offset(column),
                        bias, length, HEAD,
                    )
                else:
                    multiply_head(made, own.bytes, columns, bias, length, column)
                var place = values_of(y.unsafe_offset(item * size), padded)
                pack_values[WEIGHT_TOP](place, made, length, padded, HEAD)
                return
            var third = (item - pairs) // parts % 2
            var pair = (item - pairs) // parts // 2
            var first = (item - pairs) % parts * PART
            var count = min(PART, length - first)
            var own = rows.bytes.from_row(pair // heads * length + first)
            multiply_head(made, own, columns, bias, count, third * state + pair % heads * HEAD)
            var place = y.unsafe_offset(pair * size)
            for i in range(count):
                var source = made.unsafe_offset(i * HEAD)
                if third == 0:
                    pack_query(place, source, first + i, padded)
                else:
                    pack_key[KEY_ZERO, KEY_TOP](keys_of(place, padded), source, first + i)

        byte_phase[True, wide](rows, x, gamma, beta, m, counters, 0)
        work_through(some_of_head, pairs + 2 * pairs * parts, counters, 1)
        _ = made_list^

    sync_parallelize(task, parallelism_level())
    _ = room^
    _ = counter_list^


@extensibility.register("mwc_norm_heads_int8")
struct NormHeadsInt8:
    """The heads of layer_norm(x[b, t, k]) · wᵀ + bias: queries, keys and values, one after the other.

    y u8 [b, heads, n], n at least what the module's text says; w int8 [3 * heads * 4, k / 4, 16, 4]
    and its scales, f32 [3 * heads * 64] and uint8, as in quantized.mojo.
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=U8, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=I8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=U8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var heads = y.dim_size(1)
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            3 * heads * HEAD, x.dim_size(2),
        )
        var none = WideColumns(matrix.columns, matrix.columns, untracked(bias.unsafe_ptr()))
        norm_heads_int8[wide=False](
            y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), matrix.columns,
            none, bias.unsafe_ptr(),
            x.dim_size(0), x.dim_size(1), heads, y.dim_size(2),
        )
        _ = matrix^


@extensibility.register("mwc_norm_heads_wide_int8")
struct NormHeadsWideInt8:
    """As mwc_norm_heads_int8, of values of 16 bits before they are bytes.

    rests int8 [heads * 4, k / 4, 16, 4]: what is left of the weights that make values
    (wide_int8.mojo).
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=U8, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=I8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=U8, rank=3, ...],
        rests: InputTensor[dtype=I8, rank=4, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var heads = y.dim_size(1)
        var state = heads * HEAD
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            3 * state, x.dim_size(2),
        )
        var values = wide_matrix(
            matrix.columns.from_column(2 * state), rests.unsafe_ptr(), state
        )
        norm_heads_int8[wide=True](
            y.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), matrix.columns,
            values.columns, bias.unsafe_ptr(), x.dim_size(0), x.dim_size(1), heads, y.dim_size(2),
        )
        _ = matrix^
        _ = values^


@always_inline
def cross_kv_int8(
    keys: Pointer[mut=True, UInt8, _],
    values: Pointer[mut=True, UInt8, _],
    cache: ByteCacheShape,
    x: Pointer[Float32, _],
    columns: Columns,
    bias: Pointer[mut=False, Float32, _],
    slots: Pointer[Int32, _],
    windows: Int,
    length: Int,
) raises:
    """Make the keys and values of x[windows, length, k], and put them into the windows' slots."""
    var m = windows * length
    var heads = cache.heads
    var state = heads * HEAD
    var padded = (length + LANES - 1) // LANES * LANES
    var room = WideByteRows(m, columns.k, False)
    var rows = room.rows
    var counter_list = phase_counters(2)
    var counters = counter_list.unsafe_ptr()
    var pairs = windows * heads

    def task(t: Int) {imm}:
        var made_list = List[Float32](length=length * HEAD, fill=0)
        var made = made_list.unsafe_ptr()

        def half_of_head(item: Int) {imm}:
            var window = item % pairs // heads
            var head = item % heads
            var column = item // pairs * state + head * HEAD
            multiply_head(
                made, rows.bytes.from_row(window * length), columns, bias, length, column
            )
            var slot = (cache.first + Int(slots[unsafe_offset=window])) * heads + head
            if item < pairs:
                for i in range(length):
                    var place = keys.unsafe_offset(slot * cache.key_size)
                    pack_key[0, BYTE_TOP](place, made.unsafe_offset(i * HEAD), i)
            else:
                var place = values.unsafe_offset(slot * cache.value_size)
                pack_values(place, made, length, padded, HEAD)

        byte_phase[norm=False, wide=False](rows, x, bias, bias, m, counters, 0)
        work_through(half_of_head, 2 * pairs, counters, 1)
        _ = made_list^

    sync_parallelize(task, parallelism_level())
    _ = room^
    _ = counter_list^


@extensibility.register("mwc_cross_kv_int8")
struct CrossKVInt8:
    """Make one layer's keys and values of encoded windows x[b, t, k], and put them into the caches.

    Inputs: cross_k, cross_v (caches, see cross_attention_int8.mojo), x f32, then the layer that makes
    keys, then values: w int8 [2 * heads * 4, k / 4, 16, 4], scale f32 [2 * heads * 64],
    group_scale uint8, bias f32; windows int32 [b], layer int32 [1]. No output.
    """

    @staticmethod
    def execute[target: StaticString](
        cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
        cross_v: MutableInputTensor[dtype=U8, rank=4, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        w: InputTensor[dtype=I8, rank=4, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        group_scale: InputTensor[dtype=U8, rank=3, ...],
        bias: InputTensor[dtype=F32, rank=1, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layer: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var cache = byte_shape_of(cross_k, cross_v, layer)
        var matrix = matrix_of(
            w.unsafe_ptr(), scale.unsafe_ptr(), group_scale.unsafe_ptr(), group_scale.dim_size(1),
            2 * cache.heads * HEAD, x.dim_size(2),
        )
        cross_kv_int8(
            cross_k.unsafe_ptr(), cross_v.unsafe_ptr(), cache, x.unsafe_ptr(), matrix.columns,
            bias.unsafe_ptr(), windows.unsafe_ptr(), x.dim_size(0), x.dim_size(1),
        )
        _ = matrix^
