"""Cross-attention over 8-bit caches: int8 artifacts store, read and score them with these.

Caches hold every layer: keys [layer, window, head, 94, 1088] and values
[layer, window, head, 96768] of bytes, each head as in attention_int8.mojo. Queries and weights of
attention are rounded to 16 bits as decoding's activations are, and sums are of whole numbers: a
token's result does not depend on how many share the reading of a window, nor on the CPU.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext
from std.math import exp

from .attention import HEAD, LANES, MASKED, MAX_POSITIONS, runs_of
from .attention_int8 import (
    BYTE_TOP,
    KEY_BLOCK_BYTES,
    PARTS_OF_HEAD,
    Vector,
    key_units,
    pack_key,
    pack_values,
    value_units,
)
from .parallel import share
from .quantized import F32, I32, TERMS
from .rounding import quantize_words, word_limit
from .word_sums import sum_words

comptime U8 = DType.uint8
comptime TOGETHER_TILES = (8, 4, 2, 1)
"""Tokens of one window that attend together, the most that there are first."""
comptime TOGETHER_INT8 = TOGETHER_TILES[0]


@fieldwise_init
struct ByteCacheShape(Copyable, ImplicitlyCopyable, Movable):
    """One layer of the caches: bytes of a slot's head in each, the index of its first slot."""

    var heads: Int
    var key_size: Int
    var value_size: Int
    var first: Int


@always_inline
def byte_shape_of(
    k: MutableInputTensor[dtype=U8, rank=5, ...],
    v: MutableInputTensor[dtype=U8, rank=4, ...],
    layer: InputTensor[dtype=I32, rank=1, ...],
) -> ByteCacheShape:
    """What one layer of a pair of caches looks like."""
    return ByteCacheShape(
        k.dim_size(2),
        k.dim_size(3) * KEY_BLOCK_BYTES,
        v.dim_size(3),
        Int(layer.unsafe_ptr()[unsafe_offset=0]) * k.dim_size(1),
    )


