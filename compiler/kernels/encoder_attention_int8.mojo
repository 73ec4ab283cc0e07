"""The encoder's self-attention in 8-bit products with whole sums.

A unit of work is a run of queries of one head of one window, whose keys and values are packed once
(attention_int8.mojo). QUERIES at a time take the keys CHUNK by CHUNK: scores, a byte for each of
their exponentials (softmax_bytes.mojo), and the mix of the values, which is added to the one so far
(online softmax: Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022; with 8-bit products:
SageAttention, Zhang et al., 2024). Bytes are relative to the highest of their own chunk, so that a
chunk of low ones is as fine as any. A row is divided by the sum of its bytes.

Keys and weights are unsigned bytes; queries and values are signed ones, that fit where they have to
(quantized.mojo).
"""

from max.algorithm import sync_parallelize
from std.math import exp2, iota
from std.runtime import parallelism_level

from .attention import HEAD, LANES, MASKED
from .attention_int8 import (
    BYTE_TOP,
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
from .quantized import AVX512_WORDS, F32, I8, I32, VNNI, sum_bytes
from .softmax_bytes import AT_ONCE, THRESHOLD, WEIGHT_TOP, dither_pattern, weigh_row

comptime KEY_TOP = BYTE_TOP if VNNI else 95
"""The largest magnitude of a key's axis. Where queries have to fit, more would make these coarser."""
comptime KEY_ZERO = KEY_TOP + 1
"""The byte that stands for 0 in a key."""
comptime QUERIES = 6 if AVX512_WORDS else 3
"""Queries of one tile: with BLOCKS their sums fill three quarters of the registers."""
comptime BLOCKS = 4 if AVX512_WORDS else 1
"""Blocks of keys, or of a value's axes, multiplied together: see matmul_int8.mojo."""
comptime CHUNK = 256
"""Keys per chunk: the scores of a tile stay in the first-level cache."""
comptime SPLITS = 4
"""Items of work that a head's queries make, or more where there are more threads than heads."""
comptime PerRow = SIMD[F32, 8]
"""A number for each query of a tile."""
comptime LOG2_E = Float32(1.4426950408889634)


@always_inline
def score_blocks[rows: Int, masked: Bool](
    scores: Pointer[mut=True, Float32, _],
    highest: Pointer[mut=True, Vector, _],
    q: Pointer[Int8, _],
    offsets: Array[Int32, rows],
    keys: Pointer[UInt8, _],
    t: Int,
    start: Int,
    length: Int,
):
    """Set scores[rows, t … t + BLOCKS * LANES), in units of their row's query; raise `highest`.

    q is [rows, HEAD]. Positions from `length` on are passed over where `masked`.
    """
    var block = keys.unsafe_offset(t // LANES * KEY_BLOCK_BYTES)
    var sums = sum_bytes[rows, BLOCKS](q, HEAD, block, KEY_BLOCK_BYTES, HEAD, offsets)
    comptime for i in range(rows):
        var top = highest[unsafe_offset=i]
        comptime for b in range(BLOCKS):
            var unit = key_units(block.unsafe_offset(b * KEY_BLOCK_BYTES))
            var s = sums[i * BLOCKS + b].cast[F32]() * unit
            comptime if masked:
                var held = iota[I32, LANES](Int32(b * LANES)).lt(SIMD[I32, LANES](length - t))
                s = held.select(s, Vector(MASKED))
            scores.unsafe_store(i * CHUNK + t - start + b * LANES, s)
            top = larger[LANES](top, s)
        highest[unsafe_offset=i] = top


@always_inline
def mix_chunk[rows: Int](
    mixed: Pointer[mut=True, Float32, _],
    weights: Pointer[UInt8, _],
    values: Pointer[UInt8, _],
    worth: PerRow,
    rescale: PerRow,
    start: Int,
    size: Int,
    padded: Int,
):
    """Set mixed[rows, HEAD] = mixed · rescale + weights[rows, CHUNK] · values[start, start + size) · worth."""
    for part in range(0, PARTS_OF_HEAD, BLOCKS):
        var columns = values.unsafe_offset((part * padded + start) * LANES).bitcast[Int8]()
        var sums = sum_bytes[rows, BLOCKS](weights, CHUNK, columns, padded * LANES, size)
        comptime for i in range(rows):
            comptime for b in range(BLOCKS):
                var at = i * HEAD + (part + b) * LANES
                var so_far = mixed.unsafe_load[width=LANES](at) * rescale[i]
                mixed.unsafe_store(at, sums[i * BLOCKS + b].cast[F32]().fma(Vector(worth[i]), so_far))


@always_inline
def attend_tile[rows: Int](
    y: Pointer[mut=True, Float32, _],
    queries: Pointer[Float32, _],
    keys: Pointer[UInt8, _],
    values: Pointer[UInt8, _],
    dithers: Pointer[Scalar[THRESHOLD], _],
    scores: Pointer[mut=True, Float32, _],
    weights: Pointer[mut=True, UInt8, _],
    length: Int,
    padded: Int,
    stride: Int,
    state: Int,
):
    """Set y[rows, HEAD] (rows `state` apart) to the attention of queries[rows, HEAD] (`stride` apart).

    scores and weights are [rows, CHUNK].
    """
    var q = Array[Int8, length=rows * HEAD](fill=0)
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
            q.unsafe_ptr().unsafe_store(i * HEAD + part * LANES, whole.cast[I8]())
        units[i] = unit * LOG2_E
        offsets[i] = Int32(-KEY_ZERO) * total.reduce_add()

    var mixed = Array[Float32, length=rows * HEAD](fill=0)
    var top = PerRow(MASKED)
    var total = PerRow(0)
    for start in range(0, padded, CHUNK):
        var end = min(start + CHUNK, padded)
        var highest = Array[Vector, length=rows](fill=Vector(MASKED))
        for t in range(start, end, BLOCKS * LANES):
            if t + BLOCKS * LANES <= length:
                score_blocks[rows, False](
                    scores, highest.unsafe_ptr(), q.unsafe_ptr(), offsets, keys, t, start, length
                )
            else:
                score_blocks[rows, True](
                    scores, highest.unsafe_ptr(), q.unsafe_ptr(), offsets, keys, t, start, length
                )
        var own = PerRow(MASKED)
        var sums = PerRow(0)
        comptime for i in range(rows):
            own[i] = highest[i].reduce_max() * units[i]
            var sum = weigh_row(
                weights.unsafe_offset(i * CHUNK), scores.unsafe_offset(i * CHUNK), units[i], own[i],
                dithers, end - start,
            )
            sums[i] = Float32(sum)
        # Of what is mixed so far and what comes, the one with the lower maximum is worth less.
        var less = exp2(-abs(own - top))
        var rises = own.gt(top)
        var rescale = rises.select(less, PerRow(1))
        var worth = rises.select(PerRow(1), less)
        top = max(top, own)
        total = total.fma(rescale, sums * worth)
        mix_chunk[rows](
            mixed.unsafe_ptr(), weights, values, worth, rescale, start, end - start, padded
        )

    var unit = value_units(values, padded)
    comptime for i in range(rows):
        var scale = 1.0 / total[i]
        comptime for part in range(PARTS_OF_HEAD):
            comptime at = part * LANES
            var result = mixed.unsafe_ptr().unsafe_load[width=LANES](i * HEAD + at) * scale
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
    comptime assert CHUNK % AT_ONCE == 0 and AT_ONCE % (BLOCKS * LANES) == 0
    var stride = 3 * state
    var heads = state // HEAD
    var padded = (length + AT_ONCE - 1) // AT_ONCE * AT_ONCE
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
        var score_list = List[Float32](length=QUERIES * CHUNK, fill=0)
        var weight_list = List[UInt8](length=QUERIES * CHUNK, fill=0)
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
                    dither_list.unsafe_ptr(), score_list.unsafe_ptr(), weight_list.unsafe_ptr(),
                    length, padded, stride, state,
                )
                i += QUERIES
            while i < last:
                attend_tile[1](
                    y.unsafe_offset(i * state), queries.unsafe_offset(i * stride), keys, values,
                    dither_list.unsafe_ptr(), score_list.unsafe_ptr(), weight_list.unsafe_ptr(),
                    length, padded, stride, state,
                )
                i += 1
            turn = take_turn(counters, items, tasks, t)
        _ = key_list^
        _ = value_list^
        _ = score_list^
        _ = weight_list^
        _ = dither_list^

    sync_parallelize(task, tasks)
    _ = counter_list^
