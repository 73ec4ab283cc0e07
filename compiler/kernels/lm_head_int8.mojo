"""The token embedding of int8 artifacts: rows of it, and the LM head in full or through the sieve.

It is most of what a small model reads for each token, so it is kept as halves (half_bytes.mojo), of
which a step reads one (sieve.mojo).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .half_bytes import OCTET, join_halves
from .linear import WIDTH, layer_norm_rows
from .linear_int8 import blocks_of
from .quantized import COLUMNS, F32, I8, I32, STEP, TERMS, U8
from .sieve import all_logits, likely_logits


@always_inline
def normed_rows(
    x: Pointer[Float32, _],
    gamma: Pointer[Float32, _],
    beta: Pointer[Float32, _],
    columns: Pointer[Float32, _],
    m: Int,
    k: Int,
) -> List[Float32]:
    """layer_norm(x[m, k]) * columns[k]."""
    var normed_list = List[Float32](length=m * k, fill=0)
    var normed = normed_list.unsafe_ptr()
    layer_norm_rows(normed, x, gamma, beta, m, k)
    for i in range(m):
        for c in range(0, k, WIDTH):
            var scaled = normed.unsafe_load[width=WIDTH](i * k + c)
            normed.unsafe_store(i * k + c, scaled * columns.unsafe_load[width=WIDTH](c))
    return normed_list^


@extensibility.register("mwc_norm_logits_int8")
struct NormLogitsInt8:
    """y[m, n] = (layer_norm(x[m, k]) * column_scale[k]) · wᵀ: the LM head, in full.

    w uint8 [2, n / 16, k / 8, 16, 4]: the token embedding's upper and lower halves, without the
    scales of its rows and columns.
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0)
        var n = y.dim_size(1)
        var k = x.dim_size(1)
        var high = w.unsafe_ptr()
        var low = high.unsafe_offset(blocks_of(n) * COLUMNS * k // 2)
        var normed = normed_rows(
            x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), column_scale.unsafe_ptr(), m, k
        )
        all_logits(y.unsafe_ptr(), normed.unsafe_ptr(), high, low, scale.unsafe_ptr(), m, n, k)
        _ = normed^


@extensibility.register("mwc_norm_likely_logits_int8")
struct NormLikelyLogitsInt8:
    """y[m, n] as of mwc_norm_logits_int8, through the sieve.

    `bounds` f32 [3]: what the sieve leaves out at most (compiler/quantize.py, `sieve_bounds`).
    `wanted` int32 [m]: how many of a row's best logits are asked for; with 0 all are computed in
    full. `suppress` f32 [2, n] and `states` int32 [m, 6] are as for mwc_choose: what is suppressed
    is not among the best. From `eot` int32 [1] on all are computed in full. 32 divides k.
    """

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        bounds: InputTensor[dtype=F32, rank=1, ...],
        wanted: InputTensor[dtype=I32, rank=1, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=I32, rank=2, ...],
        eot: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0)
        var n = y.dim_size(1)
        var k = x.dim_size(1)
        var high = w.unsafe_ptr()
        var low = high.unsafe_offset(blocks_of(n) * COLUMNS * k // 2)
        var normed = normed_rows(
            x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(), column_scale.unsafe_ptr(), m, k
        )
        likely_logits(
            y.unsafe_ptr(), normed.unsafe_ptr(), high, low, scale.unsafe_ptr(), bounds.unsafe_ptr(),
            wanted.unsafe_ptr(), suppress.unsafe_ptr(), states.unsafe_ptr(),
            Int(eot.unsafe_ptr()[unsafe_offset=0]), m, n, k,
        )
        _ = normed^


@extensibility.register("mwc_embed_int8")
struct EmbedInt8:
    """x[m, k] = the token's row of w + the position's row of `table` f32 [n_ctx, k].

    w as for mwc_norm_logits_int8.
    """

    @staticmethod
    def execute[target: StaticString](
        x: OutputTensor[dtype=F32, rank=2, ...],
        tokens: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        table: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var k = x.dim_size(1)
        var plane = blocks_of(scale.dim_size(0)) * COLUMNS * k // 2
        for i in range(x.dim_size(0)):
            var token = Int(tokens.unsafe_ptr()[unsafe_offset=i])
            var position = Int(positions.unsafe_ptr()[unsafe_offset=i])
            var unit = scale.unsafe_ptr()[unsafe_offset=token]
            var lane = token % COLUMNS
            var halves = w.unsafe_ptr().unsafe_offset((token - lane) * k // 2 + lane * TERMS)
            var at = table.unsafe_ptr().unsafe_offset(position * k)
            var row = x.unsafe_ptr().unsafe_offset(i * k)

            @always_inline
            def put(c: Int, weights: SIMD[I8, TERMS]) {imm}:
                var columns = column_scale.unsafe_ptr().unsafe_load[width=TERMS](c) * unit
                row.unsafe_store(
                    c, weights.cast[F32]() * columns + at.unsafe_load[width=TERMS](c)
                )

            for octet in range(k // OCTET):
                var both = join_halves[TERMS](
                    halves.unsafe_load[width=TERMS](octet * STEP),
                    halves.unsafe_load[width=TERMS](plane + octet * STEP),
                )
                put(octet * OCTET, both[0])
                put(octet * OCTET + TERMS, both[1])
