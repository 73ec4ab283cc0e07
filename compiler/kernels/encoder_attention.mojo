"""The encoder's self-attention, fused: scores of a few queries stay in cache, none reach memory.

A unit of work is one head of one window, for a run of queries. Its keys are packed in panels of
two vector registers (transposed), its values made contiguous; then TILE queries at a time get all
their scores, their softmax, and their mix of the values. Queries arrive scaled by 64^-0.5.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.math import exp
from std.runtime import parallelism_level

from .attention import HEAD, MASKED
from .encoder_attention_int8 import SPLITS, attend_windows_int8
from .linear import WIDTH
from .matmul import PANEL, TILE
from .parallel import take_turn, turn_counters

comptime F32 = DType.float32
comptime Vector = SIMD[F32, WIDTH]
comptime TIME_BLOCK = 256
"""Positions whose values are summed in one chain."""


@always_inline
def score_tile[rows: Int](
    scores: Pointer[mut=True, Float32, _],
    q: Pointer[Float32, _],
    keys: Pointer[Float32, _],
    length: Int,
    padded: Int,
    stride: Int,
):
    """scores[rows, padded] = exp(score - row maximum) of q[rows, HEAD], whose rows are stride apart.

    Positions past `length` become 0.
    """
    var highest = Array[Vector, length=rows](fill=Vector(MASKED))
    for start in range(0, padded, PANEL):
        var panel = keys.unsafe_offset(start * HEAD)
        var sums = Array[Vector, length=2 * rows](fill=Vector(0))
        for d in range(HEAD):
            var k0 = panel.unsafe_load[width=WIDTH](d * PANEL)
            var k1 = panel.unsafe_load[width=WIDTH](d * PANEL + WIDTH)
            comptime for i in range(rows):
                var qv = Vector(q[unsafe_offset=i * stride + d])
                sums[2 * i] = k0.fma(qv, sums[2 * i])
                sums[2 * i + 1] = k1.fma(qv, sums[2 * i + 1])
        if start + PANEL > length:
            for u in range(PANEL):
                if start + u >= length:
                    comptime for i in range(rows):
                        if u < WIDTH:
                            sums[2 * i][u] = MASKED
                        else:
                            sums[2 * i + 1][u - WIDTH] = MASKED
        comptime for i in range(rows):
            scores.unsafe_store(i * padded + start, sums[2 * i])
            scores.unsafe_store(i * padded + start + WIDTH, sums[2 * i + 1])
            highest[i] = max(highest[i], max(sums[2 * i], sums[2 * i + 1]))
    comptime for i in range(rows):
        var top = highest[i].reduce_max()
        for t in range(0, padded, WIDTH):
            var e = exp(scores.unsafe_load[width=WIDTH](i * padded + t) - top)
            scores.unsafe_store(i * padded + t, e)


@always_inline
def mix_tile[rows: Int](
    mixed: Pointer[mut=True, Float32, _],
    scores: Pointer[Float32, _],
    values: Pointer[Float32, _],
    length: Int,
    padded: Int,
    stride: Int,
):
    """mixed[rows, HEAD] (row length stride) = scores · values[length, HEAD] / row sums."""
    var scale = Array[Float32, length=rows](fill=0)
    comptime for i in range(rows):
        var totals = Vector(0)
        for t in range(0, padded, WIDTH):
            totals += scores.unsafe_load[width=WIDTH](i * padded + t)
        scale[i] = 1.0 / totals.reduce_add()
    comptime for part in range(HEAD // PANEL):
        for start in range(0, length, TIME_BLOCK):
            var end = min(start + TIME_BLOCK, length)
            var sums = Array[Vector, length=2 * rows](fill=Vector(0))
            for t in range(start, end):
                var v0 = values.unsafe_load[width=WIDTH](t * HEAD + part * PANEL)
                var v1 = values.unsafe_load[width=WIDTH](t * HEAD + part * PANEL + WIDTH)
                comptime for i in range(rows):
                    var p = Vector(scores[unsafe_offset=i * padded + t])
                    sums[2 * i] = v0.fma(p, sums[2 * i])
                    sums[2 * i + 1] = v1.fma(p, sums[2 * i + 1])
            comptime for i in range(rows):
                comptime for half in range(2):
                    var at = i * stride + part * PANEL + half * WIDTH
                    var sum = sums[2 * i + half]
                    if start > 0:
                        sum += mixed.unsafe_load[width=WIDTH](at)
                    if end == length:
                        sum *= scale[i]
                    mixed.unsafe_store(at, sum)


@always_inline
def pack_head(
    keys: Pointer[mut=True, Float32, _],
    values: Pointer[mut=True, Float32, _],
    k: Pointer[Float32, _],
    v: Pointer[Float32, _],
    length: Int,
    stride: Int,
):
    """keys[panel, HEAD, PANEL] and values[length, HEAD] of one head, from rows `stride` apart."""
    for t in range(length):
        var panel = keys.unsafe_offset((t // PANEL) * PANEL * HEAD + t % PANEL)
        for d in range(HEAD):
            panel[unsafe_offset=d * PANEL] = k[unsafe_offset=t * stride + d]
        comptime for d in range(HEAD // WIDTH):
            values.unsafe_store(
                t * HEAD + d * WIDTH, v.unsafe_load[width=WIDTH](t * stride + d * WIDTH)
            )


@extensibility.register("mwc_encoder_attention")
struct EncoderAttention:
    """mixed[b, t, state] = attention of qkv[b, t, 3 * state] (queries, keys, values).

    Products are of f32, or of 8-bit values where `bytes` is 1.
    """

    @staticmethod
    def execute[target: StaticString, bytes: Int](
        mixed: OutputTensor[dtype=F32, rank=3, ...],
        qkv: InputTensor[dtype=F32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        var length = qkv.dim_size(1)
        var stride = qkv.dim_size(2)
        var state = stride // 3
        comptime if bytes == 1:
            attend_windows_int8(
                mixed.unsafe_ptr(), qkv.unsafe_ptr(), qkv.dim_size(0), length, state
            )
            return
        var heads = state // HEAD
        var padded = (length + PANEL - 1) // PANEL * PANEL
        var pairs = qkv.dim_size(0) * heads
        var threads = parallelism_level()
        # Threads that share a head each pack its keys.
        var splits = max(SPLITS, (threads + pairs - 1) // pairs)
        var tiles = (length + TILE - 1) // TILE
        var items = pairs * splits
        var tasks = min(threads, items)
        var counter_list = turn_counters(items, tasks)
        var counters = counter_list.unsafe_ptr()
        var qkv_ptr = qkv.unsafe_ptr()
        var mixed_ptr = mixed.unsafe_ptr()

        def task(t: Int) {var counters, var length, var stride, var state, var heads, var padded, var splits, var tiles, var items, var tasks, var qkv_ptr, var mixed_ptr}:
            var key_list = List[Float32](length=padded * HEAD, fill=0)
            var value_list = List[Float32](length=padded * HEAD, fill=0)
            var score_list = List[Float32](length=padded * TILE, fill=0)
            var keys = key_list.unsafe_ptr()
            var values = value_list.unsafe_ptr()
            var scores = score_list.unsafe_ptr()
            var ready = -1
            var turn = take_turn(counters, items, tasks, t)
            while turn[0] < turn[1]:
                var item = turn[0]
                var pair = item // splits
                var split = item % splits
                var window = pair // heads
                var head = pair % heads
                var q = qkv_ptr.unsafe_offset(window * length * stride + head * HEAD)
                var out_ptr = mixed_ptr.unsafe_offset(window * length * state + head * HEAD)
                if pair != ready:
                    pack_head(
                        keys, values, q.unsafe_offset(state), q.unsafe_offset(2 * state),
                        length, stride,
                    )
                    ready = pair
                var i = (tiles * split // splits) * TILE
                var last = min((tiles * (split + 1) // splits) * TILE, length)
                while i + TILE <= last:
                    score_tile[TILE](
                        scores, q.unsafe_offset(i * stride), keys, length, padded, stride
                    )
                    mix_tile[TILE](
                        out_ptr.unsafe_offset(i * state), scores, values, length, padded, state
                    )
                    i += TILE
                while i < last:
                    score_tile[1](
                        scores, q.unsafe_offset(i * stride), keys, length, padded, stride
                    )
                    mix_tile[1](
                        out_ptr.unsafe_offset(i * state), scores, values, length, padded, state
                    )
                    i += 1
                turn = take_turn(counters, items, tasks, t)
            _ = key_list^
            _ = value_list^
            _ = score_list^

        sync_parallelize(task, tasks)
        _ = counter_list^
