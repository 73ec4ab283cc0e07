"""A stand-in on a CPU for encoder_attention_gpu.mojo: plain loops, f32 inside."""

import extensibility
from extensibility import InputTensor, OutputTensor
from std.math import exp

from .attention import HEAD
from .parallel import share


@extensibility.register("mwc_gpu_encoder_attention")
struct GPUEncoderAttention:
    @staticmethod
    def execute[target: StaticString, ACT: DType](
        mixed: OutputTensor[dtype=ACT, rank=3, ...],
        qkv: InputTensor[dtype=ACT, rank=3, ...],
    ) raises:
        var positions = mixed.dim_size(1)
        var state = mixed.dim_size(2)
        var heads = state // HEAD
        var out_ptr = mixed.unsafe_ptr()
        var in_ptr = qkv.unsafe_ptr()

        def head_of_query(item: Int) {var positions, var state, var heads, var out_ptr, var in_ptr}:
            var head = (item % heads) * HEAD
            var query = item // heads  # of all windows
            var first = query // positions * positions
            var weights = List[Float32](length=positions, fill=0)
            var highest = Float32(-1e30)
            for t in range(positions):
                var score = Float32(0)
                for d in range(HEAD):
                    var q = in_ptr[unsafe_offset=query * 3 * state + head + d]
                    var k = in_ptr[unsafe_offset=((first + t) * 3 + 1) * state + head + d]
                    score += q.cast[DType.float32]() * k.cast[DType.float32]()
                weights[t] = score
                highest = max(highest, score)
            var total = Float32(0)
            for t in range(positions):
                weights[t] = exp(weights[t] - highest)
                total += weights[t]
            for d in range(HEAD):
                var sum = Float32(0)
                for t in range(positions):
                    var v = in_ptr[unsafe_offset=((first + t) * 3 + 2) * state + head + d]
                    sum += weights[t] * v.cast[DType.float32]()
                out_ptr[unsafe_offset=query * state + head + d] = (sum / total).cast[ACT]()

        share(head_of_query, mixed.dim_size(0) * positions * heads)