@always_inline
def attend_bytes[rows: Int](
    mixed: Pointer[mut=True, Float32, _],
    q: Pointer[Float32, _],
    stride: Int,
    keys: Pointer[UInt8, _],
    values: Pointer[UInt8, _],
    scores: Pointer[mut=True, Float32, _],
    words: Pointer[mut=True, Int16, _],
    length: Int,
    padded: Int,
):
    """mixed[rows, 64] = softmax(q[rows, 64] · keysᵀ) · values over `length` positions of a head.

    Rows of q and of mixed are `stride` apart; scores and words have room for
    [rows, MAX_POSITIONS].
    """
    var units = Array[Float32, length=rows](fill=0)
    comptime for r in range(rows):
        units[r] = quantize_words(
            words.unsafe_offset(r * TERMS), q.unsafe_offset(r * stride), HEAD, rows, HEAD
        )
    var highest = Array[Vector, length=rows](fill=Vector(MASKED))
    for t in range(0, padded, LANES):
        var block = keys.unsafe_offset(t // LANES * KEY_BLOCK_BYTES)
        var sums = sum_words[rows](words, block.bitcast[Int8](), HEAD)
        var unit = key_units(block)
        comptime for r in range(rows):
            var s = sums[r].cast[F32]() * (unit * units[r])
            for lane in range(length - t, LANES):
                s[lane] = MASKED
            highest[r] = max(highest[r], s)
            scores.unsafe_store(r * MAX_POSITIONS + t, s)

    var limit = word_limit(padded)
    var scale = Array[Float32, length=rows](fill=0)
    comptime for r in range(rows):
        var top = highest[r].reduce_max()
        var totals = SIMD[I32, LANES](0)
        for t in range(0, padded, LANES):
            var e = exp(scores.unsafe_load[width=LANES](r * MAX_POSITIONS + t) - top)
            var whole = round(e * limit).cast[I32]()
            totals += whole
            comptime for i in range(0, LANES, TERMS):
                var four = whole.slice[TERMS, offset=i]().cast[DType.int16]()
                words.unsafe_store((t + i) * rows + r * TERMS, four)
        scale[r] = 1.0 / Float32(totals.reduce_add())

    var unit = value_units(values, padded)
    comptime for part in range(PARTS_OF_HEAD):
        var block = values.unsafe_offset(part * padded * LANES)
        var sums = sum_words[rows](words, block.bitcast[Int8](), padded)
        var middle = unit.unsafe_load[width=LANES](HEAD + part * LANES)
        comptime for r in range(rows):
            var units_of_sum = unit.unsafe_load[width=LANES](part * LANES) * scale[r]
            mixed.unsafe_store(r * stride + part * LANES, sums[r].cast[F32]().fma(units_of_sum, middle))


@always_inline
def attend_run(
    mixed: Pointer[mut=True, Float32, _],
    keys: Pointer[UInt8, _],
    values: Pointer[UInt8, _],
    q: Pointer[Float32, _],
    windows: Pointer[Int32, _],
    starts: Pointer[Int, _],
    runs: Int,
    item: Int,
    length: Int,
    cache: ByteCacheShape,
):
    """One head of one run of tokens of q[n, state], whose windows are the same.

    `starts` [runs + 1] is where the runs begin, of at most TOGETHER_INT8 tokens; `item` counts
    runs * heads. Neighbouring tokens of one window (a prompt, a beam) share the reading of its
    keys and values.
    """
    # Runs vary fastest: those of one window find its keys still in cache.
    var head = item // runs
    var i = starts[unsafe_offset=item % runs]
    var end = starts[unsafe_offset=item % runs + 1]
    var state = cache.heads * HEAD
    var padded = (length + LANES - 1) // LANES * LANES
    var slot = (cache.first + Int(windows[unsafe_offset=i])) * cache.heads + head
    var head_keys = keys.unsafe_offset(slot * cache.key_size)
    var head_values = values.unsafe_offset(slot * cache.value_size)
    var scores = Array[Float32, length=TOGETHER_INT8 * MAX_POSITIONS](uninitialized=True)
    var words = Array[Int16, length=TOGETHER_INT8 * MAX_POSITIONS](uninitialized=True)
    var score_ptr = scores.unsafe_ptr()
    var word_ptr = words.unsafe_ptr()

    @always_inline
    def tile[rows: Int](token: Int) {var state, var length, var padded, var head, var mixed, var q, var head_keys, var head_values, var score_ptr, var word_ptr}:
        var at = token * state + head * HEAD
        attend_bytes[rows](
            mixed.unsafe_offset(at), q.unsafe_offset(at), state, head_keys, head_values,
            score_ptr, word_ptr, length, padded,
        )

    comptime for kind in range(len(TOGETHER_TILES)):
        comptime rows = TOGETHER_TILES[kind]
        while i + rows <= end:
            tile[rows](i)
            i += rows


@extensibility.register("mwc_cross_attention_int8")
struct CrossAttentionInt8:
    """Attend to all positions of each token's window.

    Inputs: cross_k, cross_v (caches), q f32 [n, state], windows int32 [n], layer int32 [1],
    length: how many positions a window has. Output f32 [n, state].
    """

    @staticmethod
    def execute[target: StaticString, length: Int](
        output: OutputTensor[dtype=F32, rank=2, ...],
        cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
        cross_v: MutableInputTensor[dtype=U8, rank=4, ...],
        q: InputTensor[dtype=F32, rank=2, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layer: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var cache = byte_shape_of(cross_k, cross_v, layer)
        var starts = runs_of(windows.unsafe_ptr(), q.dim_size(0), TOGETHER_INT8)
        var runs = len(starts) - 1
        var start_ptr = starts.unsafe_ptr()
        var mixed = output.unsafe_ptr()
        var keys = cross_k.unsafe_ptr()
        var values = cross_v.unsafe_ptr()
        var q_ptr = q.unsafe_ptr()
        var window_ptr = windows.unsafe_ptr()

        def head_of_run(item: Int) {var mixed, var keys, var values, var q_ptr, var window_ptr, var start_ptr, var runs, var cache}:
            attend_run(
                mixed, keys, values, q_ptr, window_ptr, start_ptr, runs, item, length, cache
            )

        share(head_of_run, runs * cache.heads)
        _ = starts^


@extensibility.register("mwc_store_cross_kv_int8")
struct StoreCrossKVInt8:
    """Put one layer's keys and values into the caches, at each window's slot.

    Inputs: cross_k, cross_v (caches), kv f32 [b, length, 2 * state] (keys, then values),
    windows int32 [b], layer int32 [1]. No output.
    """

    @staticmethod
    def execute[target: StaticString](
        cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
        cross_v: MutableInputTensor[dtype=U8, rank=4, ...],
        kv: InputTensor[dtype=F32, rank=3, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layer: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var length = kv.dim_size(1)
        var padded = (length + LANES - 1) // LANES * LANES
        var cache = byte_shape_of(cross_k, cross_v, layer)
        var heads = cache.heads
        var key_size = cache.key_size
        var value_size = cache.value_size
        var first = cache.first
        var state = heads * HEAD
        var key_ptr = cross_k.unsafe_ptr()
        var value_ptr = cross_v.unsafe_ptr()
        var kv_ptr = kv.unsafe_ptr()
        var window_ptr = windows.unsafe_ptr()

        def head_of_window(item: Int) {var length, var padded, var heads, var state, var key_size, var value_size, var first, var key_ptr, var value_ptr, var kv_ptr, var window_ptr}:
            var i = item // heads
            var head = item % heads
            var slot = (first + Int(window_ptr[unsafe_offset=i])) * heads + head
            var keys = key_ptr.unsafe_offset(slot * key_size)
            var source = kv_ptr.unsafe_offset(i * length * 2 * state + head * HEAD)
            for t in range(length):
                pack_key[0, BYTE_TOP](keys, source.unsafe_offset(t * 2 * state), t)
            pack_values(
                value_ptr.unsafe_offset(slot * value_size), source.unsafe_offset(state), length,
                padded, 2 * state,
            )

        share(head_of_window, kv.dim_size(0) * heads)


@extensibility.register("mwc_alignment_scores_int8")
struct AlignmentScoresInt8:
    """Scores before softmax of some heads: q · keysᵀ for every audio position.

    Inputs: cross_k (cache), q f32 [n, state], windows int32 [n], layer int32 [1], heads int32 [h].
    Output f32 [h, n, length] for the first `length` positions.
    """

    @staticmethod
    def execute[target: StaticString](
        output: OutputTensor[dtype=F32, rank=3, ...],
        cross_k: MutableInputTensor[dtype=U8, rank=5, ...],
        q: InputTensor[dtype=F32, rank=2, ...],
        windows: InputTensor[dtype=I32, rank=1, ...],
        layer: InputTensor[dtype=I32, rank=1, ...],
        heads: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var n = q.dim_size(0)
        var n_heads = cross_k.dim_size(2)
        var state = n_heads * HEAD
        var length = output.dim_size(2)
        var key_size = cross_k.dim_size(3) * KEY_BLOCK_BYTES
        var first = Int(layer.unsafe_ptr()[unsafe_offset=0]) * cross_k.dim_size(1)
        var out_ptr = output.unsafe_ptr()
        var key_ptr = cross_k.unsafe_ptr()
        var q_ptr = q.unsafe_ptr()
        var window_ptr = windows.unsafe_ptr()
        var head_ptr = heads.unsafe_ptr()

        def token_of_head(item: Int) {var n, var first, var n_heads, var state, var length, var key_size, var out_ptr, var key_ptr, var q_ptr, var window_ptr, var head_ptr}:
            var i = item % n
            var head = Int(head_ptr[unsafe_offset=item // n])
            var slot = (first + Int(window_ptr[unsafe_offset=i])) * n_heads + head
            var scores = out_ptr.unsafe_offset(item * length)
            var words = Array[Int16, length=HEAD](fill=0)
            var unit = quantize_words(
                words.unsafe_ptr(), q_ptr.unsafe_offset(i * state + head * HEAD), HEAD, 1, HEAD
            )
            for t in range(0, length, LANES):
                var block = key_ptr.unsafe_offset(slot * key_size + t // LANES * KEY_BLOCK_BYTES)
                var sums = sum_words[1](words.unsafe_ptr(), block.bitcast[Int8](), HEAD)[0]
                var s = sums.cast[F32]() * (key_units(block) * unit)
                if t + LANES <= length:
                    scores.unsafe_store(t, s)
                else:
                    for lane in range(length - t):
                        scores[unsafe_offset=t + lane] = s[lane]

        share(token_of_head, heads.dim_size(0) * n)
