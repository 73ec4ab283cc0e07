"""The encoder's self-attention in 8-bit products with whole sums.

As in encoder_attention.mojo a unit of work is a run of queries of one head of one window, whose
keys and values are packed once (attention_int8.mojo). QUERIES at a time take the keys CHUNK by
CHUNK: scores, their exponentials, the mix of the values so far, rescaled where a chunk brings a
higher maximum (online softmax: Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022;
with 8-bit products: SageAttention, Zhang et al., 2024).

Exponentials become bytes relative to the highest of their chunk. Most of a row's weight can lie in
hundreds of them that are below half a byte's unit; so they are rounded up or down by a pattern
along the keys (ordered dithering), which keeps the sum of many right where rounding to nearest
would lose it. A row is divided by the sum of its bytes.

Keys and weights are unsigned bytes; queries and values are signed ones that fit (quantized.mojo).
"""

from max.algorithm import sync_parallelize
from std.math import exp2, floor, iota
from std.memory import bitcast
from std.runtime import parallelism_level
from std.sys import CompilationTarget, llvm_intrinsic

from .attention import HEAD, LANES, MASKED
from .attention_int8 import (
    KEY_BLOCK_BYTES,
    PARTS_OF_HEAD,
    Vector,
    fitting_unit,
    key_units,
    pack_key,
    pack_values,
    signed_units,
    value_bytes,
    value_units,
)
from .linear import larger
from .parallel import take_turn, turn_counters
from .quantized import AVX512_WORDS, F32, I8, I32, U8, sum_bytes

comptime KEY_TOP = 95
"""The largest magnitude of a key's axis. More would be finer, but make queries that fit coarser."""
comptime KEY_ZERO = KEY_TOP + 1
"""The byte that stands for 0 in a key."""
comptime QUERIES = 12 if AVX512_WORDS else 3
"""Queries of one tile: their sums fill three quarters of the registers."""
comptime BLOCKS = 2 if AVX512_WORDS else 1
"""Blocks of keys, or of a value's axes, multiplied together."""
comptime SPLITS = 4
"""Items of work that a head's queries make, or more where there are more threads than heads."""
comptime CHUNK_BITS = 8
comptime CHUNK = 1 << CHUNK_BITS
"""Keys per chunk: the scores of a tile stay in the first-level cache."""
comptime LOG2_E = Float32(1.4426950408889634)
comptime WEIGHT_TOP = 190
"""The largest byte of a weight. More would be finer, but make values that fit coarser."""
comptime LOG2_TOP = Float32(7.562242424221073)
"""log2(WEIGHT_TOP - 1): the highest weight of a row, which dithering can raise by one."""


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
def exp2_series(f: Vector) -> Vector:
    """2^f for f in [0, 1), off by 7.5e-5 of it at most."""
    var series = f.fma(Vector(0.07802438), Vector(0.22606736))
    series = series.fma(f, Vector(0.69583347))
    return series.fma(f, Vector(0.99992522))


@always_inline
def exp2_to_bytes(x: Vector, dither: Vector) -> SIMD[I32, LANES]:
    """2^x rounded up or down by `dither` in [0, 1), for x <= LOG2_TOP.

    2^(x - floor(x)) by a polynomial, then scaled by 2^floor(x).
    """
    comptime if not CompilationTarget.has_avx512f():
        var held = larger[LANES](x, -64)
        var exponent = floor(held)
        var scale = bitcast[F32, LANES]((exponent.cast[I32]() + 127) << 23)
        return (exp2_series(held - exponent) * scale + dither).cast[I32]()
    var f = llvm_intrinsic["llvm.x86.avx512.mask.reduce.ps.512", Vector](
        x, Int32(1), Vector(0), UInt16(0xFFFF), Int32(4)
    )
    var power = llvm_intrinsic["llvm.x86.avx512.mask.scalef.ps.512", Vector](
        exp2_series(f), x, Vector(0), UInt16(0xFFFF), Int32(4)
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
    for t in range(start, start + size, BLOCKS * LANES):
        var block = keys.unsafe_offset(t // LANES * KEY_BLOCK_BYTES)
        var sums = sum_bytes[rows, BLOCKS](q, HEAD, block, KEY_BLOCK_BYTES, HEAD, offsets)
        var whole = t + BLOCKS * LANES <= length
        comptime for b in range(BLOCKS):
            var unit = key_units(block.unsafe_offset(b * KEY_BLOCK_BYTES))
            var held = iota[I32, LANES](Int32(b * LANES)).lt(SIMD[I32, LANES](length - t))
            comptime for i in range(rows):
                var s = sums[i * BLOCKS + b].cast[F32]() * unit
                if not whole:
                    s = held.select(s, Vector(MASKED))
                scores.unsafe_store(i * CHUNK + t - start + b * LANES, s)
                highest[i] = larger[LANES](highest[i], s)
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
    comptime for part in range(0, PARTS_OF_HEAD, BLOCKS):
        var columns = values.unsafe_offset((part * padded + start) * LANES).bitcast[Int8]()
        var sums = sum_bytes[rows, BLOCKS](weights, CHUNK, columns, padded * LANES, size)
        comptime for i in range(rows):
            comptime for b in range(BLOCKS):
                var at = i * HEAD + (part + b) * LANES
                var so_far = mixed.unsafe_load[width=LANES](at)
                var sum = so_far.fma(Vector(rescale[i]), sums[i * BLOCKS + b].cast[F32]())
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
        # Not 0, with which masked scores would be as good as others.
        var unit = max(fitting_unit(queries.unsafe_offset(i * stride), KEY_ZERO + KEY_TOP), Float32(1e-11))
        var total = SIMD[I32, LANES](0)
        comptime for part in range(PARTS_OF_HEAD):
            var source = queries.unsafe_load[width=LANES](i * stride + part * LANES)
            var whole = signed_units(source, 1 / unit)
            total += whole
            mixed.unsafe_store(i * HEAD + part * LANES, Vector(0))
            q.unsafe_store(i * HEAD + part * LANES, whole.cast[I8]())
        units[i] = unit * LOG2_E
        offsets[i] = Int32(-KEY_ZERO) * total.reduce_add()
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
                weights.unsafe_store(i * CHUNK + t, p.cast[U8]())
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
    # Threads that share a head each pack its keys.
    var splits = max(SPLITS, (threads + pairs - 1) // pairs)
    var tiles = (length + QUERIES - 1) // QUERIES
    var items = pairs * splits
    var tasks = min(threads, items)
    var counter_list = turn_counters(items, tasks)
    var counters = counter_list.unsafe_ptr()

    def task(t: Int) {var counters, var length, var stride, var state, var heads, var padded, var splits, var tiles, var items, var tasks, var qkv, var mixed}:
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
        var turn = take_turn(counters, items, tasks, t)
        while turn[0] < turn[1]:
            var item = turn[0]
            var pair = item // splits
            var split = item % splits
            var window = pair // heads
            var head = pair % heads
            var queries = qkv.unsafe_offset(window * length * stride + head * HEAD)
            var y = mixed.unsafe_offset(window * length * state + head * HEAD)
            if pair != ready:
                for i in range(length):
                    pack_key[KEY_ZERO, KEY_TOP](keys, queries.unsafe_offset(i * stride + state), i)
                pack_values[WEIGHT_TOP](values, queries.unsafe_offset(2 * state), length, padded, stride)
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
            turn = take_turn(counters, items, tasks, t)
        _ = key_list^
        _ = value_list^
        _ = query_list^
        _ = score_list^
        _ = weight_list^
        _ = mixed_list^
        _ = dither_list^

    sync_parallelize(task, tasks)
    _ = counter_list^
