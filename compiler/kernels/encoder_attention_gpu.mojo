"""The encoder's self-attention on GPUs: a thread keeps one query, its block shares keys and values.

Keys and values pass through shared memory, KEYS positions at a time; the softmax is taken as they
come, so no scores reach memory. All arithmetic is float32.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from std.math import exp
from std.memory import stack_allocation
from std.utils.index import IndexList

from .rules import LOWEST

comptime F32 = DType.float32
comptime HEAD = 64
comptime QUERIES = 128
"""Queries of a block, one for each thread."""
comptime KEYS = 32
"""Positions in shared memory at a time."""
comptime TOGETHER = 4
"""Positions whose scores are summed side by side."""
comptime WIDTH = 4
"""Values read from shared memory at once."""
comptime PARTS = HEAD // WIDTH


@extensibility.register("mwc_gpu_encoder_attention")
struct GPUEncoderAttention:
    """Attention of every position to all: qkv [b, t, 3 * state] -> [b, t, state], f32 inside.

    Queries are scaled by 64^-0.5 already; they stand before the keys, the values after them.
    """

    @staticmethod
    def execute[target: StaticString, ACT: DType](
        mixed: OutputTensor[dtype=ACT, rank=3, ...],
        qkv: InputTensor[dtype=ACT, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        var state = mixed.dim_size(2)
        var positions = mixed.dim_size(1)

        @parameter
        def attend(width: Int32, length: Int32):
            var tid = Int(thread_idx.x)
            var head = Int(block_idx.y) * HEAD
            var b = Int(block_idx.z)
            var i = Int(block_idx.x) * QUERIES + tid
            var n = Int(length)
            var keys = stack_allocation[KEYS * HEAD, Float32, address_space=AddressSpace.SHARED]()
            var values = stack_allocation[KEYS * HEAD, Float32, address_space=AddressSpace.SHARED]()
            # Past the end a thread repeats the last query: it still helps to fill shared memory.
            var at = min(i, n - 1)
            var query = Array[SIMD[F32, WIDTH], length=PARTS](fill=SIMD[F32, WIDTH](0))
            comptime for p in range(PARTS):
                query[p] = qkv.load[WIDTH](IndexList[3](b, at, head + p * WIDTH)).cast[F32]()
            var sums = Array[SIMD[F32, WIDTH], length=PARTS](fill=SIMD[F32, WIDTH](0))
            var highest = LOWEST
            var total = Float32(0)
            for start in range(0, n, KEYS):
                barrier()
                for e in range(tid, KEYS * HEAD, QUERIES):
                    var t = start + e // HEAD
                    var d = head + e % HEAD
                    var key = Float32(0)
                    var value = Float32(0)
                    if t < n:
                        key = qkv.load[1](IndexList[3](b, t, Int(width) + d)).cast[F32]()
                        value = qkv.load[1](IndexList[3](b, t, 2 * Int(width) + d)).cast[F32]()
                    keys[unsafe_offset=e] = key
                    values[unsafe_offset=e] = value
                barrier()
                for t in range(0, KEYS, TOGETHER):
                    var scores = SIMD[F32, TOGETHER](LOWEST)
                    comptime for u in range(TOGETHER):
                        var s = SIMD[F32, WIDTH](0)
                        comptime for p in range(PARTS):
                            var k = keys.unsafe_load[width=WIDTH]((t + u) * HEAD + p * WIDTH)
                            s = query[p].fma(k, s)
                        if start + t + u < n:
                            scores[u] = s.reduce_add()
                    var top = max(highest, scores.reduce_max())
                    var weights = exp(scores - top)
                    var fade = exp(highest - top)
                    total = total * fade + weights.reduce_add()
                    highest = top
                    comptime for p in range(PARTS):
                        var sum = sums[p] * fade
                        comptime for u in range(TOGETHER):
                            var v = values.unsafe_load[width=WIDTH]((t + u) * HEAD + p * WIDTH)
                            sum = v.fma(SIMD[F32, WIDTH](weights[u]), sum)
                        sums[p] = sum
            if i < n:
                comptime for p in range(PARTS):
                    mixed.store[WIDTH](
                        IndexList[3](b, i, head + p * WIDTH), (sums[p] / total).cast[ACT]()
                    )

        ctx.enqueue_function[attend](
            Int32(state), Int32(positions),
            grid_dim=((positions + QUERIES - 1) // QUERIES, state // HEAD, mixed.dim_size(0)),
            block_dim=QUERIES,
        )
