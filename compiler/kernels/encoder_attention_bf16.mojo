"""The encoder's self-attention in bf16 products with f32 sums, for CPUs that have them (AVX512-BF16).

As in encoder_attention.mojo a unit of work is a run of queries of one head of one window, whose
keys and values are packed once. QUERIES at a time take the keys CHUNK by CHUNK: scores, their
exponentials, the mix of the values so far, rescaled where a chunk brings a higher maximum (online
softmax: Milakov and Gimelshein, 2018; FlashAttention: Dao et al., 2022).
"""

from max.algorithm import sync_parallelize
from std.memory import bitcast
from std.runtime import parallelism_level
from std.sys import CompilationTarget, llvm_intrinsic

from .attention import HEAD, MASKED

comptime F32 = DType.float32
comptime BF16 = DType.bfloat16
comptime LANES = 16
comptime Vector = SIMD[F32, LANES]
comptime Pairs = SIMD[BF16, 2 * LANES]
comptime BF16_DOTS = CompilationTarget.has_avx512f() and CompilationTarget._has_feature[
    "avx512bf16"
]()
"""Whether the CPU multiplies pairs of bf16 (vdpbf16ps)."""
comptime QUERIES = 12
"""Queries of one tile: with two registers each they fill three quarters of them."""
comptime CHUNK = 512
"""Keys per chunk: the scores of a tile stay in the first-level cache."""
comptime LOG2_E = Float32(1.4426950408889634)


@always_inline
def dot_pairs_bf16(sums: Vector, a: Pairs, b: Pairs) -> Vector:
    """Return sums[i] + a[2i] · b[2i] + a[2i + 1] · b[2i + 1]."""
    return llvm_intrinsic["llvm.x86.avx512bf16.dpbf16ps.512", Vector](sums, a, b)


@always_inline
def broadcast_pair(x: Pointer[BFloat16, _]) -> Pairs:
    """Two neighbouring values over and over."""
    return bitcast[BF16, 2 * LANES](SIMD[DType.int32, LANES](x.bitcast[Int32]()[unsafe_offset=0]))


@always_inline
def exp2_within_bf16(x: Vector) -> Vector:
    """2^x for x <= 0, to 5e-5 relative: a hundredth of what rounding to bf16 costs.

    2^round(x) through the exponent's bits, times the Taylor series of 2^f with |f| <= 0.5.
    """
    var bounded = max(x, Vector(-126))
    var whole = round(bounded)
    var f = bounded - whole
    var series = f.fma(Vector(0.009618129), Vector(0.05550411))
    series = series.fma(f, Vector(0.24022651))
    series = series.fma(f, Vector(0.6931472))
    series = series.fma(f, Vector(1))
    var bits = bitcast[DType.int32, LANES](series) + (whole.cast[DType.int32]() << 23)
    return bitcast[F32, LANES](bits)


