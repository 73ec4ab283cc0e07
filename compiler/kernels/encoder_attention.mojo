"""The encoder's self-attention, fused: scores of a few queries stay in cache, none reach memory.

A unit of work is one head of one window, for a run of queries. Its keys are packed in panels of
two vector registers (transposed), its values too; then GROUP queries at a time get all their scores,
their softmax, and their mix of the values, in tiles of TILE. Queries arrive scaled by 64^-0.5.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from std.math import exp
from std.runtime import parallelism_level

from .attention import HEAD, MASKED
from .linear import WIDTH, larger
from .matmul import PANEL, TILE
from .parallel import take_turn, turn_counters

comptime F32 = DType.float32
comptime Vector = SIMD[F32, WIDTH]
comptime GROUP = 4 * TILE
"""Queries whose scores are held at once."""
comptime TIME_BLOCK = 256
"""Positions whose values are summed in one chain."""
comptime SPLITS = 4
"""Items of work that a head's queries make, or more where there are more threads than heads."""


@always_inline
def score_panel[rows: Int](
    scores: Pointer[mut=True, Float32, _],
    q: Pointer[Float32, _],
    panel: Pointer[Float32, _],
    held: Int,
    padded: Int,
):
    """scores[rows, PANEL] (row length padded) = q[rows, HEAD] · panel[HEAD, PANEL].

    Those past the `held` keys of the panel become MASKED.
    """
    var sums = Array[Vector, length=2 * rows](fill=Vector(0))
    for d in range(HEAD):
        var k0 = panel.unsafe_load[width=WIDTH](d * PANEL)
        var k1 = panel.unsafe_load[width=WIDTH](d * PANEL + WIDTH)
        comptime for i in range(rows):
            var qv = Vector(q[unsafe_offset=i * HEAD + d])
            sums[2 * i] = k0.fma(qv, sums[2 * i])
            sums[2 * i + 1] = k1.fma(qv, sums[2 * i + 1])
    comptime for i in range(rows):
        scores.unsafe_store(i * padded, sums[2 * i])
        scores.unsafe_store(i * padded + WIDTH, sums[2 * i + 1])
        for u in range(held, PANEL):
            scores[unsafe_offset=i * padded + u] = MASKED


@always_inline
def soften(scores: Pointer[mut=True, Float32, _], padded: Int) -> Float32:
    """Turn scores[padded] into exp(score - their maximum); return what makes their sum 1."""
    var highest = Vector(MASKED)
    for t in range(0, padded, WIDTH):
        highest = larger(highest, scores.unsafe_load[width=WIDTH](t))
    var top = highest.reduce_max()
    var totals = Vector(0)
    for t in range(0, padded, WIDTH):
        var e = exp(scores.unsafe_load[width=WIDTH](t) - top)
        scores.unsafe_store(t, e)
        totals += e
    return 1.0 / totals.reduce_add()


@always_inline
def mix_block[rows: Int](
    mixed: Pointer[mut=True, Float32, _],
    scores: Pointer[Float32, _],
    values: Pointer[Float32, _],
    scale: Pointer[Float32, _],
    start: Int,
    end: Int,
    length: Int,
    padded: Int,
    stride: Int,
):
    """mixed[rows, PANEL] (row length stride) += scores · values[length, PANEL] over [start, end).

    From the first position on it is set, and with the last one scaled.
    """
    var sums = Array[Vector, length=2 * rows](fill=Vector(0))
    for t in range(start, end):
        var v0 = values.unsafe_load[width=WIDTH](t * PANEL)
        var v1 = values.unsafe_load[width=WIDTH](t * PANEL + WIDTH)
        comptime for i in range(rows):
            var p = Vector(scores[unsafe_offset=i * padded + t])
            sums[2 * i] = v0.fma(p, sums[2 * i])
            sums[2 * i + 1] = v1.fma(p, sums[2 * i + 1])
    comptime for i in range(rows):
        comptime for half in range(2):
            var at = i * stride + half * WIDTH
            var sum = sums[2 * i + half]
            if start > 0:
                sum += mixed.unsafe_load[width=WIDTH](at)
            if end == length:
                sum *= scale[unsafe_offset=i]
            mixed.unsafe_store(at, sum)


@always_inline
def tiles_of[WorkType: def[rows: Int](Int) -> None](rows: Int, work: WorkType):
    """Call work[TILE](row) for every whole tile of the rows, and work[1](row) for those left."""
    var i = 0
    while i + TILE <= rows:
        work[TILE](i)
        i += TILE
    while i < rows:
        work[1](i)
        i += 1


