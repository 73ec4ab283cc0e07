"""The decoder's attention as operations of the graphs, on CPUs; see attention.mojo.

Scores for alignment are an operation of GPUs too.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from extensibility import _MutableInputTensor as MutableInputTensor
from max.gpu.host import DeviceContext

from .attention import (
    HEAD,
    KEY_BLOCK,
    LANES,
    CacheShape,
    cross_attend,
    scores_of,
    self_attend,
    write_key,
    write_value,
)
from .attention_gpu import alignment_scores_gpu
from .parallel import share

comptime F32 = DType.float32


@always_inline
def shape_of[KV: DType, //](
    k: MutableInputTensor[dtype=KV, rank=6, ...],
    v: MutableInputTensor[dtype=KV, rank=5, ...],
    layer: InputTensor[dtype=DType.int32, rank=1, ...],
) -> CacheShape:
    """What one layer of a pair of caches looks like."""
    return CacheShape(
        k.dim_size(2),
        k.dim_size(3) * KEY_BLOCK,
        v.dim_size(3) * HEAD,
        Int(layer.unsafe_ptr()[unsafe_offset=0]) * k.dim_size(1),
    )


@extensibility.register("mwc_self_attention")
struct SelfAttention:
    """Write each token's key and value at its position of its row, then attend up to it.

    Inputs: self_k, self_v (caches), qkv f32 [n, 3 * state], rows and positions int32 [n], layer
    int32 [1]. Output f32 [n, state].
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        output: OutputTensor[dtype=ACT, rank=2, ...],
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        qkv: InputTensor[dtype=ACT, rank=2, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        positions: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var cache = shape_of(self_k, self_v, layer)
        self_attend[KV](
            output.unsafe_ptr().bitcast[Float32](), self_k.unsafe_ptr(), self_v.unsafe_ptr(),
            qkv.unsafe_ptr().bitcast[Float32](), rows.unsafe_ptr(), positions.unsafe_ptr(),
            qkv.dim_size(0), cache,
        )


@extensibility.register("mwc_store_text_kv")
struct StoreTextKV:
    """Write each token's key and value at its position of its row; inputs as mwc_self_attention."""

    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        self_k: MutableInputTensor[dtype=KV, rank=6, ...],
        self_v: MutableInputTensor[dtype=KV, rank=5, ...],
        qkv: InputTensor[dtype=ACT, rank=2, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        positions: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var cache = shape_of(self_k, self_v, layer)
        var state = cache.heads * HEAD
        var entries = qkv.unsafe_ptr().bitcast[Float32]()
        for i in range(qkv.dim_size(0)):
            var slot = cache.first + Int(rows.unsafe_ptr()[unsafe_offset=i])
            var position = Int(positions.unsafe_ptr()[unsafe_offset=i])
            for head in range(cache.heads):
                var at = slot * cache.heads + head
                var key = entries.unsafe_offset((i * 3 + 1) * state + head * HEAD)
                write_key[KV](self_k.unsafe_ptr().unsafe_offset(at * cache.key_size), key, position)
                write_value[KV](
                    self_v.unsafe_ptr().unsafe_offset(at * cache.value_size),
                    key.unsafe_offset(state), position,
                )


@extensibility.register("mwc_cross_attention")
struct CrossAttention:
    """Attend to all 1500 positions of each token's window.

    Inputs: cross_k, cross_v (caches), q f32 [n, state], windows int32 [n], layer int32 [1].
    Output f32 [n, state].
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        output: OutputTensor[dtype=ACT, rank=2, ...],
        cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
        cross_v: MutableInputTensor[dtype=KV, rank=5, ...],
        q: InputTensor[dtype=ACT, rank=2, ...],
        windows: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var cache = shape_of(cross_k, cross_v, layer)
        cross_attend[KV](
            output.unsafe_ptr().bitcast[Float32](), cross_k.unsafe_ptr(), cross_v.unsafe_ptr(),
            q.unsafe_ptr().bitcast[Float32](), windows.unsafe_ptr(), q.dim_size(0),
            cross_v.dim_size(3), cache,
        )


@extensibility.register("mwc_alignment_scores")
struct AlignmentScores:
    """Scores before softmax of some heads: q · keysᵀ for every audio position.

    Inputs: cross_k (cache), q f32 [n, state], windows int32 [n], layer int32 [1], heads int32 [h].
    Output f32 [h, n, length] for the first `length` positions.
    """

    @staticmethod
    def execute[target: StaticString, KV: DType, ACT: DType](
        output: OutputTensor[dtype=F32, rank=3, ...],
        cross_k: MutableInputTensor[dtype=KV, rank=6, ...],
        q: InputTensor[dtype=ACT, rank=2, ...],
        windows: InputTensor[dtype=DType.int32, rank=1, ...],
        layer: InputTensor[dtype=DType.int32, rank=1, ...],
        heads: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            alignment_scores_gpu(output, cross_k, q, windows, layer, heads, ctx)
            return
        var n = q.dim_size(0)
        var n_heads = cross_k.dim_size(2)
        var state = n_heads * HEAD
        var length = output.dim_size(2)
        var key_size = cross_k.dim_size(3) * KEY_BLOCK
        var first = Int(layer.unsafe_ptr()[unsafe_offset=0]) * cross_k.dim_size(1)
        var out_ptr = output.unsafe_ptr()
        var key_ptr = cross_k.unsafe_ptr()
        var q_ptr = q.unsafe_ptr().bitcast[Float32]()
        var window_ptr = windows.unsafe_ptr()
        var head_ptr = heads.unsafe_ptr()

        def token_of_head(item: Int) {var n, var first, var n_heads, var state, var length, var key_size, var out_ptr, var key_ptr, var q_ptr, var window_ptr, var head_ptr}:
            var i = item % n
            var head = Int(head_ptr[unsafe_offset=item // n])
            var slot = (first + Int(window_ptr[unsafe_offset=i])) * n_heads + head
            var keys = key_ptr.unsafe_offset(slot * key_size)
            var scores = out_ptr.unsafe_offset(item * length)
            for block in range((length + LANES - 1) // LANES):
                var q_head = q_ptr.unsafe_offset(i * state + head * HEAD)
                var s = scores_of[KV, 1](q_head, state, keys, block)[0]
                if block * LANES + LANES <= length:
                    scores.unsafe_store(block * LANES, s)
                else:
                    for lane in range(length - block * LANES):
                        scores[unsafe_offset=block * LANES + lane] = s[lane]

        share(token_of_head, heads.dim_size(0) * n)