@always_inline
def pack_head_bf16(
    keys: Pointer[mut=True, BFloat16, _],
    values: Pointer[mut=True, BFloat16, _],
    k: Pointer[Float32, _],
    length: Int,
    padded: Int,
    stride: Int,
):
    """Make keys [t / 16, 32, 16, 2] and values [4, t / 2, 16, 2] of one head.

    From k, whose rows are `stride` apart, and the values, a third of a row behind the keys.

    Both hold pairs along the sum they take part in: a head's axes for keys, time for values.
    Positions from `length` to `padded` are zeros from before.
    """
    var words = keys.bitcast[Int32]()
    var v = k.unsafe_offset(stride // 3)
    for t in range(length):
        var target = words.unsafe_offset((t // LANES) * (LANES * HEAD // 2) + t % LANES)
        comptime for part in range(HEAD // LANES):
            var source = k.unsafe_load[width=LANES](t * stride + part * LANES).cast[BF16]()
            var pairs = bitcast[DType.int32, LANES // 2](source)
            comptime for i in range(LANES // 2):
                target[unsafe_offset=(part * LANES // 2 + i) * LANES] = pairs[i]
    for t in range(0, length, 2):
        comptime for part in range(HEAD // LANES):
            var at = t * stride + part * LANES
            var even = v.unsafe_load[width=LANES](at)
            var odd = Vector(0)
            if t + 1 < length:
                odd = v.unsafe_load[width=LANES](at + stride)
            values.unsafe_store(
                part * padded * LANES + t * LANES, even.interleave(odd).cast[BF16]()
            )


@always_inline
def score_chunk[rows: Int](
    scores: Pointer[mut=True, Float32, _],
    q: Pointer[BFloat16, _],
    keys: Pointer[BFloat16, _],
    start: Int,
    size: Int,
    length: Int,
) -> Array[Float32, rows]:
    """Compute scores[rows, CHUNK] of q[rows, HEAD] and the keys [start, start + size); the row maxima.

    `size` is a multiple of 32. Positions from `length` on are masked.
    """
    var highest = Array[Vector, length=rows](fill=Vector(MASKED))
    for t in range(0, size, 2 * LANES):
        var panel = keys.unsafe_offset((start + t) * HEAD)
        var sums = Array[Vector, length=2 * rows](fill=Vector(0))
        for d in range(0, HEAD, 2):
            var k0 = panel.unsafe_load[width=2 * LANES](d * LANES)
            var k1 = panel.unsafe_load[width=2 * LANES](LANES * HEAD + d * LANES)
            comptime for i in range(rows):
                var qv = broadcast_pair(q.unsafe_offset(i * HEAD + d))
                sums[2 * i] = dot_pairs_bf16(sums[2 * i], k0, qv)
                sums[2 * i + 1] = dot_pairs_bf16(sums[2 * i + 1], k1, qv)
        if start + t + 2 * LANES > length:
            for u in range(2 * LANES):
                if start + t + u >= length:
                    comptime for i in range(rows):
                        if u < LANES:
                            sums[2 * i][u] = MASKED
                        else:
                            sums[2 * i + 1][u - LANES] = MASKED
        comptime for i in range(rows):
            scores.unsafe_store(i * CHUNK + t, sums[2 * i])
            scores.unsafe_store(i * CHUNK + t + LANES, sums[2 * i + 1])
            highest[i] = max(highest[i], max(sums[2 * i], sums[2 * i + 1]))
    var maxima = Array[Float32, length=rows](fill=0)
    comptime for i in range(rows):
        maxima[i] = highest[i].reduce_max()
    return maxima^


@always_inline
def mix_chunk[rows: Int](
    mixed: Pointer[mut=True, Float32, _],
    weights: Pointer[BFloat16, _],
    values: Pointer[BFloat16, _],
    rescale: Array[Float32, rows],
    start: Int,
    size: Int,
    padded: Int,
):
    """Set mixed[rows, HEAD] = mixed · rescale + weights[rows, CHUNK] · values[start, start + size)."""
    comptime for part in range(0, HEAD // LANES, 2):
        var v0 = values.unsafe_offset(part * padded * LANES + start * LANES)
        var v1 = v0.unsafe_offset(padded * LANES)
        var sums = Array[Vector, length=2 * rows](fill=Vector(0))
        comptime for i in range(rows):
            comptime for half in range(2):
                var at = i * HEAD + (part + half) * LANES
                sums[2 * i + half] = mixed.unsafe_load[width=LANES](at) * rescale[i]
        for t in range(0, size, 2):
            var a0 = v0.unsafe_load[width=2 * LANES](t * LANES)
            var a1 = v1.unsafe_load[width=2 * LANES](t * LANES)
            comptime for i in range(rows):
                var p = broadcast_pair(weights.unsafe_offset(i * CHUNK + t))
                sums[2 * i] = dot_pairs_bf16(sums[2 * i], a0, p)
                sums[2 * i + 1] = dot_pairs_bf16(sums[2 * i + 1], a1, p)
        comptime for i in range(rows):
            comptime for half in range(2):
                mixed.unsafe_store(i * HEAD + (part + half) * LANES, sums[2 * i + half])


@always_inline
def attend_tile[rows: Int](
    y: Pointer[mut=True, Float32, _],
    queries: Pointer[Float32, _],
    keys: Pointer[BFloat16, _],
    values: Pointer[BFloat16, _],
    q: Pointer[mut=True, BFloat16, _],
    scores: Pointer[mut=True, Float32, _],
    weights: Pointer[mut=True, BFloat16, _],
    mixed: Pointer[mut=True, Float32, _],
    length: Int,
    padded: Int,
    stride: Int,
    state: Int,
):
    """Set y[rows, HEAD] (rows `state` apart) to the attention of queries[rows, HEAD] (`stride` apart)."""
    comptime for i in range(rows):
        comptime for part in range(0, HEAD, LANES):
            var values_of_q = queries.unsafe_load[width=LANES](i * stride + part) * LOG2_E
            q.unsafe_store(i * HEAD + part, values_of_q.cast[BF16]())
            mixed.unsafe_store(i * HEAD + part, Vector(0))
    var top = Array[Float32, length=rows](fill=MASKED)
    var total = Array[Float32, length=rows](fill=0)
    for start in range(0, padded, CHUNK):
        var size = min(CHUNK, padded - start)
        var maxima = score_chunk[rows](scores, q, keys, start, size, length)
        var rescale = Array[Float32, length=rows](fill=0)
        comptime for i in range(rows):
            var highest = max(top[i], maxima[i])
            rescale[i] = exp2_within_bf16(Vector(top[i] - highest))[0]
            if start == 0:
                rescale[i] = 0
            top[i] = highest
            var sums = Vector(0)
            for t in range(0, size, LANES):
                var p = exp2_within_bf16(scores.unsafe_load[width=LANES](i * CHUNK + t) - highest)
                sums += p
                weights.unsafe_store(i * CHUNK + t, p.cast[BF16]())
            total[i] = total[i] * rescale[i] + sums.reduce_add()
        mix_chunk[rows](mixed, weights, values, rescale, start, size, padded)
    comptime for i in range(rows):
        var scale = 1.0 / total[i]
        comptime for part in range(0, HEAD, LANES):
            var result = mixed.unsafe_load[width=LANES](i * HEAD + part) * scale
            y.unsafe_store(i * state + part, result)


@always_inline
def attend_windows_bf16(
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
        var key_list = List[BFloat16](length=padded * HEAD, fill=0)
        var value_list = List[BFloat16](length=padded * HEAD, fill=0)
        var query_list = List[BFloat16](length=QUERIES * HEAD, fill=0)
        var score_list = List[Float32](length=QUERIES * CHUNK, fill=0)
        var weight_list = List[BFloat16](length=QUERIES * CHUNK, fill=0)
        var mixed_list = List[Float32](length=QUERIES * HEAD, fill=0)
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
                pack_head_bf16(
                    keys, values, queries.unsafe_offset(state), length, padded, stride
                )
                ready = pair
            var i = (tiles * split // splits) * QUERIES
            var last = min((tiles * (split + 1) // splits) * QUERIES, length)
            while i + QUERIES <= last:
                attend_tile[QUERIES](
                    y.unsafe_offset(i * state), queries.unsafe_offset(i * stride), keys, values,
                    query_list.unsafe_ptr(), score_list.unsafe_ptr(), weight_list.unsafe_ptr(),
                    mixed_list.unsafe_ptr(), length, padded, stride, state,
                )
                i += QUERIES
            while i < last:
                attend_tile[1](
                    y.unsafe_offset(i * state), queries.unsafe_offset(i * stride), keys, values,
                    query_list.unsafe_ptr(), score_list.unsafe_ptr(), weight_list.unsafe_ptr(),
                    mixed_list.unsafe_ptr(), length, padded, stride, state,
                )
                i += 1
        _ = key_list^
        _ = value_list^
        _ = query_list^
        _ = score_list^
        _ = weight_list^
        _ = mixed_list^

    sync_parallelize(task, tasks)
