"""The encoder's self-attention in 8-bit products with whole sums, for CPUs with VNNI.

As in encoder_attention.mojo a unit of work is a run of queries of one head of one window, whose
keys and values are packed once (attention_int8.mojo). QUERIES at a time take the keys CHUNK by
CHUNK: scores, their exponentials, the mix of the values so far, rescaled where a chunk brings a
higher maximum (online softmax: Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022;
with 8-bit products: SageAttention, Zhang et al., 2024).

Exponentials become bytes relative to the highest of their chunk. Most of a row's weight can lie in
hundreds of them that are below half a byte's unit; so they are rounded up or down by a pattern
along the keys (ordered dithering), which keeps the sum of many right where rounding to nearest
would lose it. A row is divided by the sum of its bytes.
"""

from max.algorithm import sync_parallelize
from std.math import exp2, iota
from std.runtime import parallelism_level
from std.sys import llvm_intrinsic

from .attention import HEAD, LANES, MASKED
from .attention_int8 import (
    BYTE_TOP,
    KEY_BLOCK_BYTES,
    PARTS_OF_HEAD,
    Vector,
    key_units,
    pack_key,
    pack_values,
    signed_units,
    value_bytes,
    value_units,
)
from .quantized import F32, I32, STEP, TERMS, Sums, broadcast_bytes, dot_bytes

comptime KEY_ZERO = 128
"""The byte that stands for 0 in a key: the dot product wants one side unsigned."""
comptime QUERIES = 12
"""Queries of one tile: with two registers each they fill three quarters of them."""
comptime CHUNK_BITS = 8
comptime CHUNK = 1 << CHUNK_BITS
"""Keys per chunk: the scores of a tile stay in the first-level cache."""
comptime LOG2_E = Float32(1.4426950408889634)
comptime LOG2_TOP = Float32(7.9886846867721655)
"""log2(254): the highest weight of a row, which dithering can raise by one."""


def dither_pattern() -> List[Float32]:
    """CHUNK thresholds in (0, 1), evenly spread in every run of them (van der Corput's sequence).

    Of a chunk of equal weights the right number is rounded up, to half a one.
    """
    var pattern = List[Float32](length=CHUNK, fill=0)
    for i in range(CHUNK):
        var reversed = 0
        for bit in range(CHUNK_BITS):
            reversed = 2 * reversed + ((i >> bit) & 1)
        pattern[i] = (Float32(reversed) + 0.5) / CHUNK
    return pattern^


@always_inline
def exp2_to_bytes(x: Vector, dither: Vector) -> SIMD[I32, LANES]:
    """2^x rounded up or down by `dither` in [0, 1), for x <= LOG2_TOP.

    2^(x - floor(x)) by a polynomial that is off by 7.5e-5 of it at most, then scaled by 2^floor(x).
    """
    var f = llvm_intrinsic["llvm.x86.avx512.mask.reduce.ps.512", Vector](
        x, Int32(1), Vector(0), UInt16(0xFFFF), Int32(4)
    )
    var series = f.fma(Vector(0.07802438), Vector(0.22606736))
    series = series.fma(f, Vector(0.69583347))
    series = series.fma(f, Vector(0.99992522))
    var power = llvm_intrinsic["llvm.x86.avx512.mask.scalef.ps.512", Vector](
        series, x, Vector(0), UInt16(0xFFFF), Int32(4)
    )
    return (power + dither).cast[I32]()


