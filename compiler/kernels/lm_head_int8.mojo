"""The token embedding of int8 artifacts: rows of it, and the LM head in full or through the sieve.

It is most of what a small model reads for each token, so it is kept in parts (token_embedding.mojo), of
which a step reads one (sieve.mojo).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.runtime import parallelism_level

from .likely_choice import Head, Rules, choose_likely, norm_rows
from .linear_int8 import SERIAL_WORK_INT8, blocks_of, quantize_rows
from .parallel import share
from .quantized import COLUMNS, F32, I8, I32, U8
from .pointers import untracked
from .token_embedding import Embedding, embedding_of


@always_inline
def all_logits(
    y: Pointer[mut=True, Float32, _],
    x: Pointer[Float32, _],
    embedding: Embedding,
    m: Int,
) raises:
    """Compute y[m, n] = x[m, k] · wᵀ, all of it."""
    var n = embedding.n
    var k = embedding.k
    var word_list = List[Int16](length=m * k, fill=0)
    var unit_list = List[Float32](length=m, fill=0)
    var words = word_list.unsafe_ptr()
    var units = unit_list.unsafe_ptr()
    quantize_rows(words, units, x, 0, m, m, k, k)
    var blocks = blocks_of(n)
    var serial = m * n * k < SERIAL_WORK_INT8
    var parts = 1 if serial else min(parallelism_level(), blocks)

    def part(item: Int) raises {imm}:
        var joined = List[Int8](length=COLUMNS * k, fill=0)
        for block in range(blocks * item // parts, blocks * (item + 1) // parts):
            embedding.read(joined.unsafe_ptr(), block)
            embedding.multiply(
                y.unsafe_offset(block * COLUMNS), n, words, units, joined.unsafe_ptr(), block, m
            )
        _ = joined^

    share(part, parts, serial=serial)
    _ = word_list^
    _ = unit_list^


@extensibility.register("mwc_norm_logits_int8")
struct NormLogitsInt8:
    """y[m, n] = (layer_norm(x[m, k]) * column_scale[k]) · wᵀ: the LM head, in full.

    w uint8 [2, n / 16, k / 8, 16, 4]: the token embedding's upper and lower halves, without the
    scales of its rows and columns; rests int8 [n / 16, k / 4, 16, 4], or of no values where it has
    none. See token_embedding.mojo.
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
        rests: InputTensor[dtype=I8, rank=4, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0)
        var n = y.dim_size(1)
        var k = x.dim_size(1)
        var embedding = embedding_of(
            w.unsafe_ptr(), rests.unsafe_ptr(), rests.dim_size(0) > 0, scale.unsafe_ptr(), n, k
        )
        var normed = List[Float32](unsafe_uninit_length=m * k)
        norm_rows(
            normed.unsafe_ptr(), x.unsafe_ptr(), gamma.unsafe_ptr(), beta.unsafe_ptr(),
            column_scale.unsafe_ptr(), m, k,
        )
        all_logits(y.unsafe_ptr(), normed.unsafe_ptr(), embedding, m)
        _ = normed^


@extensibility.register("mwc_norm_choose_int8")
struct NormChooseInt8:
    """The LM head and the choice: tokens and logprobs [m, c] of x[m, k], as of mwc_choose.

    x, gamma, beta, w, scale, column_scale and rests are as for mwc_norm_logits_int8; suppress,
    states, temperatures, uniforms and ids (eot, timestamp_begin) as for mwc_choose. `bounds` f32 [3]:
    what the sieve leaves out at most (compiler/quantize.py, `sieve_bounds`). `wanted` int32 [m]: how
    many of a row's candidates are looked at, 0 where it has a temperature; the others need not be the
    next best. 32 divides k.
    """

    @staticmethod
    def execute[target: StaticString](
        tokens: OutputTensor[dtype=I32, rank=2, ...],
        logprobs: OutputTensor[dtype=F32, rank=2, ...],
        x: InputTensor[dtype=F32, rank=2, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        rests: InputTensor[dtype=I8, rank=4, ...],
        bounds: InputTensor[dtype=F32, rank=1, ...],
        wanted: InputTensor[dtype=I32, rank=1, ...],
        suppress: InputTensor[dtype=F32, rank=2, ...],
        states: InputTensor[dtype=I32, rank=2, ...],
        temperatures: InputTensor[dtype=F32, rank=1, ...],
        uniforms: InputTensor[dtype=F32, rank=1, ...],
        ids: InputTensor[dtype=I32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var n = scale.dim_size(0)
        var k = x.dim_size(1)
        var rules = Rules(
            untracked(wanted.unsafe_ptr()), untracked(suppress.unsafe_ptr()),
            untracked(states.unsafe_ptr()), untracked(temperatures.unsafe_ptr()),
            untracked(uniforms.unsafe_ptr()),
            Int(ids.unsafe_ptr()[unsafe_offset=0]), Int(ids.unsafe_ptr()[unsafe_offset=1]),
        )
        var embedding = embedding_of(
            w.unsafe_ptr(), rests.unsafe_ptr(), rests.dim_size(0) > 0, scale.unsafe_ptr(), n, k
        )
        var head = Head(
            untracked(gamma.unsafe_ptr()), untracked(beta.unsafe_ptr()),
            untracked(column_scale.unsafe_ptr()), embedding^, untracked(bounds.unsafe_ptr()),
        )
        choose_likely(
            tokens.unsafe_ptr(), logprobs.unsafe_ptr(), x.unsafe_ptr(), head, rules,
            x.dim_size(0), tokens.dim_size(1),
        )


@extensibility.register("mwc_embed_int8")
struct EmbedInt8:
    """x[m, k] = the token's row of w + the position's row of `table` f32 [n_ctx, k].

    w and rests as for mwc_norm_logits_int8.
    """

    @staticmethod
    def execute[target: StaticString](
        x: OutputTensor[dtype=F32, rank=2, ...],
        tokens: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        w: InputTensor[dtype=U8, rank=5, ...],
        scale: InputTensor[dtype=F32, rank=1, ...],
        column_scale: InputTensor[dtype=F32, rank=1, ...],
        rests: InputTensor[dtype=I8, rank=4, ...],
        table: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var k = x.dim_size(1)
        var embedding = embedding_of(
            w.unsafe_ptr(), rests.unsafe_ptr(), rests.dim_size(0) > 0, scale.unsafe_ptr(),
            scale.dim_size(0), k,
        )
        for i in range(x.dim_size(0)):
            var position = Int(positions.unsafe_ptr()[unsafe_offset=i])
            embedding.put_row(
                x.unsafe_ptr().unsafe_offset(i * k), Int(tokens.unsafe_ptr()[unsafe_offset=i]),
                column_scale.unsafe_ptr(), table.unsafe_ptr().unsafe_offset(position * k),
            )