@always_inline
def attend_group(
    mixed: Pointer[mut=True, Float32, _],
    qkv: Pointer[Float32, _],
    keys: Pointer[Float32, _],
    values: Pointer[Float32, _],
    scores: Pointer[mut=True, Float32, _],
    q: Pointer[mut=True, Float32, _],
    scale: Pointer[mut=True, Float32, _],
    rows: Int,
    length: Int,
    padded: Int,
    state: Int,
):
    """mixed[rows, HEAD] (row length state) of up to GROUP queries, the first columns of qkv.

    Panels of keys and blocks of values come from a far cache once for all of them. There is to be
    room for their scores [GROUP, padded], queries q [GROUP, HEAD] and scales [GROUP].
    """
    for i in range(rows):
        comptime for d in range(0, HEAD, WIDTH):
            q.unsafe_store(i * HEAD + d, qkv.unsafe_load[width=WIDTH](i * 3 * state + d))
    for start in range(0, padded, PANEL):
        var held = min(PANEL, length - start)

        @always_inline
        def score[tile: Int](i: Int) {var scores, var q, var keys, var start, var held, var padded}:
            score_panel[tile](
                scores.unsafe_offset(i * padded + start), q.unsafe_offset(i * HEAD),
                keys.unsafe_offset(start * HEAD), held, padded,
            )

        tiles_of(rows, score)
    for i in range(rows):
        scale[unsafe_offset=i] = soften(scores.unsafe_offset(i * padded), padded)
    for part in range(HEAD // PANEL):
        for start in range(0, length, TIME_BLOCK):
            var end = min(start + TIME_BLOCK, length)

            @always_inline
            def mix[tile: Int](i: Int) {var mixed, var scores, var values, var scale, var part, var start, var end, var length, var padded, var state}:
                mix_block[tile](
                    mixed.unsafe_offset(i * state + part * PANEL), scores.unsafe_offset(i * padded),
                    values.unsafe_offset(part * length * PANEL), scale.unsafe_offset(i),
                    start, end, length, padded, state,
                )

            tiles_of(rows, mix)


@always_inline
def pack_head(
    keys: Pointer[mut=True, Float32, _],
    values: Pointer[mut=True, Float32, _],
    k: Pointer[Float32, _],
    v: Pointer[Float32, _],
    length: Int,
    stride: Int,
):
    """keys[panel, HEAD, PANEL] and values[part, length, PANEL], from rows `stride` apart."""
    for t in range(length):
        var panel = keys.unsafe_offset((t // PANEL) * PANEL * HEAD + t % PANEL)
        for d in range(HEAD):
            panel[unsafe_offset=d * PANEL] = k[unsafe_offset=t * stride + d]
        comptime for d in range(0, HEAD, WIDTH):
            values.unsafe_store(
                ((d // PANEL) * length + t) * PANEL + d % PANEL,
                v.unsafe_load[width=WIDTH](t * stride + d),
            )


@extensibility.register("mwc_encoder_attention")
struct EncoderAttention:
    """mixed[b, t, state] = attention of qkv[b, t, 3 * state] (queries, keys, values)."""

    @staticmethod
    def execute[target: StaticString](
        mixed: OutputTensor[dtype=F32, rank=3, ...],
        qkv: InputTensor[dtype=F32, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        var length = qkv.dim_size(1)
        var stride = qkv.dim_size(2)
        var state = stride // 3
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
            var score_list = List[Float32](length=GROUP * padded, fill=0)
            var query_list = List[Float32](length=GROUP * HEAD, fill=0)
            var scale_list = List[Float32](length=GROUP, fill=0)
            var keys = key_list.unsafe_ptr()
            var values = value_list.unsafe_ptr()
            var scores = score_list.unsafe_ptr()
            var queries = query_list.unsafe_ptr()
            var scale = scale_list.unsafe_ptr()
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
                while i < last:
                    var rows = min(GROUP, last - i)
                    attend_group(
                        out_ptr.unsafe_offset(i * state), q.unsafe_offset(i * stride),
                        keys, values, scores, queries, scale, rows, length, padded, state,
                    )
                    i += rows
                turn = take_turn(counters, items, tasks, t)
            _ = key_list^
            _ = value_list^
            _ = score_list^
            _ = query_list^
            _ = scale_list^

        sync_parallelize(task, tasks)
        _ = counter_list^