@always_inline
def score_chunk[rows: Int](
    scores: Pointer[mut=True, Float32, _],
    q: Pointer[Int8, _],
    offsets: Array[Int32, rows],
    keys: Pointer[UInt8, _],
    start: Int,
    size: Int,
    length: Int,
) -> Array[Float32, rows]:
    """Compute scores[rows, CHUNK] of q[rows, HEAD] and the keys [start, start + size); the row maxima.

    Scores are in units of their row's query. `size` is a multiple of 32. Positions from `length`
    on are masked.
    """
    var highest = Array[Vector, length=rows](fill=Vector(MASKED))
    for t in range(0, size, 2 * LANES):
        var block0 = keys.unsafe_offset((start + t) // LANES * KEY_BLOCK_BYTES)
        var block1 = block0.unsafe_offset(KEY_BLOCK_BYTES)
        var sums = Array[Sums, length=2 * rows](fill=Sums(0))
        comptime for i in range(rows):
            sums[2 * i] = Sums(offsets[i])
            sums[2 * i + 1] = Sums(offsets[i])
        for d in range(0, HEAD, TERMS):
            var k0 = block0.unsafe_load[width=STEP](d * LANES)
            var k1 = block1.unsafe_load[width=STEP](d * LANES)
            comptime for i in range(rows):
                var qv = broadcast_bytes(q.unsafe_offset(i * HEAD + d))
                sums[2 * i] = dot_bytes(sums[2 * i], k0, qv)
                sums[2 * i + 1] = dot_bytes(sums[2 * i + 1], k1, qv)
        var unit0 = key_units(block0)
        var unit1 = key_units(block1)
        var whole = start + t + 2 * LANES <= length
        var left = SIMD[I32, LANES](length - start - t)
        var held0 = iota[I32, LANES]().lt(left)
        var held1 = iota[I32, LANES](LANES).lt(left)
        comptime for i in range(rows):
            var s0 = sums[2 * i].cast[F32]() * unit0
            var s1 = sums[2 * i + 1].cast[F32]() * unit1
            if not whole:
                s0 = held0.select(s0, Vector(MASKED))
                s1 = held1.select(s1, Vector(MASKED))
            scores.unsafe_store(i * CHUNK + t, s0)
            scores.unsafe_store(i * CHUNK + t + LANES, s1)
            highest[i] = max(highest[i], max(s0, s1))
    var maxima = Array[Float32, length=rows](fill=0)
    comptime for i in range(rows):
        maxima[i] = highest[i].reduce_max()
    return maxima^


@always_inline
def mix_chunk[rows: Int](
    mixed: Pointer[mut=True, Float32, _],
    weights: Pointer[UInt8, _],
    values: Pointer[UInt8, _],
    rescale: Array[Float32, rows],
    start: Int,
    size: Int,
    padded: Int,
):
    """Set mixed[rows, HEAD] = mixed · rescale + weights[rows, CHUNK] · values[start, start + size)."""
    comptime for part in range(0, PARTS_OF_HEAD, 2):
        var v0 = values.bitcast[Int8]().unsafe_offset(part * padded * LANES + start * LANES)
        var v1 = v0.unsafe_offset(padded * LANES)
        var sums = Array[Sums, length=2 * rows](fill=Sums(0))
        for t in range(0, size, TERMS):
            var a0 = v0.unsafe_load[width=STEP](t * LANES)
            var a1 = v1.unsafe_load[width=STEP](t * LANES)
            comptime for i in range(rows):
                var p = broadcast_bytes(weights.unsafe_offset(i * CHUNK + t))
                sums[2 * i] = dot_bytes(sums[2 * i], p, a0)
                sums[2 * i + 1] = dot_bytes(sums[2 * i + 1], p, a1)
        comptime for i in range(rows):
            comptime for half in range(2):
                var at = i * HEAD + (part + half) * LANES
                var so_far = mixed.unsafe_load[width=LANES](at)
                var sum = so_far.fma(Vector(rescale[i]), sums[2 * i + half].cast[F32]())
                mixed.unsafe_store(at, sum)


@always_inline
def attend_tile[rows: Int](
    y: Pointer[mut=True, Float32, _],
    queries: Pointer[Float32, _],
    keys: Pointer[UInt8, _],
    values: Pointer[UInt8, _],
    dithers: Pointer[Float32, _],
    q: Pointer[mut=True, Int8, _],
    scores: Pointer[mut=True, Float32, _],
    weights: Pointer[mut=True, UInt8, _],
    mixed: Pointer[mut=True, Float32, _],
    length: Int,
    padded: Int,
    stride: Int,
    state: Int,
):
    """Set y[rows, HEAD] (rows `state` apart) to the attention of queries[rows, HEAD] (`stride` apart)."""
    var units = Array[Float32, length=rows](fill=0)
    var offsets = Array[Int32, length=rows](fill=0)
    comptime for i in range(rows):
        var top = Vector(0)
        comptime for part in range(PARTS_OF_HEAD):
            top = max(top, abs(queries.unsafe_load[width=LANES](i * stride + part * LANES)))
            mixed.unsafe_store(i * HEAD + part * LANES, Vector(0))
        var highest = top.reduce_max()
        var inverse = Float32(BYTE_TOP) / highest if highest > 0 else Float32(0)
        var total = SIMD[I32, LANES](0)
        comptime for part in range(PARTS_OF_HEAD):
            var source = queries.unsafe_load[width=LANES](i * stride + part * LANES)
            var whole = signed_units(source, inverse)
            total += whole
            q.unsafe_store(i * HEAD + part * LANES, whole.cast[DType.int8]())
        # Not 0, with which masked scores would be as good as others.
        units[i] = max(highest, Float32(1e-9)) * (LOG2_E / BYTE_TOP)
        offsets[i] = -KEY_ZERO * total.reduce_add()
    var top = Array[Float32, length=rows](fill=MASKED)
    var total = Array[Float32, length=rows](fill=0)
    for start in range(0, padded, CHUNK):
        var size = min(CHUNK, padded - start)
        var maxima = score_chunk[rows](scores, q, offsets, keys, start, size, length)
        var rescale = Array[Float32, length=rows](fill=0)
        comptime for i in range(rows):
            var highest = max(top[i], maxima[i] * units[i])
            rescale[i] = exp2(top[i] - highest)
            top[i] = highest
            var shift = Vector(LOG2_TOP - highest)
            var sums = SIMD[I32, LANES](0)
            for t in range(0, size, LANES):
                var s = scores.unsafe_load[width=LANES](i * CHUNK + t)
                var dither = dithers.unsafe_load[width=LANES](t)
                var p = exp2_to_bytes(s.fma(Vector(units[i]), shift), dither)
                sums += p
                weights.unsafe_store(i * CHUNK + t, p.cast[DType.uint8]())
            total[i] = total[i] * rescale[i] + Float32(sums.reduce_add())
        mix_chunk[rows](mixed, weights, values, rescale, start, size, padded)
    var unit = value_units(values, padded)
    comptime for i in range(rows):
        var scale = 1.0 / total[i]
        comptime for part in range(PARTS_OF_HEAD):
            var at = part * LANES
            var result = mixed.unsafe_load[width=LANES](i * HEAD + at) * scale
            var middle = unit.unsafe_load[width=LANES](HEAD + at)
            y.unsafe_store(i * state + at, result.fma(unit.unsafe_load[width=LANES](at), middle))


@always_inline
def attend_windows_int8(
    mixed: Pointer[mut=True, Float32, _],
    qkv: Pointer[Float32, _],
    windows: Int,
    length: Int,
    state: Int,
) raises:
    """Compute mixed[windows, length, state] = attention of qkv[windows, length, 3 * state]."""
    var stride = 3 * state
    var heads = state // HEAD
    var padded = (length + 2 * LANES - 1) // (2 * LANES) * (2 * LANES)
    var pairs = windows * heads
    var threads = parallelism_level()
    # More threads than heads: each head's queries are split, and its keys packed again.
    var splits = max(1, (threads + pairs - 1) // pairs)
    var tiles = (length + QUERIES - 1) // QUERIES
    var items = pairs * splits
    var tasks = min(threads, items)

    def task(t: Int) {var length, var stride, var state, var heads, var padded, var splits, var tiles, var items, var tasks, var qkv, var mixed}:
        var key_list = List[UInt8](length=padded // LANES * KEY_BLOCK_BYTES, fill=0)
        var value_list = List[UInt8](length=value_bytes(padded), fill=0)
        var query_list = List[Int8](length=QUERIES * HEAD, fill=0)
        var score_list = List[Float32](length=QUERIES * CHUNK, fill=0)
        var weight_list = List[UInt8](length=QUERIES * CHUNK, fill=0)
        var mixed_list = List[Float32](length=QUERIES * HEAD, fill=0)
        var dither_list = dither_pattern()
        var keys = key_list.unsafe_ptr()
        var values = value_list.unsafe_ptr()
        var ready = -1
        for item in range(items * t // tasks, items * (t + 1) // tasks):
            var pair = item // splits
            var split = item % splits
            var window = pair // heads
            var head = pair % heads
            var queries = qkv.unsafe_offset(window * length * stride + head * HEAD)
            var y = mixed.unsafe_offset(window * length * state + head * HEAD)
            if pair != ready:
                for i in range(length):
                    pack_key[KEY_ZERO](keys, queries.unsafe_offset(i * stride + state), i)
                pack_values(values, queries.unsafe_offset(2 * state), length, padded, stride)
                ready = pair

            var i = (tiles * split // splits) * QUERIES
            var last = min((tiles * (split + 1) // splits) * QUERIES, length)
            while i + QUERIES <= last:
                attend_tile[QUERIES](
                    y.unsafe_offset(i * state), queries.unsafe_offset(i * stride), keys, values,
                    dither_list.unsafe_ptr(), query_list.unsafe_ptr(), score_list.unsafe_ptr(),
                    weight_list.unsafe_ptr(), mixed_list.unsafe_ptr(), length, padded, stride,
                    state,
                )
                i += QUERIES
            while i < last:
                attend_tile[1](
                    y.unsafe_offset(i * state), queries.unsafe_offset(i * stride), keys, values,
                    dither_list.unsafe_ptr(), query_list.unsafe_ptr(), score_list.unsafe_ptr(),
                    weight_list.unsafe_ptr(), mixed_list.unsafe_ptr(), length, padded, stride,
                    state,
                )
                i += 1
        _ = key_list^
        _ = value_list^
        _ = query_list^
        _ = score_list^
        _ = weight_list^
        _ = mixed_list^
        _ = dither_list^

    sync_parallelize(task, tasks)
