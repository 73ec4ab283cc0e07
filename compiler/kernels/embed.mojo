"""Tokens to vectors on CPUs, with an embedding in f32, bf16 or f16."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .linear import F32, WIDTH

comptime I32 = DType.int32


@extensibility.register("mwc_embed")
struct Embed:
    """x[m, k] = the token's row of w[n_vocab, k] + the position's row of `table` f32 [n_ctx, k].

    16 divides k.
    """

    @staticmethod
    def execute[target: StaticString, WT: DType](
        x: OutputTensor[dtype=F32, rank=2, ...],
        tokens: InputTensor[dtype=I32, rank=1, ...],
        positions: InputTensor[dtype=I32, rank=1, ...],
        w: InputTensor[dtype=WT, rank=2, ...],
        table: InputTensor[dtype=F32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var k = x.dim_size(1)
        for i in range(x.dim_size(0)):
            var own = Int(tokens.unsafe_ptr()[unsafe_offset=i]) * k
            var place = Int(positions.unsafe_ptr()[unsafe_offset=i]) * k
            for c in range(0, k, WIDTH):
                var sum = w.unsafe_ptr().unsafe_load[width=WIDTH](own + c).cast[F32]()
                sum += table.unsafe_ptr().unsafe_load[width=WIDTH](place + c)
                x.unsafe_ptr().unsafe_store(i * k + c, sum)
